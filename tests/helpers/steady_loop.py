"""An event loop whose clock leaves out most of the time in which the test's process did not run.

A busy machine may stop a process for half a second at any place. On a clock that goes on meanwhile, a timeout of 0.3 s
is over then, although the answer lies in the socket or the loop had no turn to send the question. A test that tells
such a timeout from an answer fails by chance.

The clock counts a time without a turn of the loop as `LONGEST_STEP_S` at most. While the loop waits for its next timer,
all of the wait counts, if nothing came. If something came, it counts as half of the time up to that timer at most: what
came is dealt with before the timer is due.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["SteadyClock", "new_steady_loop", "stand_still"]

LONGEST_STEP_S: Final = 0.02


class SteadyClock:
    """Seconds that a loop has run or waited. It begins with the system's clock, and never overtakes it."""

    def __init__(self, system: Callable[[], float] = time.monotonic) -> None:
        self._system = system
        self._looked_s = self._now_s = system()

    def time(self) -> float:
        """The time, for the loop's own thread."""
        self.count(LONGEST_STEP_S)
        return self._now_s

    def glance(self) -> float:
        """The time, for other threads."""
        return self._now_s + min(max(self._system() - self._looked_s, 0.0), LONGEST_STEP_S)

    def count(self, most_s: float) -> None:
        """Count the time since the last look, as that much at most."""
        system_s = self._system()
        self._now_s += min(system_s - self._looked_s, most_s)
        self._looked_s = system_s


class _Selector(selectors.DefaultSelector):
    """Tells the clock for how long the loop has waited."""

    def __init__(self, clock: SteadyClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._clock.count(LONGEST_STEP_S)
        found = super().select(timeout)
        waited_s = timeout or 0.0
        self._clock.count(max(LONGEST_STEP_S, waited_s / 2 if found else waited_s))
        return found


class _SteadyLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: SteadyClock) -> None:
        self._clock = clock
        self._thread = 0
        super().__init__(_Selector(clock))

    def time(self) -> float:
        if threading.get_ident() == self._thread:
            return self._clock.time()
        return self._clock.glance()

    def run_forever(self) -> None:
        self._thread = threading.get_ident()
        try:
            super().run_forever()
        finally:
            self._thread = 0


def new_steady_loop() -> asyncio.AbstractEventLoop:
    """A new loop with a clock of its own."""
    return _SteadyLoop(SteadyClock())


def stand_still(duration_s: float) -> None:
    """Give the loop no turn for so long: as a machine that does not run the process."""
    threading.Event().wait(duration_s)
