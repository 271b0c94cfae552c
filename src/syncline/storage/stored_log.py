"""The log as the consensus core reads it: recent entries from memory, older ones from disk.

`StoredLog` has only *durable* entries: the runtime reports a write once `Wal.write` has returned. It is for the event
loop's thread alone.

If the log, the snapshots and the state disagree after a crash, `StoredLog.open` repairs the log:

- The log must reach back to the newest intact snapshot. Otherwise entries are missing, and the node must not start.
- The snapshot may be another member's: it contains nothing that is this node's own, and its entries were applied,
  hence
  committed. So it is installed like one that a leader has sent.
- A snapshot may be ahead of the durable commit index, because it does not wait for it. The index is raised.
- A snapshot that the log does not contain was received from a leader just before the crash, and its marker did not
  reach the log. It holds committed state, so the installation is completed: the log restarts after it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from syncline.consensus.sizes import payload_size
from syncline.consensus.types import (
    NO_LIMIT,
    NONE,
    Compacted,
    HardState,
    LogEntry,
    MembershipState,
    NotLoaded,
    Snapshot,
    SnapshotMeta,
    SnapshotUnavailable,
    Unavailable,
)
from syncline.errors import CorruptionError
from syncline.storage.advice import how_to_repair
from syncline.storage.read_ahead import ReadAhead
from syncline.storage.wal.locations import TermRuns
from syncline.storage.wal.reader import ENTRY_OVERHEAD_BYTES, entry_size
from syncline.storage.wal.writer import Recovery, Wal, WalWrite, WriteResult

__all__ = ["StoredLog", "settle"]

TAIL_BYTES: Final = 32 << 20
"""The default bound of the entries kept in memory: many seconds of writes for a follower that lags a little."""

TAIL_KEPT: Final = 7 / 8
"""Bytes that are kept when the bound is reached. Larger steps make dropping cheap."""


class EntrySource(Protocol):
    """Reads entries that are no longer in memory from the log's files."""

    def read_entries(self, low: int, high: int, max_bytes: int) -> list[LogEntry]: ...


