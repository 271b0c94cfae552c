"""Waiting for what others wait for, too."""

from __future__ import annotations

import asyncio
from typing import TypeVar

__all__ = ["result_of"]

Result = TypeVar("Result")


async def result_of(future: asyncio.Future[Result]) -> Result:
    """The result of `future`, which goes on where the waiting task is cancelled; raises what it raises.

    `asyncio.shield` does the same, but takes it for an error where the future fails after that: since Python 3.14 it
    tells the event loop's exception handler. Here whoever has gone need not know; see to it that somebody does.
    """
    if not future.done():
        await asyncio.wait([future])
    return future.result()
