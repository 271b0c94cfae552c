"""The recovery barrier: whether a restarted node's state is at least as new as it showed before (monotonic reads).

The state machine applies a committed entry as soon as the node learns the commit index, which becomes durable a
little later (see `log_writer`): nothing waits for it. So a node that was killed may start with an older state than it
showed. It can't have shown more than its log holds, though: entries are applied only once they are durable here. The
state may be older until it has reached that end of the log, or a leader has confirmed the commit index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NONE
from syncline.node.read_batches import ReadBatches

__all__ = ["RecoveryBarrier"]


class RecoveryBarrier:
    """The recovery barrier of one start. Made before the node takes any message."""

    def __init__(
        self, core: RawNode, reads: ReadBatches, applied: Callable[[], int], *, election_s: float, heartbeat_s: float
    ) -> None:
        self._core = core
        self._reads = reads
        self._applied = applied
        self._election_s = election_s
        self._heartbeat_s = heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._index = core.last_index
        self._asked: asyncio.Future[object] | None = None

    @property
    def reached(self) -> bool:
        """Whether the state is at least as new as anything that this node showed before."""
        return self._applied() >= self._index

    def tick(self) -> None:
        """Ask a leader, if there is one: the end of the log at the start may never be committed."""
        if self.reached or self._asked is not None or self._core.leader == NONE:
            return
        self._asked = self._reads.new(self._loop, self._loop.time() + self._election_s, self._heartbeat_s)
        self._asked.add_done_callback(self._answered)

    def _answered(self, future: asyncio.Future[object]) -> None:
        self._asked = None
        if not future.cancelled() and future.exception() is None:
            self._index = 0  # all committed entries are applied