class StoredLog:
    """Implements `consensus.storage.LogStorage` on the log's files and the newest durable snapshot."""

    def __init__(
        self, source: EntrySource, recovery: Recovery, snapshot: SnapshotMeta | None, *, tail_bytes: int = TAIL_BYTES
    ) -> None:
        self._source = source
        self._hard_state = recovery.hard_state
        self._base_index = recovery.base_index
        self._last_index = recovery.last_index
        self._terms: TermRuns = recovery.terms
        self._snapshot = snapshot or SnapshotMeta()
        self._tail_limit_bytes = tail_bytes
        self._tail: list[LogEntry] = []
        self._tail_first = recovery.last_index + 1
        self._tail_bytes = 0
        self._chunks: deque[tuple[int, int]] = deque()  # of the tail, oldest first: (entries, bytes)
        self._ahead: ReadAhead | None = None

    @classmethod
    def open(cls, wal: Wal, snapshot: SnapshotMeta | None, *, tail_bytes: int = TAIL_BYTES) -> StoredLog:
        """Make the log of a node that starts. `snapshot` is the newest intact one of the store.

        Completes an installation that a crash interrupted; that writes to the log, so call it before the log has a
        writer of its own.

        Raises:
            CorruptionError: the log and the snapshot do not fit together.
            StorageError: the disk failed.
        """
        recovery = wal.recovery
        write = settle(recovery, snapshot, path=wal.path)
        log = cls(wal, recovery, snapshot, tail_bytes=tail_bytes)
        if write is not None:
            log.appended(write, wal.write([write]))
        return log

    # Read by the core.

    def initial_state(self) -> tuple[HardState, MembershipState]:
        """The durable state, and the membership at the newest snapshot (later ones are in the log's entries)."""
        return self._hard_state, self._snapshot.membership

    def first_index(self) -> int:
        """The first index that `entries` can give; `term` also knows the one before."""
        return self._base_index + 1

    def last_index(self) -> int:
        return self._last_index

    def term(self, index: int) -> int:
        """The term at an index from `first_index() - 1` to `last_index()`.

        Raises:
            Compacted: before that range.
            Unavailable: after it.
        """
        if index < self._base_index:
            raise Compacted(f"index {index} is before the log's first, {self._base_index + 1}")
        if index > self._last_index:
            raise Unavailable(f"index {index} is after the log's last, {self._last_index}")
        return self._terms.term(index)

    def entries(self, low: int, high: int, max_bytes: int) -> list[LogEntry]:
        """The entries from `low` up to but not including `high`: at most `max_bytes` of them, but at least one.

        Raises:
            Compacted: `low` is before the log's first index.
            Unavailable: `high` is beyond the log's end.
            CorruptionError: they were on disk and are damaged: the node must stop.
        """
        if low <= self._base_index:
            raise Compacted(f"index {low} is before the log's first, {self._base_index + 1}")
        if high > self._last_index + 1:
            raise Unavailable(f"index {high - 1} is after the log's last, {self._last_index}")
        if low >= high:
            return []
        if low >= self._tail_first:
            return limit_bytes(self._tail[low - self._tail_first : high - self._tail_first], max_bytes)
        middle = min(high, self._tail_first)
        entries = self._source.read_entries(low, middle, max_bytes)
        assert entries[0].index == low
        room = max_bytes - sum(map(entry_size, entries)) if max_bytes < NO_LIMIT else NO_LIMIT
        if middle < high and entries[-1].index == middle - 1 and room >= entry_size(self._tail[0]):
            entries += limit_bytes(self._tail[: high - middle], room)
        return entries

    def entries_to_send(self, low: int, high: int, max_bytes: int) -> list[LogEntry]:
        """As `entries`, but what is not in memory is read beside the event loop: fewer entries, or NotLoaded."""
        if self._ahead is None or low >= min(high, self._tail_first) or not self._base_index < low <= self._last_index:
            return self.entries(low, high, max_bytes)
        found = self._ahead.take(low, min(high, self._tail_first))
        if found is None:
            raise NotLoaded(f"entry {low} is being read")
        entries = limit_bytes(found, max_bytes)
        self._ahead.done(entries[-1].index)
        return entries

    def snapshot(self) -> Snapshot:
        """The newest durable snapshot, without its data: that is in the snapshot store.

        Raises:
            SnapshotUnavailable: there is none yet.
        """
        if not self._snapshot.index:
            raise SnapshotUnavailable("no snapshot was made yet")
        return Snapshot(self._snapshot)

    # Called by the runtime.

    @property
    def hard_state(self) -> HardState:
        """The durable hard state."""
        return self._hard_state

    @property
    def snapshot_index(self) -> int:
        """The index of the newest durable snapshot; 0 if there is none."""
        return self._snapshot.index

    @property
    def tail_bytes(self) -> int:
        """The size of the entries in memory."""
        return self._tail_bytes

    def read_beside(self, ask: Callable[[int, int, int], None]) -> None:
        """Read entries to send by `ask` from now on (see `ReadAhead`), which answers with `loaded`."""
        self._ahead = ReadAhead(ask)

    def loaded(self, low: int, generation: int, entries: list[LogEntry]) -> bool:
        """Store a chunk that `ask` has read. False: it is out of date."""
        assert self._ahead is not None, "nothing was asked for"
        for entry in entries[:1] + entries[-1:]:
            if not self._base_index < entry.index <= self._last_index or self._terms.term(entry.index) != entry.term:
                entries = []
        return self._ahead.loaded(low, generation, entries)

    def appended(self, write: WalWrite, result: WriteResult) -> None:
        """Record that `write` is durable. Call it for each write of a batch, in order, with the batch's result."""
        if write.snapshot is not None:
            self._restart(write.snapshot)
        if write.entries:
            self._append(write, result)
        if write.hard_state is not None:
            self._hard_state = write.hard_state

    def installed(self, snapshot: SnapshotMeta) -> None:
        """Record a durable snapshot of the store, taken here or received. An older one than before changes nothing."""
        if snapshot.index > self._snapshot.index:
            self._snapshot = snapshot

    def compacted(self, index: int) -> None:
        """Drop entries up to `index`: a snapshot has them."""
        if index <= self._base_index:
            return
        assert index <= self._last_index, (index, self._last_index)
        assert index <= self._snapshot.index, (index, self._snapshot.index)
        self._terms.drop_before(index)
        self._base_index = index
        if index >= self._tail_first:
            self._drop_from_tail(index + 1 - self._tail_first)

    def _restart(self, snapshot: SnapshotMeta) -> None:
        self._base_index = self._last_index = snapshot.index
        self._terms.reset(snapshot.index, snapshot.term)
        if self._ahead is not None:
            self._ahead.clear()
        self._clear_tail()
        self.installed(snapshot)

    def _append(self, write: WalWrite, result: WriteResult) -> None:
        entries = write.entries
        first, last = entries[0], entries[-1]
        assert self._hard_state.commit < first.index <= self._last_index + 1, (first.index, self._last_index)
        if first.index <= self._last_index:
            self._truncate(first.index)
        self._last_index = last.index
        self._terms.append(first.index, first.term)
        if first.term != last.term:
            term = first.term
            for entry in entries:
                if entry.term != term:
                    term = entry.term
                    self._terms.append(entry.index, term)
        self._tail.extend(entries)
        size = len(entries) * result.entry_bytes
        self._chunks.append((len(entries), size))
        self._tail_bytes += size
        if self._tail_bytes > self._tail_limit_bytes:
            self._shrink_tail()
        assert self._tail_first + len(self._tail) == self._last_index + 1

    def _truncate(self, index: int) -> None:
        """Drop entries from `index` on: later entries replace them."""
        self._last_index = index - 1
        if self._ahead is not None:
            self._ahead.clear()
        if index <= self._tail_first:
            self._clear_tail()
            return
        surplus = len(self._tail) - (index - self._tail_first)
        del self._tail[index - self._tail_first :]
        while surplus:
            count, size = self._chunks.pop()
            self._tail_bytes -= size
            if count > surplus:
                kept = size * (count - surplus) // count
                self._chunks.append((count - surplus, kept))
                self._tail_bytes += kept
                return
            surplus -= count

    def _clear_tail(self) -> None:
        self._tail.clear()
        self._chunks.clear()
        self._tail_bytes = 0
        self._tail_first = self._last_index + 1

    def _shrink_tail(self) -> None:
        target = self._tail_limit_bytes * TAIL_KEPT
        count, size = 0, self._tail_bytes
        for chunk in self._chunks:
            if size <= target:
                break
            count += chunk[0]
            size -= chunk[1]
        self._drop_from_tail(count)

    def _drop_from_tail(self, count: int) -> None:
        """Drop the oldest `count` entries from memory, and the rest of a chunk that this would cut in two."""
        del self._tail[:count]
        self._tail_first += count
        while count:
            entries, size = self._chunks.popleft()
            self._tail_bytes -= size
            if entries > count:
                kept = size * (entries - count) // entries
                self._chunks.appendleft((entries - count, kept))
                self._tail_bytes += kept
                return
            count -= entries


