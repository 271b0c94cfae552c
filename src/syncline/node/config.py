"""A node's settings: what it is, where it is, its timers and its limits. Plain data, checked when it is made."""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.errors import ConfigError
from syncline.storage.space import RESERVE_BYTES
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
    """Where the log and the snapshots are. One process at a time."""

    listen: str
    """Where peers are listened for: "host:port"."""

    advertise: str = ""
    """Where peers reach this node, where that is not `listen` (NAT, "0.0.0.0", host names)."""

    http: str = ""
    """Where clients reach this node. Replicated to all members; empty: it serves none."""

    peers: dict[str, str] = {}
    """The members that the cluster starts with, by name: "host:port" each, this node among them."""

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

    log_sync: str = "auto"
    """What syncs the log: "kernel" (beside the node, Linux; if it can't, a thread does, with a warning), "thread", or
    "auto": the kernel if it offers that. A sandbox that ends a process for such a system call needs "thread"."""

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 128 or any(not c.isprintable() or c in "=, /" for c in self.name):
            raise ConfigError(f"name {self.name!r}: 1 to 128 printable characters without '=', ',', '/' and spaces")
        if not self.data_dir:
            raise ConfigError("data_dir is empty: name the directory for this node's files")
        PeerAddress.parse(self.listen, setting="listen")
        if self.advertise:
            PeerAddress.parse(self.advertise, setting="advertise")
        self._check_identity()
        self._check_limits()

    def _check_identity(self) -> None:
        for name, address in self.peers.items():
            PeerAddress.parse(address, setting=f"peers[{name}]")
        if self.peers and self.name not in self.peers:
            raise ConfigError(f"peers names {', '.join(sorted(self.peers))} but not this node, {self.name!r}")
        if self.peers and (self.cluster_id or self.node_id):
            raise ConfigError("give either peers (to start a cluster) or cluster_id and node_id (to join one)")
        if bool(self.cluster_id) != bool(self.node_id):
            raise ConfigError("cluster_id and node_id go together: both come from the cluster that is joined")

    def _check_limits(self) -> None:
        if self.log_sync not in LOG_SYNCS:
            raise ConfigError(f"log_sync is {self.log_sync!r}: accepted are {', '.join(LOG_SYNCS)}")
        if not 0.001 <= self.heartbeat_s <= 60:
            raise ConfigError(f"heartbeat_s is {self.heartbeat_s}: it must be from 0.001 to 60 seconds")
        if not SMALLEST_SEGMENT_BYTES <= self.segment_bytes <= LARGEST_SEGMENT_BYTES:
            raise ConfigError(
                f"segment_bytes is {self.segment_bytes}: it must be from {SMALLEST_SEGMENT_BYTES}"
                f" to {LARGEST_SEGMENT_BYTES}"
            )
        if self.trailing_entries < 0 or self.reserve_bytes < 0:
            raise ConfigError("trailing_entries and reserve_bytes must not be negative")
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
        """What the other members dial."""
        return self.advertise or self.peers.get(self.name, "") or self.listen
