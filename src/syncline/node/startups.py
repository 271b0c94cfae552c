"""What `Raft.open`, `Raft.join` and `Raft.session` return: a node or a session on its way, to await or to enter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import TypeVar

__all__ = ["Startup"]


Opened = TypeVar("Opened")


class Startup(Coroutine[object, None, Opened]):
    """A node, or a session, that is being opened. Await it, or enter it with `async with`, once.

        raft = await Raft.open(config, fsm)          # the caller calls `close`
        async with Raft.open(config, fsm) as raft:   # closed at the end of the block
            ...

    It is a coroutine for all that takes one, such as `asyncio.create_task`.
    """

    __slots__ = ("_close", "_opened", "_work")

    def __init__(self, work: Coroutine[object, None, Opened], close: Callable[[Opened], Awaitable[None]]) -> None:
        self._work = work
        self._close = close
        self._opened: Opened | None = None

    def __await__(self) -> Generator[object, None, Opened]:
        return self._work.__await__()

    async def __aenter__(self) -> Opened:
        self._opened = await self._work
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._opened is not None, "a block ends only after it was entered"
        await self._close(self._opened)

    # A coroutine is driven by these; `await` and `async with` do not use them.

    def send(self, value: None, /) -> object:
        """Go on until the work waits for something."""
        return self._work.send(value)

    def throw(
        self,
        kind: type[BaseException] | BaseException,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
        /,
    ) -> object:
        """Raise an error where the work waits."""
        if isinstance(kind, type):
            error = value if isinstance(value, BaseException) else kind() if value is None else kind(value)
        else:
            error = kind
        return self._work.throw(error.with_traceback(trace) if trace is not None else error)

    def close(self) -> None:
        """Give the work up before it has begun or ended. To stop an open node, call its own `close`."""
        self._work.close()
