"""Rot anywhere in a node's files, again and again, while clients write: every acknowledged write is there in the end.

`SYNCLINE_TEST_ROUNDS` and `SYNCLINE_TEST_SEED` make it longer, or another one.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from syncline.errors import OperationError
from tests.helpers.process_cluster import Cluster, Node, eventually, running_cluster
from tests.integration.test_repair import contents, repair, wait_voter

ROUNDS = int(os.environ.get("SYNCLINE_TEST_ROUNDS", "4"))
SEED = int(os.environ.get("SYNCLINE_TEST_SEED", "1"))
WRITERS = 4
LIMIT_S = 60.0 * (ROUNDS + 1)


class Writers:
    """Clients that write keys of their own as fast as they are answered, and note what was acknowledged."""

    def __init__(self, endpoints: list[str]) -> None:
        self.acknowledged: dict[bytes, bytes] = {}
        self._endpoints = endpoints
        self._stopping = False
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]

    async def _write(self, writer: int) -> None:
        async with AsyncClient(self._endpoints, timeout=10.0) as client:
            count = 0
            while not self._stopping:
                count += 1
                key, value = b"w%d/%d" % (writer, count), b"%d" % count * 20
                try:
                    await client.put(key, value)
                except OperationError:
                    continue
                self.acknowledged[key] = value

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


def flip_somewhere(node: Node, rng: random.Random) -> str:
    """Flip a bit of what one of the node's files holds; which one."""
    files = [*Path(node.data_dir).glob("wal/*.wal"), *Path(node.data_dir).glob("snapshots/*.snap")]
    path = rng.choice(sorted([*files, Path(node.data_dir, "identity")]))
    content = bytearray(path.read_bytes())
    used = len(content.rstrip(b"\0")) or 1
    content[rng.randrange(used)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path.name


async def ends_or_serves(node: Node) -> int | None:
    """How a start came out: the status that it ended with, or None where the node serves."""

    async def decided() -> tuple[int | None] | None:
        if not node.running:
            return (node.wait(),)
        async with node.client(timeout=1.0) as client:
            await client.status()
            return (None,)

    return (await eventually(f"{node.name} serves, or has ended", decided))[0]


async def rot_and_repair(cluster: Cluster, rng: random.Random) -> str:
    """One round: what was damaged, and what came of it."""
    victim = rng.choice(cluster.nodes)
    victim.kill()
    damaged = flip_somewhere(victim, rng)
    victim.start()
    status = await ends_or_serves(victim)
    if status is not None:
        assert status == 7, victim.log()[-2000:]
        others = ",".join(node.url for node in cluster.nodes if node is not victim)
        ran = repair(victim, "--endpoints", others)
        assert (ran.returncode, ran.stderr) == (0, ""), ran
        victim.start()
    await wait_voter(cluster, victim)
    return f"{victim.name} {damaged}: {'harmless' if status is None else 'repaired'}"


@pytest.mark.deadline(LIMIT_S)
@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
async def test_every_acknowledged_write_survives_rot_and_repair(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    async with running_cluster(str(tmp_path), snapshot_entries="300", trailing_entries="30") as cluster:
        writers = Writers(cluster.endpoints)
        for number in range(ROUNDS):
            before = len(writers.acknowledged)
            print(f"round {number}: {await rot_and_repair(cluster, rng)}")

            async def more(before: int = before) -> bool:
                return len(writers.acknowledged) > before + 200

            await eventually("writes go on", more)
        await writers.stop()
        await cluster.wait_caught_up()
        print(f"{len(writers.acknowledged)} writes were acknowledged")
        for node in cluster.nodes:
            held = {key: value for key, value, _ in await contents(node)}
            lost = {key: value for key, value in writers.acknowledged.items() if held.get(key) != value}
            assert not lost, f"{node.name} has lost {len(lost)} acknowledged writes: {list(lost)[:5]}"
