"""What a server sees of a node beside its figures: the stages of the newest batches, for slow requests and traces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncline.node.stage_times import BatchTimes

if TYPE_CHECKING:
    from syncline.node.raft import Raft

__all__ = ["SeenStages"]


class SeenStages:
    """The newest batches of a node that runs, by its fine clock. In an answer's callback they are its own."""

    def __init__(self, raft: Raft[object]) -> None:
        self._stages = raft._driver.stages
        self._reads = raft._driver.reads

    def batch(self) -> BatchTimes | None:
        """The batch of entries that was applied last."""
        return self._stages.last

    def read(self) -> tuple[float, float, float]:
        """The batch of linearizable reads that was answered last: asked, confirmed, applied."""
        return self._reads.last

    def now_s(self) -> float:
        """The clock."""
        return self._stages.now_s()
