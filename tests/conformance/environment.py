"""A cluster of raw nodes driven by hand: no clock, no network, nothing happens by itself.

Messages wait in one queue until a command delivers or drops them; with asynchronous storage the work of each node's
append and apply threads waits too. The state machine of every node is the concatenation of the data it applied, kept as
a history of snapshots; a node that is asked for a snapshot gives the newest one.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from syncline.consensus.config import RaftConfig
from syncline.consensus.membership import decode_change
from syncline.consensus.rawnode import RawNode
from syncline.consensus.storage import MemoryStorage
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    EntryType,
    HardState,
    LogEntry,
    Message,
    MessageType,
    NodeId,
    Snapshot,
    SnapshotMeta,
)
from tests.conformance.describe import Notation
from tests.conformance.output import Output

__all__ = ["CommandError", "Environment", "Node"]

_MAX_ROUNDS = 1000
"""A cluster that has not settled after so many rounds of `stabilize` never will."""


class CommandError(Exception):
    """A command that failed. Its text is the command's output, as the traces expect it."""


class HistoryStorage(MemoryStorage):
    """A log whose snapshot is the state machine's newest state."""

    __slots__ = ("history",)

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Snapshot] = []

    def snapshot(self) -> Snapshot:
        return self.history[-1]


@dataclass(slots=True)
class Node:
    """One member: its core, its log, the work its storage threads have not done, and its state machine's history."""

    config: RaftConfig
    raw: RawNode
    storage: HistoryStorage
    append_work: deque[Message] = field(default_factory=deque)
    apply_work: deque[Message] = field(default_factory=deque)

    @property
    def id(self) -> NodeId:
        return self.config.id


