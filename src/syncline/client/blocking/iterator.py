"""An asynchronous iterator for a plain `for` loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from syncline.client.arguments import checked_timeout_s
from syncline.client.blocking.process import PortalCall, PortalProcess
from syncline.errors import DeadlineExceeded, Outcome

__all__ = ["PortalIterator"]

Item_co = TypeVar("Item_co", covariant=True)


class PortalIterator(Iterator[Item_co], Generic[Item_co]):
    """Gives what an asynchronous iterator gives. Any thread may take the next item, or close it.

        with kv.watch(prefix="config/") as changes:
            for change in changes:
                ...

    `close` from another thread ends a loop that waits for an item. If a loop is left by `break`, the iterator is closed
    when nothing refers to it any more. `next` waits for a limited time.
    """

    def __init__(
        self,
        call: PortalCall,
        process: Callable[[], PortalProcess],
        make: Callable[[], AsyncIterator[Item_co]],
        ahead: int,
    ) -> None:
        """Call `make` on the loop. Up to `ahead` items are taken before they are wanted."""
        self._call = call
        self._process = process
        self._home = process()
        self._pump: _Pump[Item_co] = call(lambda: _made(make, ahead))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item_co:
        return self._next(None)

    def next(self, timeout: float | None = None) -> Item_co:
        """The next item, within `timeout` seconds.

            change = changes.next(timeout=5.0)

        Raises:
            DeadlineExceeded: there is none yet. The next call goes on where this one stopped.
            StopIteration: the iterator has ended, or was closed.
            ConfigError, TypeError: `timeout` can't be used.
        """
        return self._next(None if timeout is None else checked_timeout_s(timeout))

    def close(self) -> None:
        """End it, and wait for its end. Loops over it end, in any thread. The second call does nothing.

            changes.close()

        Raises:
            UsageError: it belongs to the process that this one was forked from.
        """
        self._check()
        pump = self._pump
        if not pump.closed:
            pump.closed = True
            pump.items.clear()
            if self._home.thread is not None:  # else the loop has ended, and with it the iterator
                self._call(pump.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        pump: _Pump[Item_co] | None = getattr(self, "_pump", None)
        thread = self._home.thread
        if pump is not None and thread is not None and self._home is self._process():
            thread.post(pump.cancel)

    def _check(self) -> None:
        self._home.check(self._process(), "the iterator")

    def _next(self, timeout_s: float | None) -> Item_co:
        self._check()
        pump = self._pump
        while not pump.closed:
            ended = pump.ended  # looked at before the items: no item comes behind the end
            try:
                return pump.items.popleft()
            except IndexError:
                # What has ended needs no loop, which may be closed by now.
                if not (pump.has_ended() if ended else self._call(lambda: pump.more(timeout_s))):
                    break
        raise StopIteration


class _Pump(Generic[Item_co]):
    """Takes items from an asynchronous iterator, in one task. Its methods run on the loop.

    It is apart from the iterator, so that the task does not keep an iterator alive that nothing else refers to.
    """

    def __init__(self, source: AsyncIterator[Item_co], ahead: int) -> None:
        self.items: deque[Item_co] = deque()
        """Any thread takes them."""
        self.closed = False
        """Set by any thread."""
        self.ended = False
        """The source gives no more items. Set on the loop."""
        self._source = source
        self._ahead = ahead
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._found = asyncio.Event()
        self._failed: BaseException | None = None

    async def more(self, timeout_s: float | None) -> bool:
        """Wait until there are items. False: there will be none. Raises what has ended the source, once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="iteration")
        try:
            async with asyncio.timeout(timeout_s):
                while not self.items and not self.ended:
                    self._found.clear()
                    self._wanted.set()
                    await self._found.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"there was no item within {timeout_s:g} s", outcome=Outcome.NOT_APPLIED) from None
        return bool(self.items) or self.has_ended()

    def has_ended(self) -> Literal[False]:
        """Raise what has ended the source, once. Any thread may call it at the end."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        return False

    async def close(self) -> None:
        self.ended = True
        self._found.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            async for item in self._source:
                self.items.append(item)
                self._found.set()
                if len(self.items) >= self._ahead:
                    # `more` sets it when an item is wanted and there is none.
                    self._wanted.clear()
                    await self._wanted.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self._failed = error
        finally:
            close = getattr(self._source, "aclose", None)
            try:
                if close is not None:
                    await close()
            finally:
                self.ended = True
                self._found.set()


async def _made(make: Callable[[], AsyncIterator[Item_co]], ahead: int) -> _Pump[Item_co]:
    return _Pump(make(), ahead)
