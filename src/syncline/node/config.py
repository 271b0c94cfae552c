"""A node's settings: what it is, where it is, its timers and its limits. Plain data, checked when it is made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec

from syncline.errors import ConfigError
from syncline.node.naming import check_http, check_id, check_name, dialled_address
from syncline.node.settings.declare import check_range, documented, settings_of
from syncline.node.settings.declared import DECLARED, MIB
from syncline.storage.space import RESERVE_BYTES
from syncline.transport.authentication import PeerAuth, check_secrets
from syncline.transport.candidates import is_wildcard
from syncline.transport.messages import PeerAddress
from syncline.transport.tls import PeerTls

__all__ = ["OVERHEAD_BYTES", "SETTINGS", "Config", "LogSync", "check_election"]

LogSync = Literal["auto", "kernel", "thread"]

OVERHEAD_BYTES = 512
"""Memory of a waiting proposal beyond its data."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one node. What each does, and its limits, stand in `settings/declared.py`.

    Give `peers` (the same on all) to nodes that start a cluster together, or `cluster_id` and `node_id` to one that
    joins a running cluster (what `Raft.add_learner` answers on a member). A node with a data directory needs neither:
    it has its identity. All times are in seconds, all sizes in bytes.

        config = Config(name="a", data_dir="data/a", listen="127.0.0.1:7100", peers={"a": "127.0.0.1:7100"})

    Raises:
        TypeError: a setting is of another type.
        ConfigError: a value can't be used, or the settings do not fit each other.
    """

    name: str
    data_dir: str
    listen: str
    advertise: str = ""
    http: str = ""
    peers: dict[str, str] = {}
    cluster: str = "syncline"
    cluster_id: int = 0
    node_id: int = 0

    heartbeat_s: float = 0.1
    election_s: float = 1.0

    max_entry_bytes: int = 8 * MIB
    max_message_bytes: int = MIB
    max_inflight_messages: int = 128
    max_inflight_bytes: int = 32 * MIB
    max_uncommitted_bytes: int = 64 * MIB
    max_pending_bytes: int = 64 * MIB

    snapshot_entries: int = 100_000
    snapshot_bytes: int = 128 * MIB
    snapshots_retained: int = 2
    trailing_entries: int = 10_000
    segment_bytes: int = 64 * MIB
    reserve_bytes: int = RESERVE_BYTES

    peer_tls: PeerTls | None = None
    secret: bytes | tuple[bytes, ...] | None = None
    insecure_peers: bool = False
    peer_auth: PeerAuth = "require"

    hold_level: int = 0
    session_idle_s: float = 3600.0
    log_sync: LogSync = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.data_dir, os.PathLike):
            msgspec.structs.force_setattr(self, "data_dir", os.fspath(self.data_dir))
        check_types(self)
        check_name(self.name)
        if not self.data_dir or "\0" in self.data_dir:
            text = f"data_dir is {self.data_dir!r}: name the directory for this node's files"
            raise ConfigError(text, settings=("data_dir",))
        if not self.cluster:
            raise ConfigError("cluster is empty: leave it out, or give the cluster a name", settings=("cluster",))
        check_http(self.http)
        self._check_addresses()
        self._check_identity()
        self._check_limits()
        check_secrets(self.secrets)
        if self.peer_auth not in ("require", "accept"):
            text = f"peer_auth is {self.peer_auth!r}: it must be 'require' or 'accept'"
            raise ConfigError(text, settings=("peer_auth",))

    def __repr__(self) -> str:
        shown = (f"{name}={'...' if name == 'secret' and self.secret else repr(value)}" for name, value in _items(self))
        return f"Config({', '.join(shown)})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [(name, "..." if name == "secret" and self.secret else value) for name, value in _items(self)]

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """All secrets that are accepted, the one in use first."""
        if self.secret is None:
            return ()
        return self.secret if isinstance(self.secret, tuple) else (self.secret,)

    def _check_addresses(self) -> None:
        listen = PeerAddress.parse(self.listen, setting="listen")
        if self.advertise:
            dialled_address(self.advertise, "advertise")
        taken: dict[PeerAddress, str] = {}
        for name, address in self.peers.items():
            _check_peer_name(name)
            other = taken.setdefault(dialled_address(address, f"peers[{name}]"), name)
            if other != name:
                raise ConfigError(
                    f"peers gives {other!r} and {name!r} the same address, {address}: each node needs one",
                    settings=("peers",),
                )
        if not self.advertise and self.name not in self.peers and (listen.port == 0 or is_wildcard(listen.host)):
            raise ConfigError(
                f"listen is {self.listen!r}, which other nodes can't dial: give advertise, the address at which they"
                " reach this node, such as 10.0.0.1:7100",
                settings=("listen",),
            )

    def _check_identity(self) -> None:
        for field in ("cluster_id", "node_id"):  # as plain integers, which the formats know
            msgspec.structs.force_setattr(self, field, check_id(getattr(self, field), field, none=True))
        if self.peers and self.name not in self.peers:
            text = f"peers names {', '.join(sorted(self.peers))} but not this node, {self.name!r}"
            raise ConfigError(text, settings=("peers", "name"))
        if self.peers and (self.cluster_id or self.node_id):
            text = "give either peers (to start a cluster) or cluster_id and node_id (to join one)"
            raise ConfigError(text, settings=("peers", "cluster_id", "node_id"))
        if bool(self.cluster_id) != bool(self.node_id):
            text = "cluster_id and node_id go together: both come from the cluster that is joined"
            raise ConfigError(text, settings=("cluster_id", "node_id"))

    def _check_limits(self) -> None:
        if self.log_sync not in SETTINGS["log_sync"].choices:
            raise ConfigError(
                f"log_sync is {self.log_sync!r}: accepted are {', '.join(SETTINGS['log_sync'].choices)}",
                settings=("log_sync",),
            )
        check_range(SETTINGS, self)
        check_election(self.election_s, self.heartbeat_s)
        if self.max_pending_bytes < self.max_entry_bytes + OVERHEAD_BYTES:
            raise ConfigError(
                "max_pending_bytes is less than max_entry_bytes: the largest command could not be made",
                settings=("max_pending_bytes", "max_entry_bytes"),
            )
        if self.max_inflight_bytes < self.max_message_bytes:
            raise ConfigError(
                "max_inflight_bytes is less than max_message_bytes: nothing could be sent",
                settings=("max_inflight_bytes", "max_message_bytes"),
            )

    @property
    def address(self) -> str:
        """What the other members dial; with port 0 in `listen`, the real port takes its place once it is known.

        `listen` comes before the node's own entry in `peers`: that one is of the first start, and the node may have
        moved since.
        """
        if self.advertise:
            return self.advertise
        everywhere = is_wildcard(PeerAddress.parse(self.listen).host)
        return self.peers.get(self.name, self.listen) if everywhere else self.listen


def _check_peer_name(name: str) -> None:
    try:
        check_name(name, "a name in peers")
    except ConfigError as error:
        raise ConfigError(str(error), settings=("peers",)) from None


def check_election(election_s: float, heartbeat_s: float) -> None:
    """Raise ConfigError if one late heartbeat would make a follower campaign."""
    if election_s < 2 * heartbeat_s:
        raise ConfigError(
            f"election_s is {election_s}: it must be at least twice heartbeat_s ({heartbeat_s}),"
            " better ten times, or a single late heartbeat costs the leader its place",
            settings=("election_s", "heartbeat_s"),
        )


SETTINGS: Final = settings_of(Config, DECLARED)
"""The settings of a node, by name."""

Config.__doc__ = documented(Config, SETTINGS)

_TEXTS: Final = ("name", "data_dir", "listen", "advertise", "http", "cluster", "peer_auth", "log_sync")
_SECONDS: Final = ("heartbeat_s", "election_s", "session_idle_s")


def check_types(config: Config) -> None:
    """Raise TypeError if a field holds a value of another type. A struct does not look at its own."""
    for field in config.__struct_fields__:
        value: object = getattr(config, field)
        if field in _TEXTS:
            _check_type(field, value, "a str", isinstance(value, str))
        elif field in _SECONDS:
            _check_type(field, value, "a number", isinstance(value, int | float) and not isinstance(value, bool))
        elif field == "peers":
            is_table = isinstance(value, Mapping) and all(
                isinstance(text, str) for pair in value.items() for text in pair
            )
            _check_type(field, value, 'a dict such as {"a": "10.0.0.1:7100"}', is_table)
        elif field == "secret":
            _check_secret_type(value)
        elif field == "insecure_peers":
            _check_type(field, value, "a bool", isinstance(value, bool))
        elif field == "peer_tls":
            _check_type(field, value, "a PeerTls or None", value is None or isinstance(value, PeerTls))
        else:
            _check_type(field, value, "an int", isinstance(value, int) and not isinstance(value, bool))


def _check_secret_type(value: object) -> None:
    """Raise TypeError for what is no secret. The text names types alone: the value may be a secret all the same."""
    given = value if isinstance(value, tuple) else () if value is None else (value,)
    for secret in given:
        if not isinstance(secret, bytes):
            hint = ": read it as bytes" if isinstance(secret, str) else ""
            raise TypeError(f"secret must be bytes, or a tuple of bytes, not {type(secret).__name__}{hint}")


def _check_type(field: str, value: object, wanted: str, good: bool) -> None:
    if not good:
        raise TypeError(f"{field} must be {wanted}, not {value!r:.80} ({type(value).__name__})")


def _items(config: Config) -> Iterator[tuple[str, object]]:
    for name in config.__struct_fields__:
        yield name, getattr(config, name)
