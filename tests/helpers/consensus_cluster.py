"""A cluster of raw nodes in memory, for tests of the consensus core: messages are delivered, lost and kept by hand."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from syncline.consensus.config import RaftConfig
from syncline.consensus.membership import MembershipRefused, decode_change
from syncline.consensus.rawnode import RawNode
from syncline.consensus.storage import MemoryStorage
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    ChangeType,
    EntryType,
    HardState,
    LogEntry,
    MembershipChange,
    MembershipState,
    Message,
    NodeId,
    ReadState,
    SingleChange,
    Snapshot,
    SnapshotMeta,
    StateType,
)

START = 10
"""Index of the snapshot that every node of a new cluster starts from; its term is 1."""


def storage_with(membership: MembershipState, index: int = START, term: int = 1) -> MemoryStorage:
    """A stable log that starts from a snapshot."""
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(SnapshotMeta(index, term, membership)))
    return storage


def add_node(node_id: NodeId) -> MembershipChange:
    return MembershipChange(changes=(SingleChange(ChangeType.ADD_NODE, node_id),))


def remove_node(node_id: NodeId) -> MembershipChange:
    return MembershipChange(changes=(SingleChange(ChangeType.REMOVE_NODE, node_id),))


@dataclass
class Member:
    """A node with its storage, the storage work under way (asynchronous form) and what it has applied."""

    node: RawNode
    storage: MemoryStorage
    config: RaftConfig
    append_work: deque[Message] = field(default_factory=deque)
    apply_work: deque[Message] = field(default_factory=deque)
    applied: list[LogEntry] = field(default_factory=list)
    reads: list[ReadState] = field(default_factory=list)
    durable_commit: int = 0
    """The newest commit index that a crash can't take back. Nothing waits for a commit index to be durable, but what is
    written after it makes it so: the log is one file."""


class Cluster:
    """Nodes 1 to `size` (voters), and a network that holds messages until they are delivered."""

    def __init__(self, size: int = 3, *, learners: Iterable[NodeId] = (), **settings: Any) -> None:
        self.settings = settings
        learner_ids = tuple(learners)
        voters = tuple(node_id for node_id in range(1, size + 1) if node_id not in learner_ids)
        self.membership = MembershipState(voters=voters, learners=learner_ids)
        self.members: dict[NodeId, Member] = {}
        self.network: list[Message] = []
        self.cut: set[NodeId] = set()
        """Nodes whose messages, in and out, are lost."""
        for node_id in (*voters, *learner_ids):
            self.start(node_id, storage_with(self.membership), applied=START)

    def start(self, node_id: NodeId, storage: MemoryStorage | None = None, *, applied: int = 0) -> Member:
        """Start a node, or start it again on its storage."""
        storage = storage or MemoryStorage()
        settings = {"rng": random.Random(node_id), **self.settings}
        config = RaftConfig(id=node_id, storage=storage, applied=applied, **settings)
        member = Member(RawNode(config), storage, config, durable_commit=storage.initial_state()[0].commit)
        self.members[node_id] = member
        return member

    def __getitem__(self, node_id: NodeId) -> RawNode:
        return self.members[node_id].node

    def elect(self, node_id: NodeId) -> RawNode:
        """Make a node the leader, and let everybody settle."""
        self[node_id].campaign()
        self.settle()
        assert self[node_id].state is StateType.LEADER
        return self[node_id]

    def settle(self, keep: Callable[[Message], bool] = lambda _: False) -> None:
        """Work and deliver until nothing is left to do but messages that `keep` holds back."""
        for _ in range(1000):
            for member in self.members.values():
                while member.node.has_ready():
                    self.process(member)
            deliverable = [message for message in self.network if not keep(message)]
            self.network = [message for message in self.network if keep(message)]
            if not deliverable:
                return
            for message in deliverable:
                self.deliver(message)
        raise AssertionError("the cluster does not settle")

    def process(self, member: Member) -> None:
        """Handle one Ready, with all its storage work."""
        self.take_ready(member)
        while member.append_work:
            self.do_append(member)
        while member.apply_work:
            self.do_apply(member)

    def take_ready(self, member: Member) -> None:
        """Handle one Ready; in the asynchronous form its storage work is left to be done."""
        node = member.node
        ready = node.ready()
        member.reads += ready.read_states
        asynchronous = member.config.async_storage_writes
        if not asynchronous:
            self._write(member, ready.hard_state, list(ready.entries), ready.snapshot)
            self._apply(member, list(ready.committed_entries))
        for message in ready.messages:
            if message.to == LOCAL_APPEND:
                member.append_work.append(message)
            elif message.to == LOCAL_APPLY:
                member.apply_work.append(message)
            else:
                self.network.append(message)
        if not asynchronous:
            node.advance()

    def do_append(self, member: Member) -> None:
        """Do the oldest append, and give its responses out."""
        message = member.append_work.popleft()
        hard_state = HardState(message.term, message.vote, message.commit)
        self._write(member, hard_state if message.term else None, list(message.entries), message.snapshot)
        self._respond(member, message)

    def do_apply(self, member: Member) -> None:
        """Apply the oldest batch, and give its responses out."""
        message = member.apply_work.popleft()
        self._apply(member, list(message.entries))
        self._respond(member, message)

    def deliver(self, message: Message) -> None:
        """Deliver a message, unless one end is cut off or gone."""
        if message.to in self.members and not self.cut & {message.to, message.sender}:
            self.members[message.to].node.step(message)

    def _respond(self, member: Member, message: Message) -> None:
        for response in message.responses:
            if response.to == member.node.raft.id:
                member.node.step(response)
            else:
                self.network.append(response)

    def _write(
        self, member: Member, hard_state: HardState | None, entries: list[LogEntry], snapshot: Snapshot | None
    ) -> None:
        if snapshot is not None:
            member.storage.apply_snapshot(snapshot)
        if entries:
            member.storage.append(entries)
        before, _ = member.storage.initial_state()
        if hard_state is not None:
            member.storage.set_hard_state(hard_state)
        now, _ = member.storage.initial_state()
        if entries or snapshot is not None or (before.term, before.vote) != (now.term, now.vote):
            member.durable_commit = now.commit

    def _apply(self, member: Member, entries: list[LogEntry]) -> None:
        member.applied += entries
        for entry in entries:
            if entry.type is not EntryType.NORMAL:
                with suppress(MembershipRefused):  # the same on every node: the membership stays as it is
                    member.node.apply_membership(decode_change(entry))
