"""The log's writer: durable appends, in groups, on a thread of their own.

All appends that gather while one write and its sync run make up the next one: the group commit. What an append
promises (its responses) is delivered only after it is durable.

A commit index that moves is not worth a sync of its own: no promise waits for it (see `consensus.rawnode`), and it
travels with the next append, in the same frame or an earlier one, which is what elections rest on. Where none comes it
is written by itself after `COMMIT_SETTLE_S`, so that a node that is killed when all is quiet knows what it had applied.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.consensus.types import HardState, Message, MessageType
from syncline.platform.worker import Workers
from syncline.storage.log import StoredLog
from syncline.storage.wal import Wal, WalWrite, WriteResult

__all__ = ["LogWriter"]


COMMIT_SETTLE_S: Final = 0.02
"""For so long a commit index waits for an append to travel with. Longer than a node in use is ever without one, so
that no client waits behind a sync that nobody needs; too short for a person to notice what a crash takes back."""


class _Append(msgspec.Struct, frozen=True):
    write: WalWrite
    responses: list[Message]
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
        self._now_s = workers.now_s
        self._waiting: deque[_Append] = deque()
        self._hard_state = log.hard_state
        """As the core has it; `_unsettled` where no append has taken it along yet."""
        self._unsettled = False
        self._timer: asyncio.TimerHandle | None = None
        self.syncs = 0
        self.sync_s = 0.0
        self.last_sync_s = 0.0
        self.observe: Callable[[float], None] | None = None
        """Told how long each group took, from its first append's queueing."""
        self._worker = workers.start("syncline-log", self._process, self._delivered, failed)

    def append(self, message: Message) -> None:
        """Store what a `STORAGE_APPEND` message carries. What promises nothing new is answered at once, or in turn."""
        before = self._hard_state
        if message.term:
            self._hard_state = HardState(message.term, message.vote, message.commit)
            self._unsettled = True
        moved = (self._hard_state.term, self._hard_state.vote) != (before.term, before.vote)
        if message.entries or message.snapshot is not None or moved:
            self._put(message)
            return
        if self._unsettled and self._timer is None:
            self._timer = self._loop.call_later(COMMIT_SETTLE_S, self._on_timer)
        if self._waiting:  # what was promised before is still on its way to the disk
            self._waiting[-1].responses.extend(message.responses)
        else:
            self._durable(list(message.responses))

    def _put(self, message: Message) -> None:
        write = WalWrite(
            entries=message.entries,
            hard_state=self._hard_state if self._unsettled else None,
            snapshot=message.snapshot.meta if message.snapshot is not None else None,
        )
        self._unsettled = False
        append = _Append(write, list(message.responses), self._now_s())
        self._waiting.append(append)
        self._worker.put(append)

    def _on_timer(self) -> None:
        self._timer = None
        self._settle()

    def _settle(self) -> None:
        """Write a commit index that no append has taken along."""
        if self._unsettled:
            self._put(Message(MessageType.STORAGE_APPEND))

    def compact(self, index: int) -> None:
        """Give up entries up to `index`: at once in memory, then on disk."""
        self._settle()  # the log must not give up what it does not know to be committed
        self._log.compacted(index)
        self._worker.put(_Compact(index))

    def oldest_s(self) -> float:
        """For how long the oldest append has been waiting to become durable; 0 where none is."""
        return self._now_s() - self._waiting[0].queued_s if self._waiting else 0.0

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._settle()
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
        elapsed = self._now_s() - written.appends[0].queued_s
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
