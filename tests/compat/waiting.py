"""Waiting for a condition of another process, until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["DEADLINE_S", "until"]

Result = TypeVar("Result")

DEADLINE_S: Final = 30.0
"""For an election, a start, and clients that wait between two attempts."""


def until(what: str, check: Callable[[], Result], *, deadline_s: float = DEADLINE_S) -> Result:
    """Ask until the answer is true; return it."""
    end_s = time.monotonic() + deadline_s
    while not (found := check()):
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what}; last: {found!r}")
        time.sleep(0.05)  # poll: the state is in another process
    return found
