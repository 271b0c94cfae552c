"""A node's figures at one moment."""

from __future__ import annotations

import msgspec

from syncline.consensus.types import StateType
from syncline.node.ids import NodeId
from syncline.node.intake import MAX_BACKLOG_ENTRIES
from syncline.node.role import Role, role_of
from syncline.node.runtime import Driver
from syncline.platform.distribution import Distribution

__all__ = ["MemberProgress", "SnapshotInfo", "Stats", "Timings", "collect", "timings"]


class MemberProgress(msgspec.Struct, frozen=True):
    """A member as the leader sees it."""

    match: int
    """Its log is known to agree up to here."""
    lag: int
    """Entries that it is behind the leader's log."""
    active: bool
    state: str
    fault: str = ""
    """Why it is not healthy although it answers, for people; empty if nothing is known against it."""
    lag_bytes: int = 0
    """Bytes of the log that it lacks; an estimate."""
    lag_s: float = 0.0
    """For how long the leader has had the first entry that the member lacks, to one heartbeat."""


class SnapshotInfo(msgspec.Struct, frozen=True):
    """A snapshot that the node has written."""

    index: int
    """The index of the last entry that it holds."""
    term: int
    """The term of that entry."""
    size_bytes: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """One node at one moment. Indexes are log positions."""

    role: Role
    term: int
    vote: NodeId | None
    """The candidate that this node voted for in this term."""
    leader: NodeId | None
    commit: int
    applied: int
    first_index: int
    last_index: int
    snapshot_index: int
    membership_index: int
    lag: int
    """Entries known to be committed and not applied here yet."""
    proposals_pending: int
    proposals_failed: int
    reads_pending: int
    leader_changes: int
    snapshots_taken: int
    snapshots_installed: int
    log_bytes: int
    log_syncs: int
    log_sync_s: float
    """Seconds spent from queueing to durability, over all groups."""
    log_last_sync_s: float
    loop_lag_s: float
    """How late the last tick was: a stalled event loop costs a leader its place."""
    messages_refused: int
    """Messages of peers that were invalid here and had no effect."""
    progress: dict[int, MemberProgress]
    """On the leader: every member, by id (`NodeId`); elsewhere empty."""
    disk_shortage: int = 0
    """How short of space the log's disk is (`storage.space.Shortage`): 0 not at all, 1 writes are or may soon be
    refused, 2 entries of a leader are not taken either."""
    entries_ignored: int = 0
    """Entries of the log that no node can use, and that had no effect. Anything but 0 is a fault of some leader."""
    digest_index: int = 0
    """The log index at which the members' states were compared last; 0: not since the start (docs/digest.md)."""
    digest_agreement: str = "none"
    """The result: `none`, `agreed`, or `no_majority` if the voters' states differ and no node knows which is right."""
    digest_age_s: float | None = None
    """Seconds since that comparison."""
    log_waits_s: float = 0.0
    """How long the oldest write that is not durable yet has waited for the disk; above an election the disk hangs."""
    refused_no_space: int = 0
    """Commands that this node refused as the leader because the state has reached its limit."""
    digests_ignored: int = 0
    """Digests of peers, and entries that compare digests, that made no sense and had no effect."""
    terms_refused: int = 0
    """Messages of peers that were dropped because their term is too far ahead of this node's."""
    connections_displaced: int = 0
    """Connections to the peer port that were closed before their proof or introduction, because newer ones came."""
    sessions: int = 0
    """Open sessions, as this node has applied them (docs/exactly-once.md)."""
    certificate_days_left: float | None = None
    """Days until this node's certificate for peers ends, or its authority if that is sooner; None without TLS."""
    proposals_bytes: int = 0
    """What the proposals made here, and not answered, count for."""
    proposals_max_bytes: int = 0
    """Above it proposals are refused (`Config.max_pending_bytes`)."""
    backlog_max_entries: int = 0
    """Above this `lag` proposals are refused."""
    log_written_bytes: int = 0
    """Bytes written to the log since the start."""
    elections: dict[str, int] = {}
    """Elections that this node has started, by reason (docs/monitoring.md)."""
    leaderships_ended: dict[str, int] = {}
    """How often this node has stopped leading, by reason."""
    disk_free_bytes: int | None = None
    """Free bytes of the log's file system, when they were looked at last; None: not yet."""


