"""Observers of the machine, on the event loop: it applies commands there, and restores snapshots on another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import get_ident

__all__ = ["on_loop"]


def on_loop(callback: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls `callback` on the running loop: at once from its thread, else a moment later."""
    loop, thread = asyncio.get_running_loop(), get_ident()

    def observed() -> None:
        if get_ident() == thread:
            callback()
        else:
            loop.call_soon_threadsafe(callback)

    return observed
