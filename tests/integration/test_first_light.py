"""First light: the whole house at once, with real processes, real disks and `kill -9`."""

from __future__ import annotations

import asyncio
import json
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

from syncline.client import AsyncClient
from syncline.errors import OperationError, Outcome
from tests.integration.cluster import Cluster, Node, eventually, running_cluster
from tests.support import run

FILES: Final = 2000
KILLED_AFTER_ACKNOWLEDGED: Final = 3000
WRITES_WHILE_AWAY: Final = 50_000
ALTERNATIONS: Final = 10_000


# 1. A real tree, through a follower, past the leader's death


def source_tree(target: Path) -> dict[str, bytes]:
    """At least 2,000 source files: Python's own, in copies where this installation has fewer."""
    library = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[str, Path]] = []
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if "site-packages" not in relative.parts and path.is_file() and not path.is_symlink():
            found.append((relative.as_posix(), path))
    assert found
    files: dict[str, bytes] = {}
    copy = 0
    while len(files) < FILES:
        for relative_name, path in found:
            data = path.read_bytes()
            if len(data) <= 1 << 20:
                files[f"copy{copy}/{relative_name}"] = data
        copy += 1
    for name, data in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    return files


async def command(*arguments: str, timeout_s: float = 100.0) -> tuple[int, bytes, bytes]:
    """Run `syncline ARGUMENTS…` as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "syncline", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out, err


def tree_at(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def exported(node: Node, target: Path) -> dict[str, bytes]:
    status, out, err = await command("export", str(target), "--json", "--endpoints", node.url)
    assert status == 0, (out, err)
    return tree_at(target)


def test_a_tree_goes_in_through_a_follower_past_the_leaders_death_and_comes_out_of_every_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        files = source_tree(tmp_path / "source")
        assert len(files) >= FILES
        async with running_cluster(str(tmp_path / "cluster")) as cluster:
            leader = await cluster.leader()
            through, other = await cluster.followers()
            arguments = ("import", str(tmp_path / "source"), "--json", "--endpoints", through.url)
            importing = asyncio.create_task(command(*arguments))
            async with other.client(timeout_s=10.0) as client:

                async def half_way() -> bool:
                    return await client.count("copy") >= len(files) // 2

                await eventually("half of the files are there", half_way, deadline_s=60.0)
                leader.kill()
                assert await client.count("copy") < len(files), "the leader died after the import, not half-way"
            status, out, err = await importing
            assert status == 0, (out, err)
            assert json.loads(out)["imported"] == len(files)

            leader.start()
            await cluster.wait_ready()
            for node in cluster.nodes:
                assert await exported(node, tmp_path / f"from-{node.name}") == files

    run(scenario(), timeout_s=110.0)


# 2. A power cut of all nodes, while writing


class Writers:
    """Writes one new key after the other, many at a time, and remembers which were acknowledged."""

    def __init__(self, cluster: Cluster, *, lanes: int) -> None:
        self.acknowledged: dict[str, int] = {}
        self.changed = asyncio.Event()
        self._cluster = cluster
        self._tasks = [asyncio.create_task(self._write(lane)) for lane in range(lanes)]

    async def until(self, count: int) -> None:
        while len(self.acknowledged) < count:
            self.changed.clear()
            await self.changed.wait()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self, lane: int) -> None:
        number = 0
        async with self._cluster.client(timeout_s=2.0) as client:
            while True:
                key = f"w/{lane}/{number}"
                try:
                    result = await client.put(key, key)
                except OperationError:
                    continue  # not acknowledged: whether it is there is nobody's promise
                finally:
                    number += 1
                self.acknowledged[key] = result.revision
                self.changed.set()


async def local_keys(node: Node, prefix: str) -> dict[str, int]:
    """What one node holds itself: key and revision, without asking anybody else."""
    async with node.client(timeout_s=10.0) as client:
        return {
            item.key.decode(): item.mod_revision async for item in client.scan(prefix, consistency="stale", page=10_000)
        }


def test_every_acknowledged_write_survives_the_death_of_all_nodes_on_each_of_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_cluster(str(tmp_path)) as cluster:
            writers = Writers(cluster, lanes=48)
            await writers.until(KILLED_AFTER_ACKNOWLEDGED)
            for node in cluster.nodes:
                node.kill()
            await writers.end()
            acknowledged = dict(writers.acknowledged)
            assert len(acknowledged) >= KILLED_AFTER_ACKNOWLEDGED

            cluster.start()
            await cluster.wait_ready()
            await cluster.wait_caught_up()
            held = [await local_keys(node, "w/") for node in cluster.nodes]
            for node, keys in zip(cluster.nodes, held, strict=True):
                lost = {key: revision for key, revision in acknowledged.items() if keys.get(key) != revision}
                assert not lost, f"{node.name} lost {len(lost)} of {len(acknowledged)}"
            assert held[0] == held[1] == held[2]

    run(scenario(), timeout_s=100.0)


# 3. A node that was away, and one that was never there


async def write_many(cluster: Cluster, count: int, *, lanes: int = 128) -> None:
    """Put so many values into a hundredth as many keys, through the leader."""
    numbers = iter(range(count))
    leader = await cluster.leader()

    async def lane(client: AsyncClient) -> None:
        for number in numbers:
            await client.put(f"k/{number % (count // 100)}", f"value {number}", idempotent=True)

    async with AsyncClient(leader.url, timeout_s=30.0) as client:
        await asyncio.gather(*(lane(client) for _ in range(lanes)))


async def role_of(cluster: Cluster, name: str) -> str | None:
    leader = await cluster.leader()
    async with leader.client() as client:
        members = await client.members()
    return next((member.role for member in members.members if member.name == name), None)


@pytest.mark.timeout(200)
def test_a_node_catches_up_by_snapshot_and_a_fresh_one_becomes_a_voter(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_cluster(str(tmp_path), snapshot_entries="10000", trailing_entries="1000") as cluster:
            away = (await cluster.followers())[0]
            behind = (await cluster.status(away)).last_index
            away.stop()
            await write_many(cluster, WRITES_WHILE_AWAY)
            leader = await cluster.leader()

            async def compacted() -> bool:
                return (await cluster.status(leader)).first_index > behind + 1

            await eventually("the log before the snapshot is dropped", compacted)
            away.start()
            await cluster.wait_ready([away])
            assert (await cluster.status(away)).snapshot_index > behind, "it caught up entry by entry"

            fresh = cluster.joining("n4", through=[(await cluster.followers())[0]])
            fresh.start()
            await cluster.wait_ready([fresh])

            async def votes() -> bool:
                return await role_of(cluster, "n4") == "voter"

            await eventually("the fresh node is a voter", votes)
            await cluster.wait_caught_up()
            expected = await local_keys(leader, "k/")
            assert len(expected) == WRITES_WHILE_AWAY // 100
            for node in cluster.nodes:
                assert await local_keys(node, "k/") == expected, node.name

            # It is a full member: with it, two others of four may not be missed, but one may.
            away.kill()
            async with fresh.client(timeout_s=15.0) as client:
                await client.put("after", "all", idempotent=True)

    run(scenario(), timeout_s=190.0)


# 4. Written here, read there


def test_a_reader_elsewhere_sees_an_acknowledged_write_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_cluster(str(tmp_path)) as cluster:
            clients = [node.client(timeout_s=15.0) for node in cluster.nodes]
            numbers = iter(range(ALTERNATIONS))
            stale: list[str] = []

            async def lane(name: str) -> None:
                for number in numbers:
                    here, there = clients[number % 3], clients[(number + 1 + number // 3 % 2) % 3]
                    await here.put(name, str(number))
                    found = await there.get(name)
                    if found is None or found.value != str(number).encode():
                        stale.append(f"{name}: wrote {number}, read {found}")

            await asyncio.gather(*(lane(f"lane/{at}") for at in range(16)))
            for client in clients:
                await client.close()
            assert not stale

    run(scenario(), timeout_s=110.0)


def test_writes_go_on_without_a_minority_and_end_in_time_without_a_quorum(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_cluster(str(tmp_path)) as cluster:
            first, second = await cluster.followers()
            leader = await cluster.leader()
            first.kill()
            async with leader.client() as client:
                await client.put("k", "with two of three")
                second.kill()
                loop = asyncio.get_running_loop()
                begun_s = loop.time()
                with pytest.raises(OperationError) as caught:
                    await client.put("k", "with one of three", timeout_s=1.0)
                assert loop.time() - begun_s < 2.0
                assert caught.value.outcome is Outcome.UNKNOWN
                found = await client.get("k", consistency="stale")
                assert found is not None
                assert found.value == b"with two of three"
            second.start()
            await cluster.wait_ready([leader, second])

    run(scenario(), timeout_s=60.0)
