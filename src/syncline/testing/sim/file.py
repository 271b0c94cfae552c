"""A file's content on a simulated disk: its visible content, its durable content, and the effect of a crash."""

from __future__ import annotations

import random
from enum import Enum
from typing import Final

__all__ = ["Chance", "Inode", "SECTOR_BYTES", "Survival"]

SECTOR_BYTES: Final = 512
ZEROS: Final = bytes(SECTOR_BYTES)

TEAR_CHANCE: Final = 0.4
"""How often a sector that has several versions is torn between two of them, if tearing is on."""


class Survival(Enum):
    """The unsynced data that a crash leaves."""

    NOTHING = "only what was synced"
    EVERYTHING = "all of it: the process died and the machine went on"
    SECTORS = "any subset of sectors and names"
    TORN = "any subset of sectors and names, sectors torn at any byte"
    MOST = "nearly all of it: a few sectors or names are missing"
    FEW = "hardly any of it: a few sectors or names are there"
    EARLIEST = "what was done first, up to some moment, and nothing of what was done later"


ODDS: Final = {Survival.NOTHING: 0.0, Survival.EVERYTHING: 1.0, Survival.MOST: 0.9, Survival.FEW: 0.1}
"""How likely the newest version of each thing survives; the others are even."""

Version = tuple[int, bytes]
"""When a sector was written (the disk's count of operations), and what it held then."""


class Chance:
    """The choices of one crash. `serial` is the disk's count of operations at that moment."""

    def __init__(self, rng: random.Random, survival: Survival, serial: int) -> None:
        self._rng = rng
        self._odds = ODDS.get(survival, 0.5)
        self._tears = survival is Survival.TORN
        self._until = rng.randint(0, serial) if survival is Survival.EARLIEST else None

    def survives(self, serial: int) -> bool:
        if self._until is not None:
            return serial <= self._until
        return self._rng.random() < self._odds

    def version(self, serials: list[int]) -> int:
        """Which of several versions survives, by the time at which each was made; the first is the durable one."""
        if self._until is not None:
            return max(number for number, serial in enumerate(serials) if number == 0 or serial <= self._until)
        if len(serials) == 1 or self._rng.random() < self._odds:
            return len(serials) - 1
        return self._rng.randrange(len(serials) - 1) if self._odds else 0

    def sector(self, durable: bytes, versions: list[Version]) -> bytes:
        pieces = [durable, *(piece for _, piece in versions)]
        chosen = self.version([0, *(serial for serial, _ in versions)])
        if self._tears and chosen and self._rng.random() < TEAR_CHANCE:
            cut = self._rng.randrange(1, SECTOR_BYTES)
            return pieces[chosen][:cut] + pieces[self._rng.randrange(chosen)][cut:]
        return pieces[chosen]


