"""What must hold of a cluster at every moment.

The five safety properties of the Raft paper (figure 3), and what they rest on: a vote or an acknowledgement is durable
before it is sent, a committed entry is on the disks of a quorum, terms and votes never go back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from syncline.consensus.membership import Configuration
from syncline.consensus.types import (
    NO_LIMIT,
    Compacted,
    EntryType,
    LogEntry,
    MembershipState,
    Message,
    MessageType,
    NodeId,
    ReadState,
    StateType,
)

if TYPE_CHECKING:
    from tests.conformance.cluster import Member

__all__ = ["Invariants"]


_CAMPAIGNS = (StateType.PRE_CANDIDATE, StateType.CANDIDATE)


class Invariants:
    """Watches a cluster. Every method raises AssertionError where something does not hold."""

    def __init__(self, members: Mapping[NodeId, Member]) -> None:
        self._members = members
        self._leaders: dict[int, NodeId] = {}
        self._votes: dict[tuple[NodeId, int], NodeId] = {}
        self._given: dict[tuple[int, NodeId], set[NodeId]] = {}
        """By term and candidate: those whose votes were sent."""
        self._entries: dict[tuple[int, int], tuple[LogEntry, int]] = {}
        """By index and term: the entry, and the term of the one before it."""
        self._committed: dict[int, int] = {}
        """By index: the term of the committed entry."""
        self.commit = 0
        """The highest index that anybody knows to be committed."""
        self._applied: dict[int, tuple[LogEntry, bytes]] = {}
        """By index: the entry, and the digest of the state machine behind it."""
        self._memberships: dict[int, MembershipState] = {}
        """By index: the membership from there on."""
        self._in_force: dict[NodeId, tuple[Configuration, int]] = {}
        """By node: what was in force when it was looked at last, and since when."""
        self._terms: dict[NodeId, int] = {}
        self._leading: dict[NodeId, tuple[int, int]] = {}
        """By leader: its term, and the end of its log as seen last."""
        self._checked_commit: dict[NodeId, int] = {}
        self._checked_life: dict[NodeId, int] = {}
        self._roles: dict[NodeId, tuple[StateType, int, int]] = {}
        """By node: its role, life and commit index as seen last."""
        self._reads: dict[bytes, int] = {}
        self.reads_confirmed = 0

    @property
    def terms_led(self) -> int:
        """How many terms had a leader."""
        return len(self._leaders)

    @property
    def memberships(self) -> int:
        """How many memberships were in force, one after the other."""
        return sum(after != before for before, after in pairwise(self._memberships.values()))

    def check(self, member: Member) -> None:
        """After an event at `member`."""
        raw = member.raw
        assert raw.raft.evidence is None, f"a sound node is accused: {raw.raft.evidence}"
        durable = member.storage.initial_state()[0].term
        assert raw.term >= durable >= self._terms.get(member.id, 0), "a term has gone back"
        self._terms[member.id] = durable
        self._check_log_matching(member)
        self._check_commit(member)
        self._check_membership(member)
        self._check_campaign(member)
        if raw.state is StateType.LEADER:
            self._check_leader(member)
        else:
            self._leading.pop(member.id, None)

    # -- the paper's five ---------------------------------------------------------------------------------------------

    def _check_leader(self, member: Member) -> None:
        raw, log = member.raw, member.raw.raft.log
        known = self._leaders.setdefault(raw.term, member.id)
        assert known == member.id, f"election safety: {known} and {member.id} lead term {raw.term}"
        last = self._leading.get(member.id)
        if last is None or last[0] != raw.term:
            self._check_elected(member)
            for index, term in self._committed.items():
                if index >= log.first_index:
                    present = log.term_or_zero(index)
                    assert present == term, f"leader completeness: {index} is of term {present}, not {term}"
                else:
                    assert index <= raw.commit_index, "leader completeness: a leader lacks a committed entry"
        else:
            assert raw.last_index >= last[1], "leader append-only: a leader's log has become shorter"
        self._leading[member.id] = (raw.term, raw.last_index)

    def _check_elected(self, member: Member) -> None:
        """A majority of each half of the leader's voters has sent it a vote, or it is the leader itself."""
        votes = {member.id} | self._given.get((member.raw.term, member.id), set())
        voters = member.raw.raft.tracker.configuration.voters
        for half in (voters.incoming.voters, voters.outgoing.voters):
            assert not half or 2 * len(votes & half) > len(half), f"{member.id} leads without the votes of a quorum"

    def _check_log_matching(self, member: Member) -> None:
        """Entries of one index and term are equal, and so are those before them: by induction all of them."""
        log = member.raw.raft.log
        unstable = log.unstable
        for position, entry in enumerate(unstable.entries):
            if position:
                before = unstable.entries[position - 1].term
            else:
                before = log.term_or_zero(entry.index - 1)
                if not before:  # compacted, with a snapshot that is on its way to the disk
                    continue
            known = self._entries.setdefault((entry.index, entry.term), (entry, before))
            assert known == (entry, before), f"log matching: {known} and {(entry, before)}"
            assert before <= entry.term, "terms decrease along a log"

    def _check_commit(self, member: Member) -> None:
        """No two committed entries at one index; and the newest ones are on the disks of a quorum."""
        raw, log = member.raw, member.raw.raft.log
        first = max(self._checked_commit.get(member.id, 0) + 1, log.first_index)
        if raw.commit_index < self._checked_commit.get(member.id, 0):
            assert self._checked_life.get(member.id) != member.lives, "the commit index goes back"
            first = log.first_index  # it was restarted, and is told of its commits again
        self._checked_life[member.id] = member.lives
        for index in range(first, raw.commit_index + 1):
            term = log.term(index)
            known = self._committed.get(index)
            if known is None:
                assert raw.state is StateType.LEADER, "a follower knows of a commit before a leader does"
                self._check_quorum_holds(member, index, term)
                self._committed[index] = term
            else:
                assert known == term, f"two committed entries at {index}: of term {known} and of term {term}"
        self._checked_commit[member.id] = raw.commit_index
        self.commit = max(self.commit, raw.commit_index)

    def _check_quorum_holds(self, leader: Member, index: int, term: int) -> None:
        holds = {node_id: _on_disk(member, index, term) for node_id, member in self._members.items()}
        voters = leader.raw.raft.tracker.configuration.voters
        for half in (voters.incoming.voters, voters.outgoing.voters):
            enough = not half or 2 * sum(holds[voter] for voter in half) > len(half)
            assert enough, f"{index} is committed but not on a quorum's disks"

    def applied(self, member: Member, entry: LogEntry) -> None:
        """State machine safety: nobody applies another entry at this index, nor comes to another state by it."""
        assert self._committed.get(entry.index) == entry.term, "an entry is applied that is not committed"
        known = self._applied.setdefault(entry.index, (entry, member.digest))
        assert known == (entry, member.digest), f"state machine safety: {known} and {entry}"
        if entry.index > member.raw.raft.restored_index:
            membership = self._memberships.setdefault(entry.index, member.membership)
            assert membership == member.membership, f"two memberships at {entry.index}"

    def _check_membership(self, member: Member) -> None:
        """In force is what the last applied change, or a newer snapshot, has made of it."""
        index = max(member.applied, member.raw.raft.restored_index)
        seen = (member.raw.raft.tracker.configuration, index)
        if self._in_force.get(member.id) == seen:
            return
        self._in_force[member.id] = seen
        known = self._memberships.get(index)
        if known is not None:
            assert member.raw.raft.tracker.configuration.state() == known, "a membership is in force that never was"

    def _check_campaign(self, member: Member) -> None:
        """A follower does not campaign past a change that it knows to be committed, and has not applied."""
        raw = member.raw
        before = self._roles.get(member.id)
        self._roles[member.id] = (raw.state, member.lives, raw.commit_index)
        if before == (StateType.FOLLOWER, member.lives, raw.commit_index) and raw.state in _CAMPAIGNS:
            log = raw.raft.log
            known = log.slice(log.applied + 1, raw.commit_index + 1, NO_LIMIT) if log.applied < raw.commit_index else ()
            over = any(entry.type is not EntryType.NORMAL for entry in known)
            assert not over, "a candidate goes by a membership that is over"

    # -- promises -----------------------------------------------------------------------------------------------------

    def sent(self, member: Member, message: Message) -> None:
        """What a node promises to others is durable when it leaves."""
        hard_state = member.storage.initial_state()[0]
        if message.type is MessageType.VOTE_RESP and not message.reject:
            known = self._votes.setdefault((member.id, message.term), message.to)
            self._given.setdefault((message.term, message.to), set()).add(member.id)
            assert known == message.to, f"{member.id} votes for {known} and {message.to} in term {message.term}"
            assert hard_state.term > message.term or (hard_state.term, hard_state.vote) == (message.term, message.to), (
                "a vote is sent before it is durable"
            )
        if message.type is MessageType.APP_RESP:
            assert hard_state.term >= message.term, "an answer is sent before its term is durable"
            if not message.reject and message.term == member.raw.term and message.index:
                assert message.index <= member.storage.last_index(), "entries are acknowledged before they are durable"
                self._check_agreement(member, message)

    def _check_agreement(self, member: Member, answer: Message) -> None:
        """Up to where a follower acknowledges its log agrees with that of the leader of the term."""
        leader = self._members.get(self._leaders.get(answer.term, 0))
        if leader is None or leader is member or leader.raw.term != answer.term:
            return
        own, others = member.raw.raft.log, leader.raw.raft.log
        if max(own.first_index, others.first_index) <= answer.index <= min(own.last_index, others.last_index):
            same = own.term(answer.index) == others.term(answer.index)
            assert same, "entries are acknowledged that the leader does not have"

    def read_asked(self, context: bytes) -> None:
        """A read with a context of its own begins."""
        self._reads[context] = self.commit

    def reads(self, states: Iterable[ReadState]) -> None:
        """A confirmed read sees everything that anybody knew to be committed when it was asked for."""
        for state in states:
            self.reads_confirmed += 1
            floor = self._reads[state.context]
            assert state.index >= floor, f"a stale read: at {state.index}, but {floor} was committed before it"


def _on_disk(member: Member, index: int, term: int) -> bool:
    storage = member.storage
    if index > storage.last_index():
        return False
    try:
        return storage.term(index) == term
    except Compacted:
        return True
