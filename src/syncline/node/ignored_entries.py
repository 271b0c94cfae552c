"""Entries of the log that have no effect: counted, and logged at a bounded rate.

The leader examines what enters its log, so there should be none. One that is there all the same (a faulty leader wrote
it, or an earlier version that examined less) is ignored by every node alike: a node that stopped would stop again at
each start, and so would all others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

__all__ = ["Ignored", "RateLimitedLog"]

log: logging.Logger = logging.getLogger("syncline.node")

REPEAT_S: Final = 10.0
"""Between two lines of one kind."""


class RateLimitedLog:
    """Warnings of one kind: one line in `REPEAT_S`, with the number of those that were left out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_s: float | None = None
        self._left_out = 0

    def warn(self, text: str) -> None:
        now_s = self._clock()
        if self._next_s is not None and now_s < self._next_s:
            self._left_out += 1
            return
        if self._left_out:
            text = f"{text} ({self._left_out} more like it since the last such line)"
        log.warning("%s", text)
        self._next_s, self._left_out = now_s + REPEAT_S, 0


class Ignored:
    """The entries that this node has ignored since its start."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.count: int = 0
        self._log = RateLimitedLog(clock)

    def note(self, index: int, reason: str) -> None:
        """Entry `index` has no effect."""
        self.count += 1
        self._log.warn(f"log entry {index} has no effect, on any node: {reason}")
