"""URLs of engines: `raft:FILE`, `etcd://HOSTS/LOG`, `postgresql://…?log=LOG`, `memory:`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import msgspec

from syncline.errors import ConfigError

__all__ = [
    "ETCD",
    "FORMS",
    "MEMORY",
    "POSTGRES",
    "RAFT",
    "REFUSED",
    "EtcdUrl",
    "PostgresUrl",
    "is_url",
    "parse_etcd",
    "parse_postgres",
    "raft_file",
]

RAFT: Final = "raft:"
MEMORY: Final = "memory:"
ETCD: Final = ("etcd://", "etcds://")
POSTGRES: Final = ("postgresql://", "postgres://")
FORMS: Final = "raft:cluster.toml, etcd://HOST:PORT,HOST:PORT/LOG, postgresql://USER@HOST/DATABASE?log=LOG, or memory:"

_OWN: Final = ("log", "consistency")
"""Parameters of a URL of PostgreSQL that are not for libpq."""

ETCD_PORT: Final = 2379
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOG_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_IN_BRACKETS: Final = re.compile(r"\[[^\]]*\]")
_NO_PORT: Final = re.compile(r":(?![0-9]*(?:,|$))")
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")

REFUSED: Final = {"redis": "it loses acknowledged entries when it fails over", "rediss": "as redis"} | {
    "nats": "its log has lost acknowledged entries, by published tests",
    "kafka": "it has no conditional append",
}
"""Systems that people ask for, and why they are no engine."""


class EtcdUrl(msgspec.Struct, frozen=True):
    """Where a log is in etcd."""

    hosts: tuple[str, ...]
    log: str
    user: str = ""
    password: str = ""
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def shown(self) -> str:
        """The URL without a password."""
        user = f"{self.user}@" if self.user else ""
        return f"etcd{'s' if self.tls else ''}://{user}{','.join(self.hosts)}/{self.log}"


class PostgresUrl(msgspec.Struct, frozen=True):
    """Where a log is in PostgreSQL."""

    conninfo: str
    """For libpq."""
    log: str
    shown: str
    """The URL without a password."""
    primary_reads: bool = False
    """Whether a read is confirmed without a commit (`consistency=leader`)."""


def is_url(text: object) -> bool:
    """Whether this is a URL, of an engine or of something else, and not the path of a file."""
    return isinstance(text, str) and (text.startswith((RAFT, MEMORY)) or _SCHEME.match(text) is not None)


def raft_file(url: str) -> str:
    """The path in a URL of Raft.

    Raises:
        ConfigError: there is none.
    """
    path = url.removeprefix(RAFT).removeprefix("//") if url.startswith(RAFT + "//") else url.removeprefix(RAFT)
    if not path:
        raise ConfigError(f"{url!r} names no file: write raft:cluster.toml, with the settings of this node")
    return path


def parse_etcd(url: str) -> EtcdUrl:
    """Read a URL of etcd. Raises ConfigError."""
    form = "write etcd://HOST:PORT,HOST:PORT/LOG"
    scheme, _, rest = url.partition("://")
    _check_encoded(rest, "/?")
    place, _, query = rest.partition("?")
    hosts, _, log = place.partition("/")
    user, password = "", ""
    if "@" in hosts:
        credentials, _, hosts = hosts.rpartition("@")
        user, _, password = credentials.partition(":")
        if not user or not password:
            raise ConfigError(f"{scheme}://{user}@…: a user needs a password: {scheme}://USER:PASSWORD@HOST:PORT/LOG")
    known = {"ca": "", "cert": "", "key": ""}
    given = parse_qsl(query, keep_blank_values=True)
    for name, value in given:
        if name not in known:
            raise ConfigError(f"{name!r} is no parameter of a URL of etcd: there are {', '.join(known)}")
        known[name] = value
    _check_once(given, known)
    if scheme == "etcd" and any(known.values()):
        raise ConfigError("ca, cert and key are for TLS: write etcds:// and not etcd://")
    if bool(known["cert"]) != bool(known["key"]):  # grpc would end the process
        raise ConfigError("cert and key belong together: give the files of both, or of none")
    return EtcdUrl(
        tuple(_host(host, form) for host in hosts.split(",")),
        _log_name(unquote(log), form),
        unquote(user),
        unquote(password),
        scheme == "etcds",
        **known,
    )


def _check_once(given: list[tuple[str, str]], names: Iterable[str]) -> None:
    """Refuse a parameter that is given twice: a program would work with one log, and its operator mean the other."""
    counts = Counter(name for name, _ in given)
    twice = next((name for name in names if counts[name] > 1), None)
    if twice is not None:
        raise ConfigError(f"the URL has {twice!r} {counts[twice]} times: write it once")


def _check_encoded(rest: str, ends: str) -> None:
    """Refuse a password with a character that ends the part of the URL with the hosts. No text shows what follows it.

    `rest` is the URL behind `://`; `ends` has the characters that end the part with the hosts.
    """
    place = re.split(f"[{ends}]", rest, maxsplit=1)[0]
    behind = rest[len(place) :]
    is_cut = "@" not in place and "@" in behind and _NO_PORT.search(_IN_BRACKETS.sub("", place)) is not None
    if "@" in behind.partition("?")[0] or is_cut:
        raise ConfigError(
            "the user or the password in this URL has a character that must be encoded: write %2F for '/', %3F for '?',"
            " %23 for '#', %40 for '@'"
        )


def _host(text: str, form: str) -> str:
    found = _HOST.fullmatch(text)
    if found is None or (found[2] and not 0 < int(found[2]) < 1 << 16):
        raise ConfigError(f"{text!r} is no HOST:PORT: {form}")
    return f"{found[1]}:{found[2] or ETCD_PORT}"


def parse_postgres(url: str) -> PostgresUrl:
    """Read a URL of PostgreSQL. What is not `log` or `consistency` is for libpq. Raises ConfigError."""
    form = "write postgresql://USER@HOST/DATABASE?log=LOG"
    _check_encoded(url.partition("://")[2], "/?#")
    if _BAD_PERCENT.search(url):
        raise ConfigError("a '%' in this URL is followed by no two hexadecimal digits, or by 00: write %25 for '%'")
    try:
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise ConfigError(f"this URL can't be read ({error}): {form}") from None
    if parts.fragment or url.endswith("#"):
        raise ConfigError(f"a URL of PostgreSQL has no part behind '#': write %23 for '#'; {form}")
    own = {name: value for name, value in given if name in _OWN}
    _check_once(given, _OWN)
    rest = [(name, value) for name, value in given if name not in own]
    if own.get("consistency", "linearizable") not in ("linearizable", "leader"):
        raise ConfigError(f"consistency is {own['consistency']!r}: it must be linearizable or leader")
    log = _log_name(own.get("log", ""), form)
    user = f"{parts.username}@" if parts.username else ""
    place = parts.netloc.rpartition("@")[2]
    return PostgresUrl(
        urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(rest), "")),
        log,
        f"postgresql://{user}{place}{parts.path}?log={log}",
        own.get("consistency") == "leader",
    )


def _log_name(text: str, form: str) -> str:
    if not text:
        raise ConfigError(f"the URL names no log: {form}")
    if _LOG_NAME.fullmatch(text) is None:
        raise ConfigError(f"the name of the log is {text!r}: letters, digits, '.', '_' and '-', at most 64 of them")
    return text
