"""The metrics of a server at `/metrics`.

Names are etcd's stable ones with the prefix `syncline_` if they mean the same, so that knowledge of etcd's metrics
applies. Figures that the node keeps anyway are read when the page is rendered; only HTTP answers are counted here.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, TypeAlias

from syncline.consensus.types import NodeId
from syncline.kv.lessor import LeaseCounts
from syncline.kv.store import KeyStore
from syncline.kv.watch_hub import WatchHub
from syncline.node.member_registry import Membership, format_id
from syncline.node.stats import MemberProgress, Stats, Timings
from syncline.platform.distribution import Distribution
from syncline.server.http.request import Request
from syncline.server.metrics import Counter, Histogram, Registry, Sample
from syncline.transport.messages import PeerStats

__all__ = [
    "HttpTelemetry",
    "MeasuredNode",
    "add_certificate_metrics",
    "add_lease_metrics",
    "add_node_metrics",
    "add_watch_metrics",
]

REFUSED = "(refused)"
"""The route of requests that were refused before routing."""

ReadStats: TypeAlias = Callable[[Stats], float]
ReadTiming: TypeAlias = Callable[[Timings], Distribution]
ReadPeer: TypeAlias = Callable[[PeerStats], float | None]
ReadMember: TypeAlias = Callable[[MemberProgress], float]

PEER_LABELS = ("id", "name")

LIMIT_CODES = ("limit", "overloaded", "backlog", "dropped", "no_space", "disk_full", "too_large")
"""Codes of errors that say that a limit is reached. Their counters are there from the start."""


class MeasuredNode(Protocol):
    """The figures of a node; `Raft` has them."""

    @property
    def last_contact_s(self) -> float | None: ...
    def stats(self) -> Stats: ...
    def timings(self) -> Timings: ...
    def peers(self) -> Mapping[NodeId, PeerStats]: ...
    def membership(self) -> Membership: ...


class HttpTelemetry:
    """Counts answers. `observe` is the HTTP server's `Observe`."""

    def __init__(self, registry: Registry) -> None:
        self._answers = registry.counters(
            "syncline_http_requests_total",
            "Answers to clients, by the route's pattern and the status.",
            ("route", "status"),
        )
        self._durations = registry.histograms(
            "syncline_http_request_duration_seconds",
            "From a request's last byte to its answer, by the route's pattern.",
            ("route",),
        )
        self._errors = registry.counters(
            "syncline_http_errors_total",
            "Requests that were refused or failed, by the error's code; reached limits are limit, overloaded, backlog,"
            " dropped, no_space, disk_full, too_large.",
            ("code",),
        )
        for code in LIMIT_CODES:
            self._errors.labels(code)
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.slow_s: float = math.inf
        """From this duration on a request is slow, and `slow` is called."""
        self.slow: Callable[[Request | None, str, int, float], None] | None = None

    def observe(
        self, route: str, status: int, duration_s: float, request: Request | None = None, code: str = ""
    ) -> None:
        """Count one answer."""
        counter, histogram = self._known.get((route, status)) or self._learn(route, status)
        counter.value += 1
        histogram.counts[bisect_left(histogram.bounds, duration_s)] += 1  # `Distribution.observe`, spelled out
        histogram.sum += duration_s
        if code:
            self._errors.labels(code).value += 1
        if duration_s >= self.slow_s and self.slow is not None:
            self.slow(request, route, status, duration_s)

    def _learn(self, route: str, status: int) -> tuple[Counter, Histogram]:
        """Patterns and statuses are few, and are ours: each pair is looked up once."""
        name = route or REFUSED
        self._known[route, status] = known = self._answers.labels(name, str(status)), self._durations.labels(name)
        return known


def add_certificate_metrics(
    registry: Registry, clients: Callable[[], float | None], peers: Callable[[], float | None]
) -> None:
    """Metrics of this node's certificates: how long they last. A use without TLS has no sample."""

    def days_left() -> list[Sample]:
        found = (("clients", clients()), ("peers", peers()))
        return [((use,), days) for use, days in found if days is not None]

    text = "Days until this node's certificate ends, or its authority if that is sooner; below 0: it has ended."
    registry.computed("gauge", "syncline_tls_certificate_days_left", text, ("use",), days_left)


