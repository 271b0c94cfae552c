"""A node's settings: what it is, where it is, its timers and its limits. Plain data, checked when it is made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from syncline.errors import ConfigError
from syncline.node.naming import check_http, check_id, check_name, dialled_address
from syncline.storage.space import RESERVE_BYTES
from syncline.transport.authentication import PeerAuth, check_secrets
from syncline.transport.candidates import is_wildcard
from syncline.transport.messages import PeerAddress
from syncline.transport.tls import PeerTls

__all__ = ["Config"]

MIB = 1 << 20

LARGEST_MESSAGE_BYTES = 60 * MIB
"""Of entries in one message: less than a frame of the transport (64 MiB), which also holds what is around them."""

LARGEST_PENDING_BYTES = 192 * MIB
"""All that waits may go to the log in one write, which is one frame of it (256 MiB), guards and headers counted."""

SMALLEST_SEGMENT_BYTES, LARGEST_SEGMENT_BYTES = 4 << 10, 1 << 30
"""Of a file of the log: smaller ones would be mostly head, larger ones are not read at once."""

LONGEST_ELECTION_S = 3600.0
"""A cluster whose leader dies is without one for so long."""

OVERHEAD_BYTES = 512
"""What a waiting proposal costs beyond its data."""

POSITIVE = (
    "max_entry_bytes",
    "max_message_bytes",
    "max_inflight_messages",
    "max_pending_bytes",
    "max_uncommitted_bytes",
    "snapshot_entries",
    "snapshot_bytes",
    "snapshots_retained",
)


LOG_SYNCS: Final = ("auto", "kernel", "thread")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one node.

    Give `peers` (the same on all) to nodes that start a cluster together, or `cluster_id` and `node_id` to one that
    joins a running cluster (what `Raft.add_learner` answers on a member). A node with a data directory needs neither:
    it knows who it is. All times are in seconds, all sizes in bytes. Raises `ConfigError`.
    """

    name: str
    """This node's name, unique in its cluster. For people; the id is what counts."""

    data_dir: str
    """Where the log and the snapshots are. One process at a time. A `pathlib.Path` is taken too, and kept as text."""

    listen: str
    """Where peers are listened for: "host:port"."""

    advertise: str = ""
    """Where peers reach this node, if that is not `listen`: behind NAT, with a wildcard, by a host name."""

    http: str = ""
    """Where clients reach this node. Replicated to all members; empty: it serves none."""

    peers: dict[str, str] = {}
    """The members that the cluster starts with, by name: "host:port" each, this node among them.

    They make the cluster at the first start only. Later the addresses are hints: each is dialled when its member does
    not answer where the cluster expects it."""

    cluster: str = "syncline"
    """The cluster's name. With `peers` it makes the cluster's id, which keeps strangers apart."""

    cluster_id: int = 0
    """Of the running cluster to join."""

    node_id: int = 0
    """Given by the cluster to join."""

    heartbeat_s: float = 0.1
    """How often a leader tells that it is there; also the resolution of every other timer."""

    election_s: float = 1.0
    """A follower that hears nothing for one to two times this long campaigns."""

    max_entry_bytes: int = 8 * MIB
    """The largest command. Larger ones are refused; hundreds of KiB already delay what waits behind them."""

    max_message_bytes: int = MIB
    """Entries per append message: large enough for throughput, small enough not to delay heartbeats."""

    max_inflight_messages: int = 128
    """Appends on their way to one follower."""

    max_inflight_bytes: int = 32 * MIB
    """Bytes of appends on their way to one follower."""

    max_uncommitted_bytes: int = 64 * MIB
    """Proposals in the leader's log that no quorum has yet; more are refused as `Dropped`."""

    max_pending_bytes: int = 64 * MIB
    """Proposals made on this node and not yet answered; more are refused as `Dropped`."""

    snapshot_entries: int = 100_000
    """A snapshot is taken after so many entries, or ..."""

    snapshot_bytes: int = 128 * MIB
    """... after so many bytes of entries, whichever is first."""

    snapshots_retained: int = 2
    """Snapshots kept on disk."""

    trailing_entries: int = 10_000
    """Entries kept in the log behind a snapshot, so that a follower that was away briefly needs no snapshot."""

    segment_bytes: int = 64 * MIB
    """The size of a file of the log."""

    reserve_bytes: int = RESERVE_BYTES
    """Disk space that is never used by writes: below it they are refused and reads go on."""

    peer_tls: PeerTls | None = None
    """Mutual TLS between the nodes."""

    secret: bytes | tuple[bytes, ...] | None = None
    """The cluster secret, the same on all nodes: at least 32 random bytes. Peers prove that they know it. Of several,
    the first is used and all are accepted, for a change of the secret without a stop. Never shown in `repr`."""

    insecure_peers: bool = False
    """Listen beyond loopback with neither a secret nor TLS: whoever reaches the port can take part in the cluster."""

    peer_auth: PeerAuth = "require"
    """With a secret: "accept" lets peers without a proof in too, for the one rolling restart that brings it in."""

    hold_level: int = 0
    """While this node leads, the cluster's feature level does not rise above this, and its machine version not at all.
    0: both rise as soon as all members can do more (`node.levels`)."""

    log_sync: str = "auto"
    """What syncs the log: "kernel" (beside the node, Linux; if it can't, a thread does, with a warning), "thread", or
    "auto": the kernel if it offers that. A sandbox that ends a process for such a system call needs "thread"."""

    def __post_init__(self) -> None:
        if isinstance(self.data_dir, os.PathLike):
            msgspec.structs.force_setattr(self, "data_dir", os.fspath(self.data_dir))
        check_types(self)
        check_name(self.name)
        if not self.data_dir or "\0" in self.data_dir:
            raise ConfigError(f"data_dir is {self.data_dir!r}: name the directory for this node's files")
        if not self.cluster:
            raise ConfigError("cluster is empty: leave it out, or give the cluster a name")
        check_http(self.http)
        self._check_addresses()
        self._check_identity()
        self._check_limits()
        check_secrets(self.secrets)
        if self.peer_auth not in ("require", "accept"):
            raise ConfigError(f"peer_auth is {self.peer_auth!r}: it must be 'require' or 'accept'")

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
            check_name(name, "a name in peers")
            other = taken.setdefault(dialled_address(address, f"peers[{name}]"), name)
            if other != name:
                raise ConfigError(
                    f"peers gives {other!r} and {name!r} the same address, {address}: each node needs one"
                )
        if not self.advertise and self.name not in self.peers and (listen.port == 0 or is_wildcard(listen.host)):
            raise ConfigError(
                f"listen is {self.listen!r}, which other nodes can't dial: give advertise, the address at which they"
                " reach this node, such as 10.0.0.1:7100"
            )

    def _check_identity(self) -> None:
        for field in ("cluster_id", "node_id"):  # as plain integers, which the formats know
            msgspec.structs.force_setattr(self, field, check_id(getattr(self, field), field, none=True))
        if self.peers and self.name not in self.peers:
            raise ConfigError(f"peers names {', '.join(sorted(self.peers))} but not this node, {self.name!r}")
        if self.peers and (self.cluster_id or self.node_id):
            raise ConfigError("give either peers (to start a cluster) or cluster_id and node_id (to join one)")
        if bool(self.cluster_id) != bool(self.node_id):
            raise ConfigError("cluster_id and node_id go together: both come from the cluster that is joined")

    def _check_limits(self) -> None:
        if self.log_sync not in LOG_SYNCS:
            raise ConfigError(f"log_sync is {self.log_sync!r}: accepted are {', '.join(LOG_SYNCS)}")
        if not 0.001 <= self.heartbeat_s <= 60:  # also of a "nan", which compares false with everything
            raise ConfigError(f"heartbeat_s is {self.heartbeat_s}: it must be from 0.001 to 60 seconds")
        if not self.election_s <= LONGEST_ELECTION_S:
            raise ConfigError(f"election_s is {self.election_s}: it must be at most {LONGEST_ELECTION_S:.0f} seconds")
        if not SMALLEST_SEGMENT_BYTES <= self.segment_bytes <= LARGEST_SEGMENT_BYTES:
            raise ConfigError(
                f"segment_bytes is {self.segment_bytes}: it must be from {SMALLEST_SEGMENT_BYTES}"
                f" to {LARGEST_SEGMENT_BYTES}"
            )
        if self.trailing_entries < 0 or self.reserve_bytes < 0 or self.hold_level < 0:
            raise ConfigError("trailing_entries, reserve_bytes and hold_level must not be negative")
        if self.election_s < 2 * self.heartbeat_s:
            raise ConfigError(
                f"election_s is {self.election_s}: it must be at least twice heartbeat_s ({self.heartbeat_s}),"
                " better ten times, or a single late heartbeat costs the leader its place"
            )
        for field in POSITIVE:
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}: it must be positive")
        for field in ("max_entry_bytes", "max_message_bytes"):
            if getattr(self, field) > LARGEST_MESSAGE_BYTES:
                raise ConfigError(
                    f"{field} is {getattr(self, field)}: it must be at most {LARGEST_MESSAGE_BYTES}, to fit in a frame"
                )
        if self.max_pending_bytes < self.max_entry_bytes + OVERHEAD_BYTES:
            raise ConfigError("max_pending_bytes is less than max_entry_bytes: the largest command could not be made")
        if self.max_pending_bytes > LARGEST_PENDING_BYTES:
            raise ConfigError(
                f"max_pending_bytes is {self.max_pending_bytes}: it must be at most {LARGEST_PENDING_BYTES}, because"
                " all that waits may be one write to the log"
            )
        if self.max_inflight_bytes < self.max_message_bytes:
            raise ConfigError("max_inflight_bytes is less than max_message_bytes: nothing could be sent")

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


_TEXTS: Final = ("name", "data_dir", "listen", "advertise", "http", "cluster", "peer_auth", "log_sync")
_SECONDS: Final = ("heartbeat_s", "election_s")


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
