"""The reserve: a part of the disk that ordinary writes never use.

Without it a full disk stops the node, and a stopped node can't compact its log to make room. With it new proposals are
refused while there is still room for what keeps the node going: elections, replication under way, snapshots.
"""

from __future__ import annotations

import errno
from typing import Final

from syncline.errors import DiskFull
from syncline.platform.disk import Disk

__all__ = ["RESERVE_BYTES", "SpaceGuard"]

RESERVE_BYTES: Final = 256 << 20
"""The default reserve: a few log segments and a snapshot of moderate size."""

RECHECK_BYTES: Final = 4 << 20
"""How much may be promised before the disk is asked again: others write to it too."""


class SpaceGuard:
    """Says whether a write may go on. For one thread.

    The disk is asked once per `RECHECK_BYTES` while there is room, and at every call while there is not, so that the
    refusal ends by itself as soon as space returns.
    """

    def __init__(self, disk: Disk, path: str, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        assert reserve_bytes >= 0
        self._disk = disk
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._promised = 0

    def check(self, size_bytes: int) -> None:
        """Raise `DiskFull` where writing `size_bytes` more would touch the reserve."""
        if size_bytes <= self._promised:
            self._promised -= size_bytes
            return
        self._promised = 0
        free = self.free_bytes()
        room = free - self._reserve_bytes
        if size_bytes > room:
            raise DiskFull(
                f"{self._path}: the disk has {free} bytes left and {self._reserve_bytes} are kept in reserve: "
                "writes are refused until space is made there. Reads go on, and nothing was lost."
            )
        self._promised = min(RECHECK_BYTES, room - size_bytes)

    def has_room(self, size_bytes: int) -> bool:
        """Whether `size_bytes` more would leave the reserve untouched, as the disk is now."""
        return self.free_bytes() - size_bytes >= self._reserve_bytes

    def free_bytes(self) -> int:
        return self._disk.free_bytes(self._path)


def is_disk_full(error: OSError) -> bool:
    """Whether the system refused for want of space or of quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
