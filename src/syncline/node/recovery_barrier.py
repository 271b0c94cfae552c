"""The recovery barrier: whether a restarted node's state is at least as new as it showed before (monotonic reads).

The state machine applies a committed entry as soon as the node learns the commit index, which becomes durable a
little later (see `log_writer`): nothing waits for it. So a node that was killed may start with an older state than it
showed. It can't have shown more than its log holds, though: entries are applied only once they are durable here. The
state may be older until it has reached that end of the log, or a leader has confirmed the commit index.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from syncline.consensus.types import NONE

if TYPE_CHECKING:
    from syncline.node.runtime import Driver

__all__ = ["Horizon"]


class Horizon:
    """The recovery barrier of one start. Made before the node takes any message."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._index = driver.core.last_index
        self._asked: asyncio.Future[object] | None = None

    @property
    def reached(self) -> bool:
        """Whether the state is at least as new as anything that this node showed before."""
        return self._driver.applied >= self._index

    def tick(self) -> None:
        """Ask a leader, if there is one: the end of the log at the start may never be committed."""
        driver = self._driver
        if self.reached or self._asked is not None or driver.core.leader == NONE:
            return
        deadline_s = driver.loop.time() + driver.config.election_s
        self._asked = driver.reads.new(driver.loop, deadline_s, driver.config.heartbeat_s)
        self._asked.add_done_callback(self._answered)

    def _answered(self, future: asyncio.Future[object]) -> None:
        self._asked = None
        if not future.cancelled() and future.exception() is None:
            self._index = 0  # all committed entries are applied
