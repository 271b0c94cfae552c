"""What a server sees of a node beside its figures: the stages of the newest batch, for slow requests and traces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncline.node.stage_times import StageTimes

if TYPE_CHECKING:
    from syncline.node.raft import Raft

__all__ = ["last_read", "stages_of"]


def stages_of(raft: Raft[object]) -> StageTimes:
    """The stages of a node's entries."""
    return raft._driver.stages


def last_read(raft: Raft[object]) -> tuple[float, float, float]:
    """The batch of linearizable reads that was answered last: asked, confirmed, applied; by the same clock."""
    return raft._driver.reads.last
