"""Two small tables over a log: the place of its entries on disk, and the term of each index.

Their size depends on bytes written and on changes of leader, not on the number of entries.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from typing import Final

__all__ = ["Locations", "TermRuns"]

LOCATION_SPACING_BYTES: Final = 64 << 10
"""How far a reader may have to skip from a known location to the entry it wants: well under a millisecond. A table of
24 bytes per location is then less than a thousandth of the log."""


class Locations:
    """Which frame holds an entry: a sparse, sorted table of (first index, segment, offset of the frame).

    The entries from one location's index up to the next one's are found by reading frames from its offset on; there
    are no overwritten entries in between, because a frame that overwrites always gets a location of its own.
    Written by the thread that writes the log, read by any: each call is atomic.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts = array("Q")
        self._sequences = array("Q")
        self._offsets = array("Q")

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, first_index: int, sequence: int, offset: int, *, overwrites: bool = False) -> None:
        """Entries from `first_index` on are now in the frame at `offset`.

        `overwrites` says that some had a place before: that place is void.
        """
        if not overwrites and self._starts:  # only this thread changes them, so it may look without the lock
            assert first_index > self._starts[-1], (first_index, self._starts[-1])
            if self._sequences[-1] == sequence and offset - self._offsets[-1] < LOCATION_SPACING_BYTES:
                return
        with self._lock:
            if overwrites:
                self._cut(bisect_left(self._starts, first_index))
            self._starts.append(first_index)
            self._sequences.append(sequence)
            self._offsets.append(offset)

    def find(self, index: int) -> tuple[int, int, int | None] | None:
        """(segment, offset, index at which the next location takes over); None if `index` is before the first."""
        with self._lock:
            at = bisect_right(self._starts, index) - 1
            if at < 0:
                return None
            until = self._starts[at + 1] if at + 1 < len(self._starts) else None
            return self._sequences[at], self._offsets[at], until

    def first_start_after(self, sequence: int) -> int | None:
        """The index of the first entry that is in a segment later than `sequence`; None if there is none."""
        with self._lock:
            at = bisect_right(self._sequences, sequence)
            return self._starts[at] if at < len(self._starts) else None

    def drop_through(self, sequence: int) -> None:
        """The segments up to `sequence` are gone."""
        with self._lock:
            gone = bisect_right(self._sequences, sequence)
            for column in (self._starts, self._sequences, self._offsets):
                del column[:gone]

    def clear(self) -> None:
        with self._lock:
            self._cut(0)

    def _cut(self, keep: int) -> None:
        for column in (self._starts, self._sequences, self._offsets):
            del column[keep:]


class TermRuns:
    """The term of every index from a base on, as runs of equal terms."""

    def __init__(self, base_index: int = 0, base_term: int = 0) -> None:
        self._starts = array("Q", (base_index,))
        self._terms = array("Q", (base_term,))

    def reset(self, base_index: int, base_term: int) -> None:
        """Drop all runs; `base_index`, which has `base_term`, is the first index known."""
        self._starts = array("Q", (base_index,))
        self._terms = array("Q", (base_term,))

    def append(self, first_index: int, term: int) -> None:
        """All indexes from `first_index` on have `term`, whatever they had before."""
        assert first_index > self._starts[0], (first_index, self._starts[0])
        keep = bisect_left(self._starts, first_index)
        del self._starts[keep:]
        del self._terms[keep:]
        assert term >= self._terms[-1], f"term {term} after term {self._terms[-1]} at index {first_index}"
        if term != self._terms[-1]:
            self._starts.append(first_index)
            self._terms.append(term)

    def term(self, index: int) -> int:
        """The term at an index that is not before the base."""
        at = bisect_right(self._starts, index) - 1
        assert at >= 0, (index, self._starts[0])
        return self._terms[at]

    def drop_before(self, index: int) -> None:
        """`index` is the new base."""
        at = bisect_right(self._starts, index) - 1
        assert at >= 0, (index, self._starts[0])
        del self._starts[:at]
        del self._terms[:at]
        self._starts[0] = index

    def copy(self) -> TermRuns:
        twin = TermRuns()
        twin._starts = self._starts[:]
        twin._terms = self._terms[:]
        return twin
