"""The log's writer: durable appends, in groups, on a thread of their own.

All appends that gather while one write and its sync run make up the next one: the group commit. What an append
promises (its responses) is delivered only after it is durable.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from syncline.consensus.types import HardState, Message
from syncline.platform.worker import Workers
from syncline.storage.log import StoredLog
from syncline.storage.wal import Wal, WalWrite, WriteResult

__all__ = ["LogWriter"]


class _Append(msgspec.Struct, frozen=True):
    write: WalWrite
    responses: Sequence[Message]
    queued_s: float


class _Compact(msgspec.Struct, frozen=True):
    index: int


class _Written(msgspec.Struct, frozen=True):
    appends: list[_Append]
    result: WriteResult | None


class LogWriter:
    """Writes what the core asks to be stored. `durable` gets the responses of each group, on the loop."""

    def __init__(
        self,
        wal: Wal,
        log: StoredLog,
        workers: Workers,
        durable: Callable[[list[Message]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._wal = wal
        self._log = log
        self._durable = durable
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[float] = deque()
        self.syncs = 0
        self.sync_s = 0.0
        self.last_sync_s = 0.0
        self.observe: Callable[[float], None] | None = None
        """Told how long each group took, from its first append's queueing."""
        self._worker = workers.start("syncline-log", self._process, self._delivered, failed)

    def append(self, message: Message) -> None:
        """Store what a `STORAGE_APPEND` message carries."""
        hard_state = HardState(message.term, message.vote, message.commit) if message.term else None
        write = WalWrite(
            entries=message.entries,
            hard_state=hard_state,
            snapshot=message.snapshot.meta if message.snapshot is not None else None,
        )
        now = self._loop.time()
        self._waiting.append(now)
        self._worker.put(_Append(write, message.responses, now))

    def compact(self, index: int) -> None:
        """Give up entries up to `index`: at once in memory, then on disk."""
        self._log.compacted(index)
        self._worker.put(_Compact(index))

    def oldest_s(self, now_s: float) -> float:
        """For how long the oldest append has been waiting to become durable; 0 where none is."""
        return now_s - self._waiting[0] if self._waiting else 0.0

    async def close(self) -> None:
        await self._worker.close()

    def _process(self, items: list[_Append | _Compact]) -> _Written:
        appends = [item for item in items if isinstance(item, _Append)]
        result = self._wal.write([append.write for append in appends]) if appends else None
        for item in items:
            if isinstance(item, _Compact):
                self._wal.compact(item.index)
        return _Written(appends, result)

    def _delivered(self, written: _Written) -> None:
        try:
            self._account(written)
        except Exception as error:  # noqa: BLE001 - the log in memory and the one on disk may differ: stop
            self._failed(error)

    def _account(self, written: _Written) -> None:
        if written.result is None:
            return
        elapsed = self._loop.time() - written.appends[0].queued_s
        self.syncs += 1
        self.sync_s += elapsed
        self.last_sync_s = elapsed
        if self.observe is not None:
            self.observe(elapsed)
        responses: list[Message] = []
        for append in written.appends:
            self._waiting.popleft()
            self._log.appended(append.write, written.result)
            responses.extend(append.responses)
        self._durable(responses)
