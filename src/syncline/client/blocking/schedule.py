"""Jobs at their times, beside blocking code."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import Self

from syncline.client.arguments import checked_timeout_s
from syncline.client.blocking.portal import HeldObject, Portal
from syncline.errors import Closed, UsageError
from syncline.platform.repeated_job import STOP_S, RepeatedJob

__all__ = ["BlockingSchedule"]


class BlockingSchedule(HeldObject[RepeatedJob]):
    """A job and its times. `Client.every` and `Raft.every` make it; it runs until `stop`, or the end of its block.

        with kv.every("5m", clean_up):
            serve()

    The job runs in a thread of its own. A forked child has no part in it: begin one there.
    """

    def __init__(self, portal: Portal, schedule: RepeatedJob) -> None:
        super().__init__(portal, schedule, "the schedule")

    @property
    def next_time(self) -> datetime | None:
        """The next time of the job, in UTC; None if the schedule has ended."""
        return self._here().next_time

    def stop(self, *, timeout: float = STOP_S) -> None:
        """End the schedule here. A job that runs is waited for. Other processes go on.

            schedule.stop()

        `timeout`: seconds to wait for the job that runs. It can't be cancelled: after that it is left. A schedule that
        has ended with its client or node is left as it is.

        Raises:
            ConfigError, TypeError: `timeout` can't be used.
        """
        checked_timeout_s(timeout)
        if not self._ended():
            try:
                self._call(lambda schedule: schedule.stop(timeout=timeout))
            except (Closed, UsageError):
                if not self._ended():
                    raise  # else another thread has closed the client meanwhile

    def _ended(self) -> bool:
        self._here()
        return self._portal.closed

    def __enter__(self) -> Self:
        self._here()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
