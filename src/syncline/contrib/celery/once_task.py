"""A task that runs once for each run of beat, however often its message is delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from celery.utils.log import get_logger

from syncline.client import Client
from syncline.contrib.celery.bases import TaskBase
from syncline.contrib.celery.beat import RUN_HEADER
from syncline.contrib.celery.settings import client_for, number_setting

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["OnceTask"]

KEPT_S: Final = 7 * 86_400.0
"""How long the record of a run is kept: a message that stands in a queue for longer may run again."""

CLAIM_S: Final = 600.0
"""How long a worker waits for a cluster that does not answer: the broker has no message any more to deliver again."""

CLIENT: Final = "_syncline_client"
"""The attribute of an application that has the client of its tasks."""

_log = get_logger(__name__)
Result = TypeVar("Result")


class OnceTask(TaskBase):
    """Base of tasks: `@app.task(base=OnceTask)`, or `Celery(task_cls="syncline.contrib.celery:OnceTask")` for all.

    A message of beat has the id of its run. The first worker that gets it claims the run in the store, and runs the
    task; a second delivery of the same run returns None. So a run that has begun is not begun again, also if its worker
    died: at most once. Celery's own retries of a task are no second delivery, and run. Other messages run as ever.
    While the cluster does not answer the worker waits, up to `syncline_claim_wait` seconds.
    """

    abstract = True

    def __call__(self, *arguments: object, **named: object) -> object:
        """Run the task, if no worker has claimed this run.

        Raises:
            OperationError: the cluster did not answer until the end of the wait, or refused; nothing was run.
            ConfigError: a setting can't be used; nothing was run.
        """
        run = _run_of(self.request)
        if run is not None and not self._claim(run):
            _log.info("the run %s of %s was taken before", run, self.name)
            return None
        return super().__call__(*arguments, **named)

    def _claim(self, run: str) -> bool:
        key, attempt = f"beat-runs/{run}".encode(), str(self.request.retries or 0).encode()
        kv = _client_of(self.app)
        # One operation with a long deadline, and not several: the client sends it again under the same key, so a claim
        # whose answer was lost is not taken for that of another worker.
        wait_s = number_setting(self.app, "syncline_claim_wait", CLAIM_S)
        claim = kv.transaction().if_absent(key).put(key, attempt, ttl=KEPT_S).else_get(key)
        wrote = claim.commit(timeout=wait_s)
        if wrote.succeeded:
            return True
        # A retry is a new message with a higher number: it takes the record over, once.
        before = wrote.results[0].value
        if not before.isdigit() or int(before) >= int(attempt):
            return False
        takes_over = kv.transaction().if_value(key, before).put(key, attempt, ttl=KEPT_S)
        return takes_over.commit(timeout=wait_s).succeeded


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
