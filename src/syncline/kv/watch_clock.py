"""When watches are told of their progress, and when a node without a leader ends them.

A progress mark says that all up to its revision was given. It goes out only if a quorum has confirmed the node's state
after the watch's last mark; one confirmation serves all watches that are due.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from syncline.kv.watch import KeyWatch
from syncline.node.futures import ReadFuture

__all__ = ["WatchClock"]

TICK_S: Final = 1.0
"""How often the marks and the leader are looked at: at least so often. Marks of one second are due together."""
ELECTIONS_WITHOUT_LEADER: Final = 2
"""Election timeouts without a leader after which watches end: one may be an election that succeeds."""


class WatchClock:
    """The time of all watches of one node. It runs while there are watches.

    `has_leader`: whether the node knows a leader. `confirm`: a read that a quorum confirms. `leaderless` is called at
    each tick while there has been no leader for too long. `confirmed` is called when the state as it is was confirmed,
    with the time at which that was asked for.
    """

    def __init__(
        self,
        *,
        has_leader: Callable[[], bool],
        confirm: Callable[[float], ReadFuture],
        election_s: float,
        leaderless: Callable[[], None],
        confirmed: Callable[[float], None],
    ) -> None:
        self._has_leader = has_leader
        self._confirm = confirm
        self._patience_s = ELECTIONS_WITHOUT_LEADER * election_s
        self._tick_s = min(TICK_S, election_s / 2)
        self._leaderless = leaderless
        self._confirmed = confirmed
        self._timer: asyncio.TimerHandle | None = None
        self._leaderless_since_s: float | None = None
        self._due: dict[int, dict[KeyWatch[object], None]] = {}
        """The watches by the second in which their next mark is due."""
        self._asked_s: float | None = None
        """When the confirmation under way was asked for."""

    @property
    def is_leaderless(self) -> bool:
        """Whether no leader has been known for two election timeouts."""
        since_s = self._leaderless_since_s
        return since_s is not None and asyncio.get_running_loop().time() - since_s >= self._patience_s

    def start(self) -> None:
        """Run, if it does not run already."""
        if self._timer is None:
            self._tick()

    def stop(self) -> None:
        """Stop: there are no watches."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._leaderless_since_s = None
        self._due.clear()

    def mark_later(self, watch: KeyWatch[object]) -> None:
        """Let the next mark of a watch be due after its interval."""
        watch.marked_s = asyncio.get_running_loop().time()
        self._due.setdefault(_second(watch), {})[watch] = None

    def forget(self, watch: KeyWatch[object]) -> None:
        """Mark this watch no more."""
        if (due := self._due.get(_second(watch))) is not None:
            due.pop(watch, None)

    def take_due(self, asked_s: float) -> list[KeyWatch[object]]:
        """Take out the watches that are due, and that a confirmation speaks of which was asked for at that time."""
        seconds = sorted(second for second in self._due if second <= asked_s)
        return [watch for second in seconds for watch in self._due.pop(second)]

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self._timer = loop.call_later(self._tick_s, self._tick)
        if self._has_leader():
            self._leaderless_since_s = None
        elif self._leaderless_since_s is None:
            self._leaderless_since_s = now_s
        elif self.is_leaderless:
            self._leaderless()
        if self._asked_s is None and any(second <= now_s for second in self._due):
            future = self._confirm(self._patience_s)
            self._asked_s = now_s
            future.add_done_callback(self._is_confirmed)

    def _is_confirmed(self, future: asyncio.Future[object]) -> None:
        asked_s, self._asked_s = self._asked_s, None
        assert asked_s is not None
        if future.exception() is None:
            self._confirmed(asked_s)


def _second(watch: KeyWatch[object]) -> int:
    return math.ceil(watch.marked_s + watch.progress_s)
