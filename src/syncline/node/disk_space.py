"""Check beside the event loop how short of space the log's disk is: a busy file system may take its time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from syncline.node.calls import Calls
from syncline.storage.space import Shortage
from syncline.storage.wal.writer import Wal

__all__ = ["DiskWatch"]

log: logging.Logger = logging.getLogger("syncline.node")

PLENTY_BYTES = 1 << 30
"""With so much above the reserve the disk is not full within `PLENTY_TICKS`."""

PLENTY_TICKS = 10
"""Ticks from one check to the next if there is plenty of space; else each tick has one."""


class DiskWatch:
    """Calls `make_room` at each check while space is short, and `told` with a text when the last step is reached."""

    def __init__(
        self,
        wal: Wal,
        calls: Calls,
        *,
        make_room: Callable[[], None],
        told: Callable[[str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.shortage: Shortage = Shortage.NONE
        self.free_bytes: int | None = None
        """At the last check; None before the first one. With plenty of space that is a while ago."""
        self._wal = wal
        self._calls = calls
        self._make_room = make_room
        self._told = told
        self._failed = failed
        self._looking = False
        self._wait_ticks = 0

    def tick(self) -> None:
        """Begin the next check if it is time. One at a time: checks must not gather at a disk that hangs."""
        self._wait_ticks -= 1
        if self._wait_ticks > 0 or self._looking:
            return
        self._looking = True
        self._calls.call(self._wal.free_bytes, self._seen, self._failed)

    def _seen(self, free_bytes: int) -> None:
        """While the disk is short of space make some; at the last step take no entries of a leader."""
        self._looking, self.free_bytes = False, free_bytes
        before, self.shortage = self.shortage, self._wal.shortage(free_bytes)
        self._wait_ticks = PLENTY_TICKS if self._wal.has_plenty(free_bytes, PLENTY_BYTES) else 0
        if self.shortage is not Shortage.NONE:
            self._make_room()
        if self.shortage is before or Shortage.LAST_HALF not in (before, self.shortage):
            return
        if self.shortage is Shortage.LAST_HALF:
            self._told("no entries of a leader are taken until space returns")
            log.warning("the disk is full but for the last of the reserve: no entries are taken until space returns")
        else:
            log.info("the disk has room again: entries are taken")
