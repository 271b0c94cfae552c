"""Read entries for followers that lag behind the entries in memory, on a thread: the event loop waits for no disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from syncline.consensus.types import Compacted, LogEntry, Unavailable
from syncline.node.calls import Calls
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.reader import EntryReader

__all__ = ["LogFeed"]

READ_BYTES: Final = 512 << 10
"""Read at a time: some milliseconds from the system's cache, and several appends of a slow line."""


class LogFeed:
    """Reads missing entries for `log`, then calls `loaded`."""

    def __init__(
        self,
        log: StoredLog,
        reader: EntryReader,
        calls: Calls,
        *,
        loaded: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._reader = reader
        self._calls = calls
        self._loaded = loaded
        self._failed = failed
        log.read_beside(self._ask)

    def _ask(self, low: int, high: int, generation: int) -> None:
        self._calls.call(
            partial(self._read, low, high),
            lambda entries: self._take(low, generation, entries),
            lambda error: self._fail(low, generation, error),
        )

    def _read(self, low: int, high: int) -> list[LogEntry]:
        """On the thread."""
        try:
            return self._reader.read(low, high, READ_BYTES)
        except (Compacted, Unavailable):
            return []  # compacted, or replaced, meanwhile: the log answers when the core asks again

    def _take(self, low: int, generation: int, entries: list[LogEntry]) -> None:
        self._log.loaded(low, generation, entries)
        self._loaded()

    def _fail(self, low: int, generation: int, error: BaseException) -> None:
        """Stop the node for a read error. Entries that were replaced during the read may look corrupt; those are
        ignored.
        """
        if self._log.loaded(low, generation, []):
            self._failed(error)
        else:
            self._loaded()
