"""Celery on a cluster: beat that survives its host, tasks that run once, results in the store.

    app.conf.beat_scheduler = "syncline.contrib.celery:Scheduler"
    app.conf.result_backend = "syncline.contrib.celery:ResultBackend"
    @app.task(base=OnceTask)

See docs/contrib/celery.md.
"""

from __future__ import annotations

from syncline.contrib.extras import missing_extra

try:
    from syncline.contrib.celery.beat import Scheduler
    from syncline.contrib.celery.once_task import OnceTask
    from syncline.contrib.celery.result_backend import ResultBackend
except ModuleNotFoundError as _error:
    raise missing_extra("syncline.contrib.celery", "celery", _error) from _error

__all__ = ["ResultBackend", "OnceTask", "Scheduler"]
