"""An event loop on a thread of its own, and the way of calls to it from other threads.

A caller puts its call into a queue, wakes the loop if no wake-up is under way, and waits for a lock. So many calls of
many threads cost one wake-up, and the answer of each costs the release of one lock. `asyncio`'s own
`run_coroutine_threadsafe` takes a wake-up, two futures and a condition variable for each call.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from asyncio import Task
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, Generic, TypeVar

__all__ = ["LoopEnded", "LoopThread"]

Result = TypeVar("Result")

INTERRUPTED_S: Final = 5.0
"""How long an interrupted caller waits for the end of its call: the call may have something to release."""

LAST_WORK_S: Final = 5.0
"""Limit of the last work of a loop, and of the wait for its thread."""

YIELDS: Final = 3
"""How often a loop gives the interpreter to its callers before it begins their calls."""

LONG_YIELD_S: Final = 0.0002
"""After a time without the interpreter that is longer than this the loop goes on: another thread computes."""


class LoopEnded(Exception):
    """The loop has ended before the call was carried out (`begun`: before it was done)."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__("the event loop of this call has ended")
        self.begun: bool = begun


class LoopCall(Generic[Result]):
    """One call: what to do, its result or error, and the lock that its caller waits for."""

    __slots__ = ("answered", "begun", "done", "ended", "error", "gate", "make", "result", "task")

    def __init__(self, make: Callable[[], Awaitable[Result]], answered: Callable[[], None]) -> None:
        self.make: Callable[[], Awaitable[Result]] = make
        self.answered: Callable[[], None] = answered
        self.gate: threading.Lock = threading.Lock()
        self.gate.acquire()
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.begun: bool = False
        self.done: bool = False
        self.ended: bool = False
        """It has a result, an error, or was refused."""
        self.task: Task[None] | None = None

    async def run(self) -> None:
        self.begun = True
        try:
            self.result = await self.make()
            self.done = True
        except BaseException as error:  # noqa: BLE001 - it is the caller's, and must not end the loop
            self.error = error
        finally:
            self.task = None
            self.ended = True
            self.answered()
            self.gate.release()

    def cancel(self) -> None:
        """Cancel it if it is not done. On the loop."""
        if self.task is not None:
            if self.begun:
                self.task.cancel()
            else:  # a task that is cancelled before its first step never begins, and its caller is not told
                asyncio.get_running_loop().call_soon(self.cancel)

    def refuse(self) -> None:
        """Tell its caller that it was not begun."""
        self.error = LoopEnded(begun=False)
        self.ended = True
        self.gate.release()


