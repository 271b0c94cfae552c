"""Access to threads: blocking work beside the event loop, in order, a batch at a time.

A `Worker` takes items one by one and gives all that have gathered to one `process` call; the result comes back to
the loop in one wake-up. The state machine's batches are made so, and the log's if the system has no flusher.

A thread is expensive for work that only waits for a disk: it needs the interpreter before and after. A `Flusher`
syncs a file without a thread, if the system can.

The simulator replaces both by delays on its own loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from syncline.platform.disk import File, OsFile

__all__ = ["Flusher", "ThreadWorkers", "Worker", "Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn_contra = TypeVar("ItemIn_contra", contravariant=True)


class Worker(Protocol[ItemIn_contra]):
    """Runs `process(items)` for all items put since the last call, in order, never two calls at once.

    Example: `Workers`.
    """

    def put(self, item: ItemIn_contra) -> None:
        """Queue an item; called on the event loop. After a failure or a close items are ignored."""
        ...

    @property
    def queued(self) -> int:
        """Items not yet given to `process`."""
        ...

    async def close(self) -> None:
        """Finish what is queued, then end. Results are still delivered before this returns."""
        ...


class Flusher(Protocol):
    """Makes a file durable beside the event loop, one at a time. After an error nothing may be synced any more.

    Example: `Workers`.
    """

    def flush(self, file: File) -> None:
        """Start to sync `file`, after `done` was called for the sync before. Never calls `done` from within this
        call.
        """
        ...

    async def close(self) -> None:
        """Wait for a sync that is under way, call `done`, and release the file."""
        ...


class Workers(Protocol):
    """Makes workers, and times them. A test replaces it by `World`.

        class NoFlusher(ThreadWorkers):
            def flusher(self, file, done):
                return None  # each sync by a thread

        raft = await Raft.open(config, fsm, world=World(workers=NoFlusher()))

    The system's are `syncline.platform.worker.ThreadWorkers`.
    """

    def now_s(self) -> float:
        """A monotonic clock, fine enough to time a worker: an event loop's clock may count whole milliseconds."""
        ...

    def asleep_s(self) -> float:
        """How long the machine has been suspended since it started. An event loop's clock may leave that out."""
        ...

    def start(
        self,
        name: str,
        process: Callable[[list[Item]], Result],
        deliver: Callable[[Result], None],
        failed: Callable[[BaseException], None],
    ) -> Worker[Item]:
        """Start a worker. `process` runs beside the loop; `deliver` and `failed` run on it.

        After `process` has raised, `failed` is called once and nothing is processed any more: fail-stop.
        """
        ...

    def flusher(self, file: File, done: Callable[[BaseException | None], None]) -> Flusher | None:
        """Return a flusher that syncs `file` and others without a thread; None if the system offers none.

        `done` is called on the loop when a sync has returned, or has failed with an error. `file` may be synced as a
        trial.

        Raises:
            OSError: the trial failed.
        """
        ...


class ThreadWorkers:
    """Workers on threads of their own, for the running event loop."""

    def now_s(self) -> float:
        return time.perf_counter()

    def asleep_s(self) -> float:
        if not hasattr(time, "CLOCK_BOOTTIME"):
            return 0.0  # not Linux: its clock that goes on in sleep has no name here
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

    def start(
        self,
        name: str,
        process: Callable[[list[Item]], Result],
        deliver: Callable[[Result], None],
        failed: Callable[[BaseException], None],
    ) -> Worker[Item]:
        return _ThreadWorker(name, process, deliver, failed)

    def flusher(self, file: File, done: Callable[[BaseException | None], None]) -> Flusher | None:
        if type(file) is not OsFile:  # a subclass may sync in its own way
            return None
        try:
            from syncline.platform.kernel_sync import KernelFlusher, open_kernel_sync
        except ImportError:  # an interpreter without ctypes
            return None
        kernel = open_kernel_sync(file.descriptor)
        return KernelFlusher(kernel, done) if kernel is not None else None


class _ThreadWorker(Generic[Item, Result]):
    """One thread and its queue. `None` in the queue is the end.

    The queue is the interpreter's own, in C: waking the thread costs one system call, and the thread wakes once. A
    condition variable in Python does the same in dozens of steps that the two threads wait for each other in.
    """

    def __init__(
        self,
        name: str,
        process: Callable[[list[Item]], Result],
        deliver: Callable[[Result], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._process = process
        self._deliver = deliver
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._closing = False
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        if not self._closing:
            self._queue.put(item)

    @property
    def queued(self) -> int:
        return self._queue.qsize()

    async def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.shield(self._ended)

    def _run(self) -> None:
        closing = False
        while not closing:
            items, closing = self._take()
            if not items:
                break
            try:
                result = self._process(items)
            except BaseException as error:  # noqa: BLE001 - every failure stops the node, none may die with the thread
                self._closing = True
                self._on_loop(self._fail, error)
                return
            self._on_loop(self._deliver, result)
        self._on_loop(self._end)

    def _take(self) -> tuple[list[Item], bool]:
        """Wait for an item; return all that have gathered, and whether the end was among them."""
        items: list[Item] = []
        item = self._queue.get()
        while item is not None:
            items.append(item)
            try:
                item = self._queue.get_nowait()
            except Empty:
                return items, False
        return items, True

    def _on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():  # the loop may be gone if a program ends without closing the node
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, error: BaseException) -> None:
        self._end()
        self._failed(error)