def limit_bytes(entries: list[LogEntry], max_bytes: int) -> list[LogEntry]:
    """The first entries that together are within `max_bytes`; at least one."""
    if payload_size(entries) + ENTRY_OVERHEAD_BYTES * len(entries) <= max_bytes:
        return entries  # the usual case, found out cheaply
    room = max_bytes
    for count, entry in enumerate(entries):
        room -= entry_size(entry)
        if room < 0 and count:
            return entries[:count]
    return entries


def settle(recovery: Recovery, snapshot: SnapshotMeta | None, *, path: str) -> WalWrite | None:
    """Return the write that makes the log fit the newest intact snapshot; None if it fits already.

    Raises:
        CorruptionError: no write can do that.
    """
    newest = snapshot or SnapshotMeta()
    if recovery.base_index > newest.index:
        raise CorruptionError(
            f"{path}: the log begins at entry {recovery.first_index}, and the newest intact snapshot "
            f"{f'is at entry {newest.index}' if newest.index else 'is missing'}: what is between is lost here. "
            "Put the missing snapshot file back, or copy another member's newest one into its directory: "
            f"that loses nothing. Or: {how_to_repair(os.path.dirname(path))}",
            file=path,
            first_index=newest.index + 1,
            last_index=recovery.base_index,
        )
    state = recovery.hard_state
    if newest.index <= recovery.last_index and recovery.terms.term(newest.index) == newest.term:
        if newest.index <= state.commit:
            return None
        # A snapshot waits for no commit index to be durable. But what is in it was applied, hence committed.
        return WalWrite(hard_state=HardState(state.term, state.vote, newest.index))
    if state.commit >= newest.index:
        raise CorruptionError(
            f"{path}: the log has another entry {newest.index} committed than the snapshot there, of term "
            f"{newest.term}: one of the two is not this node's. {how_to_repair(os.path.dirname(path))}",
            file=path,
            first_index=newest.index,
            last_index=newest.index,
        )
    vote = state.vote if newest.term <= state.term else NONE
    hard_state = HardState(max(state.term, newest.term), vote, newest.index)
    return WalWrite(hard_state=hard_state, snapshot=newest)
