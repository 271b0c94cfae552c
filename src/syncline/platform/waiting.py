"""Wait for a future that other tasks wait for, too."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TypeVar

__all__ = ["result_of"]

Result = TypeVar("Result")


async def result_of(future: asyncio.Future[Result]) -> Result:
    """Return or raise the result of `future`. A cancelled waiter does not cancel the future.

    `asyncio.shield` does the same, but since Python 3.14 it reports a future that fails after the cancellation to the
    event loop's exception handler. Here a cancelled waiter ignores the failure; another waiter must handle it.
    """
    if not future.done():
        waiter: asyncio.Future[None] = future.get_loop().create_future()
        wake = partial(_wake, waiter)
        future.add_done_callback(wake)
        try:
            await waiter  # cheaper than `asyncio.wait`, for reads that come hundreds of times a second
        finally:
            future.remove_done_callback(wake)
    return future.result()


def _wake(waiter: asyncio.Future[None], _: object) -> None:
    if not waiter.done():
        waiter.set_result(None)
