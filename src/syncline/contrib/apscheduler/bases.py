"""APScheduler's class that ours extends, with types: APScheduler has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["JobBase", "JobStoreBase"]

if TYPE_CHECKING:
    import logging
    from datetime import datetime

    from apscheduler.schedulers.base import BaseScheduler

    class JobStoreBase:
        """`apscheduler.jobstores.base.BaseJobStore`, as far as it is used here."""

        _scheduler: BaseScheduler | None
        _alias: str | None
        _logger: logging.Logger

        def start(self, scheduler: BaseScheduler, alias: str) -> None: ...

    class JobBase:
        """`apscheduler.job.Job`, as far as it is used here."""

        id: str
        next_run_time: datetime | None
        _scheduler: BaseScheduler | None
        _jobstore_alias: str | None

        def __setstate__(self, state: object) -> None: ...

else:
    from apscheduler.job import Job as JobBase
    from apscheduler.jobstores.base import BaseJobStore as JobStoreBase
