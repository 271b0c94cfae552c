"""The end of the log that is not yet known to be in stable storage.

      stable storage     |  in progress: handed out      |  next: to be handed out
                         |  to be written                |  with the coming Ready
    ---------------------+-------------------------------+------------------------
                          ^ offset                        ^ offset_in_progress

Entries leave when storage has confirmed them. A snapshot that a leader sent waits here as well, before the entries,
until it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from syncline.consensus.types import LogEntry, Snapshot

__all__ = ["Unstable"]


class Unstable:
    """Entries from `offset` on, and a snapshot that ends just below them."""

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
