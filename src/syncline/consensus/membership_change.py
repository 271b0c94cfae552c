"""Membership changes when they are applied (thesis, chapter 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncline.consensus import append_entries, leader, roles
from syncline.consensus.membership import Changer, Configuration, ProgressMap
from syncline.consensus.types import NONE, MembershipChange, MembershipState, StateType

if TYPE_CHECKING:
    from syncline.consensus.raft import RaftCore

__all__ = ["apply_change", "changed", "switch"]


def changed(raft: RaftCore, change: MembershipChange) -> tuple[Configuration, ProgressMap]:
    """Compute the membership after the change. Raises MembershipRefused; changes nothing."""
    tracker = raft.tracker
    changer = Changer(tracker.configuration, tracker.progress, raft.log.last_index, tracker.make_progress)
    return changer.change(change)


def apply_change(raft: RaftCore, change: MembershipChange, index: int) -> MembershipState:
    """Put a committed change into force (thesis, 4.1, but when it is applied rather than when it is appended).

    Raises MembershipRefused, having changed nothing, if it does not fit the membership in force. That membership is
    the same on every node at this index, so every node refuses alike.
    """
    if 0 < index <= raft.restored_index:
        # The state machine still applies entries from before a snapshot that arrived meanwhile. The membership of the
        # snapshot is in force: to apply an older change to it would make a membership that never existed.
        return raft.tracker.configuration.state()
    switch(raft, *changed(raft, change))
    return raft.tracker.configuration.state()


def switch(raft: RaftCore, configuration: Configuration, progress: ProgressMap) -> None:
    """Put `configuration` into force, and do what a leader or a candidate must do then."""
    raft.tracker.switch(configuration, progress)
    raft.note("info", "%x switched to configuration %s", raft.id, configuration)
    own = progress.get(raft.id)
    votes = own is not None and not own.learner
    if raft.state is not StateType.LEADER:
        if raft.state is not StateType.FOLLOWER and not votes:
            # Answers to its requests carry commit indexes, so a candidate can learn of its own removal. Votes that are
            # still under way must not make it leader: it would lead without being a member.
            roles.become_follower(raft, raft.term, NONE)
        return
    if not votes:
        # It has committed its own removal. It may lead until another node is elected, but it does not count itself
        # and takes no proposals (thesis, 4.2.2).
        if raft.config.step_down_on_removal:
            roles.become_follower(raft, raft.term, NONE)
        return
    if not leader.commit(raft, tell=True):  # a smaller quorum may hold more
        # Probe new members now, not at the next heartbeat or proposal.
        for node_id, one in raft.tracker.progress.items():
            if node_id != raft.id:
                append_entries.maybe_send_append(raft, node_id, one, send_if_empty=False)
    if raft.transferee != NONE and raft.transferee not in configuration.voters.voters:
        raft.transferee = NONE
