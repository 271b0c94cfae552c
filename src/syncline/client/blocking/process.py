"""What a portal has in one process."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from syncline.errors import UsageError
from syncline.platform.loop_thread import LoopThread

__all__ = ["PortalCall", "PortalProcess"]

Result = TypeVar("Result")


class PortalCall(Protocol):
    """`Portal.call`."""

    def __call__(self, make: Callable[[], Awaitable[Result]]) -> Result: ...


class PortalProcess:
    """The thread of a portal in one process, and the lock for its begin and end. A forked child gets another one."""

    def __init__(self, before: PortalProcess | None = None) -> None:
        """`before`: of the parent. It is kept, because its parts must not be ended here: the parent uses them."""
        self.thread: LoopThread | None = None
        self.lock: threading.Lock = threading.Lock()
        self._before = before

    def check(self, now: PortalProcess, what: str, hint: str = "begin another one here") -> None:
        """Raise `UsageError`, with what to do, if `what` was begun in a process that this one was forked from."""
        if now is not self:
            raise UsageError(f"{what} belongs to the process that this one was forked from: {hint}")
