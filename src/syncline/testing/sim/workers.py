"""Workers without threads: the work is done at one moment, after a delay, on the simulation's own loop.

Items put while a worker is busy gather for its next batch, as with a real thread. A crash loses items that were not
processed yet; results that were processed but not delivered are lost after the work is done, as with a real thread.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from syncline.platform.disk import File
from syncline.platform.worker import Flusher, Worker

__all__ = ["SYNC_WORKER", "SimWorkers", "usual_delay"]

SYNC_WORKER: Final = "syncline-sync"
"""By which name a flusher's delays are asked for."""

NO_FLUSHER_CHANCE: Final = 0.25

Item = TypeVar("Item")
Result = TypeVar("Result")


class Delay(Protocol):
    """How long a batch takes, in seconds: asked once per batch with the name of its worker."""

    def __call__(self, worker: str, rng: random.Random) -> float: ...


def usual_delay(worker: str, rng: random.Random) -> float:  # noqa: ARG001 - the same for all
    """Half a millisecond to two; one in a hundred takes up to fifty, as a disk's sync does now and then."""
    if rng.random() < 0.01:
        return rng.uniform(0.005, 0.05)
    return rng.uniform(0.0005, 0.002)


class _Mortal(Protocol):
    def crash(self) -> None: ...


class SimWorkers:
    """Makes workers for one node of a simulation. `delay` may be replaced while it runs (a disk that becomes slow)."""

    def __init__(self, rng: random.Random, *, delay: Delay = usual_delay) -> None:
        self.delay = delay
        self._rng = rng
        self._workers: list[_Mortal] = []

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def asleep_s(self) -> float:
        return 0.0

    def start(
        self,
        name: str,
        process: Callable[[list[Item]], Result],
        deliver: Callable[[Result], None],
        failed: Callable[[BaseException], None],
    ) -> Worker[Item]:
        worker = _SimWorker(process, deliver, failed, lambda: self.delay(name, self._rng))
        self._workers.append(worker)
        return worker

    def flusher(self, file: File, done: Callable[[BaseException | None], None]) -> Flusher | None:  # noqa: ARG002
        """Chance decides whether the machine's system has such a thing: a log is written in either way."""
        if self._rng.random() < NO_FLUSHER_CHANCE:
            return None
        return _SimFlusher(self.start(SYNC_WORKER, _sync, lambda _: done(None), done))

    def crash(self) -> None:
        """The process is gone: nothing that waits is processed, nothing is delivered any more."""
        for worker in self._workers:
            worker.crash()
        self._workers.clear()


class _SimFlusher:
    """A file is synced at one moment, after a delay. What was written to it is on the disk, unsynced, until then."""

    def __init__(self, worker: Worker[File]) -> None:
        self._worker = worker
        self.close = worker.close

    def flush(self, file: File) -> None:
        self._worker.put(file)


def _sync(files: list[File]) -> None:
    for file in files:
        file.sync()


class _SimWorker(Generic[Item, Result]):
    def __init__(
        self,
        process: Callable[[list[Item]], Result],
        deliver: Callable[[Result], None],
        failed: Callable[[BaseException], None],
        delay_s: Callable[[], float],
    ) -> None:
        self._process = process
        self._deliver = deliver
        self._failed = failed
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._items: list[Item] = []
        self._timer: asyncio.TimerHandle | None = None
        self._delivery: asyncio.Handle | None = None
        self._closing = False
        self._ended = self._loop.create_future()

    def put(self, item: Item) -> None:
        if self._closing:
            return
        self._items.append(item)
        if self._timer is None:
            self._begin()

    @property
    def queued(self) -> int:
        return len(self._items)

    async def close(self) -> None:
        self._closing = True
        if self._timer is None:
            self._end()
        await asyncio.shield(self._ended)

    def crash(self) -> None:
        self._closing = True
        self._items.clear()
        for handle in (self._timer, self._delivery):
            if handle is not None:
                handle.cancel()
        self._end()

    def _begin(self) -> None:
        items, self._items = self._items, []
        self._timer = self._loop.call_later(self._delay_s(), self._work, items)

    def _work(self, items: list[Item]) -> None:
        self._timer = None
        try:
            result = self._process(items)
        except BaseException as error:  # noqa: BLE001 - as in a thread: every failure stops the node
            self._closing = True
            self._items.clear()
            self._end()
            self._delivery = self._loop.call_soon(self._failed, error)
            return
        self._delivery = self._loop.call_soon(self._deliver, result)
        if self._items:
            self._begin()
        elif self._closing:
            self._loop.call_soon(self._end)  # behind the delivery

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
