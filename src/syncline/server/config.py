"""The server's settings: one flat table, the same names in the file, the environment and the flags.

    name = "a"                       # file (TOML)
    SYNCLINE_NAME=a                  # environment
    --name a                         # flag

A flag beats the environment, the environment beats the file. What is not known, or not of the right kind, is refused
with its origin and with what is accepted. Times are in seconds, sizes in bytes; the unit is the end of the name.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from syncline.errors import ConfigError
from syncline.kv.commands import MAX_KEY_BYTES, MAX_VALUE_BYTES
from syncline.node.config import LARGEST_SEGMENT_BYTES, SMALLEST_SEGMENT_BYTES
from syncline.server.addresses import check_address, check_name, check_url, is_host_name, join_address, split_address
from syncline.server.http.cross_site import ANY, is_origin
from syncline.server.http.limits import KIB, MIB, HttpLimits
from syncline.server.secret_file import parse_secrets, read_secret_file
from syncline.storage.space import RESERVE_BYTES
from syncline.transport.authentication import PeerAuth

__all__ = ["ENVIRONMENT_PREFIX", "MEMORY_SHARE", "ServerConfig", "load_config"]

ENVIRONMENT_PREFIX: Final = "SYNCLINE_"
MEMORY_SHARE: Final = 2
"""The store may have half of the memory; the rest is for the log's tail, snapshots, clients and the interpreter."""
NEAR: Final = 0.75
"""How like a setting a variable of the environment must be to be taken for a misspelt one."""
URL_FACTOR: Final = 3
"""Characters of one percent-encoded byte."""
URL_ROOM_BYTES: Final = 5 * KIB
"""For what is not the key in a URL: the path, a prefix, a cursor."""
JSON_FACTOR: Final = 2
"""A value in the JSON of a transaction: base64, and what is around it."""

_LISTS: Final = frozenset({"join", "allowed_hosts", "allowed_origins"})
"""Settings of several texts: a list in the file, with commas elsewhere."""

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
LogSync = Literal["auto", "kernel", "thread"]

