"""A full disk: writes are refused with a clear answer, reads go on, nobody stops, and it ends by itself.

In one process with disks that say how much is free, and with real processes on file systems that are really full.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from syncline import DiskSpaceLow, Raft
from syncline.client import AsyncClient
from syncline.errors import DiskFull, RequestFailed
from tests.helpers.node_cluster import Cluster as RaftCluster
from tests.helpers.node_cluster import until
from tests.helpers.process_cluster import Cluster, Node, eventually, running_cluster
from tests.helpers.small_filesystem import mounted
from tests.helpers.storage import TroubledDisk

MIB = 1 << 20
RESERVE = 8 * MIB
PLENTY = 1 << 40


# Disks that say how much is free.


class Nodes:
    """Three nodes in this process, each with a disk of its own."""

    def __init__(self, nodes: RaftCluster, disks: dict[str, TroubledDisk]) -> None:
        self.nodes = nodes
        self.disks = disks

    def disk(self, raft: Raft[object]) -> TroubledDisk:
        return self.disks[raft.config.name]


async def with_disks(path: Path, check: Callable[[Nodes], Awaitable[None]]) -> None:
    disks = {name: TroubledDisk() for name in "abc"}
    for disk in disks.values():
        disk.free = PLENTY
    nodes = RaftCluster(path, "abc", reserve_bytes=RESERVE)
    try:
        await asyncio.gather(*(nodes.start(name, disk=disks[name]) for name in "abc"))
        await check(Nodes(nodes, disks))
    finally:
        await nodes.stop_all()


async def until_refused(raft: Raft[object]) -> None:
    """A node asks its disk now and then only: some writes may still be taken, and then none."""
    with pytest.raises(DiskFull, match="reserve"):  # noqa: PT012
        for _ in range(2 * RESERVE // 100_000):
            await raft.apply(bytes(100_000))
    with pytest.raises(DiskFull, match="reserve"):
        await raft.apply(b"x")


@pytest.mark.deadline(120.0)
async def test_a_leader_with_a_full_disk_refuses_and_goes_on_by_itself(tmp_path: Path) -> None:
    async def check(three: Nodes) -> None:
        leader, follower = await three.nodes.pair()
        await leader.apply(b"before")
        three.disk(leader).free = RESERVE - 1
        for raft in (leader, follower):
            await until_refused(raft)
            await raft.read_index()
        await leader.snapshot()
        three.disk(leader).free = RESERVE + MIB
        for raft in (leader, follower):
            await raft.apply(b"after")
        machine = three.nodes.machine(leader)
        await until(leader, lambda: machine.items[-2:] == [b"after", b"after"])
        assert leader.is_leader, "nobody was deposed over it"

    await with_disks(tmp_path, check)


@pytest.mark.deadline(120.0)
async def test_a_follower_with_a_full_disk_falls_behind_instead_of_stopping(tmp_path: Path) -> None:
    async def check(three: Nodes) -> None:
        leader, follower = await three.nodes.pair()
        await leader.apply(b"before")
        machine = three.nodes.machine(follower)
        await until(follower, lambda: machine.items == [b"before"])
        watch = follower.events(DiskSpaceLow)
        three.disk(follower).free = RESERVE // 2 - 1
        async with asyncio.timeout(10):
            await anext(watch)
        for number in range(50):
            await leader.apply(b"%d" % number)
        assert machine.items == [b"before"]
        assert leader.is_leader
        written = len(three.nodes.machine(leader).items)
        await until_refused(follower)
        assert follower.stats().disk_shortage == 2
        three.disk(follower).free = RESERVE // 2
        await until(follower, lambda: len(machine.items) >= written)
        assert not follower._driver.running.stopped
        assert follower.stats().disk_shortage == 1

    await with_disks(tmp_path, check)


@pytest.mark.deadline(120.0)
async def test_above_half_of_the_reserve_a_follower_keeps_up(tmp_path: Path) -> None:
    async def check(three: Nodes) -> None:
        leader, follower = await three.nodes.pair()
        three.disk(follower).free = RESERVE // 2
        await leader.apply(b"x")
        await until(follower, lambda: three.nodes.machine(follower).items == [b"x"])

    await with_disks(tmp_path, check)


# Real processes on small file systems.


def ballast(path: Path, leave_bytes: int) -> Path:
    """A file that takes all of a file system but so many bytes."""
    file = path / "ballast"
    size = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize - leave_bytes
    with open(file, "ab") as out:
        os.posix_fallocate(out.fileno(), out.tell(), max(size, 1))
    return file


def grab_all(path: Path) -> None:
    """Not a byte is left."""
    with contextlib.suppress(OSError):
        ballast(path, 0)
        with open(path / "ballast", "ab", buffering=0) as out:
            while True:
                out.write(bytes(4096))
    assert os.statvfs(path).f_bavail == 0


@pytest.mark.deadline(120.0)
async def test_one_node_on_a_full_disk_lives(tmp_path: Path) -> None:
    async def check(small: Path) -> None:
        async with running_cluster(str(small), 1, reserve_bytes=str(RESERVE), snapshot_bytes=str(PLENTY)) as one:
            node = one.nodes[0]
            async with one.client() as client:
                assert await overwritten(client, count=400), "the disk was full now and then, and had room again"
                grab_all(small)
                await refused_and_readable(node, client)
            node.kill()
            node.start()
            await one.wait_ready()
            async with one.client() as client:
                await refused_and_readable(node, client)
                os.unlink(small / "ballast")
                await eventually("a write is taken again", lambda: accepted(client))
                assert node.running

    with mounted(tmp_path / "small", 28 * MIB) as small:
        await check(small)


async def overwritten(client: AsyncClient, count: int) -> int:
    """Write twice what the disk can hold, over and over the same keys; how often it was refused in between."""
    refusals = 0
    for number in range(count):
        while not await accepted(client, f"key/{number % 20}", bytes([number % 256]) * 100_000):
            refusals += 1
            await asyncio.sleep(0.02)
    return refusals


async def refused_and_readable(node: Node, client: AsyncClient) -> None:
    for number in range(3):
        error = await refused(client)
        assert (error.status, error.code, error.outcome) == (507, "disk_full", "not_applied")
        assert "reserve" in str(error)
        assert (await client.get(f"key/{number}")) is not None
        assert node.running, node.log()


async def refused(client: AsyncClient) -> RequestFailed:
    """The refusal of a write. A node looks at its disk with each heartbeat: a few may still be taken before."""
    with pytest.raises(RequestFailed) as caught:  # noqa: PT012
        for _ in range(RESERVE // 100_000):
            await client.put("more", bytes(100_000))
    return caught.value


async def accepted(client: AsyncClient, key: str = "more", value: bytes = bytes(1000)) -> bool:
    try:
        await client.put(key, value)
    except RequestFailed as error:
        if error.code != "disk_full":
            raise
        return False
    return True


@pytest.mark.deadline(120.0)
async def test_a_cluster_whose_leader_s_disk_is_full(tmp_path: Path) -> None:
    async def check(small: Path) -> None:
        (tmp_path / "nodes").mkdir()
        os.symlink(small, tmp_path / "nodes" / "n1")
        async with running_cluster(str(tmp_path / "nodes"), 3, reserve_bytes=str(RESERVE)) as three:
            leader = await led_by(three, three.node("n1"))
            follower = next(node for node in three.nodes if node is not leader)
            async with follower.client(timeout=10.0) as client:
                await client.put("before", b"x")
                file = ballast(small, RESERVE - MIB)
                refusal = await refused(client)
                assert (refusal.status, refusal.code, refusal.outcome) == (507, "disk_full", "not_applied")
                assert "the leader refused it" in str(refusal)
                found = await client.get("before")
                assert found is not None
                assert found.value == b"x"
                os.unlink(file)
                await eventually("a write is taken again", lambda: accepted(client))
            assert all(node.running for node in three.nodes)

    with mounted(tmp_path / "small", 32 * MIB) as small:
        await check(small)


async def led_by(three: Cluster, node: Node) -> Node:
    async with three.client() as client:
        await client.transfer_leadership(node.name)
    leader = await three.leader()
    assert leader is node
    return leader


@pytest.mark.deadline(120.0)
async def test_without_a_reserve_a_full_disk_ends_the_process_with_the_reason(tmp_path: Path) -> None:
    """Fail-stop: the write that failed is not acknowledged, and what was is there when the node starts again."""

    async def check(small: Path) -> None:
        async with running_cluster(str(small), 1, reserve_bytes="0", snapshot_bytes=str(PLENTY)) as one:
            node = one.nodes[0]
            acknowledged = 0
            async with node.client(timeout=5.0) as client:
                with pytest.raises(Exception, match=r".") as caught:  # noqa: PT012
                    for number in range(5000):
                        await client.put(f"fill/{number}", os.urandom(100_000))
                        acknowledged = number + 1
            assert getattr(caught.value, "outcome", "unknown") == "unknown", "the write that failed may be there"
            assert node.wait() == 1
            assert "stopped itself" in node.log()
            assert "No space left on device" in node.log()
            assert "Make space on the disk" in node.log()
            assert acknowledged > 100
            os.unlink(small / "ballast")
            node.start()
            await one.wait_ready()
            async with one.client() as client:
                for number in range(0, acknowledged, 7):
                    assert (await client.get(f"fill/{number}")) is not None

    with mounted(tmp_path / "small", 40 * MIB) as small:
        with open(small / "ballast", "wb") as out:
            os.posix_fallocate(out.fileno(), 0, 8 * MIB)
        await check(small)
