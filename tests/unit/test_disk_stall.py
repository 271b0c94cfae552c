"""How long the log waits for its disk, and what pauses of the process have to do with it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from syncline.node.disk_stall import MAX_PAUSES, DiskStall
from syncline.node.events import DiskSlow
from tests.helpers.node_cluster import cluster, until

TICK_S = 0.1


class Bench:
    """A log whose oldest append came at `queued_s`, and a clock."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.queued_s: float | None = None
        self.stall = DiskStall(lambda: self.now_s, self._oldest_s)

    def _oldest_s(self) -> float:
        return 0.0 if self.queued_s is None else self.now_s - self.queued_s

    def look(self, after_s: float = TICK_S) -> float:
        self.now_s += after_s
        return round(self.stall.look(TICK_S), 6)


def test_disk_stall_is_the_time_of_the_oldest_append() -> None:
    bench = Bench()
    assert bench.look() == 0.0
    bench.queued_s = bench.now_s
    assert [bench.look() for _ in range(3)] == [0.1, 0.2, 0.3]
    bench.queued_s = None
    assert bench.look() == 0.0


def test_disk_stall_leaves_out_a_pause_of_the_process() -> None:
    bench = Bench()
    bench.look()
    bench.queued_s = bench.now_s
    assert [bench.look(), bench.look(7.0), bench.look()] == [0.1, 0.2, 0.3]
    bench.queued_s = bench.now_s
    assert bench.look() == 0.1, "the pause was before this append"


def test_disk_stall_leaves_out_the_part_of_a_pause_after_the_append() -> None:
    bench = Bench()
    bench.look()
    bench.queued_s = bench.now_s + 5.0  # in the pause, by another thread
    assert bench.look(7.0) == 0.0


def test_disk_stall_counts_ticks_that_are_a_little_late() -> None:
    bench = Bench()
    bench.look()
    bench.queued_s = bench.now_s
    assert [bench.look(1.5 * TICK_S) for _ in range(3)] == [0.15, 0.3, 0.45]


def test_disk_stall_remembers_a_bounded_number_of_pauses() -> None:
    bench = Bench()
    bench.queued_s = bench.now_s
    for _ in range(MAX_PAUSES + 5):
        bench.look(1.0)
    assert len(bench.stall._pauses) == MAX_PAUSES


async def test_disk_stall_does_not_follow_from_a_pause_of_the_process(tmp_path: Path) -> None:
    """Three nodes stood still with a write under way: the leader took its disk for slow, and another one led."""
    async with cluster(tmp_path) as nodes:
        await nodes.announced()
        leader = await nodes.leader()
        told = leader.events(DiskSlow)
        for _ in range(3):
            written = leader.apply(b"x", timeout=20.0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            time.sleep(2 * leader.config.election_s)  # noqa: ASYNC251 - as a machine that does not run the process
            await written
        ticks = leader._driver.reconfiguration._ticks + 5
        await until(leader, lambda: leader._driver.reconfiguration._ticks >= ticks)
        assert leader.is_leader
        await leader.close()
        assert [event async for event in told] == []