_Positive = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one server. Raises `ConfigError`."""

    name: str
    """This node's name, unique in its cluster."""
    data_dir: str
    """Where the log and the snapshots are. One process at a time."""
    cluster: str = "syncline"
    """The cluster's name: with `initial_cluster` it makes the cluster's id, which keeps strangers apart."""

    http_listen: str = "127.0.0.1:8080"
    """Where clients are listened for. Port 0: any free one. Empty: nowhere, for a node that is mounted as ASGI."""
    http_advertise: str = ""
    """The URL by which clients and members reach this server, where that is not `http_listen`."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which clients may ask a server that listens on loopback, beside `localhost`, loopback addresses and
    the host of `http_advertise`. Given for another listener they hold there too. `*`: any."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may read and change what is here, such as https://console.example. `*`: any."""
    http_tls_cert: str = ""
    """A PEM file; with `http_tls_key`, clients are served over TLS."""
    http_tls_key: str = ""

    peer_listen: str = "127.0.0.1:7100"
    """Where the other nodes are listened for."""
    peer_advertise: str = ""
    """Where the other nodes reach this one, where that is not `peer_listen`."""
    peer_tls_cert: str = ""
    """PEM files; with all three, the nodes speak mutual TLS."""
    peer_tls_key: str = ""
    peer_tls_ca: str = ""
    peer_secret: str = ""
    """The cluster secret as text (`secret_file`), for the environment: SYNCLINE_PEER_SECRET. Never shown."""
    peer_secret_file: str = ""
    """A file of mode 0600 with the cluster secret, the same on all nodes."""
    peer_auth: PeerAuth = "require"
    """With a secret: `accept` takes peers without a proof too, for one rolling restart."""
    insecure_peers: bool = False
    """Let any machine that reaches the peer port take part: neither a secret nor TLS is asked for."""
    insecure: bool = False
    """The same as `insecure_peers`; it will hold for clients too."""

    initial_cluster: dict[str, str] = {}
    """The members that the cluster starts with: name to peer address, the same on all. Hints at later starts."""
    join: tuple[str, ...] = ()
    """URLs of members of a running cluster to join, instead of `initial_cluster`. At later starts they are asked for
    addresses, while the node has no leader."""
    join_tls_ca: str = ""
    """A PEM file: the certificate authorities to trust for `join` over https, instead of the system's."""
    join_as_learner: bool = False
    """Stay a learner: a copy that serves reads and does not vote."""
    join_timeout_s: _Seconds = 60.0
    """How long to try."""

    heartbeat_s: Annotated[float, Meta(ge=0.001, le=60)] = 0.1
    """How often a leader tells that it is there."""
    election_s: Annotated[float, Meta(ge=0.002, le=600)] = 1.0
    """A follower that hears nothing for one to two times this long campaigns."""
    snapshot_entries: _Positive = 100_000
    """A snapshot is taken after so many entries, or"""
    snapshot_bytes: _Positive = 128 * MIB
    """after so many bytes of entries, whichever is first."""
    snapshots_retained: _Positive = 2
    """Snapshots kept on disk."""
    trailing_entries: Annotated[int, Meta(ge=0)] = 10_000
    """Entries kept in the log behind a snapshot."""
    segment_bytes: Annotated[int, Meta(ge=SMALLEST_SEGMENT_BYTES, le=LARGEST_SEGMENT_BYTES)] = 64 * MIB
    """The size of a file of the log. Each is reserved on the disk as a whole."""
    reserve_bytes: Annotated[int, Meta(ge=0)] = RESERVE_BYTES
    """Disk space that writes never use: below it they are refused (507) and reads go on."""
    max_store_bytes: Annotated[int, Meta(ge=0)] = 0
    """Memory for keys and values: keys, values and 384 bytes for each key. Above it the leader refuses puts (507
    `no_space`); deletes pass. 0: half of the memory of the machine or of the process's control group."""
    log_sync: LogSync = "auto"
    """What syncs the log: the kernel if it offers that, or a thread."""

    hold_level: Annotated[int, Meta(ge=0)] = 0
    """While this node leads, the cluster's feature level stays at this and the machine version as it is: see
    `docs/upgrades.md`. 0: both rise as soon as all members can do more."""

    max_key_bytes: Annotated[int, Meta(ge=1, le=MAX_KEY_BYTES)] = KIB
    """The longest key."""
    max_value_bytes: Annotated[int, Meta(ge=1, le=MAX_VALUE_BYTES)] = MIB
    """The largest value."""
    max_connections: _Positive = 10_000
    """Clients at a time; more are told 503."""
    max_held_bytes: _Positive = 256 * MIB
    """Bodies and answers of all clients in memory; more are told 503."""
    drain_s: Annotated[float, Meta(ge=0, le=600)] = 10.0
    """How long requests may take to end when the server is stopped."""

    log_level: LogLevel = "info"
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        self._convert_fields()
        _check("name", check_name, self.name)
        if not self.data_dir:
            raise ConfigError("data_dir is empty: name the directory for this node's files")
        if not self.cluster:
            raise ConfigError("cluster is empty: leave it out, or give the cluster a name")
        if self.http_listen:
            _check("http_listen", _bindable, self.http_listen)
        _check("peer_listen", split_address, self.peer_listen)
        if self.http_advertise:
            _check("http_advertise", check_url, self.http_advertise)
        if self.peer_advertise:
            _check("peer_advertise", check_address, self.peer_advertise)
        self._check_membership()
        self._check_tls()
        for host in self.allowed_hosts:
            if host != ANY and not is_host_name(host):
                raise ConfigError(f"allowed_hosts: {host[:300]!r} is not a host name or address without a port, or *")
        for origin in self.allowed_origins:
            if origin != ANY and not is_origin(origin):
                raise ConfigError(
                    f"allowed_origins: {origin[:300]!r} is not an origin such as https://kv.example, or *"
                )
        if self.peer_secret and self.peer_secret_file:
            raise ConfigError("give the cluster secret once: by peer_secret_file or by SYNCLINE_PEER_SECRET")
        if self.election_s < 2 * self.heartbeat_s:
            raise ConfigError(
                f"election_s is {self.election_s}: it must be at least twice heartbeat_s ({self.heartbeat_s}),"
                " better ten times, or a single late heartbeat costs the leader its place"
            )

    def _convert_fields(self) -> None:
        """Take paths as text and lists as tuples, and raise for any other type: a struct does not look at its own."""
        for name in self.__struct_fields__:
            value: object = getattr(self, name)
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            elif name in _LISTS and isinstance(value, list):
                value = tuple(value)
            try:
                value = msgspec.convert(value, _HINTS[name], strict=True)
            except msgspec.ValidationError as error:
                shown = "" if name == "peer_secret" else f" = {value!r:.80}"
                kind = TypeError if ", got `" in str(error) else ConfigError
                why = _lower_first(str(error)).replace("`object`", "`dict`").replace("`array`", "`tuple`")
                raise kind(f"{name}{shown}: {why}") from None
            msgspec.structs.force_setattr(self, name, value)

    def _check_membership(self) -> None:
        if self.initial_cluster and self.join:
            raise ConfigError("give initial_cluster (to start a cluster) or join (to enter a running one), not both")
        taken: dict[tuple[str, int], str] = {}
        for name, address in self.initial_cluster.items():
            _check("initial_cluster", check_name, name)
            _check(f"initial_cluster: {name}", check_address, address)
            other = taken.setdefault(split_address(address), name)
            if other != name:
                raise ConfigError(
                    f"initial_cluster gives {other!r} and {name!r} the same address, {address}: each node needs one"
                )
        if self.initial_cluster and self.name not in self.initial_cluster:
            known = ", ".join(sorted(self.initial_cluster))
            raise ConfigError(f"initial_cluster names {known} but not this node, {self.name!r}")
        for url in self.join:
            _check("join", check_url, url)
        if self.join and not self.peer_advertise:
            try:
                check_address(self.peer_listen)
            except ConfigError as error:
                raise ConfigError(f"peer_listen: {error}. Give peer_advertise") from None

    def _check_tls(self) -> None:
        if bool(self.http_tls_cert) != bool(self.http_tls_key):
            raise ConfigError("http_tls_cert and http_tls_key go together")
        if len({bool(self.peer_tls_cert), bool(self.peer_tls_key), bool(self.peer_tls_ca)}) == 2:
            raise ConfigError("peer_tls_cert, peer_tls_key and peer_tls_ca go together")

    def __repr__(self) -> str:
        return f"ServerConfig({', '.join(f'{name}={value!r}' for name, value in self._shown())})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return self._shown()

    def _shown(self) -> list[tuple[str, object]]:
        """All settings but for the secret."""
        return [
            (name, "..." if name == "peer_secret" and self.peer_secret else getattr(self, name))
            for name in self.__struct_fields__
        ]

    def peer_secrets(self) -> tuple[bytes, ...]:
        """The cluster secrets, the one in use first. Raises `ConfigError`."""
        if self.peer_secret_file:
            return read_secret_file(self.peer_secret_file)
        if self.peer_secret:
            return parse_secrets(self.peer_secret, f"{ENVIRONMENT_PREFIX}PEER_SECRET")
        return ()

    @property
    def http_scheme(self) -> str:
        """`https` if the server has a certificate, else `http`."""
        return "https" if self.http_tls_cert else "http"

    def http_url(self, host: str, port: int) -> str:
        """Where clients find this server, once it is bound: as advertised, or as bound."""
        return self.http_advertise.rstrip("/") or f"{self.http_scheme}://{join_address(host, port)}"

    def http_limits(self) -> HttpLimits:
        """What follows from the limits on keys and values for the HTTP server."""
        return HttpLimits(
            max_url_bytes=URL_FACTOR * self.max_key_bytes + URL_ROOM_BYTES,
            max_body_bytes=max(4 * MIB, JSON_FACTOR * self.max_value_bytes),
            max_held_bytes=max(4 * MIB, JSON_FACTOR * self.max_value_bytes),
            max_total_held_bytes=self.max_held_bytes,
            max_connections=self.max_connections,
        )


