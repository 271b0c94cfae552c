"""The stable log as the core reads it, and an implementation in memory.

The core only reads. It hands its writes out (`Ready`); the runtime writes them and makes them visible here before it
reports the write to the core. Entries below `first_index` were compacted into a snapshot. The term of the entry just
below it stays known, because the next append is checked against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from syncline.consensus.sizes import limit_size
from syncline.consensus.types import (
    NO_LIMIT,
    Compacted,
    HardState,
    LogEntry,
    MembershipState,
    Snapshot,
    SnapshotMeta,
    Unavailable,
)

__all__ = ["LogStorage", "MemoryStorage"]


class LogStorage(Protocol):
    """The stable log for the core. Called often, on the event loop: synchronous and cheap."""

    def initial_state(self) -> tuple[HardState, MembershipState]:
        """The state that was saved before the node started: the newest hard state, and the membership at the last
        snapshot.

        Later changes of the membership are in the log and are applied again (thesis, 4.1).
        """
        ...

    def entries(self, low: int, high: int, max_bytes: int) -> Sequence[LogEntry]:
        """Entries `low` to `high` - 1, or fewer if they exceed `max_bytes`, but at least one.

        Raises Compacted if `low` is below the first index, Unavailable if `high` - 1 is above the last.
        """
        ...

    def entries_to_send(self, low: int, high: int, max_bytes: int) -> Sequence[LogEntry]:
        """As `entries`, for a follower. May raise NotLoaded instead of reading from a disk: see `RawNode.loaded`."""
        ...

    def term(self, index: int) -> int:
        """The term of the entry at `index`, which may be one below the first index.

        Raises Compacted below that, Unavailable above the last index.
        """
        ...

    def first_index(self) -> int:
        """The first index that `entries` may be asked for; above `last_index` if the log is empty."""
        ...

    def last_index(self) -> int:
        """The last index of the log; if it is empty, that of the snapshot it continues (0 for a new log)."""
        ...

    def snapshot(self) -> Snapshot:
        """The newest snapshot, to bring a follower up to date.

        Raises SnapshotUnavailable if there is none at the moment: the core asks again later.
        """
        ...


class MemoryStorage:
    """A stable log in memory, for tests and for simulations. Nothing survives the process."""

    __slots__ = ("_entries", "_hard_state", "_snapshot", "_start", "_start_term")

    def __init__(self) -> None:
        self._hard_state = HardState()
        self._snapshot = Snapshot()
        self._entries: list[LogEntry] = []
        self._start = 0
        """Index just below the first entry; `_start_term` is its term."""
        self._start_term = 0

    def initial_state(self) -> tuple[HardState, MembershipState]:
        return self._hard_state, self._snapshot.meta.membership

    def entries(self, low: int, high: int, max_bytes: int = NO_LIMIT) -> Sequence[LogEntry]:
        if low <= self._start:
            raise Compacted
        if high > self.last_index() + 1:
            raise Unavailable
        return limit_size(self._entries[low - self._start - 1 : high - self._start - 1], max_bytes)

    def entries_to_send(self, low: int, high: int, max_bytes: int) -> Sequence[LogEntry]:
        return self.entries(low, high, max_bytes)

    def term(self, index: int) -> int:
        if index < self._start:
            raise Compacted
        if index == self._start:
            return self._start_term
        if index > self.last_index():
            raise Unavailable
        return self._entries[index - self._start - 1].term

    def first_index(self) -> int:
        return self._start + 1

    def last_index(self) -> int:
        return self._start + len(self._entries)

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def set_hard_state(self, hard_state: HardState) -> None:
        """Save term, vote and commit index."""
        self._hard_state = hard_state

    def append(self, entries: Sequence[LogEntry]) -> None:
        """Write contiguous `entries`; stored entries at their indexes and behind are replaced.

        The part that is compacted already is ignored. Raises ValueError if they would leave a gap.
        """
        if not entries or entries[-1].index <= self._start:
            return
        first = entries[0].index
        if first > self.last_index() + 1:
            raise ValueError(f"entries from {first} would leave a gap: the last index is {self.last_index()}")
        if first <= self._start:
            entries = entries[self._start + 1 - first :]
            first = self._start + 1
        del self._entries[first - self._start - 1 :]
        self._entries.extend(entries)

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot. Raises Compacted if the stored one is as new."""
        if snapshot.meta.index <= self._snapshot.meta.index:
            raise Compacted
        self._snapshot = snapshot
        self._entries = []
        self._start, self._start_term = snapshot.meta.index, snapshot.meta.term

    def create_snapshot(self, index: int, membership: MembershipState | None = None, data: bytes = b"") -> Snapshot:
        """Store the snapshot of a state machine that has applied `index`, and return it. The log is left as it is.

        Without `membership` the one of the previous snapshot is kept. Raises Compacted if the stored snapshot is as
        new, ValueError if `index` is beyond the log.
        """
        if index <= self._snapshot.meta.index:
            raise Compacted
        if index > self.last_index():
            raise ValueError(f"no snapshot at {index}: the last index is {self.last_index()}")
        meta = SnapshotMeta(index, self.term(index), membership or self._snapshot.meta.membership)
        self._snapshot = Snapshot(meta, data)
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drop the entries up to `index`. Raises Compacted if they are gone, ValueError beyond the log."""
        if index <= self._start:
            raise Compacted
        if index > self.last_index():
            raise ValueError(f"can't compact up to {index}: the last index is {self.last_index()}")
        self._start_term = self.term(index)
        del self._entries[: index - self._start]
        self._start = index