def add_node_metrics(registry: Registry, node: MeasuredNode, store: Callable[[], KeyStore], *, name: str) -> None:
    """Metrics of the node called `name`: Raft, its log, its peers, its keys."""
    registry.gauges("syncline_node_info", "Always 1; the label says which node.", ("name",)).labels(name).value = 1
    moment = _Moment(node)
    registry.before_render(moment.look)
    for kind, metric, text, read in _FIGURES:
        _single(registry, kind, metric, text, partial(moment.read, read))
    for metric, text, read_timing in _TIMINGS:
        registry.computed_histogram(metric, text, partial(moment.timing, read_timing))
    registry.computed(
        "counter",
        "syncline_server_elections_total",
        "Elections that this node has started, by reason.",
        ("reason",),
        lambda: [((reason,), count) for reason, count in moment.stats.elections.items()],
    )
    registry.computed(
        "counter",
        "syncline_server_leaderships_ended_total",
        "How often this node has stopped leading, by reason.",
        ("reason",),
        lambda: [((reason,), count) for reason, count in moment.stats.leaderships_ended.items()],
    )
    registry.computed(
        "gauge", "syncline_digest_age_seconds", "Age of the last comparison of states.", (), moment.compared
    )
    registry.computed(
        "gauge", "syncline_server_leader_contact_seconds", "Age of the last word from the leader.", (), moment.contact
    )
    registry.computed(
        "gauge", "syncline_disk_free_bytes", "Free bytes of the log's file system, looked at lately.", (), moment.free
    )
    for kind, metric, text, read_peer in _PEERS:
        registry.computed(kind, metric, text, PEER_LABELS, partial(moment.of_peers, read_peer))
    for metric, text, read_member in _MEMBERS:
        registry.computed("gauge", metric, text, PEER_LABELS, partial(moment.of_members, read_member))
    _single(registry, "gauge", "syncline_mvcc_keys", "Keys in the store.", lambda: len(store()))
    size = "What the store counts for: keys, values and an overhead for each key."
    _single(registry, "gauge", "syncline_store_bytes", size, lambda: store().size_bytes)
    _single(registry, "gauge", "syncline_mvcc_current_revision", "The store's revision.", lambda: store().revision)


def add_lease_metrics(
    registry: Registry, store: Callable[[], KeyStore], counts: LeaseCounts, compactions: Callable[[], int]
) -> None:
    """Metrics of the leases and of the history. The counters are of this node as the leader."""
    _single(registry, "gauge", "syncline_leases", "Leases.", lambda: len(store().leases))
    kept = "Keep-alives that this node answered as the leader, one for each lease."
    _single(registry, "counter", "syncline_lease_keepalives_total", kept, lambda: counts.kept_alive)
    ended = "Leases that this node ended as the leader because their time was over."
    _single(registry, "counter", "syncline_leases_ended_total", ended, lambda: counts.ended)
    recorded = "Leases whose rest this node recorded in the log as the leader."
    _single(registry, "counter", "syncline_lease_checkpoints_total", recorded, lambda: counts.recorded)
    readable = "Revisions that can be read."
    _single(registry, "gauge", "syncline_history_revisions", readable, lambda: store().history_revisions)
    held = "What older versions of keys count for, and tombstones, until they are freed after a compaction."
    _single(registry, "gauge", "syncline_history_bytes", held, lambda: store().history_bytes)
    _single(registry, "gauge", "syncline_oldest_revision", "The oldest readable revision.", lambda: store().oldest)
    done = "Compactions that this node proposed as the leader."
    _single(registry, "counter", "syncline_compactions_total", done, compactions)


def add_watch_metrics(registry: Registry, hub: WatchHub) -> None:
    """Metrics of the watches."""
    _single(registry, "gauge", "syncline_mvcc_watchers", "Watches, long polls included.", lambda: len(hub))
    events, slow = "Changes given to watches.", "Watches that were ended because their clients read too slowly."
    _single(registry, "counter", "syncline_mvcc_watch_events_total", events, lambda: hub.sent)
    _single(registry, "counter", "syncline_mvcc_slow_watchers_total", slow, lambda: hub.cut_off)
    unread = "What waits for the clients of all watches; a message that several share counts for each."
    _single(registry, "gauge", "syncline_mvcc_watch_unread_bytes", unread, lambda: hub.unread_bytes)


