"""The log's writer: durable appends, in groups, without a wait of the event loop.

All appends that gather during one write and its sync form the next one: the group commit. The promises of an append
(its responses) are delivered only after it is durable.

A group is encoded and written here, on the loop, into the system's cache; a `platform.worker.Flusher` makes its sync,
which takes a disk's time, beside the loop. Slower work goes to a thread as a whole: a new segment, a large group, the
removal of old segments; and all groups if the system has no flusher. At any time at most one of these is under way.

A disk that hangs blocks a sync, not the loop: the next group is not written before that has returned.

A new commit index is mostly not worth a sync of its own. No promise about data waits for it (see
`consensus.rawnode`), and it travels with the next append, in the same frame or an earlier one; elections rely on
that. If no append comes, it is written by itself after `COMMIT_SETTLE_S`. So a node that is killed without load knows
its applied index. The exception is a change of the membership: its commit index is a promise, and is written when the
change is applied (`settle_now`; see `node.settlement`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.consensus.types import HardState, Message, MessageType
from syncline.platform.distribution import Distribution
from syncline.platform.worker import Workers
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.writer import NotBegun, Wal, WalWrite, WriteResult

__all__ = ["LogWriter"]

log: logging.Logger = logging.getLogger("syncline.node")

NOT_BEGUN_S: Final = 0.1
"""Pause before the next segment is tried again if the process had no file descriptor for it."""

COMMIT_SETTLE_S: Final = 0.02
"""How long a commit index waits for an append that carries it. Longer than the pauses between appends under load, so
that no client waits behind an unneeded sync; too short for a person to notice what a crash takes back."""


class _Append(msgspec.Struct, frozen=True):
    write: WalWrite
    responses: list[Message]
    queued_s: float


class _Work(msgspec.Struct, frozen=True):
    """The thread's work: writes, and then the removal of entries up to an index, if that is not 0."""

    writes: list[WalWrite]
    compact_to: int


class _NotBegun(msgspec.Struct, frozen=True):
    """Work of which nothing was done, and the reason."""

    work: _Work
    error: NotBegun


