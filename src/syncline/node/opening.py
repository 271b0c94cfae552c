"""Open what a node keeps on disk beside the event loop.

A large state takes seconds to load, and a long log to read. The loop goes on meanwhile: a server answers that it is
starting, and a program that embeds the node does its other work.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from syncline.platform.worker import Workers

__all__ = ["open_beside"]

ABANDON_S: Final = 0.5
"""How long a cancelled start waits for the end of its work. What takes longer is released when it ends."""

Opened = TypeVar("Opened")


async def open_beside(workers: Workers, work: Callable[[], Opened], release: Callable[[Opened], None]) -> Opened:
    """Run `work` once beside the event loop, and return its result or raise its error.

    If the caller is cancelled, the result is given to `release` as soon as it is there.
    """
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Opened] = loop.create_future()
    abandoned = threading.Event()

    def process(calls: list[Callable[[], Opened]]) -> list[Opened]:
        [call] = calls
        result = call()
        if abandoned.is_set():  # here and not on the loop, which may be closed by now
            release(result)
            return []
        return [result]

    def deliver(results: list[Opened]) -> None:
        for result in results:
            if opened.done():
                release(result)
            else:
                opened.set_result(result)

    def failed(error: BaseException) -> None:
        if not opened.done():
            opened.set_exception(error)

    worker = workers.start("syncline-open", process, deliver, failed)
    worker.put(work)
    try:
        result = await opened
        await worker.close()
    except asyncio.CancelledError:
        abandoned.set()
        if opened.done() and not opened.cancelled() and opened.exception() is None:
            release(opened.result())  # cancelled at the same moment, or while the thread ended
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ABANDON_S):
                await worker.close()
        raise
    return result