def _single(registry: Registry, kind: str, name: str, text: str, read: Callable[[], float]) -> None:
    """A single number, read when the page is rendered."""
    registry.computed(kind, name, text, (), lambda: [((), read())])


class _Moment:
    """The node's figures at the moment of rendering: taken once for all metrics."""

    def __init__(self, node: MeasuredNode) -> None:
        self._node = node
        self.stats = node.stats()
        self._names = node.membership().members

    def look(self) -> None:
        self.stats = self._node.stats()
        self._names = self._node.membership().members

    def read(self, read: ReadStats) -> float:
        return read(self.stats)

    def timing(self, read: ReadTiming) -> Distribution:
        return read(self._node.timings())

    def contact(self) -> list[Sample]:
        age_s = self._node.last_contact_s
        return [] if age_s is None else [((), age_s)]

    def free(self) -> list[Sample]:
        free_bytes = self.stats.disk_free_bytes
        return [] if free_bytes is None else [((), free_bytes)]

    def compared(self) -> list[Sample]:
        age_s = self.stats.digest_age_s
        return [] if age_s is None else [((), age_s)]

    def of_peers(self, read: ReadPeer) -> list[Sample]:
        found = [(self._who(peer), read(stats)) for peer, stats in self._node.peers().items()]
        return [(who, value) for who, value in found if value is not None]

    def of_members(self, read: ReadMember) -> list[Sample]:
        return [(self._who(member), read(progress)) for member, progress in self.stats.progress.items()]

    def _who(self, node_id: NodeId) -> tuple[str, str]:
        member = self._names.get(node_id)
        return format_id(node_id), member.name if member is not None else ""


_AGREEMENTS = {"agreed": 1, "no_majority": 0}

_FIGURES: tuple[tuple[str, str, str, ReadStats], ...] = (
    ("gauge", "syncline_server_has_leader", "Whether a leader is known.", lambda s: int(s.leader is not None)),
    ("gauge", "syncline_server_is_leader", "Whether this node leads.", lambda s: int(s.role == "leader")),
    ("gauge", "syncline_server_is_learner", "Whether this node learns.", lambda s: int(s.role == "learner")),
    ("counter", "syncline_server_leader_changes_seen_total", "Changes of the leader.", lambda s: s.leader_changes),
    ("counter", "syncline_server_proposals_committed_total", "The commit index.", lambda s: s.commit),
    ("counter", "syncline_server_proposals_applied_total", "The applied index.", lambda s: s.applied),
    ("gauge", "syncline_server_proposals_pending", "Proposals made here, unanswered.", lambda s: s.proposals_pending),
    (
        "counter",
        "syncline_server_proposals_failed_total",
        "Proposals made here that failed.",
        lambda s: s.proposals_failed,
    ),
    ("gauge", "syncline_server_reads_pending", "Reads made here, not confirmed yet.", lambda s: s.reads_pending),
    ("counter", "syncline_server_snapshots_taken_total", "Snapshots taken here.", lambda s: s.snapshots_taken),
    ("counter", "syncline_server_snapshots_installed_total", "Snapshots installed.", lambda s: s.snapshots_installed),
    ("gauge", "syncline_server_loop_lag_seconds", "How late the last tick was.", lambda s: s.loop_lag_s),
    ("gauge", "syncline_raft_term", "The current term.", lambda s: s.term),
    ("gauge", "syncline_raft_first_index", "The first entry kept in the log.", lambda s: s.first_index),
    ("gauge", "syncline_raft_last_index", "The last entry in the log.", lambda s: s.last_index),
    ("gauge", "syncline_raft_snapshot_index", "The newest snapshot's entry.", lambda s: s.snapshot_index),
    ("gauge", "syncline_raft_lag_entries", "Entries committed and not applied yet.", lambda s: s.lag),
    ("counter", "syncline_raft_messages_refused_total", "Messages that made no sense.", lambda s: s.messages_refused),
    ("counter", "syncline_raft_terms_refused_total", "Messages of a term too far ahead.", lambda s: s.terms_refused),
    (
        "counter",
        "syncline_network_connections_displaced_total",
        "Peer connections closed before their proof or introduction, because newer ones came.",
        lambda s: s.connections_displaced,
    ),
    ("counter", "syncline_ignored_entries_total", "Log entries without effect.", lambda s: s.entries_ignored),
    (
        "gauge",
        "syncline_disk_shortage",
        "0: the disk has room; 1: writes are or may soon be refused; 2: no entries of a leader are taken either.",
        lambda s: s.disk_shortage,
    ),
    (
        "gauge",
        "syncline_digest_agreement",
        "1: a majority of the voters has one state; 0: their states differ without a majority; -1: not compared yet.",
        lambda s: _AGREEMENTS.get(s.digest_agreement, -1),
    ),
    ("gauge", "syncline_digest_index", "Log index of the last comparison of states.", lambda s: s.digest_index),
    ("gauge", "syncline_sessions", "Open sessions for writes that take effect exactly once.", lambda s: s.sessions),
    ("counter", "syncline_digests_ignored_total", "Digests that made no sense.", lambda s: s.digests_ignored),
    (
        "counter",
        "syncline_store_refused_total",
        "Commands that this node refused as the leader because the store has reached its limit.",
        lambda s: s.refused_no_space,
    ),
    (
        "gauge",
        "syncline_disk_wal_waits_seconds",
        "How long the oldest write that is not durable yet has waited for the disk.",
        lambda s: s.log_waits_s,
    ),
    (
        "counter",
        "syncline_disk_wal_written_bytes_total",
        "Bytes written to the log since the start.",
        lambda s: s.log_written_bytes,
    ),
    ("gauge", "syncline_disk_wal_bytes", "Size of the log's files.", lambda s: s.log_bytes),
    (
        "gauge",
        "syncline_disk_wal_last_fsync_seconds",
        "The last group's time to durability.",
        lambda s: s.log_last_sync_s,
    ),
)

