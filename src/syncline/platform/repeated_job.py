"""A job of the program at its times: the wait for a time, the call, and the end. Subclasses decide where it runs."""

from __future__ import annotations

import abc
import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from syncline.errors import UsageError
from syncline.platform.times import checked_timeout_s
from syncline.platform.user_calls import is_async

__all__ = ["STOP_S", "RepeatedJob", "checked_job"]

logger: Final = logging.getLogger(__name__)

LOOK_S: Final = 30.0
"""The wall clock is looked at so often: it may be set, or the machine may have slept."""

STOP_S: Final = 30.0
CANCEL_S: Final = 10.0
"""For a job that is cancelled, and what it has to release."""


class RepeatedJob(abc.ABC):
    """A job and its times. Its task runs until `stop`, or the end of its block.

    `next_s` is its first time after another one, in seconds since 1970. `caller` is the method that the program has
    called, for the texts of errors.
    """

    def __init__(
        self,
        next_s: Callable[[float], int],
        job: Callable[[], object],
        what: str,
        wall_time_s: Callable[[], float],
        *,
        caller: str,
    ) -> None:
        self._next_s = next_s
        self._job = checked_job(job)
        self._what = what
        self._wall_time_s = wall_time_s
        self._stopping = False
        self._busy = False
        try:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=what)
        except RuntimeError as error:
            raise UsageError(f"{caller} needs a running event loop: call it in a coroutine") from error

    @property
    def next_time(self) -> datetime | None:
        """The next time of the job, in UTC; None if the schedule has ended."""
        if self._task.done() or self._stopping:
            return None
        return datetime.fromtimestamp(self._next_s(self._wall_time_s()), UTC)

    async def stop(self, *, timeout: float = STOP_S) -> None:
        """End the schedule here. A job that runs is waited for, then cancelled. Other processes go on.

            await schedule.stop()

        `timeout`: seconds for the job that runs. A function that runs in a thread can't be cancelled: it is left.

        Raises:
            ConfigError, TypeError: `timeout` can't be used.
        """
        limit_s = checked_timeout_s(timeout)
        self._stopping = True
        if asyncio.current_task() is self._task:
            return  # the job itself: it ends after this run
        if not self._busy:
            self._task.cancel()
        await asyncio.wait([self._task], timeout=limit_s)
        await self._cancel()

    async def _cancel(self) -> None:
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CANCEL_S)
        if not self._task.done():
            logger.warning("%s goes on: it has ignored its cancellation", self._what)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A block that is cancelled, as by Ctrl-C, cancels what runs beside it. A thread can't be cancelled: its place
        # is kept until it ends, so that no other process runs the job meanwhile.
        interrupted = kind is not None and issubclass(kind, asyncio.CancelledError | KeyboardInterrupt)
        if interrupted and is_async(self._job) and asyncio.current_task() is not self._task:
            self._stopping = True
            await self._cancel()
        else:
            await self.stop()

    @abc.abstractmethod
    async def _run(self) -> None:
        """Run the job at its times, until `_stopping`."""

    async def _has_come(self, due_s: int, since_s: float) -> bool:
        """Wait for a time. False: the clock was set back meanwhile, so that another time is the next one."""
        while (now_s := self._wall_time_s()) < due_s:
            if now_s < since_s:
                return False
            since_s = now_s
            await asyncio.sleep(min(LOOK_S, due_s - now_s))
        return True

    async def _call(self, run: Callable[[], Awaitable[object]]) -> bool:
        """Run the job once, within what `run` adds to it; whether it succeeded. A failure does not end the schedule."""
        task = asyncio.current_task()
        assert task is not None
        self._busy = True
        try:
            await run()
            return True
        except Exception:
            logger.exception("%s failed", self._what)
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            logger.exception("%s was cancelled from within", self._what)
        finally:
            self._busy = False
        return False


def checked_job(job: Callable[[], object]) -> Callable[[], object]:
    """The job, if it is a function."""
    if not callable(job):
        raise TypeError(f"the job must be a function, not {type(job).__name__}: give it without calling it")
    return job
