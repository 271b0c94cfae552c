"""The door to threads: blocking work that runs beside the event loop, in order, a batch at a time.

A `Worker` takes items one by one and hands all that have gathered to one `process` call; the result comes back to
the loop in one wake-up. That is the group commit of the log and the batch of the state machine. The simulator
replaces threads by delays on its own loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["ThreadWorkers", "Worker", "Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn_contra = TypeVar("ItemIn_contra", contravariant=True)


class Worker(Protocol[ItemIn_contra]):
    """Runs `process(items)` for all items put since the last call, in order, never two calls at once."""

    def put(self, item: ItemIn_contra) -> None:
        """Queue an item; called on the event loop. After a failure or a close items are ignored."""
        ...

    @property
    def queued(self) -> int:
        """Items not yet handed to `process`."""
        ...

    async def close(self) -> None:
        """Finish what is queued, then end. Results are still delivered before this returns."""
        ...


class Workers(Protocol):
    """Makes workers."""

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


class ThreadWorkers:
    """Workers on threads of their own, for the running event loop."""

    def start(
        self,
        name: str,
        process: Callable[[list[Item]], Result],
        deliver: Callable[[Result], None],
        failed: Callable[[BaseException], None],
    ) -> Worker[Item]:
        return _ThreadWorker(name, process, deliver, failed)


class _ThreadWorker(Generic[Item, Result]):
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
        self._items: list[Item] = []
        self._wake = threading.Condition()
        self._closing = False
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        with self._wake:
            if self._closing:
                return
            self._items.append(item)
            if len(self._items) == 1:
                self._wake.notify()

    @property
    def queued(self) -> int:
        return len(self._items)

    async def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.shield(self._ended)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._items and not self._closing:
                    self._wake.wait()
                items, self._items = self._items, []
            if not items:
                self._on_loop(self._end)
                return
            try:
                result = self._process(items)
            except BaseException as error:  # noqa: BLE001 - every failure stops the node, none may die with the thread
                with self._wake:
                    self._closing = True
                    self._items.clear()
                self._on_loop(self._fail, error)
                return
            self._on_loop(self._deliver, result)

    def _on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():  # the loop may be gone where a program ends without closing the node
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, error: BaseException) -> None:
        self._end()
        self._failed(error)