_TIMINGS: tuple[tuple[str, str, ReadTiming], ...] = (
    (
        "syncline_disk_wal_fsync_duration_seconds",
        "Writing and syncing of one group of the log: the disk's part.",
        lambda t: t.log_syncs,
    ),
    (
        "syncline_disk_wal_append_duration_seconds",
        "From an append's queueing to its durability, by group.",
        lambda t: t.log_groups,
    ),
    (
        "syncline_raft_commit_duration_seconds",
        "On the leader: from the log's taking of a batch of entries to its commit.",
        lambda t: t.commits,
    ),
    ("syncline_raft_apply_duration_seconds", "The state machine's time for a batch of entries.", lambda t: t.applies),
    (
        "syncline_raft_read_duration_seconds",
        "Confirmation of a batch of linearizable reads, until they can be answered.",
        lambda t: t.reads,
    ),
    ("syncline_server_loop_lag_duration_seconds", "How late the ticks of the event loop were.", lambda t: t.loop_lag),
)

_PEERS: tuple[tuple[str, str, str, ReadPeer], ...] = (
    ("gauge", "syncline_network_active_peers", "Whether the link to the peer is up.", lambda s: int(s.connected)),
    ("gauge", "syncline_network_peer_round_trip_time_seconds", "Smoothed round trip time.", lambda s: s.rtt_s),
    ("counter", "syncline_network_peer_sent_bytes_total", "Bytes sent to the peer.", lambda s: s.sent_bytes),
    ("counter", "syncline_network_peer_received_bytes_total", "Bytes from the peer.", lambda s: s.received_bytes),
    ("counter", "syncline_network_peer_dropped_messages_total", "Messages not sent.", lambda s: s.dropped_messages),
    ("counter", "syncline_network_peer_reconnects_total", "Times the link came up again.", lambda s: s.reconnects),
)

_MEMBERS: tuple[tuple[str, str, ReadMember], ...] = (
    ("syncline_raft_member_lag_entries", "Entries behind the leader's log; on the leader.", lambda p: p.lag),
    (
        "syncline_raft_member_lag_bytes",
        "Bytes behind the leader's log, an estimate; on the leader.",
        lambda p: p.lag_bytes,
    ),
    (
        "syncline_raft_member_lag_seconds",
        "Age of the first entry that the member lacks, to one heartbeat; on the leader.",
        lambda p: p.lag_s,
    ),
    ("syncline_raft_member_active", "Whether it answers; on the leader.", lambda p: int(p.active)),
)
