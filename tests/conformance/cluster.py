"""A cluster of raw nodes under random events: messages in any order, lost and doubled, slow disks, crashes.

One seed decides everything. After each event the node it touched goes through the checks of `invariants.py`.

Storage is modelled as the core's contract has it. A write is durable once the responses that wait for it are sent; one
without responses, or with `must_sync` false, may be lost in a crash. A crash may also come when a write is durable and
nobody has been told. The state machine lives in memory: after a crash it starts from the newest snapshot.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from syncline.consensus.config import RaftConfig
from syncline.consensus.membership import MembershipRefused, decode_change
from syncline.consensus.rawnode import RawNode
from syncline.consensus.storage import MemoryStorage
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    NO_LIMIT,
    ChangeType,
    EntryType,
    HardState,
    LogEntry,
    MembershipChange,
    MembershipState,
    Message,
    MessageType,
    NodeId,
    ProposalDropped,
    Ready,
    SingleChange,
    Snapshot,
    SnapshotMeta,
    StateType,
    Transition,
)
from syncline.consensus.validation import StepRefusal
from tests.conformance.invariants import Invariants
from tests.conformance.settings import Settings

__all__ = ["Cluster", "Member"]

_FORWARDED = (MessageType.PROP, MessageType.READ_INDEX, MessageType.TRANSFER_LEADER)
"""Requests keep the name of whoever made them."""

BOOTSTRAP_INDEX = 2
"""The log of every founding member starts behind a snapshot here."""

MAX_MESSAGES_UNDER_WAY = 60
"""Beyond it the oldest are lost, so that a run does not spend its events on a backlog."""


MAX_ROUNDS = 5000
"""Without faults everybody is at rest after so many rounds, even where a long log goes out entry by entry."""

MAX_CUTS = 3
"""With more pairs of nodes that can't reach each other nothing happens any more."""


LONGEST_TAIL = 12
"""Of what a leader that is cut off takes: several messages' worth where they are small."""

LEFT_ALONE = 0.9
"""How often a leader that is cut off stays so while there is no other one."""

MOST_TICKS = 8
"""Of each member meanwhile, at a time: about an election timeout."""

MAX_OLD_MESSAGES = 40
OLD_SHARE = 0.02
"""Of all events, while there are messages that are to arrive late."""