class Inode:
    """A file's content, or a directory's place. Sectors that were never written are absent and read as zeros."""

    __slots__ = ("_dirty", "_durable", "_durable_size", "_reserved", "_seen", "_sizes", "is_dir", "path", "size")

    def __init__(self, *, is_dir: bool = False) -> None:
        self.is_dir: bool = is_dir
        self.path: str = ""
        """Its name now: it follows renames, as an open file of a real disk does."""
        self.size: int = 0
        self._seen: dict[int, bytes] = {}
        self._durable: dict[int, bytes] = {}
        self._dirty: dict[int, list[Version]] = {}
        self._durable_size = 0
        self._sizes: list[tuple[int, int]] = []
        self._reserved = 0

    def read(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.size)
        if end <= offset:
            return b""
        first, last = offset // SECTOR_BYTES, (end - 1) // SECTOR_BYTES
        seen = self._seen
        start = offset - first * SECTOR_BYTES
        if first == last:
            return seen.get(first, ZEROS)[start : start + end - offset]
        data = b"".join([seen.get(number, ZEROS) for number in range(first, last + 1)])
        return data[start : start + end - offset]

    def write(self, offset: int, data: bytes, serial: int) -> None:
        end = offset + len(data)
        position = offset
        while position < end:
            number, start = divmod(position, SECTOR_BYTES)
            piece = data[position - offset : position - offset + SECTOR_BYTES - start]
            position += len(piece)
            if len(piece) < SECTOR_BYTES:
                old = self._seen.get(number, ZEROS)
                piece = old[:start] + piece + old[start + len(piece) :]
            self._put(number, piece, serial)
        if end > self.size:
            self._set_size(end, serial)

    def reserve(self, size: int, serial: int) -> None:
        """Extend the file with zeros, and take the disk's space for all of it."""
        self._set_size(size, serial)
        self._reserved = size

    def resize(self, size: int, serial: int) -> None:
        keep = -(-size // SECTOR_BYTES)
        for number in [number for number in self._seen if number >= keep]:
            self._put(number, ZEROS, serial)
            del self._seen[number]
        rest = size % SECTOR_BYTES
        if rest and keep - 1 in self._seen:
            self._put(keep - 1, self._seen[keep - 1][:rest].ljust(SECTOR_BYTES, b"\0"), serial)
        self._set_size(size, serial)
        self._reserved = min(self._reserved, size)

    def sync(self) -> None:
        for number, versions in self._dirty.items():
            self._durable[number] = versions[-1][1]
        self._durable_size = self.size
        self._clean()

    def fail_sync(self, rng: random.Random) -> None:
        """Some of it reached the platter. The rest is lost, but is still seen, and no later sync writes it."""
        for number, versions in self._dirty.items():
            if rng.random() < 0.5:
                self._durable[number] = versions[-1][1]
        if rng.random() < 0.5:
            self._durable_size = self.size
        self._clean()

    def is_durable(self) -> bool:
        """Whether the platter has what is seen."""
        numbers = self._seen.keys() | self._durable.keys()
        same = all(self._seen.get(number, ZEROS) == self._durable.get(number, ZEROS) for number in numbers)
        return same and not self._dirty and self.size == self._durable_size

    def growth(self, offset: int, size: int) -> int:
        """How many more bytes of the disk a write takes."""
        last = (offset + size - 1) // SECTOR_BYTES
        new = sum(number not in self._seen for number in range(offset // SECTOR_BYTES, last + 1))
        return max(0, (len(self._seen) + new) * SECTOR_BYTES - self.taken_bytes())

    def fingerprint(self) -> int:
        """Fingerprint of the visible content: the length, and all sectors that are not zeros."""
        written = frozenset((number, piece) for number, piece in self._seen.items() if piece != ZEROS)
        return hash((self.is_dir, self.size, written))

    def taken_bytes(self) -> int:
        return max(self._reserved, len(self._seen) * SECTOR_BYTES)

    def flip(self, offset: int, bit: int) -> None:
        assert 0 <= offset < self.size, (offset, self.size)
        number, at = divmod(offset, SECTOR_BYTES)
        for content in (self._seen, self._durable):
            piece = bytearray(content.get(number, ZEROS))
            piece[at] ^= 1 << bit
            content[number] = bytes(piece)

    def clear(self) -> None:
        self._seen.clear()
        self._durable.clear()
        self._clean()
        self.size = self._durable_size = self._reserved = 0

    def after_crash(self, chance: Chance) -> Inode:
        """The content on the platter after a crash, as a file of its own."""
        twin = Inode(is_dir=self.is_dir)
        size = self._durable_size
        if self._sizes:
            sizes = [size, *(size for _, size in self._sizes)]
            size = sizes[chance.version([0, *(serial for serial, _ in self._sizes)])]
        twin.size = twin._durable_size = size
        content = twin._durable = self._durable.copy()
        for number, versions in self._dirty.items():
            content[number] = chance.sector(self._durable.get(number, ZEROS), versions)
        keep = -(-twin.size // SECTOR_BYTES)
        if content and max(content) >= keep:
            for number in [number for number in content if number >= keep]:
                del content[number]
        rest = twin.size % SECTOR_BYTES
        if rest and keep - 1 in content:
            content[keep - 1] = content[keep - 1][:rest].ljust(SECTOR_BYTES, b"\0")
        twin._seen = content.copy()
        twin._reserved = min(self._reserved, twin.size)
        return twin

    def _put(self, number: int, piece: bytes, serial: int) -> None:
        self._seen[number] = piece
        self._dirty.setdefault(number, []).append((serial, piece))

    def _set_size(self, size: int, serial: int) -> None:
        if size != self.size:
            self.size = size
            self._sizes.append((serial, size))

    def _clean(self) -> None:
        self._dirty.clear()
        self._sizes.clear()
