"""Tasks and loops: what is reported to the loop, and a task that gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def nothing_reported() -> Iterator[None]:
    """Nothing may be told to the running loop's exception handler meanwhile."""
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    try:
        yield
    finally:
        loop.set_exception_handler(before)
    assert reported == []


async def gives_up(wait: Awaitable[object]) -> None:
    """Have a task wait for it, and cancel that task."""

    async def waiting() -> None:
        await wait

    task = asyncio.create_task(waiting())
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
