"""APScheduler's class that ours extends, with types: APScheduler has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["JobStoreBase"]

if TYPE_CHECKING:
    import logging

    from apscheduler.schedulers.base import BaseScheduler

    class JobStoreBase:
        """`apscheduler.jobstores.base.BaseJobStore`, as far as it is used here."""

        _scheduler: BaseScheduler | None
        _alias: str | None
        _logger: logging.Logger

        def start(self, scheduler: BaseScheduler, alias: str) -> None: ...

else:
    from apscheduler.jobstores.base import BaseJobStore as JobStoreBase
