"""The replicated log: stable storage and the unstable end as one, with the indexes that move along it.

    applied <= applying <= commit_index <= last_index

Up to the commit index (`committed`) the entries are final: a quorum holds them, and every later leader does (thesis,
3.6). `applying` is the last index handed out to be applied, `applied` the applied index of the state machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from syncline.consensus.sizes import encoded_size, limit_size
from syncline.consensus.storage import LogStorage
from syncline.consensus.types import NO_LIMIT, Compacted, EntryType, LogEntry, Snapshot, Unavailable

__all__ = ["RaftLog", "Unstable"]

SCAN_BYTES = 1 << 20
"""Entries read in one step of a search: they may come from disk."""


class Unstable:
    """The end of the log that is not yet known to be in stable storage.

          stable storage     |  in progress: handed out      |  next: to be handed out
                             |  to be written                |  with the coming Ready
        ---------------------+-------------------------------+------------------------
                              ^ offset                        ^ offset_in_progress

    Entries leave when storage has confirmed them. A snapshot that a leader sent waits here as well, before the entries,
    until it is stored.
    """

    __slots__ = ("entries", "offset", "offset_in_progress", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: int) -> None:
        self.entries: list[LogEntry] = []
        self.offset: int = offset
        """Index of the first entry; the stable log ends below it once what is in progress is ignored."""
        self.offset_in_progress: int = offset
        """Entries below it are being written. Invariant: offset <= offset_in_progress <= offset + len(entries)."""
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress: bool = False

    @property
    def last_index(self) -> int:
        """The last index of the whole log: without entries here it is just below `offset`."""
        return self.offset + len(self.entries) - 1

    def term(self, index: int) -> int | None:
        """The term of the entry at `index`, if it is known here."""
        if index >= self.offset:
            position = index - self.offset
            return self.entries[position].term if position < len(self.entries) else None
        if self.snapshot is not None and index == self.snapshot.meta.index:
            return self.snapshot.meta.term
        return None

    def slice(self, low: int, high: int) -> list[LogEntry]:
        """Entries `low` to `high` - 1, all of which are here."""
        assert self.offset <= low <= high <= self.offset + len(self.entries)
        return self.entries[low - self.offset : high - self.offset]

    @property
    def has_next_entries(self) -> bool:
        """Whether there are entries to be handed out."""
        return self.offset_in_progress < self.offset + len(self.entries)

    def next_entries(self) -> list[LogEntry]:
        """Entries to be written that are not being written."""
        return self.entries[self.offset_in_progress - self.offset :]

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot to be stored, if it is not being stored."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept_in_progress(self) -> None:
        """All entries here have been handed out to be written."""
        self.offset_in_progress = self.offset + len(self.entries)
        self.snapshot_in_progress = self.snapshot is not None

    def stable_to(self, index: int, term: int) -> bool:
        """Drop the entries up to `index`: storage holds them. False, with nothing dropped, if the entry is not here.

        The term shows whether the confirmation is for this entry, or for one that was replaced meanwhile. The term
        alone is not enough: the old entry may have come back while a write of the other one is still in progress. So
        the core uses only confirmations of writes that began in its current term.
        """
        position = index - self.offset
        if not 0 <= position < len(self.entries) or self.entries[position].term != term:
            return False
        del self.entries[: position + 1]
        self.offset = index + 1
        self.offset_in_progress = max(self.offset_in_progress, self.offset)
        return True

    def stable_snapshot_to(self, index: int) -> None:
        """Drop the snapshot at `index`: it is stored. A newer one stays."""
        if self.snapshot is not None and self.snapshot.meta.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by `snapshot`."""
        self.offset = self.offset_in_progress = snapshot.meta.index + 1
        self.entries = []
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    def truncate_and_append(self, entries: Sequence[LogEntry]) -> None:
        """Append `entries`; entries at their indexes and behind are dropped (AppendEntries, step 3: thesis, figure
        3.1).
        """
        first = entries[0].index
        assert first <= self.offset + len(self.entries), "entries would leave a gap"
        if first <= self.offset:
            # They replace everything here and perhaps a part of the stable log: entries in progress are written again.
            self.entries = list(entries)
            self.offset = self.offset_in_progress = first
            return
        if first <= self.last_index:
            del self.entries[first - self.offset :]
            self.offset_in_progress = min(self.offset_in_progress, first)
        self.entries.extend(entries)


