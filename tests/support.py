"""Helpers that any test may use."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

DEADLINE_S = 30.0


def run(work: Coroutine[Any, Any, Result], *, timeout_s: float = DEADLINE_S) -> Result:
    """Run an asynchronous test on a fresh loop, with a deadline."""

    async def bounded() -> Result:
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())
