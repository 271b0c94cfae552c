"""Make a `Config` of a file, the environment and flags.

    name = "a"
    data_dir = "data/a"
    peer_listen = "10.0.0.1:7100"
    peer_secret_file = "peer-secret"

    [initial_cluster]
    a = "10.0.0.1:7100"

Settings have the names of `Config`, or those that `syncline serve` gives them. So a library's node and a server take
the same file. What concerns a server's clients has no effect here.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from syncline.errors import ConfigError
from syncline.node.arguments import check_config
from syncline.node.config import SETTINGS as NODE
from syncline.node.config import Config
from syncline.node.secret_file import parse_secrets, read_secret_file
from syncline.node.settings.declare import Setting, flag_help, flag_of, settings_of
from syncline.node.settings.declared import DECLARED
from syncline.node.settings.sources import ENVIRONMENT_PREFIX, Given, converted, gather, located
from syncline.node.tls_directory import tls_files
from syncline.transport.tls import PeerTls

__all__ = ["COMBINED", "NO_EFFECT", "SAME_AS", "add_config_flags", "config_of", "load_config"]

SAME_AS: Final = {
    "peer_listen": "listen",
    "peer_advertise": "advertise",
    "http_advertise": "http",
    "initial_cluster": "peers",
}
"""Settings of `serve` that a `Config` has under another name."""

NO_EFFECT: Final = frozenset(
    {
        *("http_listen", "http_tls_cert", "http_tls_key", "http_tls_ca", "allowed_hosts", "allowed_origins"),
        *("insecure_clients", "join_tls_ca", "join_token_file", "join_as_learner", "join_timeout_s"),
        *("max_store_bytes", "history_revisions", "history_bytes", "max_key_bytes", "max_value_bytes"),
        *("max_requests", "max_user_requests", "max_user_write_bytes", "max_watches", "max_user_watches"),
        *("max_connections", "max_held_bytes", "drain_s", "log_level", "log_format", "etcd_api"),
        *("slow_request_s", "traces", "console", "console_lab"),
    }
)
"""Settings of `serve` that concern its clients, its keys or its process."""

NO_TEXT: Final = {
    "secret": "use peer_secret_file, or peer_secret with hexadecimal digits",
    "peer_tls": "give its files by tls_dir, or by peer_tls_cert, peer_tls_key and peer_tls_ca",
}
"""Settings of `Config` that are no text and no number, and what to give in their place."""

SECRETS: Final = ("peer_secret", "peer_secret_file")

DEFAULT_LISTEN: Final = "127.0.0.1:7100"


class PeerFiles(msgspec.Struct):
    """What files and flags have in place of `Config.secret` and `Config.peer_tls`."""

    peer_secret: str = ""
    peer_secret_file: str = ""
    tls_dir: str = ""
    peer_tls_cert: str = ""
    peer_tls_key: str = ""
    peer_tls_ca: str = ""
    insecure: bool = False


FILES: Final = settings_of(PeerFiles, DECLARED)
COMBINED: Final = frozenset(FILES)
"""Settings of `serve` that make up one of a `Config`."""

SETTINGS: Final[Mapping[str, Setting]] = {**NODE, **FILES}
KNOWN: Final = frozenset({*SETTINGS, *SAME_AS, *NO_EFFECT, "join"})
HIDDEN: Final = frozenset({*NO_TEXT, "peer_secret", "insecure"})
"""Settings without a flag."""


def config_of(config: Config | str | os.PathLike[str]) -> Config:
    """A `Config` as it is, or the one that the file at this path makes. Raises ConfigError and TypeError."""
    if isinstance(config, str | os.PathLike):
        return load_config(config)
    check_config(config)
    return config


def load_config(
    file: str | os.PathLike[str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | Namespace | None = None,
) -> Config:
    """Make the settings of a node from a TOML file, the environment and flags, in this order of precedence.

        config = load_config("cluster.toml")

    `environment` defaults to the process's: SYNCLINE_ and the name of the setting. A flag of None was not given. The
    result of a parser with `add_config_flags` is taken as it is; its `--config` names the file if `file` does not.
    docs/configuration.md has all settings.

    Raises:
        ConfigError: a setting is unknown, can't be used, or contradicts another one; the text names the place, with
            the line of the file.
        TypeError: `file` is no path, or `flags` is neither a mapping nor the result of a parser.
    """
    if isinstance(flags, Namespace):
        file = file or vars(flags).get("config")
        flags = {name: value for name, value in vars(flags).items() if name in KNOWN}
    elif flags is not None and not isinstance(flags, Mapping):
        raise TypeError(f"flags must be a mapping or the result of a parser, not {type(flags).__name__}")
    path = os.fspath(file) if file is not None else None
    found = gather(
        KNOWN, file=path, environment=os.environ if environment is None else environment, flags=flags, listed=NODE
    )
    given = _by_own_name(found)
    values = {name: converted(SETTINGS[name], one) for name, one in given.items()}
    for required in ("name", "data_dir"):
        if required not in values:
            where = f"{path}: " if path else ""
            place = "there, or by" if path else f"by {flag_of(required)}, in a file, or by"
            raise ConfigError(f"{where}{required} is not set: give it {place} {ENVIRONMENT_PREFIX}{required.upper()}")
    values.setdefault("listen", DEFAULT_LISTEN)
    try:
        return Config(**_combined(values))
    except (ConfigError, TypeError) as error:
        raise located(error, given, path) from None


def add_config_flags(parser: ArgumentParser) -> None:
    """Add a flag for each setting of a node to a parser, and `--config` for a file.

        parser = argparse.ArgumentParser()
        add_config_flags(parser)
        config = load_config(flags=parser.parse_args())

    The help of each flag has its unit, its limits and its default.
    """
    group = parser.add_argument_group("settings of the node")
    group.add_argument("--config", metavar="FILE", help="TOML file with settings; flags override it.")
    for name, one in SETTINGS.items():
        if name in HIDDEN:
            continue
        told = flag_help(one, SETTINGS).replace("%", "%%")
        if one.kind is bool:
            group.add_argument(flag_of(name), dest=name, action="store_const", const="true", help=told)
        else:
            group.add_argument(flag_of(name), dest=name, metavar="VALUE", help=told)


def _by_own_name(found: Mapping[str, Given]) -> dict[str, Given]:
    """What is given, by the names of `Config`; of two sources, the one of the higher rank."""
    own: dict[str, Given] = {}
    names: dict[str, str] = {}
    for written, one in found.items():
        if written == "join" and one.value:
            raise ConfigError(
                f"{one.shown}: a node of the library has no servers to ask; use Raft.join or Machine.join"
            )
        if written in NO_TEXT:
            raise ConfigError(f"{one.shown}: it has no text form; {NO_TEXT[written]}")
        name = SAME_AS.get(written, written)
        if name not in SETTINGS:
            continue
        before = own.get(name)
        if before is not None and before.rank == one.rank:
            raise ConfigError(f"{one.shown}: {names[name]} and {written} are one setting: give one of them")
        if before is None or before.rank < one.rank:
            own[name], names[name] = one, written
    secrets = [name for name in SECRETS if name in own]
    if len(secrets) > 1 and own[secrets[0]].rank != own[secrets[1]].rank:
        del own[min(secrets, key=lambda name: own[name].rank)]
    return own


def _combined(values: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Config`: the secret, the TLS files and `insecure_peers` are made of what is given for them."""
    settings = {name: value for name, value in values.items() if name in NODE}
    if values.get("peer_secret") and values.get("peer_secret_file"):
        raise ConfigError("give the cluster secret once: by peer_secret_file or by peer_secret", settings=SECRETS)
    try:
        if values.get("peer_secret_file"):
            settings["secret"] = read_secret_file(values["peer_secret_file"])
        elif values.get("peer_secret"):
            settings["secret"] = parse_secrets(values["peer_secret"], "peer_secret")
    except ConfigError as error:
        raise ConfigError(str(error), settings=SECRETS) from None
    if values.get("insecure"):
        settings["insecure_peers"] = True
    names = ("peer_tls_cert", "peer_tls_key", "peer_tls_ca")
    files = tls_files(values["tls_dir"], values["name"]) if values.get("tls_dir") else {}
    certificate, key, authority = (values.get(name) or files.get(name, "") for name in names)
    if certificate and key and authority:
        settings["peer_tls"] = PeerTls(certificate=certificate, key=key, authority=authority)
    elif certificate or key or authority:
        raise ConfigError("peer_tls_cert, peer_tls_key and peer_tls_ca go together", settings=names)
    return settings
