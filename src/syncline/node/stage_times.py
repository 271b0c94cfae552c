"""Times of the stages of entries: taken into the log, durable here, committed, applied.

All entries that the core handed out together are one batch, and each stage is noted once for a batch. So the cost
does not depend on the number of entries. A batch that waits behind many others is not timed: see `MAX_OPEN`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from syncline.node.log_growth import LogGrowth
from syncline.platform.distribution import Distribution

__all__ = ["BatchTimes", "StageTimes"]

MAX_OPEN: Final = 64
"""Batches that are timed at once. Above it the node has a backlog, and every further note would cost more."""


class BatchTimes:
    """One batch of entries, by the clock of `StageTimes`. A stage that was not seen is 0."""

    __slots__ = ("applied_s", "committed_s", "durable_s", "last_index", "leads", "stored_s", "took_s")

    def __init__(self, last_index: int, stored_s: float, *, leads: bool) -> None:
        self.last_index: int = last_index
        self.stored_s: float = stored_s
        """The log took it: on the leader as it was proposed, on a follower as it arrived."""
        self.leads: bool = leads
        """Whether this node led then."""
        self.durable_s: float = 0.0
        """On this node's disk."""
        self.committed_s: float = 0.0
        """This node knew that it is committed."""
        self.applied_s: float = 0.0
        self.took_s: float = 0.0
        """Of this the state machine took so long."""


class StageTimes:
    """The stages of one node. `now_s` is a fine monotonic clock; all calls are on the event loop."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.now_s: Callable[[], float] = now_s
        self._open: deque[BatchTimes] = deque()
        self.last: BatchTimes | None = None
        """The batch that was applied most recently: in an answer's callback, the batch of that answer."""
        self.commits: Distribution = Distribution()
        """On the leader: from the log's taking of a batch to its commit."""
        self.applies: Distribution = Distribution()
        """The state machine's time for a batch."""
        self.loop_lag: Distribution = Distribution()
        """How late each tick was."""
        self.growth: LogGrowth = LogGrowth()

    def stored(self, last_index: int, *, leads: bool) -> None:
        """The core has handed entries up to `last_index` to the log."""
        batches = self._open
        while batches and batches[-1].last_index >= last_index:
            batches.pop()  # another leader's entries take their place
        if len(batches) < MAX_OPEN:
            batches.append(BatchTimes(last_index, self.now_s(), leads=leads))

    def durable(self, index: int) -> None:
        """The log is on disk up to `index`."""
        now_s = 0.0
        for batch in self._open:
            if batch.last_index > index:
                return
            if not batch.durable_s:
                batch.durable_s = now_s = now_s or self.now_s()

    def committed(self, index: int) -> None:
        """The log is committed up to `index`."""
        now_s = 0.0
        for batch in self._open:
            if batch.last_index > index:
                return
            if not batch.committed_s:
                batch.committed_s = now_s = now_s or self.now_s()
                if batch.leads:
                    self.commits.observe(now_s - batch.stored_s)

    def applied(self, index: int, took_s: float) -> None:
        """The state machine has applied entries up to `index`, in `took_s` seconds."""
        self.applies.observe(took_s)
        batches, done = self._open, None
        while batches and batches[0].last_index <= index:
            done = batches.popleft()
        self.last = done
        if done is not None:
            done.applied_s, done.took_s = self.now_s(), took_s
