"""Changes of the membership as they are applied (thesis, chapter 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncline.consensus import append_entries, leader, roles
from syncline.consensus.membership import Changer, Configuration, ProgressMap
from syncline.consensus.types import NONE, MembershipChange, MembershipState, StateType

if TYPE_CHECKING:
    from syncline.consensus.raft import RaftCore

__all__ = ["apply_change", "changed", "switch"]


def changed(raft: RaftCore, change: MembershipChange) -> tuple[Configuration, ProgressMap]:
    """What the membership in force would become. Raises MembershipRefused; changes nothing."""
    tracker = raft.tracker
    changer = Changer(tracker.configuration, tracker.progress, raft.log.last_index, tracker.make_progress)
    return changer.change(change)


def apply_change(raft: RaftCore, change: MembershipChange, index: int) -> MembershipState:
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


def switch(raft: RaftCore, configuration: Configuration, progress: ProgressMap) -> None:
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
