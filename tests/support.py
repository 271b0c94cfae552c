"""Helpers that any test may use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")

DEADLINE_S = 30.0


def run(work: Coroutine[Any, Any, Result], *, timeout_s: float = DEADLINE_S) -> Result:
    """Run an asynchronous test on a fresh loop, with a deadline."""

    async def bounded() -> Result:
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())


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
