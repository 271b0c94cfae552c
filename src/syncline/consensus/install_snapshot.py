"""InstallSnapshot: the leader sends a snapshot, a follower installs it (thesis, 5.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncline.consensus.evidence import contradiction
from syncline.consensus.membership import restore
from syncline.consensus.progress import Progress, ProgressState
from syncline.consensus.types import Message, MessageType, NodeId, Snapshot, SnapshotUnavailable, StateType

if TYPE_CHECKING:
    from syncline.consensus.raft import RaftCore

__all__ = ["handle_snapshot", "handle_status", "maybe_send_snapshot"]


# -- the leader's side --------------------------------------------------------------------------------------------


def maybe_send_snapshot(raft: RaftCore, to: NodeId, progress: Progress) -> bool:
    """Send the newest snapshot (InstallSnapshot: thesis, 5.3); not to a follower that may be down."""
    if not progress.recent_active:
        raft.note("debug", "ignore sending snapshot to %x since it is not recently active", to)
        return False
    try:
        snapshot = raft.log.snapshot()
    except SnapshotUnavailable:
        raft.note("debug", "%x failed to send snapshot to %x: none is available at the moment", raft.id, to)
        return False
    meta = snapshot.meta
    if meta.index == 0:  # entries are only compacted if a snapshot holds them: the storage has lost it
        raft.note("error", "%x has no snapshot to send to %x although its log starts behind it", raft.id, to)
        return False
    raft.note(
        "debug",
        "%x [firstindex: %d, commit: %d] sent snapshot[index: %d, term: %d] to %x [%s]",
        *(raft.id, raft.log.first_index, raft.log.commit_index, meta.index, meta.term, to, progress),
    )
    progress.become_snapshot(meta.index)
    raft.send(Message(MessageType.SNAP, to=to, snapshot=snapshot, session=progress.session))
    return True


def handle_status(raft: RaftCore, message: Message, progress: Progress) -> None:
    """A snapshot transfer has ended. After a success continue behind it; after a failure try again from the known
    index.
    """
    if progress.state is not ProgressState.SNAPSHOT:
        return
    if message.reject:
        progress.pending_snapshot = 0
    progress.become_probe()
    outcome = "failed" if message.reject else "succeeded"
    raft.note("debug", "%x snapshot %s, resumed sending to %x [%s]", raft.id, outcome, message.sender, progress)
    # Wait: for the acknowledgement after a success, for a heartbeat interval after a failure.
    progress.paused_by_flow = True


# -- the follower's side ------------------------------------------------------------------------------------------


def handle_snapshot(raft: RaftCore, message: Message) -> None:
    """Install a leader's snapshot if it is newer than the log (InstallSnapshot: thesis, 5.3); answer with the log's
    end.
    """
    assert message.snapshot is not None
    meta = message.snapshot.meta
    if (found := contradiction(raft, message, ((meta.index, meta.term),))) is not None:
        raft.evidence = found
        return
    restored = _restore(raft, message.snapshot)
    raft.note(
        "info",
        "%x [commit: %d] %s snapshot [index: %d, term: %d]",
        *(raft.id, raft.log.commit_index, "restored" if restored else "ignored", meta.index, meta.term),
    )
    index = raft.log.last_index if restored else raft.log.commit_index
    raft.send(Message(MessageType.APP_RESP, to=message.sender, index=index, session=message.session))


def _restore(raft: RaftCore, snapshot: Snapshot) -> bool:
    """Replace log and membership by the snapshot's. Returns False, with nothing replaced, if that is not needed."""
    assert raft.state is StateType.FOLLOWER, "only a follower restores a snapshot"
    log, meta = raft.log, snapshot.meta
    if meta.index <= log.commit_index:
        return False
    members = meta.membership
    # A node in `learners_next` is a voter in the outgoing half.
    if raft.id not in (*members.voters, *members.learners, *members.voters_outgoing):
        raft.note("warning", "%x attempted to restore snapshot but it is not in its membership %s", raft.id, members)
        return False
    if log.matches(meta.index, meta.term):
        # The log has these entries already, and perhaps more, which must not be dropped. But now they are known to be
        # committed.
        raft.note("info", "%x fast-forwarded commit to snapshot [index: %d, term: %d]", raft.id, meta.index, meta.term)
        log.commit_to(meta.index)
        return False
    raft.note("info", "log [%s] starts to restore snapshot [index: %d, term: %d]", log, meta.index, meta.term)
    log.restore(snapshot)
    raft.restored_index = meta.index
    # A new membership needs no more work in a follower (see `membership_change.switch`).
    raft.tracker.switch(*restore(members, log.last_index, raft.tracker.make_progress))
    raft.note("info", "%x switched to configuration %s", raft.id, raft.tracker.configuration)
    return True