def load_config(
    *, file: str | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> ServerConfig:
    """Put the settings together.

    `file` is the path of a TOML file; `environment` defaults to the process's; a flag of None was not given. Raises
    `ConfigError`, which names the origin and the setting.
    """
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    environment = os.environ if environment is None else environment
    for origin, found in (
        (file or "", _from_file(file) if file else {}),
        ("the environment", _from_environment(environment)),
        ("the command line", {name: value for name, value in (flags or {}).items() if value is not None}),
    ):
        for name, value in found.items():
            shown = _shown(origin, name)
            _check_known(name, shown)
            values[name] = _converted(name, value, shown)
            origins[name] = shown
    for required in ("name", "data_dir"):
        if required not in values:
            flag, variable = required.replace("_", "-"), ENVIRONMENT_PREFIX + required.upper()
            raise ConfigError(f"{required} is not set: give --{flag}, {variable}, or {required} in the file")
    return ServerConfig(**values)  # type: ignore[arg-type]  # each was checked against its field's type


def _bindable(address: str) -> tuple[str, int]:
    return split_address(address, any_port=True)


def _check(setting: str, check: Callable[[str], object], value: str) -> None:
    try:
        check(value)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from None


def _from_file(path: str) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"the configuration file {path} can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} is not TOML: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    """Our variables, and those that seem to be misspelt ones.

    Others with our prefix are not ours to refuse: Kubernetes sets SYNCLINE_PORT and more for a service of that name.
    """
    fields = ServerConfig.__struct_fields__
    found: dict[str, object] = {}
    for variable, value in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if variable.startswith(ENVIRONMENT_PREFIX) and difflib.get_close_matches(name, fields, n=1, cutoff=NEAR):
            found[name] = value
    return found


def _shown(origin: str, name: str) -> str:
    if origin == "the environment":
        return f"environment variable {ENVIRONMENT_PREFIX}{name.upper()}"
    if origin == "the command line":
        return f"--{name.replace('_', '-')}"
    return f"{origin}: {name}"


def _check_known(name: str, shown: str) -> None:
    fields = ServerConfig.__struct_fields__
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(fields)}"
        raise ConfigError(f"{shown}: there is no such setting; {hint}")


def _converted(name: str, value: object, shown: str) -> object:
    kind = _HINTS[name]
    if isinstance(value, str):
        value = _from_text(name, value, shown)
    elif name in _LISTS and isinstance(value, list):
        value = tuple(value)
    try:
        return msgspec.convert(value, kind, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        why = f"accepted are {', '.join(choices)}" if choices else _lower_first(str(error))
        if name == "peer_secret":
            raise ConfigError(f"{shown}: expected text") from None
        raise ConfigError(f"{shown} = {value!r}: {why}") from None


def _from_text(name: str, text: str, shown: str) -> object:
    """A setting's text form, as the environment and the flags give it."""
    if name in _LISTS:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if name != "initial_cluster":
        return text
    members: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        member, equals, address = part.partition("=")
        if not equals or member in members:
            raise ConfigError(f"{shown} = {text!r}: expected name=host:port,name=host:port, each name once")
        members[member.strip()] = address.strip()
    return members


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


_HINTS: Final = get_type_hints(ServerConfig, include_extras=True)
