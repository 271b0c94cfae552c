"""Reads: a leader confirms one when a quorum has answered a heartbeat that was sent for it, or later (thesis, 6.4)."""

from __future__ import annotations

from syncline.consensus.read_index import ReadQueue, decode_position
from syncline.consensus.types import Message, MessageType, NodeId, StateType
from syncline.testing.invariants.base import Facts, Invariant, Verdict, WatchedMember

__all__ = ["ReadsAreConfirmed"]


class _Answers:
    """The newest read that each member has answered for, in one term of a leader."""

    def __init__(self, queue: ReadQueue) -> None:
        self.queue = queue
        self.newest: dict[NodeId, int] = {}
        self.confirmed = 0


class ReadsAreConfirmed(Invariant):
    """Answers of learners, and answers to heartbeats from before the read, confirm nothing."""

    name = "a read is confirmed by a quorum"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._answers: dict[WatchedMember, _Answers] = {}

    def started(self, view: WatchedMember) -> None:
        self._answers.pop(view, None)

    def heard(self, view: WatchedMember, message: Message) -> None:
        raft = view.core.raft
        if raft.state is not StateType.LEADER or message.type is not MessageType.HEARTBEAT_RESP:
            return
        answers = self._answers.get(view)
        if answers is None or answers.queue is not raft.reads:
            answers = self._answers[view] = _Answers(raft.reads)
        position = decode_position(message.context)
        if position is not None and message.term == raft.term:
            answers.newest[message.sender] = max(position, answers.newest.get(message.sender, 0))
        if raft.reads._confirmed > answers.confirmed:
            answers.confirmed = raft.reads._confirmed
            self._check(view, answers)

    def _check(self, view: WatchedMember, answers: _Answers) -> None:
        voters = view.core.raft.tracker.configuration.voters
        for half in (voters.incoming.voters, voters.outgoing.voters):
            for_it = [voter for voter in half if voter == view.id or answers.newest.get(voter, 0) >= answers.confirmed]
            if half and 2 * len(for_it) <= len(half):
                names = " ".join(self.facts.name(voter) for voter in sorted(for_it)) or "none"
                read = f"read {answers.confirmed} of term {view.core.term}"
                self.broken(f"{view.name} confirms {read}: of {len(half)} voters {names} answered for it")