class RaftLog:
    """The log of one node."""

    __slots__ = (
        "_applying_bytes",
        "_applying_paused",
        "_handed_out",
        "_storage",
        "applied",
        "applying",
        "commit_index",
        "max_applying_bytes",
        "unstable",
    )

    def __init__(self, storage: LogStorage, max_applying_bytes: int = NO_LIMIT) -> None:
        self._storage = storage
        first_index = storage.first_index()
        self.unstable: Unstable = Unstable(storage.last_index() + 1)
        # Compacted entries were applied, and applied entries were committed.
        self.commit_index: int = first_index - 1
        self.applying: int = first_index - 1
        self.applied: int = first_index - 1
        self.max_applying_bytes: int = max_applying_bytes
        self._applying_bytes = 0
        """Encoded size of the entries between `applied` and `applying`; only counted under a limit."""
        self._handed_out: deque[tuple[int, int]] = deque()
        """The batches of that size, oldest first: the last index of each, and its size."""
        self._applying_paused = False

    # -- its first and last index ---------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The first index whose entry is still here."""
        if self.unstable.snapshot is not None:
            return self.unstable.snapshot.meta.index + 1
        return self._storage.first_index()

    @property
    def last_index(self) -> int:
        return self.unstable.offset + len(self.unstable.entries) - 1

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self.term(self.last_index)

    def term(self, index: int) -> int:
        """The term of the entry at `index`, which may be one below the first. Raises Compacted or Unavailable."""
        unstable = self.unstable
        if index >= unstable.offset:
            position = index - unstable.offset
            if position >= len(unstable.entries):
                raise Unavailable
            return unstable.entries[position].term
        snapshot = unstable.snapshot
        if snapshot is not None and index <= snapshot.meta.index:  # that snapshot replaces them
            if index < snapshot.meta.index:
                raise Compacted
            return snapshot.meta.term
        return self._storage.term(index)

    def term_or_zero(self, index: int) -> int:
        """As `term`, or 0, which is no entry's term, if it is not known."""
        try:
            return self.term(index)
        except (Compacted, Unavailable):
            return 0

    def matches(self, index: int, term: int) -> bool:
        """Whether the entry at `index` is of `term`. If so, both logs agree up to it (Log Matching: thesis, 3.5)."""
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as up-to-date as this one (thesis, 3.6.1)."""
        own_term = self.last_term
        return last_term > own_term or (last_term == own_term and last_index >= self.last_index)

    # -- reading --------------------------------------------------------------------------------------------------

    def entries(self, low: int, max_bytes: int) -> Sequence[LogEntry]:
        """Entries from `low` on, at most `max_bytes` of them, but one if there are any. Raises Compacted."""
        unstable = self.unstable
        if low >= unstable.offset:  # the usual case: they were appended just now, or there are none
            return limit_size(unstable.entries[low - unstable.offset :], max_bytes) or ()
        return self.slice(low, self.last_index + 1, max_bytes)

    def entries_to_send(self, low: int, max_bytes: int) -> Sequence[LogEntry]:
        """As `entries`, for a follower: raises NotLoaded for entries that storage must read from disk first."""
        if low >= self.unstable.offset:
            return self.entries(low, max_bytes)
        return self.slice(low, self.last_index + 1, max_bytes, to_send=True)

    def slice(self, low: int, high: int, max_bytes: int, *, to_send: bool = False) -> Sequence[LogEntry]:
        """Entries `low` to `high` - 1, cut as in `entries`. Raises Compacted; NotLoaded only `to_send`."""
        if low < self.first_index:
            raise Compacted
        assert low <= high <= self.last_index + 1, "a slice beyond the end of the log"
        if low == high:
            return ()
        offset = self.unstable.offset
        if low >= offset:
            return limit_size(self.unstable.slice(low, high), max_bytes)
        cut = min(high, offset)
        read = self._storage.entries_to_send if to_send else self._storage.entries
        stable = read(low, cut, max_bytes)
        assert stable, "storage returned no entries although there are some"
        assert stable[0].index == low, "storage returned other entries than were asked for"
        if high <= offset or len(stable) < cut - low:
            return stable
        unstable = self.unstable.slice(offset, high)
        if max_bytes >= NO_LIMIT:
            return [*stable, *unstable]
        room = max_bytes - encoded_size(stable)
        if room <= 0:
            return stable
        rest = limit_size(unstable, room)
        if encoded_size(rest) > room:  # a single entry, which did not fit behind the others
            return stable
        return [*stable, *rest]

    def snapshot(self) -> Snapshot:
        """The newest snapshot. Raises SnapshotUnavailable."""
        return self.unstable.snapshot or self._storage.snapshot()

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The highest index up to `index` whose entry is of `term` or older, and that entry's term.

        No entry above it can be in a log that has an entry of `term` at `index` (or above): terms never decrease
        along a log. If the term at an index is not known here (compacted, or beyond the end), the answer is that
        index with term 0: the logs may agree there. By it, a leader and a follower find the last index at which their
        logs agree. They need one message per term at most (thesis, 3.5, end).
        """
        lowest = self.first_index - 1
        if index < lowest or index > self.last_index:
            return index, 0
        # Terms are in order, so the place can be found by halving.
        found = bisect_right(range(lowest, index + 1), term, key=self.term)
        if found:
            return lowest + found - 1, self.term(lowest + found - 1)
        return max(lowest - 1, 0), 0

    def has_unapplied_change(self) -> bool:
        """Whether a change of the membership is committed but not applied."""
        low, high = self.applied + 1, self.commit_index + 1
        while low < high:
            page = self.slice(low, high, SCAN_BYTES)
            if any(entry.type is not EntryType.NORMAL for entry in page):
                return True
            low += len(page)
        return False

    # -- writing --------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[LogEntry]) -> None:
        """Append `entries`, replacing entries at their indexes and behind. Committed entries are never replaced."""
        assert entries[0].index > self.commit_index, "a committed entry would be replaced"
        self.unstable.truncate_and_append(entries)

    def maybe_append(self, prev_index: int, prev_term: int, commit: int, entries: Sequence[LogEntry]) -> int | None:
        """Append a leader's entries that follow (prev_index, prev_term) (AppendEntries: thesis, figure 3.1).

        Returns the index up to which the logs agree now, or None if they don't agree at `prev_index`.
        """
        if not self.matches(prev_index, prev_term):
            return None
        new = self._without_known(prev_index, entries)
        if new:
            self.append(new)
        agreed = prev_index + len(entries)
        self.commit_to(min(commit, agreed))
        return agreed

    def _without_known(self, prev_index: int, entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
        """`entries` from the first one on that is not in the log.

        Known entries must not be appended again: the message may be old, and entries behind them here may have been
        acknowledged since. To truncate those would break that promise.
        """
        overlap = min(len(entries), self.last_index - prev_index)
        for position in range(overlap):
            entry = entries[position]
            if not self.matches(entry.index, entry.term):
                overlap = position
                break
        return entries[overlap:] if overlap else entries

    def maybe_commit(self, index: int, term: int) -> bool:
        """Commit up to `index` if its entry is of `term`, the leader's own (thesis, 3.6.2). False: nothing new."""
        if index <= self.commit_index or not self.matches(index, term):
            return False
        self.commit_to(index)
        return True

    def commit_to(self, index: int) -> None:
        """Raise the commit index to `index`. It never goes back."""
        if index > self.commit_index:
            assert index <= self.last_index, "the commit index is beyond the end of the log"
            self.commit_index = index

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole log by a newer snapshot."""
        assert snapshot.meta.index > self.commit_index, "a snapshot would take the log back"
        self.commit_index = snapshot.meta.index
        self.unstable.restore(snapshot)

    # -- applying -------------------------------------------------------------------------------------------------

    def has_next_committed(self, *, allow_unstable: bool) -> bool:
        """Whether there are committed entries to be applied."""
        return self.applying < self.commit_index and self.applying < self._appliable(allow_unstable)

    def next_committed(self, *, allow_unstable: bool) -> Sequence[LogEntry]:
        """The next committed entries to apply, within the limit on entries that are being applied."""
        if self.applying >= self.commit_index:
            return ()
        last = self._appliable(allow_unstable)
        if self.applying >= last:
            return ()
        limited = self.max_applying_bytes < NO_LIMIT
        room = self.max_applying_bytes - self._applying_bytes if limited else NO_LIMIT
        return self.slice(self.applying + 1, last + 1, room)

    def accept_applying(self, entries: Sequence[LogEntry], *, allow_unstable: bool) -> None:
        """Record that `entries`, from `next_committed`, were handed out. They count until all of them are applied."""
        last = entries[-1].index
        assert last <= self.commit_index, "an entry that is not committed was handed out to be applied"
        self.applying = last
        if self.max_applying_bytes < NO_LIMIT:
            size = encoded_size(entries)
            self._handed_out.append((last, size))
            self._applying_bytes += size
            # If the limit cut the entries short, the next one would not fit either.
            self._applying_paused = self._applying_bytes >= self.max_applying_bytes or last < self._appliable(
                allow_unstable
            )

    def applied_to(self, index: int) -> None:
        """Raise the applied index to `index`, after entries or a snapshot."""
        assert self.applied <= index <= self.commit_index, "the applied index left its range"
        self.applied = index
        self.applying = max(self.applying, index)
        if self.max_applying_bytes < NO_LIMIT and self._handed_out and self._handed_out[0][0] <= index:
            while self._handed_out and self._handed_out[0][0] <= index:
                self._applying_bytes -= self._handed_out.popleft()[1]
            self._applying_paused = self._applying_bytes >= self.max_applying_bytes

    def _appliable(self, allow_unstable: bool) -> int:
        """The index up to which entries may be handed out now; no further while the limit is reached, or a snapshot
        waits.

        A quorum can commit an entry before it is stable here. In the synchronous form that does no harm: the entry is
        written before it is applied. In the asynchronous form, applying it early could leave the state machine ahead
        of the node's own log after a crash.
        """
        if self._applying_paused or self.unstable.snapshot is not None:
            return self.applying
        return self.commit_index if allow_unstable else min(self.commit_index, self.unstable.offset - 1)

    def __str__(self) -> str:
        return (
            f"committed={self.commit_index}, applied={self.applied}, applying={self.applying}, "
            f"unstable.offset={self.unstable.offset}, "
            f"unstable.offsetInProgress={self.unstable.offset_in_progress}, "
            f"len(unstable.Entries)={len(self.unstable.entries)}"
        )