class LogWriter:
    """Writes the core's storage messages. `durable` gets the responses of each group, on the loop."""

    def __init__(
        self,
        wal: Wal,
        log: StoredLog,
        workers: Workers,
        durable: Callable[[list[Message]], None],
        failed: Callable[[BaseException], None],
        *,
        on_thread: bool = False,
    ) -> None:
        self._wal = wal
        self._log = log
        self._durable = durable
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self.now_s: Callable[[], float] = workers.now_s
        self._group: list[_Append] = []
        """The group that is being written."""
        self._gathering: list[_Append] = []
        """The next group."""
        self._compact_to = 0
        """Up to here entries are to be dropped; 0 if they are already."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._broken = False
        """Whether a write or sync has failed: no response is delivered any more."""
        self._short = False
        """Whether the log waits for a file descriptor."""
        self._hard_state = log.hard_state
        """The core's commit index; `_unsettled` if no append has carried it yet."""
        self._unsettled = False
        self._timer: asyncio.TimerHandle | None = None
        self.syncs: int = 0
        self.sync_s: float = 0.0
        self.last_sync_s: float = 0.0
        self.written_bytes: int = 0
        """Bytes of entries and what else was written since the start."""
        self.durable_index: int = 0
        """The last entry of the last group; 0 before the first."""
        self.group_times: Distribution = Distribution()
        """Of each group, from its first append's queueing to its durability."""
        self.sync_times: Distribution = Distribution()
        """Of each group's write and sync alone."""
        self._begun_s = 0.0
        self._flusher = None if on_thread else workers.flusher(wal.file, self._flushed)
        self._worker = workers.start("syncline-log", self._process, self._processed, self._fail)

    def append(self, message: Message) -> None:
        """Store the content of a `STORAGE_APPEND` message. One without new promises is answered at once, or in its
        order.
        """
        if self._broken:
            return
        moved = False
        if message.term:
            moved = message.term != self._hard_state.term or message.vote != self._hard_state.vote
            self._hard_state = HardState(message.term, message.vote, message.commit)
            self._unsettled = True
        if message.entries or message.snapshot is not None or moved:
            self._put(message)
            return
        if self._unsettled and self._timer is None:
            self._timer = self._loop.call_later(COMMIT_SETTLE_S, self._on_timer)
        # Earlier promises are still on their way to the disk. Responses keep their order, so these wait for them.
        if under_way := self._gathering or self._group:
            under_way[-1].responses.extend(message.responses)
        else:
            self._durable(list(message.responses))

    def _put(self, message: Message) -> None:
        write = WalWrite(
            entries=message.entries,
            hard_state=self._hard_state if self._unsettled else None,
            snapshot=message.snapshot.meta if message.snapshot is not None else None,
        )
        self._unsettled = False
        if not self._closed:
            self._gathering.append(_Append(write, list(message.responses), self.now_s()))
            self._start()

    def _on_timer(self) -> None:
        self._timer = None
        self.settle_now()

    @property
    def durable_commit(self) -> int:
        """The commit index that survives a crash."""
        return self._log.hard_state.commit

    def settle_now(self) -> None:
        """Write a commit index that no append has carried."""
        if self._unsettled:
            self._put(Message(MessageType.STORAGE_APPEND))

    def compact(self, index: int) -> None:
        """Drop entries up to `index`: at once in memory, then on disk."""
        # The durable commit index must cover the dropped entries: recovery needs each entry that is not committed.
        self.settle_now()
        self._log.compacted(index)
        if not self._closed:
            self._compact_to = max(self._compact_to, index)
            self._start()

    @property
    def syncs_on_a_thread(self) -> bool:
        """Whether the system has no other way to sync beside the loop."""
        return self._flusher is None

    def oldest_s(self) -> float:
        """For how long the oldest append has been waiting to become durable; 0 if there is none."""
        under_way = self._group or self._gathering
        return self.now_s() - under_way[0].queued_s if under_way else 0.0

    async def close(self) -> None:
        """Write what has gathered, deliver what it promised, and end."""
        if self._timer is not None:
            self._timer.cancel()
        self.settle_now()
        self._closed = True
        await self._idle.wait()
        if self._flusher is not None:
            await self._flusher.close()
        await self._worker.close()

    def _start(self) -> None:
        """If nothing is being written, begin at once: a turn of the core has one append, so there is nothing to wait
        for.
        """
        if self._idle.is_set():
            self._idle.clear()
            self._write_group()

    def _write_group(self) -> None:
        """Write the gathered group. Only if nothing is being written."""
        self._group, self._gathering = self._gathering, []
        if not self._group and not self._compact_to:
            self._idle.set()
            return
        writes = [append.write for append in self._group]
        self._begun_s = self.now_s()
        try:
            if self._flusher is not None and writes and not self._compact_to:
                file = self._wal.begin(writes)
                if file is not None:
                    self._flusher.flush(file)
                    return
        except Exception as error:  # noqa: BLE001 - what the log refuses, or the disk, is the end of both
            self._fail(error)
            return
        self._worker.put(_Work(writes, self._compact_to))
        self._compact_to = 0

    def _process(self, works: list[_Work]) -> WriteResult | _NotBegun | None:
        """On the thread."""
        [work] = works
        try:
            result = self._wal.write(work.writes) if work.writes else None
        except NotBegun as error:
            return _NotBegun(work, error)
        if work.compact_to:
            self._wal.compact(work.compact_to)
        return result

    def _processed(self, result: WriteResult | _NotBegun | None) -> None:
        """Handle the thread's result. Work that was not begun is done again after a while, before anything else."""
        if not isinstance(result, _NotBegun):
            self._written(result)
        elif self._closed:
            self._fail(result.error)
        else:
            if not self._short:
                log.warning("the log waits: %s", result.error)
            self._short = True
            self._loop.call_later(NOT_BEGUN_S, self._worker.put, result.work)

    def _flushed(self, error: BaseException | None) -> None:
        try:
            result = self._wal.finish(error)
        except Exception as failure:  # noqa: BLE001 - as in `_write_group`
            self._fail(failure)
            return
        self._written(result)

    def _written(self, result: WriteResult | None) -> None:
        """The group is durable. Start the next one before delivering this one's promises."""
        if self._broken:
            return  # an earlier group's promises were not delivered: these must not overtake them
        self._short = False
        group, took_s = self._group, self.now_s() - self._begun_s
        # The next group first: the disk works on it while the responses below are handled.
        self._write_group()
        if result is None:
            return
        try:
            self.sync_times.observe(took_s)
            self._deliver(group, result)
        except Exception as error:  # noqa: BLE001 - the log in memory and the one on disk may differ: stop
            self._fail(error)

    def _deliver(self, group: list[_Append], result: WriteResult) -> None:
        elapsed = self.now_s() - group[0].queued_s
        self.syncs += 1
        self.sync_s += elapsed
        self.last_sync_s = elapsed
        self.group_times.observe(elapsed)
        self.written_bytes += result.size_bytes
        self.durable_index = result.last_index
        responses: list[Message] = []
        for append in group:
            self._log.appended(append.write, result)
            responses.extend(append.responses)
        self._durable(responses)

    def _fail(self, error: BaseException) -> None:
        """Fail-stop: the gathered group is not written, and nothing is accepted any more."""
        self._closed = self._broken = True
        self._gathering.clear()
        self._compact_to = 0
        self._idle.set()
        self._failed(error)