class Member:
    """A node: its core, its disk, what its disk and its state machine have still to do."""

    def __init__(self, node_id: NodeId, settings: Settings, seed: int, founders: tuple[NodeId, ...]) -> None:
        self.id = node_id
        self.settings = settings
        self.storage = MemoryStorage()
        self.unsynced: HardState | None = None
        """A hard state that a crash may lose."""
        self.append_work: deque[Message] = deque()
        self.apply_work: deque[Message] = deque()
        self.lives = 0
        self._rng = random.Random(seed)
        if node_id in founders:
            meta = SnapshotMeta(BOOTSTRAP_INDEX, 1, MembershipState(founders))
            self.storage.apply_snapshot(Snapshot(meta, b"bootstrap"))
            self.storage.set_hard_state(HardState(1, 0, BOOTSTRAP_INDEX))
        self.start()

    def start(self) -> None:
        """From what is on the disk."""
        self.lives += 1
        snapshot = self.storage.snapshot()
        self.digest = snapshot.data
        self.applied = snapshot.meta.index
        self.applied_term = snapshot.meta.term
        self.membership = snapshot.meta.membership
        hard_state = self.storage.initial_state()[0]
        if hard_state.commit < self.applied:  # what a snapshot holds is committed, whatever else was lost
            self.storage.set_hard_state(HardState(max(hard_state.term, 0), hard_state.vote, self.applied))
        settings = self.settings
        self.raw = RawNode(
            RaftConfig(
                id=self.id,
                storage=self.storage,
                election_ticks=5,
                heartbeat_ticks=1,
                applied=self.applied,
                async_storage_writes=settings.asynchronous,
                pre_vote=settings.pre_vote,
                pre_vote_alone=True,
                check_quorum=settings.check_quorum,
                step_down_on_removal=settings.step_down_on_removal,
                lazy_commit=settings.lazy_commit,
                commit_in_votes=True,
                max_message_bytes=settings.max_message_bytes,
                max_inflight_messages=settings.max_inflight_messages,
                max_uncommitted_bytes=settings.max_uncommitted_bytes,
                max_committed_bytes_per_ready=settings.max_committed_bytes_per_ready,
                rng=self._rng,
            )
        )

    def crash(self) -> None:
        """Lose what is in memory, and perhaps what was not synced. Part of the disk's work may have become durable."""
        if self.unsynced is not None and self._rng.random() < 0.5:
            self.storage.set_hard_state(self.unsynced)
        self.unsynced = None
        for _ in range(self._rng.randint(0, len(self.append_work))):
            work = self.append_work.popleft()
            self.write(_hard_state_of(work), work.entries, work.snapshot, synced=True)
        self.append_work.clear()
        self.apply_work.clear()
        self.start()

    def write(
        self, hard_state: HardState | None, entries: Sequence[LogEntry], snapshot: Snapshot | None, *, synced: bool
    ) -> None:
        """Put on the disk what a Ready, or a message to storage, holds."""
        if hard_state is not None:
            self.unsynced = hard_state
        if synced and self.unsynced is not None:
            self.storage.set_hard_state(self.unsynced)
            self.unsynced = None
        assert synced or not entries
        if snapshot is not None:
            self.storage.apply_snapshot(snapshot)
            self.digest, self.applied = snapshot.data, snapshot.meta.index
            self.applied_term, self.membership = snapshot.meta.term, snapshot.meta.membership
        self.storage.append(entries)  # with a snapshot: those behind it

    def apply(self, entries: Sequence[LogEntry], invariants: Invariants) -> None:
        """Let the state machine have committed entries."""
        for entry in entries:
            if entry.index <= self.applied:  # overtaken by a snapshot
                continue
            assert entry.index == self.applied + 1, "entries are applied in order, none left out"
            self.digest = hashlib.blake2b(self.digest + msgspec.msgpack.encode(entry), digest_size=8).digest()
            if entry.type is not EntryType.NORMAL:
                with suppress(MembershipRefused):  # on every node alike, which `applied` checks
                    membership = self.raw.apply_membership(decode_change(entry), index=entry.index)
                    if entry.index > self.raw.raft.restored_index:  # else that of a snapshot that is on its way here
                        self.membership = membership
            self.applied, self.applied_term = entry.index, entry.term
            invariants.applied(self, entry)

    def compact(self) -> None:
        """Take a snapshot of what is applied, and drop a part of the log that it covers."""
        stored = self.storage.snapshot().meta.index
        if self.applied <= stored or self.applied > self.storage.last_index():
            return
        if self.storage.term(self.applied) != self.applied_term:
            return  # what was applied is not on the disk in its final form yet
        self.storage.create_snapshot(self.applied, self.membership, self.digest)
        first = self.storage.first_index()
        self.storage.compact(self._rng.randint(first, self.applied))


