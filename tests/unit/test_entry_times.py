"""Times of entries in whole clusters: equal on all nodes, and never falling, whatever the leaders' clocks show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
import pytest

from syncline import BytesSnapshot, Entry, FSMSnapshot
from syncline.node.entry_stamps import EntryTimes
from syncline.platform.world import World
from syncline.testing.cluster import Settings, SimCluster
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.server import SimServer
from tests.helpers.node_cluster import Cluster, Listing, until

HOUR_S = 3600.0


class Times:
    """A state machine: the index, time and first random number of each entry. `apply` answers with them."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, float]] = []

    def apply(self, entry: Entry) -> tuple[int, float, float]:
        self.seen.append((entry.index, entry.time_s, entry.random.random()))
        return self.seen[-1]

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(msgspec.msgpack.encode(self.seen))

    def restore(self, source: BinaryIO) -> None:
        self.seen = msgspec.msgpack.decode(source.read(), type=list[tuple[int, float, float]])


class Clocks(SimCluster):
    """A cluster whose wall clocks a test sets: by name, seconds before or behind."""

    def __init__(self, loop: SimLoop, **settings: int) -> None:
        super().__init__(loop, seed=1, machine=Times, settings=Settings(**settings))
        self.off_s: dict[str, float] = {}

    def wall_clock_of(self, server: SimServer) -> Callable[[], float]:
        clock = super().wall_clock_of(server)
        return lambda: clock() + self.off_s.get(server.name, 0.0)

    async def write(self, count: int = 3) -> list[tuple[int, float, float]]:
        """Commands through the leader; the times that were answered."""
        server = await self.leader()
        raft = server.raft
        assert raft is not None
        answers: list[tuple[int, float, float]] = []
        for _ in range(count):
            future = await server.call(lambda: raft.apply(b"x", timeout=10.0))
            await asyncio.wait([future], timeout=20.0)
            answers.append(cast("tuple[int, float, float]", future.result()))
        return answers

    async def stamping(self) -> None:
        """Until the cluster has the level that has stamps."""
        await self.until(
            lambda: all(server.raft is not None and server.raft.level >= 2 for server in self.running), timeout_s=30.0
        )

    async def equal(self) -> list[tuple[int, float, float]]:
        """What all machines have seen, once they have the same."""

        def seen() -> list[list[tuple[int, float, float]]]:
            return [server.machine.seen for server in self.running if isinstance(server.machine, Times)]

        await self.until(lambda: all(one == seen()[0] for one in seen()), timeout_s=30.0)
        return seen()[0]


def never_falls(seen: list[tuple[int, float, float]]) -> bool:
    times = [time_s for _, time_s, _ in seen]
    return times == sorted(times)


def test_entry_times_stand_still_after_a_leader_that_was_ahead() -> None:
    async def main(loop: SimLoop) -> None:
        cluster = Clocks(loop)
        await cluster.start(3)
        await cluster.stamping()
        first = await cluster.leader()
        cluster.off_s[first.name] = HOUR_S
        ahead = await cluster.write()
        first.crash()
        behind = await cluster.write()
        assert {time_s for _, time_s, _ in behind} == {ahead[-1][1]}, "the new clock is an hour behind"
        cluster.off_s = dict.fromkeys(cluster.servers, HOUR_S + 5.0)
        assert (await cluster.write())[-1][1] > ahead[-1][1]
        first.start()
        await cluster.until(lambda: first.running, timeout_s=30.0)
        seen = await cluster.equal()
        assert never_falls(seen)
        assert len({chance for _, _, chance in seen}) == len(seen)

    run_simulation(main)


def test_entry_times_do_not_fall_over_a_restart_of_all_nodes() -> None:
    """The log is gone behind a snapshot, and all clocks are set back: the snapshot has the time."""

    async def main(loop: SimLoop) -> None:
        cluster = Clocks(loop, snapshot_entries=10, trailing_entries=0)
        await cluster.start(3)
        await cluster.stamping()
        cluster.off_s = dict.fromkeys(cluster.servers, HOUR_S)
        ahead = (await cluster.write(30))[-1][1]
        await cluster.equal()
        for server in cluster.servers.values():
            server.crash()
        cluster.off_s = {}
        for server in cluster.servers.values():
            server.start()
        assert {time_s for _, time_s, _ in await cluster.write()} == {ahead}
        assert never_falls(await cluster.equal())

    run_simulation(main)


def test_entry_times_of_a_node_that_installs_a_snapshot_are_the_same() -> None:
    async def main(loop: SimLoop) -> None:
        cluster = Clocks(loop, snapshot_entries=10, trailing_entries=0)
        await cluster.start(3)
        await cluster.stamping()
        leader = await cluster.leader()
        away = next(server for server in cluster.running if server is not leader)
        cluster.off_s[leader.name] = HOUR_S
        away.crash()
        await cluster.write(40)
        away.start()
        cluster.off_s[leader.name] = 0.0
        await cluster.until(lambda: away.running, timeout_s=30.0)
        await cluster.write(20)
        assert never_falls(await cluster.equal())

    run_simulation(main)


def test_entry_times_that_fall_are_noticed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule the first of these tests fails."""
    monkeypatch.setattr(EntryTimes, "of", lambda _, stamp_s: stamp_s)
    with pytest.raises(AssertionError, match="an hour behind"):
        test_entry_times_stand_still_after_a_leader_that_was_ahead()


class Stamps(Listing):
    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def apply(self, entry: Entry) -> object:
        self.times.append(entry.time_s)
        return super().apply(entry)


async def test_entry_times_begin_with_the_level_that_has_them(tmp_path: Path) -> None:
    """Nodes of an earlier version read no stamp, so none is written before all can."""
    nodes = Cluster(tmp_path, "a")
    nodes.make = Stamps
    clock_s = World().wall_time_s
    try:
        began_s = clock_s()
        raft = await nodes.start("a", feature_level=1)
        await raft.apply(b"old", timeout=20.0)
        await nodes.stop("a")
        raft = await nodes.start("a")
        await until(raft, lambda: raft.level == 2)
        await raft.apply(b"new", timeout=20.0)
        machine = nodes.machine(raft)
        assert isinstance(machine, Stamps)
        assert machine.items == [b"old", b"new"]
        old_s, new_s = machine.times
        assert old_s == 0.0
        assert began_s <= new_s <= clock_s()
    finally:
        await nodes.stop_all()
