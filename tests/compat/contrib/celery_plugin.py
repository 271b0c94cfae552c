"""For the run of Celery's own tests: what they take for Celery's scheduler is ours, on a cluster.

Loaded with `-p`. Each scheduler has a name of its own, so that no test waits for the lock of another one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from celery import Celery, beat

from syncline.contrib.celery import Scheduler

_made: list[Scheduler] = []
_numbers = itertools.count()


class CheckedScheduler(Scheduler):
    """Ours, known to this module: Celery's tests want no thread to be left."""

    def __init__(self, app: Celery, *arguments: object, **named: object) -> None:
        app.conf.syncline_beat_name = f"beat-{next(_numbers)}"
        _made.append(self)
        super().__init__(app, *arguments, **named)


beat.Scheduler = CheckedScheduler


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """End the clients before the test's own fixtures look at the threads."""
    yield
    for scheduler in _made:
        if scheduler._lock is not None:
            scheduler._lock.release()
        if scheduler._kv is not None:
            scheduler._kv.close()
    _made.clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave one out: it compares the class of Celery's file scheduler with the class that we have put in its place."""
    items[:] = [item for item in items if not item.nodeid.endswith("test_Service::test_start")]