class LoopThread:
    """An event loop that runs on a daemon thread until `end`.

    Nothing of it may be used in a forked child, which has no such thread. The loop is not closed there either: it
    shares kernel objects with the parent's.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._inbox: deque[LoopCall[object]] = deque()
        self._woken = False
        """A wake-up is under way: the loop looks into the inbox after this was set."""
        self._under_way = 0
        """Calls that have begun, and have no answer yet."""
        self._answered = 0
        """Calls that were answered since the inbox was looked at."""
        self._stopping = False
        self._ended = False
        """Nothing looks into the inbox any more, but for what was in it before."""
        self._kept: set[Task[object]] = set()
        atexit.register(self._keep_tasks)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, make: Callable[[], Awaitable[Result]]) -> Result:
        """Await what `make` returns, on the loop; its result or its error. Never from the loop's own thread.

        If a signal's handler raises meanwhile (KeyboardInterrupt), the awaitable is cancelled, and its end waited for.

        Raises `LoopEnded` if the loop has ended, or ends meanwhile.
        """
        call = LoopCall(make, self._answer)
        try:
            self._submit(call)
            call.gate.acquire()
        except LoopEnded:
            raise
        except BaseException:
            if not call.ended:  # else the gate may have been passed by now
                self.post(partial(self._interrupted, call))
                call.gate.acquire(timeout=INTERRUPTED_S)
            raise
        if call.done:
            return call.result  # type: ignore[return-value]
        try:
            assert call.error is not None
            if self._stopping and isinstance(call.error, asyncio.CancelledError):
                raise LoopEnded(begun=True) from None
            raise call.error
        finally:
            del call  # the error's traceback has this frame

    def post(self, callback: Callable[[], object]) -> None:
        """Call it on the loop, and don't wait. Nothing happens if the loop has ended."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def end(self, last: Callable[[], Awaitable[object]]) -> None:
        """Await `last` on the loop, cancel what is still under way, end the thread, and wait for that."""
        self.end_soon(last)
        self._thread.join(3 * LAST_WORK_S)

    def end_soon(self, last: Callable[[], Awaitable[object]]) -> None:
        """Like `end`, from any thread, and without the wait. The second call does nothing."""
        if not self._stopping:
            self._stopping = True
            self.post(lambda: self._start_end(last))

    def _submit(self, call: LoopCall[Result]) -> None:
        if self._stopping:
            raise LoopEnded(begun=False)
        self._inbox.append(call)  # type: ignore[arg-type]
        if self._ended:  # looked at after the append: the thread marks the end before it empties the queue
            raise LoopEnded(begun=False)
        # After the queue, so that `_take` finds the call if it clears the mark after this look at it.
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                if not self._loop.is_closed():
                    raise
                raise LoopEnded(begun=False) from None

    def _interrupted(self, call: LoopCall[Result]) -> None:
        """Cancel a call whose caller was interrupted: at any step of its way here."""
        self._take()  # the wake-up may be what was interrupted
        if call.task is None and not call.ended:
            call.refuse()  # it has not come into the queue
        else:
            call.cancel()

    def _answer(self) -> None:
        """Count an answer. The loop looks for the next calls by itself if there are several callers."""
        self._answered += 1
        self._under_way -= 1
        if not self._woken and not self._stopping and (self._answered > 1 or self._under_way):
            self._woken = True
            self._loop.call_soon(self._take)

    def _let_callers_come(self) -> None:
        """Give the interpreter to threads whose calls were answered just now: their next calls can leave together.

        A lone caller is not waited for, nor a thread that computes: it would keep the interpreter for milliseconds.
        """
        expected, self._answered = self._answered, 0
        for _ in range(YIELDS):
            if len(self._inbox) >= expected:
                return
            before_s = time.perf_counter()
            time.sleep(0)
            if time.perf_counter() - before_s > LONG_YIELD_S:
                return

    def _take(self) -> None:
        self._let_callers_come()
        self._woken = False  # before the queue is looked at: a call that comes now wakes the loop again
        create_task = self._loop.create_task
        while self._inbox:
            call = self._inbox.popleft()
            call.task = create_task(call.run())
            self._under_way += 1

    def _keep_tasks(self) -> None:
        """Keep what is under way when the program ends.

        The thread stops where it is then, and its frame keeps this object. A task that is freed without an end would
        complain on the standard error, in a forked child, too.
        """
        self._kept = asyncio.all_tasks(self._loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()
            atexit.unregister(self._keep_tasks)
            # A caller that finds no end stands in the queue by now. A later one finds the end.
            self._ended = True
            while self._inbox:
                self._inbox.popleft().refuse()

    def _start_end(self, last: Callable[[], Awaitable[object]]) -> None:
        self._ending = self._loop.create_task(self._end(last))

    async def _end(self, last: Callable[[], Awaitable[object]]) -> None:
        self._take()
        try:
            with suppress(TimeoutError):  # what is still under way is cancelled
                async with asyncio.timeout(LAST_WORK_S):
                    await last()
                    await asyncio.sleep(0)  # what `last` has ended tells its callers
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            if others:
                await asyncio.wait(others, timeout=LAST_WORK_S)
            await self._loop.shutdown_asyncgens()
            self._loop.stop()
