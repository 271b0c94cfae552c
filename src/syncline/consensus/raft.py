"""One node of a Raft group: where events enter.

    tick, step ─▶ the term gate (here) ─▶ what the node's role makes of it ─▶ messages, log, membership
                                          follower.py candidate.py leader.py   append_entries.py install_snapshot.py

The state is `RaftState` (state.py). The parts are functions over it, one file per subject:

    roles.py              becoming follower, pre-candidate, candidate, leader (thesis, figure 3.3)
    election.py           campaigns and votes (thesis, 3.4, 3.6.1 and 9.6)
    append_entries.py     what a leader sends, and how a follower takes it (thesis, 3.5)
    install_snapshot.py   the same for a snapshot (thesis, 5.3)
    membership_change.py  changes of the membership as they are applied (thesis, chapter 4)
    read_index.py         linearizable reads on the leader (thesis, 6.4)
    follower.py, candidate.py, leader.py   what each role does with each message
    validation.py         what is not let in

Nothing here knows of clocks, threads, files or sockets. Effects pile up in `messages`, `messages_after_append`,
`read_states` and the log, and `RawNode.ready` hands them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.consensus import candidate, election, follower, leader, membership_change, roles
from syncline.consensus.config import RaftConfig
from syncline.consensus.membership import restore
from syncline.consensus.sizes import payload_size
from syncline.consensus.state import RaftState
from syncline.consensus.types import (
    NONE,
    EntryType,
    LogEntry,
    Message,
    MessageType,
    Snapshot,
    StateType,
    StepRefusal,
)

__all__ = ["RaftCore"]

_FROM_A_LEADER = frozenset({MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP})

_ROLE_STEPS = {
    StateType.FOLLOWER: follower.step,
    StateType.PRE_CANDIDATE: candidate.step,
    StateType.CANDIDATE: candidate.step,
    StateType.LEADER: leader.step,
}


class RaftCore(RaftState):
    """The state of one node, and the events that change it."""

    __slots__ = ()

    def __init__(self, config: RaftConfig) -> None:
        """Continue from what `config.storage` holds. Raises ValueError where that contradicts itself."""
        super().__init__(config)
        self._restore(config)

    def _restore(self, config: RaftConfig) -> None:
        hard_state, membership = config.storage.initial_state()
        membership_change.switch(self, *restore(membership, self.log.last_index, self.tracker.make_progress))
        if hard_state.commit > self.log.last_index:
            raise ValueError(
                f"the stored commit index is {hard_state.commit}, but the stored log ends at {self.log.last_index}:"
                " a part of it was lost"
            )
        # It may be behind the snapshot that the log starts from: writes wait for no commit index to be durable.
        self.log.commit_to(hard_state.commit)
        self.term: int = hard_state.term
        self.vote: int = hard_state.vote
        if config.applied:
            if not self.log.applied <= config.applied <= self.log.commit_index:
                committed = f"from {self.log.applied} to {self.log.commit_index}"
                raise ValueError(f"applied is {config.applied}: the log is committed {committed}")
            self.log.applied_to(config.applied)
        roles.become_follower(self, self.term, NONE)
        self.note(
            "info",
            "newRaft %x [peers: [%s], term: %d, commit: %d, applied: %d, lastindex: %d, lastterm: %d]",
            self.id,
            ",".join(f"{voter:x}" for voter in sorted(self.tracker.configuration.voters.voters)),
            self.term,
            self.log.commit_index,
            self.log.applied,
            self.log.last_index,
            self.log.last_term,
        )

    # -- events ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of the clock has passed."""
        if self.state is StateType.LEADER:
            leader.tick(self)
        else:
            election.tick(self)

    def step(self, message: Message) -> StepRefusal | None:
        """Handle a message. Returns why it was not taken, when etcd/raft would return an error.

        The message's term decides first (thesis, 3.3): an older one is not acted on, a newer one makes the node a
        follower of that term before it is. Messages without a term are the node's own, or requests to a leader.
        """
        # Before the term is compared: a committed entry stays committed, also if the message is of an older term.
        if message.commit_term:  # in votes and their answers only
            election.learn_commit(self, message)
        term = message.term
        if term > self.term:
            if not self._enter_newer_term(message):
                return None
        elif term < self.term and term != 0:
            self._answer_older_term(message)
            return None
        step = _STEPS_OF_ALL_ROLES.get(message.type)
        if step is None:
            return _ROLE_STEPS[self.state](self, message)
        step(self, message)
        return None

    def _answer_vote(self, request: Message) -> None:
        election.answer_vote(self, request)

    def _campaign(self, _: Message) -> None:
        election.campaign_if_allowed(self, pre_vote=self.config.pre_vote)

    def _enter_newer_term(self, message: Message) -> bool:
        """Enter the term of a message with a higher term, unless its type does not require that. False: ignore the
        message.
        """
        kind = message.type
        asks_for_vote = kind is MessageType.VOTE or kind is MessageType.PRE_VOTE
        if asks_for_vote and election.in_lease(self) and message.context != election.TRANSFER_CONTEXT:
            self.note(
                "info",
                "%x [logterm: %d, index: %d, vote: %x] ignored %s from %x at term %d: lease is not expired",
                *(self.id, self.log.last_term, self.log.last_index, self.vote),
                *(kind.name, message.sender, self.term),
            )
            return False
        if kind is MessageType.PRE_VOTE:
            return True  # it asks about a term that no node has entered (thesis, 9.6)
        if kind is MessageType.PRE_VOTE_RESP and not message.reject:
            return True  # granted for the term that was asked about: entered once a quorum grants it
        self.note(
            "info",
            "%x [term: %d] received a %s message with higher term from %x [term: %d]",
            *(self.id, self.term, kind.name, message.sender, message.term),
        )
        roles.become_follower(self, message.term, message.sender if kind in _FROM_A_LEADER else NONE)
        return True

    def _answer_older_term(self, message: Message) -> None:
        """Reply to a message from an older term if its sender must learn the current term; otherwise ignore it."""
        kind = message.type
        config = self.config
        from_a_leader = kind in (MessageType.HEARTBEAT, MessageType.APP)
        if from_a_leader and (config.check_quorum or config.pre_vote or not election.promotable(self)):
            # This node's term grew while it was disconnected. Its own requests for votes may be ignored (lease,
            # pre-vote), or it makes none, since it does not know yet that it is a voter. So the leader must learn the
            # term from this answer, or this node would never follow it again.
            self.send(Message(MessageType.APP_RESP, to=message.sender))
        elif kind is MessageType.PRE_VOTE:
            # A pre-candidate with an older term but a longer log may be the only node that can win: send it the term.
            self.note("info", "%x rejected %s from %x at term %d", self.id, kind.name, message.sender, self.term)
            self.send(election.rejection(self, MessageType.PRE_VOTE_RESP, message.sender))
        elif kind is MessageType.STORAGE_APPEND_RESP:
            # The entries may have been replaced since, by a leader of this term. A snapshot is final in any term.
            if message.snapshot is not None:
                self._applied_snapshot(message.snapshot)
        else:
            self.note(
                "info",
                "%x [term: %d] ignored a %s message with lower term from %x [term: %d]",
                *(self.id, self.term, kind.name, message.sender, message.term),
            )

    # -- storage has done its work --------------------------------------------------------------------------------

    def _appended(self, message: Message) -> None:
        """Entries up to (index, log_term), and the snapshot, are durable."""
        if message.index and not self.log.unstable.stable_to(message.index, message.log_term):
            self.note("info", "entry at index %d missing from unstable log; ignoring", message.index)
        if message.snapshot is not None:
            self._applied_snapshot(message.snapshot)

    def _applied(self, message: Message) -> None:
        """The state machine has applied the entries of the message."""
        entries = message.entries
        if not entries:
            return
        self._applied_to(entries[-1].index)
        if self.uncommitted_bytes:
            self.uncommitted_bytes: int = max(self.uncommitted_bytes - payload_size(entries), 0)

    def _applied_snapshot(self, snapshot: Snapshot) -> None:
        index = snapshot.meta.index
        self.log.unstable.stable_snapshot_to(index)
        self._applied_to(index)

    def _applied_to(self, index: int) -> None:
        """Raise the applied index, and leave a joint membership once the change that entered it is applied.

        This runs with every applied entry, so the joint membership is left even if one proposal is dropped (thesis,
        4.3: the leader that applies the joint membership proposes the new one).
        """
        self.log.applied_to(max(index, self.log.applied))
        if (
            self.state is StateType.LEADER
            and self.tracker.configuration.auto_leave
            and self.log.applied >= self.pending_membership_index
        ):
            configuration = self.tracker.configuration
            if leader.propose(self, [LogEntry(0, 0, EntryType.CONF_CHANGE_V2)]):
                self.note("info", "initiating automatic transition out of joint configuration %s", configuration)
            else:
                self.note("debug", "not initiating automatic transition out of joint configuration %s", configuration)


_STEPS_OF_ALL_ROLES: Final[dict[MessageType, Callable[[RaftCore, Message], None]]] = {
    MessageType.HUP: RaftCore._campaign,
    MessageType.VOTE: RaftCore._answer_vote,
    MessageType.PRE_VOTE: RaftCore._answer_vote,
    MessageType.STORAGE_APPEND_RESP: RaftCore._appended,
    MessageType.STORAGE_APPLY_RESP: RaftCore._applied,
}
"""Handlers that do not depend on the role; the others are in `_ROLE_STEPS`. Both are tables, because in a chain of
comparisons the most frequent messages would come last."""
