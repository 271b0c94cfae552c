"""How long the log waits for its disk, without the times in which the process itself stood still."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["DiskStall"]

MAX_PAUSES: Final = 64
"""So many standstills are left out for one append. More come about on an overloaded machine alone."""


class DiskStall:
    """Looks at the oldest append with each tick. `now_s` is the clock of `oldest_s`.

    A process that was paused did not notice that a sync has returned. The append waits for the process then, and not
    for the disk, so a pause is no reason to transfer the leadership.
    """

    def __init__(self, now_s: Callable[[], float], oldest_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._oldest_s = oldest_s
        self._looked_s = now_s()
        self._pauses: deque[tuple[float, float]] = deque(maxlen=MAX_PAUSES)
        """When each standstill ended, and for how long the tick after it was late."""

    def look(self, tick_s: float) -> float:
        """For how long the oldest append has been waiting for the disk; `tick_s` is the time between two looks."""
        now_s, oldest_s = self._now_s(), self._oldest_s()
        late_s = now_s - self._looked_s - tick_s
        self._looked_s = now_s
        if late_s > tick_s:
            self._pauses.append((now_s, late_s))
        queued_s = now_s - oldest_s
        while self._pauses and self._pauses[0][0] <= queued_s:
            self._pauses.popleft()
        return oldest_s - sum(min(late_s, ended_s - queued_s) for ended_s, late_s in self._pauses)
