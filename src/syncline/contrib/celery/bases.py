"""Celery's classes that ours extend, with types: Celery has none, and a class without types spoils those below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["SchedulerBase", "StoreBackendBase", "TaskBase"]

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import ScheduleEntry
    from celery.result import AsyncResult

    class SchedulerBase:
        """`celery.beat.Scheduler`, as far as it is used here."""

        app: Celery
        data: dict[str, ScheduleEntry]
        schedule: dict[str, ScheduleEntry]
        producer: object
        Entry: type[ScheduleEntry]
        _heap: list[tuple[float, int, ScheduleEntry]] | None

        def __init__(self, app: Celery, *arguments: object, **named: object) -> None: ...
        def tick(self, *arguments: object, **named: object) -> float: ...
        def reserve(self, entry: ScheduleEntry) -> ScheduleEntry: ...
        def apply_entry(self, entry: ScheduleEntry, producer: object = None) -> None: ...
        def apply_async(
            self, entry: ScheduleEntry, producer: object = None, advance: bool = True, **named: object
        ) -> AsyncResult: ...
        def merge_inplace(self, b: object) -> None: ...
        def install_default_entries(self, data: object) -> None: ...
        def setup_schedule(self) -> None: ...
        def close(self) -> None: ...

    class TaskRequest:
        """`celery.app.task.Context`, as far as it is used here."""

        retries: int | None

    class TaskBase:
        """`celery.Task`, as far as it is used here."""

        app: Celery
        name: str
        request: TaskRequest

        def __call__(self, *arguments: object, **named: object) -> object: ...

    class StoreBackendBase:
        """`celery.backends.base.KeyValueStoreBackend`, as far as it is used here."""

        app: Celery
        expires: float | None

        def __init__(self, app: Celery, url: str | None = None, **named: object) -> None: ...
        def __reduce__(
            self, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
        ) -> str | tuple[object, ...]: ...

else:
    from celery import Task as TaskBase
    from celery.backends.base import KeyValueStoreBackend as StoreBackendBase
    from celery.beat import Scheduler as SchedulerBase
