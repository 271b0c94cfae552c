"""What a restarted node may be behind of, and what ends that."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NONE
from syncline.errors import NoLeader
from syncline.node.read_batches import ReadBatches
from syncline.node.recovery_barrier import RecoveryBarrier


class FakeReads:
    """Reads that are answered by the test."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[object]] = []

    def new(self, loop: asyncio.AbstractEventLoop, _deadline_s: float, _step_s: float) -> asyncio.Future[object]:
        self.asked.append(loop.create_future())
        return self.asked[-1]


async def test_only_a_leader_that_answers_confirms_what_is_committed() -> None:
    core, reads = SimpleNamespace(last_index=9, leader=NONE), FakeReads()
    barrier = RecoveryBarrier(
        cast("RawNode", core), cast("ReadBatches", reads), lambda: 5, election_s=1.0, heartbeat_s=0.1
    )
    barrier.tick()
    assert not reads.asked, "there is nobody to ask"
    core.leader = 2
    barrier.tick()
    barrier.tick()
    assert len(reads.asked) == 1, "one question at a time"

    reads.asked[0].set_exception(NoLeader("it went away"))
    await asyncio.sleep(0)
    seen = [barrier.reached]  # nobody has confirmed anything
    barrier.tick()
    reads.asked[1].cancel()
    await asyncio.sleep(0)
    seen.append(barrier.reached)
    barrier.tick()
    reads.asked[2].set_result(None)
    await asyncio.sleep(0)
    seen.append(barrier.reached)
    assert seen == [False, False, True]
    barrier.tick()
    assert len(reads.asked) == 3
