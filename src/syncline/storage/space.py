"""The reserve: a part of the disk that ordinary writes never use.

Without it a full disk stops the node, and a stopped node can't compact its log to make room. With it a full disk
degrades the node in steps. Each step ends by itself as soon as space returns:

1. Little more than the reserve is free: the node compacts its log as far as it can.
2. Less than that: new proposals are refused, but for those that free space: they may use the first quarter of the
   reserve. Replication under way and elections still have room, and so have snapshots, which let the log be
   compacted and give back deleted data.
3. Less than half of it: entries of the leader are not taken any more, and no snapshot is written. The rest is enough
   for the few bytes of an election.
4. No space at all, because other programs filled the disk: the log continues in a file kept for this (`SpareFile`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Protocol

from syncline.errors import DiskFull
from syncline.platform.disk import DISK_FULL, Disk

__all__ = ["RESERVE_BYTES", "CheckSpace", "Shortage", "SpaceGuard", "SpareFile", "is_disk_full"]

RESERVE_BYTES: Final = 64 << 20
"""The default reserve: one full segment of the log, or a snapshot of moderate size."""

RECHECK_BYTES: Final = 4 << 20
"""Bytes that may be granted before the disk is asked again: other programs write to it too."""

SPARE_LIMIT_BYTES: Final = 4 << 20
"""Space taken from the disk in advance, at most: a few of the log's small segments."""

FREEING_SHARE: Final = 4
"""Which part of the reserve commands may use that free space. A quarter is left for the snapshot that gives it back."""

SHARE: Final = 8
"""The part of a small reserve that is taken in advance, and that may be granted without asking the disk."""


class Shortage(IntEnum):
    """The steps in which a disk fills up, as above."""

    NONE = 0
    RESERVE = 1
    LAST_HALF = 2


class CheckSpace(Protocol):
    """Raises `DiskFull` if a write of so many bytes may not go on."""

    def __call__(self, size_bytes: int, *, frees_space: bool = False) -> None: ...


class SpaceGuard:
    """Decides whether a write may go on. `check` and `shortage` are for one thread, the rest for any.

    While there is room the disk is asked once per some bytes. Otherwise it is asked at every call, so that the refusal
    ends by itself as soon as space returns.
    """

    def __init__(self, disk: Disk, path: str, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        assert reserve_bytes >= 0
        self._disk = disk
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._step_bytes = min(RECHECK_BYTES, reserve_bytes // SHARE)
        self._promised = 0

    def keep(self, reserve_bytes: int) -> None:
        """Have another reserve from now on."""
        assert reserve_bytes >= 0
        self._reserve_bytes = reserve_bytes
        self._step_bytes = min(RECHECK_BYTES, reserve_bytes // SHARE)
        self._promised = 0

    def check(self, size_bytes: int, *, frees_space: bool = False) -> None:
        """Raise `DiskFull` if writing `size_bytes` more would touch the reserve.

        `frees_space`: what is written lets the state shrink, and may use the first quarter of the reserve.
        """
        if size_bytes <= self._promised:
            self._promised -= size_bytes
            return
        self._promised = 0
        free = self.free_bytes()
        room = free - self._reserve_bytes
        if size_bytes > room:
            more = self._reserve_bytes // FREEING_SHARE
            if frees_space and size_bytes <= room + more:
                return
            raise DiskFull(self._refusal(free, size_bytes - room - (more if frees_space else 0), frees_space))
        self._promised = min(self._step_bytes, room - size_bytes)

    def _refusal(self, free: int, missing_bytes: int, frees_space: bool) -> str:
        kept = f"the disk has {free} bytes left and {self._reserve_bytes} are kept in reserve"
        if frees_space:
            refused = "even deletes are refused, because the snapshot that gives their space back has no room"
            helps = "Make"
        else:
            refused, helps = "writes are refused until space is made there", "Delete keys, make"
        return (
            f"{self._path}: {kept}: {refused}; {missing_bytes} bytes are missing. {helps} room on the disk, or start"
            " with a smaller reserve (--reserve-bytes). Reads go on, and nothing was lost."
        )

    def has_room(self, size_bytes: int) -> bool:
        """Whether `size_bytes` more would leave the reserve untouched, as the disk is now."""
        return self.free_bytes() - size_bytes >= self._reserve_bytes

    @property
    def reserve_bytes(self) -> int:
        return self._reserve_bytes

    def shortage(self, free_bytes: int | None = None) -> Shortage:
        """The step of the shortage with so many bytes free; None: ask the disk."""
        free = self.free_bytes() if free_bytes is None else free_bytes
        if free >= self._reserve_bytes + self._step_bytes:
            self._promised = self._step_bytes  # `check` need not ask for a while
            return Shortage.NONE
        self._promised = 0  # other programs took the space meanwhile
        return Shortage.RESERVE if free >= self._reserve_bytes // 2 else Shortage.LAST_HALF

    def has_half(self, size_bytes: int) -> bool:
        """Whether `size_bytes` more would leave half of the reserve, as the disk is now."""
        return self.free_bytes() - size_bytes >= self._reserve_bytes // 2

    def free_bytes(self) -> int:
        return self._disk.free_bytes(self._path)


class SpareFile:
    """Space taken from the disk in advance, so that no other program can fill it. For one thread.

    The file holds nothing. `give_back` frees its space for the log's next segment if the disk has no other; `keep`
    takes the space again once there is some.
    """

    def __init__(self, disk: Disk, path: str, guard: SpaceGuard, *, reserve_bytes: int) -> None:
        self._disk = disk
        self._path = path
        self._guard = guard
        self._size = min(reserve_bytes // SHARE, SPARE_LIMIT_BYTES)
        self._whole = False

    def keep(self) -> None:
        """Make the file if the disk has room for it beside the reserve. Raises `OSError`."""
        if self._whole or not self._size or not self._guard.has_room(self._size):
            return
        try:
            file = self._disk.open(self._path, create=not self._disk.exists(self._path), write=True)
            try:
                file.allocate(self._size)
                self._whole = True
            finally:
                file.close()
        except OSError as error:
            if not is_disk_full(error):  # another program took the space: the next call tries again
                raise

    def give_back(self) -> bool:
        """Return its space to the disk; whether there was any. Raises `OSError`."""
        self._whole = False
        if not self._disk.exists(self._path):
            return False
        self._disk.remove(self._path)
        return True


def is_disk_full(error: OSError) -> bool:
    """Whether the system refused because space or quota is exhausted."""
    return error.errno in DISK_FULL
