"""An asynchronous context manager for a `with` statement."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, TypeVar

from syncline.client.blocking.process import PortalCall, PortalProcess
from syncline.errors import Closed, UsageError

__all__ = ["Scope"]

Value = TypeVar("Value")


class Scope(Generic[Value]):
    """Runs an asynchronous context manager in one task, from the begin of a block to its end.

    One that cancels its task when something is lost ends at once; the end of the block raises what it has raised then,
    if the block has raised nothing itself.
    """

    def __init__(
        self,
        call: PortalCall,
        process: Callable[[], PortalProcess],
        make: Callable[[], AbstractAsyncContextManager[Value]],
        what: str,
    ) -> None:
        self._call = call
        self._process = process
        self._make = make
        self._what = what
        self._home: PortalProcess | None = None
        self._task: asyncio.Task[bool] | None = None
        self._begun: asyncio.Future[Value] | None = None
        self._over: asyncio.Future[BaseException | None] | None = None

    def __enter__(self) -> Value:
        if self._home is not None:
            raise UsageError(f"{self._what} is for one block: call the client again for another one")
        self._home = self._process()
        return self._call(self._begin)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self.end(error)

    def end(self, error: BaseException | None = None) -> bool:
        """End it; `error` is what the block has raised. Whether that error is dealt with."""
        if self._home is None:
            raise UsageError(f"{self._what} is not begun")
        self._home.check(self._process(), self._what)
        try:
            return self._call(lambda: self._end(error))
        except (Closed, UsageError) as closed:
            if error is None:
                raise self._failed() or closed from None
            return False  # the client was closed: the block's own error is the one to raise

    def _failed(self) -> BaseException | None:
        """Why the block was lost before its end, if that is known."""
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    async def _begin(self) -> Value:
        loop = asyncio.get_running_loop()
        self._begun, self._over = loop.create_future(), loop.create_future()
        self._task = loop.create_task(self._live(self._begun, self._over), name=self._what)
        self._task.add_done_callback(_seen)
        waiting: list[asyncio.Future[bool] | asyncio.Future[Value]] = [self._task, self._begun]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        if self._begun.done():
            return self._begun.result()
        self._task.result()
        raise AssertionError("the task of a scope has ended before its begin")

    async def _end(self, error: BaseException | None) -> bool:
        assert self._task is not None
        assert self._over is not None
        if not self._over.done():
            self._over.set_result(error)
        await asyncio.wait([self._task])
        failed = self._task.exception()
        if failed is None:
            return self._task.result()
        if error is None:
            raise failed
        return False  # the block's own error is the one to raise

    async def _live(self, begun: asyncio.Future[Value], over: asyncio.Future[BaseException | None]) -> bool:
        """The task: begin, wait for the end of the block, end. Whether the block's error is dealt with."""
        manager = self._make()
        value = await manager.__aenter__()
        begun.set_result(value)
        try:
            error = await over
        except BaseException:
            if await manager.__aexit__(*sys.exc_info()):
                return False
            raise
        if error is None:
            await manager.__aexit__(None, None, None)
            return False
        return bool(await manager.__aexit__(type(error), error, error.__traceback__))


def _seen(task: asyncio.Task[bool]) -> None:
    """Its error belongs to the end of the block, which does not come here any more if the client is closed."""
    if not task.cancelled():
        task.exception()
