"""What a node's log holds for sure: the effect of every write whose sync has returned, and of the one under way.

A second account of the log, kept beside the files and independent of how they are written and read back: what a node
promises, and what it finds when it starts again, is compared with this.
"""

from __future__ import annotations

from collections.abc import Sequence

from syncline.consensus.types import HardState
from syncline.storage.wal.writer import WalWrite

__all__ = ["DurableLog"]


class DurableLog:
    """The terms of the entries by index, and the hard state. Entries up to `base` are in a snapshot."""

    __slots__ = ("base", "hard_state", "last", "terms", "writing")

    def __init__(self) -> None:
        self.hard_state: HardState = HardState()
        self.base: int = 0
        self.last: int = 0
        self.terms: dict[int, int] = {}
        self.writing: Sequence[WalWrite] = ()
        """Begun and not known to be durable: after a crash all of it may be there, or nothing."""

    def wrote(self) -> None:
        """The write under way is durable."""
        for write in self.writing:
            self._take(write)
        self.writing = ()

    def _take(self, write: WalWrite) -> None:
        if write.snapshot is not None:
            self.restart(write.snapshot.index)
        if write.entries:
            self.truncate(write.entries[0].index)
            for entry in write.entries:
                self.terms[entry.index] = entry.term
            self.last = write.entries[-1].index
        if write.hard_state is not None:
            self.hard_state = write.hard_state

    def restart(self, index: int) -> None:
        """A snapshot at `index` takes the place of everything."""
        self.base = index
        self.last = index
        self.terms.clear()

    def truncate(self, index: int) -> None:
        """Entries from `index` on are gone."""
        for gone in range(index, self.last + 1):
            self.terms.pop(gone, None)
        self.last = min(self.last, index - 1)

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry is on the disk, in the log or in the snapshot that the log begins after."""
        return index <= self.base or self.terms.get(index) == term

    def copy(self) -> DurableLog:
        twin = DurableLog()
        twin.hard_state, twin.base, twin.last = self.hard_state, self.base, self.last
        twin.terms = self.terms.copy()
        return twin

    def after_crash(self) -> list[DurableLog]:
        """What a crash at this moment may leave: without, and with, the write under way."""
        if not self.writing:
            return [self]
        later = self.copy()
        later.writing = self.writing
        later.wrote()
        return [self, later]
