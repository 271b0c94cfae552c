"""Readers of watches, and the naive model that they are compared with: a list of all revisions."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from typing import Any

from syncline.errors import NoLeader, OperationError
from syncline.kv.commands import Command, encode_command
from syncline.kv.machine import KvMachine
from syncline.kv.records import Change
from syncline.kv.store import prefix_end
from syncline.kv.watch import KeyWatch, WatchLimits
from syncline.kv.watch_hub import WatchHub
from syncline.node.fsm import Entry
from syncline.node.futures import ReadFuture
from tests.helpers.kv_commands import Sink

EVENT_BYTES = 10

Event = tuple[str, bytes, bytes, bytes | None]
"""Type, key, value, previous value."""
Told = tuple[int, tuple[Event, ...]]


def event_of(change: Change) -> Event:
    kind = "put" if change.record.version else "delete"
    previous = None if change.previous is None else change.previous.value
    return kind, change.record.key, change.record.value, previous


class EventForm:
    """Messages as tuples. `made` counts the encodings of changes."""

    def __init__(self) -> None:
        self.made = 0

    def changes(self, revision: int, changes: Sequence[Change]) -> object:
        self.made += 1
        return revision, tuple(event_of(change) for change in changes)

    def progress(self, revision: int, *, resumable: bool) -> object:
        return "progress", revision, resumable

    def size_bytes(self, message: object) -> int:
        assert isinstance(message, tuple)
        return 1 if message[0] == "progress" else EVENT_BYTES * len(message[1])


class WatchedNode:
    """A state machine with a hub, and what the hub needs of a node."""

    def __init__(self, *, limits: WatchLimits | None = None, election_s: float = 1.0) -> None:
        self.machine = KvMachine()
        self.index = 0
        self.has_leader = True
        self.quorum = True
        self.confirmations = 0
        self.form = EventForm()
        self.hub = WatchHub(
            lambda: self.machine.store,
            has_leader=lambda: self.has_leader,
            confirm=self._confirm,
            election_s=election_s,
            limits=limits,
        )
        self.machine.observe(self.hub.changed)

    def _confirm(self, timeout_s: float) -> ReadFuture:
        self.confirmations += 1
        future = ReadFuture(loop=asyncio.get_running_loop())
        if self.quorum:
            future.set_result(self.index)
        else:
            future.set_exception(NoLeader(f"no leader within {timeout_s} s"))
        return future

    def apply(self, *commands: Command) -> None:
        """Apply commands as one batch; refused ones change nothing."""
        entries = []
        for command in commands:
            self.index += 1
            entries.append(Entry(self.index, 1, encode_command(command)))
        self.machine.apply_batch(entries)

    def install(self, other: WatchedNode) -> None:
        """Install a snapshot of another node."""
        self.machine.restore(io.BytesIO(other.snapshot()))
        self.index = other.index

    def snapshot(self) -> bytes:
        view, sink = self.machine.snapshot(), Sink()
        view.persist(sink)
        view.release()
        return sink.data

    @property
    def revision(self) -> int:
        return self.machine.store.revision


class WatchReader:
    """A watch, and all that was read of it."""

    def __init__(
        self,
        node: WatchedNode,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        key: bytes | None = None,
        from_revision: int = 0,
        puts: bool = True,
        deletes: bool = True,
        stale: bool = False,
        progress_s: float = 0.0,
        owner: object | None = None,
        group: str = "",
    ) -> None:
        if prefix is not None:
            start, end = prefix, prefix_end(prefix)
        if key is not None:
            start, end = key, key + b"\0"
        self.first = from_revision or node.revision + 1
        self.puts, self.deletes = puts, deletes
        self.watch: KeyWatch[object] = node.hub.watch(
            start,
            end,
            node.form,
            from_revision=from_revision,
            puts=puts,
            deletes=deletes,
            stale=stale,
            progress_s=progress_s,
            owner=owner,
            group=group,
        )
        self.told: list[Any] = []
        self.wakes = 0
        self.watch.start(self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def read(self, most: int = 1_000_000) -> list[Any]:
        """Read up to so many messages; what was read now."""
        before = len(self.told)
        while most and (message := self.watch.read()) is not None:
            self.told.append(message)
            most -= 1
        return self.told[before:]

    @property
    def error(self) -> OperationError | None:
        return self.watch.error

    def expected(self, history: Sequence[tuple[int, Sequence[Event]]], *, before: int | None = None) -> list[Told]:
        """What it must have been told, of a list of all revisions, up to `before`."""
        found = []
        for revision, events in history:
            if revision < self.first or (before is not None and revision >= before):
                continue
            mine = tuple(event for event in events if self._concerns(event))
            if mine:
                found.append((revision, mine))
        return found

    def _concerns(self, event: Event) -> bool:
        kind, key, _, _ = event
        in_range = self.watch.start_key <= key and (self.watch.end is None or key < self.watch.end)
        return in_range and (self.puts if kind == "put" else self.deletes)


async def settle(done: Callable[[], bool] | None = None) -> None:
    """Let the turns of the loop that are due run."""
    for _ in range(50):
        if done is not None and done():
            return
        await asyncio.sleep(0)
