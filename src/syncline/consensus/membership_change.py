"""Changes of the membership as they are applied, and snapshots, which carry a membership (thesis, chapters 4, 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncline.consensus import append_entries, leader, roles
from syncline.consensus.evidence import contradiction
from syncline.consensus.membership import Changer, Configuration, ProgressMap, restore
from syncline.consensus.types import (
    NONE,
    MembershipChange,
    MembershipState,
    Message,
    MessageType,
    Snapshot,
    StateType,
)

if TYPE_CHECKING:
    from syncline.consensus.raft import Raft

__all__ = ["apply_change", "changed", "handle_snapshot", "switch"]


def changed(raft: Raft, change: MembershipChange) -> tuple[Configuration, ProgressMap]:
    """What the membership in force would become. Raises MembershipRefused; changes nothing."""
    tracker = raft.tracker
    changer = Changer(tracker.configuration, tracker.progress, raft.log.last_index, tracker.make_progress)
    return changer.change(change)


def apply_change(raft: Raft, change: MembershipChange, index: int) -> MembershipState:
    """Bring a committed change into force (thesis, 4.1, but when it is applied rather than when it is appended).

    Raises MembershipRefused, having changed nothing, where it does not fit the membership in force: as that is the same
    on every node at this index, so is the refusal.
    """
    if 0 < index <= raft.restored_index:
        # The state machine is still at entries from before a snapshot that came in meanwhile. The membership of the
        # snapshot is in force: to go through an older change again would leave one in force that never was.
        return raft.tracker.configuration.state()
    switch(raft, *changed(raft, change))
    return raft.tracker.configuration.state()


def switch(raft: Raft, configuration: Configuration, progress: ProgressMap) -> None:
    """Make `configuration` the membership in force, with what follows from that for a leader or a candidate."""
    raft.tracker.switch(configuration, progress)
    raft.note("info", "%x switched to configuration %s", raft.id, configuration)
    own = progress.get(raft.id)
    votes = own is not None and not own.learner
    if raft.state is not StateType.LEADER:
        if raft.state is not StateType.FOLLOWER and not votes:
            # The answers to its requests carry commit indexes, so a candidate can learn of its own removal. The votes
            # that are still under way may not make it leader: it would lead without a place in its own membership.
            roles.become_follower(raft, raft.term, NONE)
        return
    if not votes:
        # It has committed its own removal. It may go on until somebody else is elected, but it does not count itself
        # and takes no proposals (thesis, 4.2.2).
        if raft.config.step_down_on_removal:
            roles.become_follower(raft, raft.term, NONE)
        return
    if not leader.commit(raft, tell=True):  # a smaller quorum may hold more
        # New members need not wait for the next heartbeat or proposal to be found out about.
        for node_id, one in raft.tracker.progress.items():
            if node_id != raft.id:
                append_entries.maybe_send_append(raft, node_id, one, send_if_empty=False)
    if raft.transferee != NONE and raft.transferee not in configuration.voters.voters:
        raft.transferee = NONE


def handle_snapshot(raft: Raft, message: Message) -> None:
    """Take over a leader's snapshot where it is news (InstallSnapshot: thesis, 5.3); answer where the log is now."""
    assert message.snapshot is not None
    meta = message.snapshot.meta
    if (found := contradiction(raft, message, ((meta.index, meta.term),))) is not None:
        raft.evidence = found
        return
    restored = _restore(raft, message.snapshot)
    raft.note(
        "info",
        "%x [commit: %d] %s snapshot [index: %d, term: %d]",
        *(raft.id, raft.log.committed, "restored" if restored else "ignored", meta.index, meta.term),
    )
    index = raft.log.last_index if restored else raft.log.committed
    raft.send(Message(MessageType.APP_RESP, to=message.sender, index=index, session=message.session))


def _restore(raft: Raft, snapshot: Snapshot) -> bool:
    """Replace log and membership by the snapshot's. False, having replaced neither, where that is not called for."""
    assert raft.state is StateType.FOLLOWER, "only a follower restores a snapshot"
    log, meta = raft.log, snapshot.meta
    if meta.index <= log.committed:
        return False
    members = meta.membership
    # Who waits in `learners_next` votes in the outgoing half.
    if raft.id not in (*members.voters, *members.learners, *members.voters_outgoing):
        raft.note("warning", "%x attempted to restore snapshot but it is not in its membership %s", raft.id, members)
        return False
    if log.matches(meta.index, meta.term):
        # The log has it all already, and perhaps more, which must not be thrown away. But now it is known to be
        # committed.
        raft.note("info", "%x fast-forwarded commit to snapshot [index: %d, term: %d]", raft.id, meta.index, meta.term)
        log.commit_to(meta.index)
        return False
    raft.note("info", "log [%s] starts to restore snapshot [index: %d, term: %d]", log, meta.index, meta.term)
    log.restore(snapshot)
    raft.restored_index = meta.index
    switch(raft, *restore(members, log.last_index, raft.tracker.make_progress))
    return True
