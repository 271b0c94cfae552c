"""The server's settings: one flat table with the same names in the file, the environment and the flags.

    name = "a"                       # file (TOML)
    SYNCLINE_NAME=a                  # environment
    --name a                         # flag

A flag overrides the environment, the environment overrides the file. An unknown setting, or one of the wrong type, is
refused with its origin and with the accepted values. Times are in seconds, sizes in bytes; the name ends with the
unit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from syncline.errors import ConfigError
from syncline.kv.compactor import DEFAULT_HISTORY_BYTES, DEFAULT_HISTORY_REVISIONS
from syncline.node.config import LogSync, check_election
from syncline.node.secret_file import parse_secrets, read_secret_file
from syncline.node.settings.declare import documented, settings_of
from syncline.node.settings.sources import ENVIRONMENT_PREFIX, converted, gather, located
from syncline.node.tls_directory import tls_files
from syncline.server.addresses import check_address, check_name, check_url, is_host_name, join_address, split_address
from syncline.server.api.keys import DEFAULT_MAX_VALUE_BYTES
from syncline.server.declared import DECLARED_BY_SERVER
from syncline.server.http.cross_site import ANY, is_origin
from syncline.server.http.limits import KIB, MIB, HttpLimits
from syncline.storage.space import RESERVE_BYTES
from syncline.transport.authentication import PeerAuth

__all__ = ["SERVER_SETTINGS", "ServerConfig", "load_config"]

URL_FACTOR: Final = 3
"""Characters of one percent-encoded byte."""
URL_ROOM_BYTES: Final = 5 * KIB
"""Bytes of a URL beside the key: the path, a prefix, a cursor."""
JSON_FACTOR: Final = 2
"""A value in the JSON of a transaction: base64, and what is around it."""

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
EtcdApi = Literal["loopback", "on", "off"]
ConsoleMode = Literal["on", "read-only", "off"]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one server. What each does, and its limits, stand in `declared.py`.

        config = ServerConfig(name="a", data_dir="data/a", http_listen="127.0.0.1:8080")

    Raises:
        TypeError: a setting is of another type.
        ConfigError: a value can't be used, or the settings do not fit each other.
    """

    name: str
    data_dir: str
    cluster: str = "syncline"

    http_listen: str = "127.0.0.1:8080"
    http_advertise: str = ""
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    etcd_api: EtcdApi = "loopback"
    console: ConsoleMode = "on"
    console_lab: str = ""
    tls_dir: str = ""
    http_tls_cert: str = ""
    http_tls_key: str = ""
    http_tls_ca: str = ""

    peer_listen: str = "127.0.0.1:7100"
    peer_advertise: str = ""
    peer_tls_cert: str = ""
    peer_tls_key: str = ""
    peer_tls_ca: str = ""
    peer_secret: str = ""
    peer_secret_file: str = ""
    peer_auth: PeerAuth = "require"
    insecure_peers: bool = False
    insecure_clients: bool = False
    insecure: bool = False

    initial_cluster: dict[str, str] = {}
    join: tuple[str, ...] = ()
    join_tls_ca: str = ""
    join_token_file: str = ""
    join_as_learner: bool = False
    join_timeout_s: float = 60.0

    heartbeat_s: float = 0.1
    election_s: float = 1.0
    snapshot_entries: int = 100_000
    snapshot_bytes: int = 128 * MIB
    snapshots_retained: int = 2
    trailing_entries: int = 10_000
    segment_bytes: int = 64 * MIB
    reserve_bytes: int = RESERVE_BYTES
    max_store_bytes: int = 0
    history_revisions: int = DEFAULT_HISTORY_REVISIONS
    history_bytes: int = DEFAULT_HISTORY_BYTES
    log_sync: LogSync = "auto"

    hold_level: int = 0

    session_idle_s: float = 3600.0

    max_key_bytes: int = KIB
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES
    max_connections: int = 10_000
    max_requests: int = 5_000
    max_user_requests: int = 2_500
    max_user_write_bytes: int = 32 * MIB
    max_watches: int = 100_000
    max_user_watches: int = 20_000
    max_held_bytes: int = 256 * MIB
    drain_s: float = 2.5

    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    slow_request_s: float = 1.0
    traces: bool = False

    def __post_init__(self) -> None:
        self._convert_fields()
        _check("name", check_name, self.name)
        if not self.data_dir:
            raise ConfigError("data_dir is empty: name the directory for this node's files", settings=("data_dir",))
        if not self.cluster:
            raise ConfigError("cluster is empty: leave it out, or give the cluster a name", settings=("cluster",))
        if self.http_listen:
            _check("http_listen", _bindable, self.http_listen)
        _check("peer_listen", split_address, self.peer_listen)
        if self.http_advertise:
            _check("http_advertise", check_url, self.http_advertise)
        if self.peer_advertise:
            _check("peer_advertise", check_address, self.peer_advertise)
        self._check_membership()
        self._complete_tls()
        self._check_tls()
        for host in self.allowed_hosts:
            if host != ANY and not is_host_name(host):
                text = f"allowed_hosts: {host[:300]!r} is not a host name or address without a port, or *"
                raise ConfigError(text, settings=("allowed_hosts",))
        for origin in self.allowed_origins:
            if origin != ANY and not is_origin(origin):
                raise ConfigError(
                    f"allowed_origins: {origin[:300]!r} is not an origin such as https://kv.example, or *",
                    settings=("allowed_origins",),
                )
        if self.peer_secret and self.peer_secret_file:
            text = "give the cluster secret once: by peer_secret_file or by SYNCLINE_PEER_SECRET"
            raise ConfigError(text, settings=("peer_secret_file", "peer_secret"))
        check_election(self.election_s, self.heartbeat_s)

    def _convert_fields(self) -> None:
        """Take paths as text and lists as tuples, and raise for any other type: a struct does not check its own
        fields.
        """
        for name in self.__struct_fields__:
            value: object = getattr(self, name)
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            elif SERVER_SETTINGS[name].kind == tuple[str, ...] and isinstance(value, list):
                value = tuple(value)
            try:
                value = msgspec.convert(value, SERVER_SETTINGS[name].annotation, strict=True)
            except msgspec.ValidationError as error:
                shown = "" if name == "peer_secret" else f" = {value!r:.80}"
                kind = TypeError if ", got `" in str(error) else ConfigError
                why = _lower_first(str(error)).replace("`object`", "`dict`").replace("`array`", "`tuple`")
                raise kind(f"{name}{shown}: {why}") from None
            msgspec.structs.force_setattr(self, name, value)

    def _check_membership(self) -> None:
        if self.initial_cluster and self.join:
            text = "give initial_cluster (to start a cluster) or join (to enter a running one), not both"
            raise ConfigError(text, settings=("initial_cluster", "join"))
        taken: dict[tuple[str, int], str] = {}
        for name, address in self.initial_cluster.items():
            _check("initial_cluster", check_name, name)
            _check(f"initial_cluster: {name}", check_address, address)
            other = taken.setdefault(split_address(address), name)
            if other != name:
                raise ConfigError(
                    f"initial_cluster gives {other!r} and {name!r} the same address, {address}: each node needs one",
                    settings=("initial_cluster",),
                )
        if self.initial_cluster and self.name not in self.initial_cluster:
            known = ", ".join(sorted(self.initial_cluster))
            text = f"initial_cluster names {known} but not this node, {self.name!r}"
            raise ConfigError(text, settings=("initial_cluster", "name"))
        for url in self.join:
            _check("join", check_url, url)
        if self.join and not self.peer_advertise:
            try:
                check_address(self.peer_listen)
            except ConfigError as error:
                text = f"peer_listen: {error}. Give peer_advertise"
                raise ConfigError(text, settings=("peer_listen", "join")) from None

    def _complete_tls(self) -> None:
        """Take the files of `tls_dir` for those that are not given."""
        if self.tls_dir:
            for setting, file in tls_files(self.tls_dir, self.name).items():
                if not getattr(self, setting):
                    msgspec.structs.force_setattr(self, setting, file)

    def _check_tls(self) -> None:
        if bool(self.http_tls_cert) != bool(self.http_tls_key):
            text = "http_tls_cert and http_tls_key go together"
            raise ConfigError(text, settings=("http_tls_cert", "http_tls_key"))
        if self.http_tls_ca and not self.http_tls_cert:
            raise ConfigError(
                "http_tls_ca needs http_tls_cert and http_tls_key: without TLS no client shows a certificate",
                settings=("http_tls_ca",),
            )
        if len({bool(self.peer_tls_cert), bool(self.peer_tls_key), bool(self.peer_tls_ca)}) == 2:
            names = ("peer_tls_cert", "peer_tls_key", "peer_tls_ca")
            raise ConfigError("peer_tls_cert, peer_tls_key and peer_tls_ca go together", settings=names)
        if self.http_tls_cert and self.http_advertise.lower().startswith("http://"):
            raise ConfigError(
                f"http_advertise is {self.http_advertise}, and clients are served over TLS: write https://, or clients"
                " and members that follow it are refused",
                settings=("http_advertise", "http_tls_cert"),
            )

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
        """Return the cluster secrets, the one in use first.

            config = ServerConfig(name="a", data_dir="data/a", peer_secret="5f" * 32)
            secrets = config.peer_secrets()

        Raises:
            ConfigError: the file can't be read, or holds no secret that can be used.
        """
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
        """Return the URL for clients, once the port is bound: as advertised, or as bound.

            url = config.http_url("127.0.0.1", 8080)

        Without `http_advertise` that is "http://127.0.0.1:8080".
        """
        return self.http_advertise.rstrip("/") or f"{self.http_scheme}://{join_address(host, port)}"

    def http_limits(self) -> HttpLimits:
        """Return the HTTP server's limits.

            limits = config.http_limits()

        They follow from the limits on keys and values.
        """
        return HttpLimits(
            max_url_bytes=URL_FACTOR * self.max_key_bytes + URL_ROOM_BYTES,
            max_body_bytes=max(4 * MIB, JSON_FACTOR * self.max_value_bytes),
            max_held_bytes=max(4 * MIB, JSON_FACTOR * self.max_value_bytes),
            max_total_held_bytes=self.max_held_bytes,
            max_connections=self.max_connections,
            max_requests=self.max_requests,
        )