class Cluster:
    """Members, and the messages between them."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self.rng = random.Random(seed)
        self.settings = settings
        founders = tuple(range(1, settings.founders + 1))
        ids = range(1, settings.founders + settings.spares + 1)
        self.members = {node_id: Member(node_id, settings, seed * 31 + node_id, founders) for node_id in ids}
        self.messages: list[Message] = []
        self.invariants = Invariants(self.members)
        self.cut: set[frozenset[NodeId]] = set()
        """Pairs that can't reach each other."""
        self.arrived: list[tuple[NodeId, NodeId]] = []
        """Snapshots, by sender and receiver, whose arrival was not yet reported to the sender."""
        self.healing = False
        self._proposals = 0
        self._reads = 0
        self._old: list[Message] = []
        """Copies of messages that arrive late."""

    def run(self, steps: int) -> None:
        """So many random events, with everything checked after each."""
        for _ in range(steps):
            member = self.rng.choice(list(self.members.values()))
            self._event(member)
            self.invariants.check(member)

    def _event(self, member: Member) -> None:
        settings = self.settings
        if settings.tails and self.rng.random() < settings.tails:
            self._grow_a_tail()
            return
        if settings.old_messages and self._old and self.rng.random() < OLD_SHARE:
            self.deliver(self._old.pop(self.rng.randrange(len(self._old))))
            return
        if settings.compactions and self.rng.random() < settings.compactions:
            member.compact()
            return
        if settings.any_appends and self.rng.random() < settings.any_appends:
            self._send_any_append()
            return
        chance = self.rng.random()
        if chance < settings.crashes:
            member.crash()
        elif chance < settings.crashes + settings.changes:
            self._propose_change(member)
        elif chance < 0.07:
            self._rare_event(member)
        elif chance < 0.15:
            self._tick(member)
        elif chance < 0.23:
            self._propose(self._leader() or member)
        elif chance < 0.60:
            self._some_work()
        elif self.messages:
            self._deliver()

    def _rare_event(self, member: Member) -> None:
        raw = member.raw
        match self.rng.randrange(8):
            case 0:
                raw.campaign()
            case 1:
                raw.transfer_leadership(self.rng.choice(list(self.members)))
            case 2:
                raw.report_unreachable(self.rng.choice(list(self.members)))
            case 3:
                raw.forget_leader()
            case 4:
                member.compact()
            case 5 | 6:
                self._read(member)
            case _:
                self._cut_or_mend()

    def _tick(self, member: Member) -> None:
        member.raw.tick()
        if self.settings.lazy_commit and self.rng.random() < 0.5:
            member.raw.tell_commit()
        for sender, receiver in self.arrived:
            if sender == member.id:
                member.raw.report_snapshot(receiver, ok=True)
        self.arrived = [one for one in self.arrived if one[0] != member.id]

    def _cut_or_mend(self) -> None:
        if len(self.cut) >= MAX_CUTS:
            self.cut.clear()
        elif len(self.members) > 1:
            self.cut.add(frozenset(self.rng.sample(list(self.members), 2)))

    def _grow_a_tail(self) -> None:
        """Cut a leader off from all others, and have it take proposals; or give it back its links.

        Usually it gets them back when the others have another leader, whose entries are different.
        """
        leaders = self._leaders()
        alone = [leader for leader in leaders if any(leader.id in pair for pair in self.cut)]
        leader = self.rng.choice(leaders) if leaders else None
        if leader is None or alone:
            if len(leaders) == len(alone) and self.rng.random() < LEFT_ALONE:
                for member in self.members.values():
                    for _ in range(self.rng.randint(0, MOST_TICKS) if member not in alone else 0):
                        self._tick(member)
                        self.invariants.check(member)
                return
            self.cut.clear()
            if self.settings.any_appends:
                self._send_any_append(first=True)
            return
        self.cut |= {frozenset((leader.id, other)) for other in self.members if other != leader.id}
        for _ in range(self.rng.randint(1, LONGEST_TAIL)):
            self._propose(leader)

    def _send_any_append(self, *, first: bool = False) -> None:
        """What a leader that looks for the place at which the logs meet in another way may send.

        It begins anywhere in the leader's log, holds a few entries, and tells a commit index that may be far beyond.
        With `first` it goes to a member with entries of another leader, if there is one, and overtakes all else.
        """
        leader = max(self._leaders(), key=lambda one: one.raw.term, default=None) if first else self._leader()
        if leader is None:
            return
        raft = leader.raw.raft
        log, others = raft.log, [node_id for node_id in raft.tracker.progress if node_id != leader.id]
        if not others:
            return
        astray = [one for one in others if self._common(leader, self.members[one]) < self.members[one].raw.last_index]
        to = self.rng.choice(astray if astray and (first or self.rng.random() < 0.5) else others)
        low, high = max(log.first_index - 1, log.last_index - LONGEST_TAIL), log.last_index
        if self.rng.random() < 0.5:  # below the place from which on the other one has another leader's entries
            high = max(low, min(high, self._common(leader, self.members[to])))
        start = self.rng.randint(low, high)
        end = min(high, start + self.rng.choice([0, 1, 1, 2, 3]))
        message = Message(
            MessageType.APP,
            to=to,
            sender=leader.id,
            term=raft.term,
            index=start,
            log_term=log.term(start),
            entries=log.slice(start + 1, end + 1, NO_LIMIT) if end > start else (),
            commit=log.commit_index,
            session=raft.tracker.progress[to].session,
        )
        if first:
            self.invariants.sent(leader, message)
            self.deliver(message)
        else:
            self._send(leader, message)

    def _common(self, one: Member, other: Member) -> int:
        """The last index at which two logs agree, as far as both still have it."""
        first, second = one.raw.raft.log, other.raw.raft.log
        index = min(first.last_index, second.last_index)
        while index >= max(first.first_index, second.first_index) and first.term(index) != second.term(index):
            index -= 1
        return index

    def _propose(self, member: Member) -> None:
        self._proposals += 1
        with suppress(ProposalDropped):
            member.raw.propose(f"p{self._proposals}".encode())

    def _propose_change(self, member: Member) -> None:
        kinds = [ChangeType.ADD_NODE, ChangeType.ADD_NODE, ChangeType.ADD_LEARNER_NODE, ChangeType.REMOVE_NODE]
        changes = tuple(
            SingleChange(self.rng.choice(kinds), self.rng.choice(list(self.members)))
            for _ in range(self.rng.choice([2, 3, 4] if self.settings.joint else [0, 1, 1, 1, 2, 3]))
        )
        transition = self.rng.choice(list(Transition)) if changes else Transition.AUTO
        with suppress(ProposalDropped):
            member.raw.propose_membership(MembershipChange(transition, changes))

    def _read(self, member: Member) -> None:
        self._reads += 1
        context = f"r{self._reads}".encode()
        self.invariants.read_asked(context)
        member.raw.read_index(context)

    def _leader(self) -> Member | None:
        """Somebody who thinks that it leads."""
        leaders = self._leaders()
        return self.rng.choice(leaders) if leaders and self.rng.random() < 0.7 else None

    def _leaders(self) -> list[Member]:
        return [member for member in self.members.values() if member.raw.state is StateType.LEADER]

    # -- a node's own work --------------------------------------------------------------------------------------------

    def _some_work(self) -> None:
        """A piece of work of somebody who has any."""
        busy = [one for one in self.members.values() if one.raw.has_ready() or one.append_work or one.apply_work]
        if busy:
            member = self.rng.choice(busy)
            self.work(member)
            self.invariants.check(member)

    def work(self, member: Member) -> None:
        """One piece of work of a node: a Ready, or a write, or an application."""
        choices = [self._handle_ready] if member.raw.has_ready() else []
        if member.append_work and not self._is_slow(self.settings.slow_appends):
            choices.append(self._do_append)
        slow = self._is_slow(self.settings.slow_applies)
        if member.apply_work and not slow:
            choices.append(self._do_apply)
        if choices:
            self.rng.choice(choices)(member)

    def _is_slow(self, share: float) -> bool:
        return bool(share) and not self.healing and self.rng.random() < share

    def _handle_ready(self, member: Member) -> None:
        ready = member.raw.ready()
        self.invariants.reads(ready.read_states)
        if self.settings.asynchronous:
            for message in ready.messages:
                if message.to == LOCAL_APPEND:
                    member.append_work.append(message)
                elif message.to == LOCAL_APPLY:
                    member.apply_work.append(message)
                else:
                    self._send(member, message)
            return
        self._write_and_send(member, ready)

    def _write_and_send(self, member: Member, ready: Ready) -> None:
        crashes = not self.healing and self.rng.random() < self.settings.crashes
        crash_at = self.rng.randrange(3) if crashes else 3
        if crash_at == 0:
            member.crash()
            return
        synced = ready.must_sync or ready.snapshot is not None
        member.write(ready.hard_state, ready.entries, ready.snapshot, synced=synced)
        if crash_at == 1:
            member.crash()
            return
        for message in ready.messages:
            self._send(member, message)
        if crash_at == 2:
            member.crash()
            return
        member.apply(ready.committed_entries, self.invariants)
        member.raw.advance()

    def _do_append(self, member: Member) -> None:
        work = member.append_work.popleft()
        synced = bool(work.responses)
        member.write(_hard_state_of(work), work.entries, work.snapshot, synced=synced)
        for response in work.responses:
            self._respond(member, response)

    def _do_apply(self, member: Member) -> None:
        work = member.apply_work.popleft()
        member.apply(work.entries, self.invariants)
        for response in work.responses:
            self._respond(member, response)

    def _respond(self, member: Member, response: Message) -> None:
        """Local responses are late at times, but in order and never lost; the rest goes over the network."""
        if response.to == member.id:
            refusal = member.raw.step(response)
            # A leader that was removed does not count itself any more.
            assert refusal in (None, StepRefusal.UNKNOWN_PEER), f"a node refuses its own storage's answer: {refusal}"
        else:
            self._send(member, response)

    # -- the network --------------------------------------------------------------------------------------------------

    def _send(self, member: Member, message: Message) -> None:
        self.invariants.sent(member, message)
        assert message.sender == member.id or message.type in _FORWARDED
        self.messages.append(message)
        if len(self.messages) > MAX_MESSAGES_UNDER_WAY and not self.healing:
            self._lose(self.messages.pop(0))

    def _deliver(self) -> None:
        """Usually the oldest message, at times any; lost, doubled, or delivered."""
        at = 0 if self.rng.random() < 0.6 else self.rng.randrange(len(self.messages))
        message = self.messages.pop(at)
        chance = self.rng.random()
        if chance < self.settings.loss or frozenset((message.sender, message.to)) in self.cut:
            self._lose(message)
            return
        if chance < self.settings.loss + self.settings.duplication:
            self.messages.append(msgspec.structs.replace(message))
        if self.settings.old_messages and self.rng.random() < self.settings.old_messages:
            self._old.append(msgspec.structs.replace(message))
            del self._old[:-MAX_OLD_MESSAGES]
        self.deliver(message)

    def deliver(self, message: Message) -> None:
        """Step a message at the node that it is for, and check that node."""
        member = self.members[message.to]
        member.raw.step(message)
        self.invariants.check(member)
        if message.type is MessageType.SNAP:
            self.arrived.append((message.sender, message.to))

    def _lose(self, message: Message) -> None:
        if message.type is MessageType.SNAP:  # its sender is told, sooner or later
            self.members[message.sender].raw.report_snapshot(message.to, ok=False)

    # -- the end of all faults ----------------------------------------------------------------------------------------

    def heal(self, ticks: int) -> bool:
        """No more faults. Whether, within so many ticks, a leader commits a new entry that all its members apply.

        A joint membership that is left by itself is left by then.
        """
        self.cut.clear()
        self.healing = True
        for tick in range(ticks):
            for member in self.members.values():
                self._tick(member)
            self._settle()
            if tick % 10 == 0:  # a member can't use a snapshot from before it was added
                for member in self.members.values():
                    member.compact()
            leaders = [member for member in self.members.values() if member.raw.state is StateType.LEADER]
            if not leaders:
                continue
            leader = max(leaders, key=lambda member: member.raw.term)
            if tick % 10 == 0:
                self._propose(leader)
                self._settle()
            known = leader.raw.status().progress
            leaves_joint = leader.raw.raft.tracker.configuration.auto_leave
            if (
                leader.raw.commit_index == leader.raw.last_index
                and not leaves_joint
                and all(self.members[node_id].applied == leader.raw.commit_index for node_id in known)
            ):
                return True
        return False

    def led_from_outside(self) -> bool:
        """Whether the leader of the highest term is no voter of its own membership."""
        leaders = [member.raw.raft for member in self.members.values() if member.raw.state is StateType.LEADER]
        newest = max(leaders, key=lambda raft: raft.term, default=None)
        return newest is not None and newest.id not in newest.tracker.configuration.voters.voters

    def _settle(self) -> None:
        """Let everybody work and deliver everything, in order, until nothing is left."""
        for _ in range(MAX_ROUNDS):
            busy = bool(self.messages)
            messages, self.messages = self.messages, []
            for message in messages:
                self.deliver(message)
            for member in self.members.values():
                while member.raw.has_ready() or member.append_work or member.apply_work:
                    busy = True
                    self.work(member)
                    self.invariants.check(member)
            if not busy:
                return
        raise AssertionError("the cluster does not come to rest")


def _hard_state_of(work: Message) -> HardState | None:
    hard_state = HardState(work.term, work.vote, work.commit)
    return None if hard_state == HardState() else hard_state
