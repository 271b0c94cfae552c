"""A task that runs once for each run of beat, however often its message is delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from celery.utils.log import get_logger

from syncline.client import Client
from syncline.contrib.celery.bases import TaskBase
from syncline.contrib.celery.beat import RUN_HEADER
from syncline.contrib.celery.settings import client_for

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["OnceTask"]

KEPT_S: Final = 7 * 86_400.0
"""How long the record of a run is kept: a message that stands in a queue for longer may run again."""

CLIENT: Final = "_syncline_client"
"""The attribute of an application that has the client of its tasks."""

_log = get_logger(__name__)
Result = TypeVar("Result")


class OnceTask(TaskBase):
    """Base of tasks: `@app.task(base=OnceTask)`, or `Celery(task_cls="syncline.contrib.celery:OnceTask")` for all.

    A message of beat has the id of its run. The first worker that gets it claims the run in the store, and runs the
    task; a second delivery of the same run returns None. So a run that has begun is not begun again, also if its worker
    died: at most once. Celery's own retries of a task are no second delivery, and run. Other messages run as ever.
    """

    abstract = True

    def __call__(self, *arguments: object, **named: object) -> object:
        """Run the task, if no worker has claimed this run.

        Raises:
            OperationError: the cluster could not be asked; nothing was run.
        """
        run = _run_of(self.request)
        if run is not None and not self._claim(run):
            _log.info("the run %s of %s was taken before", run, self.name)
            return None
        return super().__call__(*arguments, **named)

    def _claim(self, run: str) -> bool:
        key, attempt = f"beat-runs/{run}".encode(), str(self.request.retries or 0).encode()
        kv = _client_of(self.app)
        wrote = kv.transaction().if_absent(key).put(key, attempt, ttl=KEPT_S).else_get(key).commit()
        if wrote.succeeded:
            return True
        # A retry is a new message with a higher number: it takes the record over, once.
        before = wrote.results[0].value
        if not before.isdigit() or int(before) >= int(attempt):
            return False
        return kv.transaction().if_value(key, before).put(key, attempt, ttl=KEPT_S).commit().succeeded


def _run_of(request: object) -> str | None:
    headers = getattr(request, "headers", None)
    run = headers.get(RUN_HEADER) if isinstance(headers, dict) else None
    run = run if run is not None else getattr(request, RUN_HEADER, None)
    return run if isinstance(run, str) and run else None


def _client_of(app: Celery) -> Client:
    """One client for each application; after a fork it goes on by itself."""
    kv: Client | None = getattr(app, CLIENT, None)
    if kv is None:
        kv = client_for(app)
        setattr(app, CLIENT, kv)
    return kv