class Environment:
    """The nodes, numbered from 1 in the order of their making, and the messages between them."""

    def __init__(self) -> None:
        self.output = Output()
        self.notation = Notation()
        self.nodes: list[Node] = []
        self.messages: list[Message] = []

    def node(self, node_id: NodeId) -> Node:
        """Raises CommandError where there is no such node."""
        if not 1 <= node_id <= len(self.nodes):
            raise CommandError(f"no node {node_id}")
        return self.nodes[node_id - 1]

    def chosen(self, ids: Sequence[NodeId]) -> list[Node]:
        """The nodes with these ids, or all."""
        return [self.node(node_id) for node_id in ids] or self.nodes

    def add_nodes(
        self,
        count: int,
        template: RaftConfig,
        snapshot: Snapshot,
        entries: Sequence[LogEntry] = (),
        hard_state: HardState | None = None,
    ) -> None:
        """Make `count` nodes from a template, whose id and storage are replaced, and what they have stored.

        That is a snapshot, which may be empty, entries that follow it, and a hard state.
        """
        if snapshot != Snapshot():
            if snapshot.meta.index <= 1:
                raise CommandError("index must be specified as > 1 due to bootstrap")
            # The log before it is of term 1.
            snapshot = Snapshot(SnapshotMeta(snapshot.meta.index, 1, snapshot.meta.membership), snapshot.data)
        for _ in range(count):
            storage = HistoryStorage()
            if snapshot.meta.index:
                storage.apply_snapshot(snapshot)
            storage.history.append(snapshot)
            storage.append(entries)
            storage.set_hard_state(hard_state or HardState())
            node_id = len(self.nodes) + 1
            config = replace(template, id=node_id, storage=storage, rng=random.Random(node_id), trace=self.output.trace)
            self.nodes.append(Node(config, RawNode(config), storage))

    def restart(self, node: Node) -> None:
        """Crash a node and start it again: storage work that was not done is lost, what was applied is not."""
        node.append_work.clear()
        node.apply_work.clear()
        node.config = replace(node.config, applied=node.storage.history[-1].meta.index)
        node.raw = RawNode(node.config)

    def process_ready(self, node: Node) -> None:
        """Handle one Ready: do, or queue, its storage work, and send its messages."""
        asynchronous = node.config.async_storage_writes
        ready = node.raw.ready()
        self.output.write(self.notation.ready(ready))
        if not asynchronous:
            _append(node, ready.hard_state, ready.entries, ready.snapshot)
            _apply(node, ready.committed_entries)
        for message in ready.messages:
            if message.to == LOCAL_APPEND:
                node.append_work.append(message)
            elif message.to == LOCAL_APPLY:
                node.apply_work.append(message)
            else:
                self.messages.append(message)
                continue
            assert asynchronous, "a storage message although storage is synchronous"
        if not asynchronous:
            node.raw.advance()

    def process_append(self, node: Node) -> None:
        """Do one piece of the append thread's work and send its responses."""
        if not node.append_work:
            self.output.write("no append work to perform")
            return
        message = node.append_work.popleft()
        self._show_work(message)
        hard_state = HardState(message.term, message.vote, message.commit)
        _append(node, hard_state if hard_state != HardState() else None, message.entries, message.snapshot)
        self._respond(message)

    def process_apply(self, node: Node) -> None:
        """Do one piece of the apply thread's work and send its responses."""
        if not node.apply_work:
            self.output.write("no apply work to perform")
            return
        message = node.apply_work.popleft()
        self._show_work(message)
        _apply(node, message.entries)
        self._respond(message)

    def _show_work(self, message: Message) -> None:
        responses, message.responses = message.responses, ()
        self.output.write(f"Processing:\n{self.notation.message(message)}\n")
        message.responses = responses

    def _respond(self, message: Message) -> None:
        self.output.write("Responses:\n")
        for response in message.responses:
            self.output.write(f"{self.notation.message(response)}\n")
        self.messages.extend(message.responses)

    def deliver(self, to: NodeId, *, drop: bool = False, kind: MessageType | None = None) -> int:
        """Deliver, or drop, the queued messages to a node (of one type, where given). Returns how many."""
        chosen = [message for message in self.messages if _is_chosen(message, to, drop, kind)]
        self.messages = [message for message in self.messages if not _is_chosen(message, to, drop, kind)]
        for message in chosen:
            prefix = "dropped: " if drop else ""
            self.output.write(f"{prefix}{self.notation.message(message)}\n")
            if drop:  # also where the node does not exist yet
                continue
            refusal = self.node(to).raw.step(message)
            if refusal is not None:
                self.output.write(f"{refusal}\n")
        return len(chosen)

    def stabilize(self, nodes: Sequence[Node]) -> None:
        """Let the nodes work and deliver messages to them until nothing is left to do."""
        for _ in range(_MAX_ROUNDS):
            busy = False
            for node in nodes:
                if node.raw.has_ready():
                    busy = True
                    self.output.write(f"> {node.id} handling Ready\n")
                    with self.output.indented():
                        self.process_ready(node)
            for node in nodes:
                if any(message.to == node.id for message in self.messages):
                    busy = True
                    self.output.write(f"> {node.id} receiving messages\n")
                    with self.output.indented():
                        self.deliver(node.id)
            for node in nodes:
                busy |= self._drain(node, node.append_work, "append")
            for node in nodes:
                busy |= self._drain(node, node.apply_work, "apply")
            if not busy:
                return
        raise CommandError(f"not stable after {_MAX_ROUNDS} rounds")

    def _drain(self, node: Node, work: deque[Message], thread: str) -> bool:
        if not work:
            return False
        self.output.write(f"> {node.id} processing {thread} thread\n")
        with self.output.indented():
            while work:
                if thread == "append":
                    self.process_append(node)
                else:
                    self.process_apply(node)
        return True


def _is_chosen(message: Message, to: NodeId, drop: bool, kind: MessageType | None) -> bool:
    # Storage work is local to a machine: it can be late, but it is never lost.
    local = message.sender == message.to or LOCAL_APPLY <= message.sender <= LOCAL_APPEND
    return message.to == to and not (drop and local) and kind in (None, message.type)


def _append(node: Node, hard_state: HardState | None, entries: Sequence[LogEntry], snapshot: Snapshot | None) -> None:
    if hard_state is not None:
        node.storage.set_hard_state(hard_state)
    if snapshot is not None and snapshot.meta.index:
        node.storage.apply_snapshot(snapshot)
    node.storage.append(entries)  # with a snapshot: those behind it


def _apply(node: Node, entries: Sequence[LogEntry]) -> None:
    history = node.storage.history
    for entry in entries:
        newest = history[-1]
        data, membership = entry.data, newest.meta.membership
        if entry.type is not EntryType.NORMAL:
            change = decode_change(entry)
            data, membership = change.context, node.raw.apply_membership(change, index=entry.index)
        history.append(Snapshot(SnapshotMeta(entry.index, entry.term, membership), newest.data + data))
