"""Entries read from disk beside the event loop, for followers that lag behind the entries in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.consensus.types import LogEntry

__all__ = ["ReadAhead"]

CHUNKS: Final = 8
"""Kept, and read, at a time. A leader has few followers that lag; more than this take turns."""


class ReadAhead:
    """Chunks of the log by their first index.

    `ask(low, high, generation)` begins to read from `low` on; `loaded` takes the result. A new generation begins when
    entries are replaced: chunks that were read before are useless then.
    """

    def __init__(self, ask: Callable[[int, int, int], None]) -> None:
        self._ask = ask
        self._generation = 0
        self._chunks: dict[int, list[LogEntry]] = {}
        self._asked: dict[int, None] = {}

    def take(self, low: int, high: int) -> list[LogEntry] | None:
        """Return entries from `low` on, below `high`, as far as a chunk goes; None if they are being read.

        A chunk that is read to its end is dropped with `done`.
        """
        for first, chunk in self._chunks.items():
            if first <= low < first + len(chunk):
                return chunk[low - first : high - first]
        if low not in self._asked and len(self._asked) < CHUNKS:
            self._asked[low] = None
            self._ask(low, high, self._generation)
        return None

    def done(self, last: int) -> None:
        """Drop the chunk that ends at `last`: its entries were given out."""
        for first, chunk in self._chunks.items():
            if first + len(chunk) - 1 == last:
                del self._chunks[first]
                return

    def loaded(self, low: int, generation: int, entries: list[LogEntry]) -> bool:
        """Store a chunk that was read. False: it is out of date."""
        if generation != self._generation:
            return False
        self._asked.pop(low, None)
        if entries:
            self._chunks[low] = entries
            while len(self._chunks) > CHUNKS:
                del self._chunks[next(iter(self._chunks))]
        return True

    def clear(self) -> None:
        """Drop all chunks: entries were replaced."""
        self._generation += 1
        self._chunks.clear()
        self._asked.clear()
