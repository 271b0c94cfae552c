"""Futures of a node, for which other threads can wait, too."""

from __future__ import annotations

import asyncio
import threading
import time
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable
from typing import Final, TypeVar

from syncline.errors import Closed, DeadlineExceeded, UsageError
from syncline.node.arguments import MAX_TIMEOUT_S, check_timeout
from syncline.node.running import Running

__all__ = ["NodeFuture"]

LOOK_S: Final = 0.5
"""How often a waiting thread looks whether the event loop was closed: nothing ends the future after that."""

R = TypeVar("R")
"""What the operation answers."""

_result: Final = asyncio.Future.result


class NodeFuture(asyncio.Future[R]):
    """An `asyncio.Future` whose `result` waits, on other threads than the event loop's."""

    _running: Running | None = None
    """The life of its node. `Operations` sets it."""

    def result(self, timeout: float | None = None) -> R:
        """Return the answer, or raise the error. On another thread than the event loop's, wait for it.

            answer = await asyncio.to_thread(raft.apply(b"a command").result, 5.0)

        `timeout`: seconds for that wait. Without it the wait ends with the future: at the deadline of its operation.
        On the thread of the event loop there is no wait, because the loop could not go on meanwhile: `await` it.

        Raises:
            DeadlineExceeded: it was not done within `timeout` (`unknown`). It goes on, and can be waited for again.
            Closed: its event loop was closed first (`unknown`).
            UsageError: the wait would block a running event loop, or it is a forked child's.
            asyncio.InvalidStateError: it is not done, on the thread of its own event loop, without `timeout`.
            asyncio.CancelledError: it was cancelled.
            ConfigError, TypeError: `timeout` can't be used.
            OperationError: the operation has failed.
        """
        if timeout is not None:
            check_timeout(timeout)
        if not self.done():
            self._wait(timeout)
        return _result(self)

    def _wait(self, timeout: float | None) -> None:
        limit_s = MAX_TIMEOUT_S if timeout is None else timeout
        running, loop = self._running, self.get_loop()
        if running is not None and running.in_child:
            raise UsageError("this future belongs to the parent of this forked child: nothing ends it here")
        if running_loop() is not None or (running is not None and running.thread == threading.get_ident()):
            if timeout is None and running_loop() in (None, loop):
                return  # `result` raises as that of each future of asyncio
            raise UsageError(
                "the result is waited for on the thread of an event loop, which could not go on meanwhile: await the"
                " future on its own loop, or wait on a thread without one"
            )
        ended = threading.Event()

        def end(_: asyncio.Future[R]) -> None:
            ended.set()

        self._post(lambda: self.add_done_callback(end))
        deadline_s = time.monotonic() + limit_s
        try:
            while not self.done():
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise DeadlineExceeded(f"it was not done after {limit_s:g} s: it goes on")
                ended.wait(min(LOOK_S, left_s))
                self._check_loop()
        finally:
            self._post(lambda: self.remove_done_callback(end))

    def _post(self, callback: Callable[[], object]) -> None:
        """Call it on the loop. Nothing happens if the loop is closed."""
        try:
            self.get_loop().call_soon_threadsafe(callback)
        except RuntimeError:
            if not self.get_loop().is_closed():
                raise

    def _check_loop(self) -> None:
        if not self.done() and self.get_loop().is_closed():
            raise Closed("the event loop of this future was closed, and its node with it: nothing ends it any more")