class Timings(msgspec.Struct, frozen=True):
    """Durations in seconds since the start, as distributions that go on counting."""

    log_groups: Distribution
    """Appends to the log, in groups, from the first one's queueing to durability."""
    log_syncs: Distribution
    """The writing and syncing of a group alone: the disk's part."""
    commits: Distribution
    """On the leader: batches of entries, from the log's taking to the commit."""
    applies: Distribution
    """Batches of entries in the state machine."""
    reads: Distribution
    """Confirmations of linearizable reads, one for all reads that gathered, until they can be answered."""
    loop_lag: Distribution
    """How late each tick of the event loop was."""


def timings(driver: Driver) -> Timings:
    """The distributions of a node: live objects, to be read on its event loop."""
    writer, stages = driver.parts.writer, driver.stages
    return Timings(
        writer.group_times, writer.sync_times, stages.commits, stages.applies, driver.reads.waits, stages.loop_lag
    )


def collect(driver: Driver) -> Stats:
    """Collect the figures. Cheap: nothing waits, nothing large is copied."""
    core, parts = driver.core, driver.parts
    leads = core.state is StateType.LEADER and not driver.running.stopped
    last_index = core.last_index
    compared = driver.digests.status
    return Stats(
        role=role_of(core, stopped=driver.running.stopped),
        term=core.term,
        vote=NodeId(core.vote) if core.vote else None,
        leader=NodeId(core.leader) if core.leader and not driver.running.stopped else None,
        commit=core.commit_index,
        applied=driver.applied,
        first_index=parts.log.first_index(),
        last_index=last_index,
        snapshot_index=driver.snapshotter.last_index,
        membership_index=parts.book.membership_index,
        lag=core.commit_index - driver.applied,
        proposals_pending=len(driver.proposals),
        proposals_failed=driver.proposals.failed,
        reads_pending=len(driver.reads),
        leader_changes=driver.leader_changes,
        snapshots_taken=driver.snapshotter.taken,
        snapshots_installed=driver.snapshotter.installed,
        log_bytes=parts.wal.size_bytes,
        log_syncs=parts.writer.syncs,
        log_sync_s=parts.writer.sync_s,
        log_last_sync_s=parts.writer.last_sync_s,
        loop_lag_s=driver.loop_lag_s,
        messages_refused=sum(core.dropped.values()),
        progress=_progress(driver) if leads else {},
        disk_shortage=parts.disk_watch.shortage,
        disk_free_bytes=parts.disk_watch.free_bytes,
        entries_ignored=driver.ignored.count,
        digest_index=compared.point,
        digest_agreement=compared.agreement.value,
        digest_age_s=driver.loop.time() - compared.compared_s if compared.point else None,
        digests_ignored=driver.digests.ignored,
        log_waits_s=parts.writer.oldest_s(),
        refused_no_space=parts.intake.refused_no_space,
        terms_refused=driver.term_guard.refused,
        connections_displaced=parts.transport.counters.displaced,
        sessions=len(parts.machine.sessions.table),
        certificate_days_left=parts.transport.certificate_days_left,
        proposals_bytes=driver.proposals.size_bytes,
        proposals_max_bytes=driver.proposals.max_bytes,
        backlog_max_entries=MAX_BACKLOG_ENTRIES,
        log_written_bytes=parts.writer.written_bytes,
        elections=dict(driver.node_log.causes.elections),
        leaderships_ended=dict(driver.node_log.causes.ends),
    )


def _progress(driver: Driver) -> dict[int, MemberProgress]:
    """The members as this leader sees them."""
    core, parts = driver.core, driver.parts
    last_index, now_s = core.last_index, driver.loop.time()
    entry_bytes = parts.wal.size_bytes / max(1, last_index - parts.log.first_index() + 1)
    found: dict[int, MemberProgress] = {}
    for node_id, state in core.progress.items():
        behind = driver.stages.growth.behind(state.match_index, last_index, now_s, entry_bytes)
        found[NodeId(node_id)] = MemberProgress(
            match=state.match_index,
            lag=max(0, last_index - state.match_index),
            active=node_id == core.id or driver.reconfiguration.is_alive(node_id),
            state=state.state.name.lower(),
            fault=driver.promises.fault_of(node_id),
            lag_bytes=behind.size_bytes,
            lag_s=behind.seconds,
        )
    return found
