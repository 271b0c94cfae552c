"""Call a function of the program: an asynchronous one is awaited, a plain one runs in a thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import cast

__all__ = ["is_async", "result_in"]


async def result_in(function: Callable[..., object], *arguments: object, **named: object) -> object:
    """Call a function, and await what it returns. A plain function runs in a thread."""
    if is_async(function):
        return await cast("Awaitable[object]", function(*arguments, **named))
    result = await asyncio.to_thread(function, *arguments, **named)
    return await result if inspect.isawaitable(result) else result


def is_async(function: Callable[..., object]) -> bool:
    """Whether it is an asynchronous function, or an object that is called like one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
