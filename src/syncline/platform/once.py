"""Run one blocking call on a thread of its own, for rare work.

The event loop's default executor may be full of the program's own work, and a node that waits for it would stop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["start_once"]

Result = TypeVar("Result")


def start_once(name: str, work: Callable[[], Result]) -> Future[Result]:
    """Run `work` on a new daemon thread. Await the future with `asyncio.wrap_future`; it can't be cancelled.

    If no thread can be started, the future fails with the system's error.
    """
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is the caller's, and must not die with the thread
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        future.set_exception(error)
    return future