def load_config(
    *, file: str | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> ServerConfig:
    """Merge the settings of file, environment and flags.

    `file` is the path of a TOML file; `environment` defaults to the process's; a flag of None was not given.

        config = load_config(environment={"SYNCLINE_NAME": "a"}, flags={"data_dir": "data/a"})

    Raises:
        ConfigError: a setting can't be used; the text names its origin and the setting.
    """
    environment = os.environ if environment is None else environment
    known = ServerConfig.__struct_fields__
    given = gather(known, file=file, environment=environment, flags=flags, listed=known)
    values = {name: converted(SERVER_SETTINGS[name], one) for name, one in given.items()}
    for required in ("name", "data_dir"):
        if required not in values:
            flag, variable = required.replace("_", "-"), ENVIRONMENT_PREFIX + required.upper()
            raise ConfigError(f"{required} is not set: give --{flag}, {variable}, or {required} in the file")
    try:
        return ServerConfig(**values)  # type: ignore[arg-type]  # each was checked against its field's type
    except ConfigError as error:
        raise located(error, given, file) from None


def _bindable(address: str) -> tuple[str, int]:
    return split_address(address, any_port=True)


def _check(name: str, check: Callable[[str], object], value: str) -> None:
    try:
        check(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}", settings=(name.partition(":")[0],)) from None


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


SERVER_SETTINGS: Final = settings_of(ServerConfig, DECLARED_BY_SERVER)
"""The settings of a server, by name."""

ServerConfig.__doc__ = documented(ServerConfig, SERVER_SETTINGS)
