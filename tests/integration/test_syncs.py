"""Syncs of the log that hang or fail beside the event loop, and what waits behind them."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline import DiskSlow
from syncline.errors import NodeFailed
from syncline.platform.disk import File
from syncline.platform.worker import Flusher, ThreadWorkers
from tests.helpers.node_cluster import Cluster, cluster, first_event, see_kept, until
from tests.helpers.steady_loop import stand_still


class SomeFlusher:
    """Syncs at once, fails, or hangs, as it is told; on every system."""

    def __init__(self, done: Callable[[BaseException | None], None]) -> None:
        self._done = done
        self.error: OSError | None = None
        self.hangs = False
        self._held: list[File] = []

    def flush(self, file: File) -> None:
        if self.hangs:
            self._held.append(file)
            return
        if self.error is None:
            file.sync()
        asyncio.get_running_loop().call_soon(self._done, self.error)

    def release(self) -> None:
        self.hangs = False
        while self._held:
            self.flush(self._held.pop())

    async def close(self) -> None:
        assert not self._held


@pytest.fixture
def flushers(monkeypatch: pytest.MonkeyPatch) -> dict[str, SomeFlusher]:
    """Those that nodes were given, by the name of the node."""
    made: dict[str, SomeFlusher] = {}

    def flusher(_: ThreadWorkers, file: File, done: Callable[[BaseException | None], None]) -> Flusher:
        one = made[Path(file.path).parents[1].name] = SomeFlusher(done)
        return one

    monkeypatch.setattr(ThreadWorkers, "flusher", flusher)
    return made


async def test_leader_with_a_hanging_sync_transfers_and_recovers(
    tmp_path: Path, flushers: dict[str, SomeFlusher]
) -> None:
    async with cluster(tmp_path) as nodes:
        await nodes.announced()
        leader, follower = await nodes.pair()
        assert await follower.apply(b"before") == 1
        flusher = flushers[leader.config.name]
        flusher.hangs = True
        try:
            event = await first_event(leader, DiskSlow, follower.apply(b"during"))
            assert "has not been synced" in event.reason
            await until(follower, lambda: follower.leader is not None and follower.leader.id != leader.node_id)
            assert await follower.apply(b"after") == 3
        finally:
            flusher.release()
        await leader.barrier()
        assert nodes.machine(leader).items == [b"before", b"during", b"after"]


async def test_pause_of_the_process_is_no_hanging_sync(tmp_path: Path, flushers: dict[str, SomeFlusher]) -> None:
    """The process stood still in a sync: the leader took its disk for slow, and transferred its leadership."""
    async with cluster(tmp_path) as nodes:
        await nodes.announced()
        leader = await nodes.leader()
        told = leader.events(DiskSlow)
        flusher, ticks = flushers[leader.config.name], leader._driver.reconfiguration
        flusher.hangs = True
        written = leader.apply(b"x", timeout=20.0)
        await until(leader, lambda: leader.stats().log_waits_s > 0)
        stand_still(2 * leader.config.election_s)
        seen = ticks._ticks
        await until(leader, lambda: ticks._ticks > seen)
        flusher.release()
        await written
        assert leader.is_leader
        await leader.close()
        assert [event async for event in told] == []


async def test_failed_sync_stops_the_node_and_acknowledges_nothing(
    tmp_path: Path, flushers: dict[str, SomeFlusher]
) -> None:
    nodes = Cluster(tmp_path, "a")
    raft = await nodes.start("a")
    try:
        assert await raft.apply(b"kept") == 1
        flushers["a"].error = OSError(errno.EIO, "as told")
        with pytest.raises(NodeFailed, match="as told"):
            await raft.apply(b"lost")
        assert nodes.machines["a"].items == [b"kept"]
    finally:
        await nodes.stop_all()
    await see_kept(nodes)


async def test_commands_behind_a_hung_sync_stay_in_order_under_a_new_leader(
    tmp_path: Path, flushers: dict[str, SomeFlusher]
) -> None:
    """The next leader commits the first one. The others wait until this node knows that, and then follow it."""
    async with cluster(tmp_path) as nodes:
        await nodes.announced()
        leader, follower = await nodes.pair()
        flusher = flushers[leader.config.name]
        flusher.hangs = True
        try:
            first = leader.apply(b"first", timeout=15)
            await asyncio.sleep(0)
            gathered = leader.apply_many([b"second", b"third"], timeout=15)
            await until(follower, lambda: nodes.machine(follower).items == [b"first"])
            assert not any(future.done() for future in gathered)
        finally:
            flusher.release()
        assert await asyncio.gather(first, *gathered) == [1, 2, 3]
        await until(follower, lambda: nodes.machine(follower).items == [b"first", b"second", b"third"])


async def test_writes_gathered_behind_a_failed_sync_are_never_written(
    tmp_path: Path, flushers: dict[str, SomeFlusher]
) -> None:
    nodes = Cluster(tmp_path, "a")
    raft = await nodes.start("a")
    assert await raft.apply(b"kept") == 1
    flushers["a"].hangs = True
    flushers["a"].error = OSError(errno.EIO, "as told")
    first = raft.apply(b"first")
    await asyncio.sleep(0)
    gathered = raft.apply_many([b"second", b"third"])
    flushers["a"].release()
    results = await asyncio.gather(first, *gathered, return_exceptions=True)
    assert [type(result) for result in results] == [NodeFailed] * 3
    await nodes.stop_all()
    await nodes.start("a")
    assert nodes.machines["a"].items in ([b"kept"], [b"kept", b"first"])
    await nodes.stop_all()
