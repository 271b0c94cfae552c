"""Single blocking calls beside the event loop, in order, each with an answer: for rare and slow work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from syncline.errors import Closed, Outcome
from syncline.platform.worker import Workers

__all__ = ["Calls"]

Answer = TypeVar("Answer")


class _Call:
    __slots__ = ("answer", "error", "future", "work")

    def __init__(self, work: Callable[[], object], future: asyncio.Future[object]) -> None:
        self.work = work
        self.future = future
        self.answer: object = None
        self.error: Exception | None = None


class Calls:
    """A thread that runs calls one after the other. An exception is the call's answer, not the thread's end."""

    def __init__(self, name: str, workers: Workers, failed: Callable[[BaseException], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._worker = workers.start(name, _run, _deliver, failed)

    def start(self, work: Callable[[], Answer]) -> asyncio.Future[Answer]:
        """Queue `work`, now. Cancelling the future does not stop the work. After `close` it fails with `Closed`."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        if self._closed:
            future.set_exception(Closed("the node is closed", outcome=Outcome.NOT_APPLIED))
        else:
            self._worker.put(_Call(work, future))  # type: ignore[arg-type]  # it gets what `work` returns
        return future

    def call(
        self, work: Callable[[], Answer], then: Callable[[Answer], None], failed: Callable[[BaseException], None]
    ) -> None:
        """Queue `work`, and give its answer, or its error, to a callback. After `close` neither is called."""

        def done(future: asyncio.Future[Answer]) -> None:
            if self._closed or future.cancelled():
                future.cancelled() or future.exception()  # mark the exception as retrieved
            elif (error := future.exception()) is not None:
                failed(error)
            else:
                then(future.result())

        self.start(work).add_done_callback(done)

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """Run `work` on the thread, and wait for it."""
        return await self.start(work)

    async def close(self) -> None:
        """Take no more, and finish what is queued."""
        self._closed = True
        await self._worker.close()


def _run(calls: list[_Call]) -> list[_Call]:
    for call in calls:
        try:
            call.answer = call.work()
        except Exception as error:  # noqa: BLE001 - handed to the caller below
            call.error = error
    return calls


def _deliver(calls: list[_Call]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if call.error is not None:
            call.future.set_exception(call.error)
        else:
            call.future.set_result(call.answer)
