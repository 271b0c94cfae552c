"""Blocking calls beside the browser: Playwright keeps an event loop in the tests' thread, where they are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

from syncline.client import Client
from syncline.testing.process_cluster import ProcessCluster

__all__ = ["beside", "running_nodes"]

Result = TypeVar("Result")

_thread: Final = ThreadPoolExecutor(1, thread_name_prefix="beside the browser")


def beside(work: Callable[[], Result]) -> Result:
    """Call a function in the other thread, and return what it returns."""
    return _thread.submit(work).result()


class Beside:
    """An object whose methods are called in the other thread; so are those of clients and locks that they return."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        def call(*arguments: object, **options: object) -> object:
            result = beside(lambda: found(*arguments, **options))
            return Beside(result) if isinstance(result, Client) or hasattr(result, "acquire") else result

        return call


@contextmanager
def running_nodes(directory: str, *, nodes: int = 3) -> Iterator[ProcessCluster]:
    """A cluster for a block, all of whose methods are called in the other thread."""
    cluster = beside(lambda: ProcessCluster(directory, nodes=nodes))
    try:
        yield cast("ProcessCluster", Beside(cluster))
    finally:
        beside(cluster.close)
