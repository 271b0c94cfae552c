"""A live cluster of processes, upgraded node by node under load from the commit that froze the formats, and back.

The new nodes are those of this tree, with a feature level above that of the frozen commit: so there is a rise to see.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import pytest

from syncline.version import FEATURE_LEVEL
from tests.helpers.process_cluster import Cluster, Node, eventually, running_cluster
from tests.integration.test_repair import contents
from tests.integration.test_repair_soak import Writers

ROOT: Final = Path(__file__).resolve().parents[2]
FROZEN: Final = "69949ec7644a875a292906edd10b774318255d1d"
"""The formats are frozen since this commit (docs/formats.md): each later version must be able to take over from it."""

FROZEN_LEVEL: Final = 2
NEW_LEVEL: Final = max(FEATURE_LEVEL, FROZEN_LEVEL + 1)
NEWER: Final = f"""
import sys
import syncline.version
syncline.version.FEATURE_LEVEL = {NEW_LEVEL}
from syncline.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""The command of this tree, with a level above that of the frozen commit."""

NEW: Final = (sys.executable, "-c", NEWER)
MORE: Final = 300
"""Writes that are acknowledged between two steps."""


@pytest.fixture
def old(tmp_path: Path) -> tuple[str, ...]:
    """The command of the frozen commit."""
    command = ["git", "archive", FROZEN, "src"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60.0)
    if made.returncode:
        pytest.skip(f"this clone has no commit {FROZEN[:7]}: {made.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(tmp_path / "frozen", filter="data")
    return ("env", f"PYTHONPATH={tmp_path}/frozen/src", sys.executable, "-m", "syncline")


async def more(writers: Writers) -> None:
    """Writes go on."""
    before = len(writers.acknowledged)
    await eventually("writes go on", lambda: asyncio.sleep(0, len(writers.acknowledged) > before + MORE))


async def replaced(cluster: Cluster, node: Node, program: tuple[str, ...], writers: Writers) -> None:
    """Stop a node in order, start it with another version, and wait until it has caught up."""
    assert await asyncio.to_thread(node.stop) == 0, node.log()[-2000:]
    node.program = program
    node.start()
    await cluster.wait_ready([node])
    await cluster.wait_caught_up()
    await more(writers)


async def levels(cluster: Cluster) -> tuple[int, int]:
    """The level of the cluster, and the one that all members can do."""
    async with cluster.client() as client:
        found = await client.upgrade_status()
        return found.level, found.possible_level


async def until_level(cluster: Cluster, level: int) -> None:
    async def risen() -> bool:
        return (await levels(cluster))[0] == level

    await eventually(f"the cluster is at level {level}", risen)


def command(cluster: Cluster, program: tuple[str, ...], *arguments: str) -> str:
    """A command of the operator, on the version that is installed there."""
    words = [*program, "upgrade", *arguments, "--endpoints", ",".join(cluster.endpoints)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60.0)
    assert ran.returncode == 0, ran
    return ran.stdout


@pytest.mark.slow
@pytest.mark.deadline(300.0)
@pytest.mark.timeout(360)
async def test_live_cluster_is_upgraded_node_by_node_and_back(tmp_path: Path, old: tuple[str, ...]) -> None:
    """Back as long as the level is held; after `finalize` the older version is refused. Nothing is lost."""
    program, Node.program = Node.program, old
    try:
        async with running_cluster(str(tmp_path / "data"), snapshot_entries="2000", trailing_entries="100") as cluster:
            Node.program = program
            await until_level(cluster, FROZEN_LEVEL)
            writers = Writers(cluster.endpoints)
            await more(writers)
            assert "held until" in command(cluster, old, "hold")
            for node in cluster.nodes:
                await replaced(cluster, node, NEW, writers)
            await eventually("all have told their level", lambda: told(cluster))
            assert (await levels(cluster))[0] == FROZEN_LEVEL, "it is held"
            for node in cluster.nodes[:2]:
                await replaced(cluster, node, old, writers)
            for node in cluster.nodes[:2]:
                await replaced(cluster, node, NEW, writers)
            await eventually("all have told their level", lambda: told(cluster))
            command(cluster, NEW, "finalize")
            await until_level(cluster, NEW_LEVEL)
            assert f"at level {NEW_LEVEL}" in command(cluster, NEW, "status")
            await more(writers)
            await refused(cluster.nodes[0], old)
            cluster.nodes[0].program = NEW
            cluster.nodes[0].start()
            await cluster.wait_ready([cluster.nodes[0]])
            await more(writers)
            await writers.stop()
            await cluster.wait_caught_up()
            print(f"{len(writers.acknowledged)} writes were acknowledged")
            for node in cluster.nodes:
                held = {key: value for key, value, _ in await contents(node)}
                lost = {key for key, value in writers.acknowledged.items() if held.get(key) != value}
                assert not lost, f"{node.name} has lost {len(lost)} acknowledged writes: {list(lost)[:5]}"
    finally:
        Node.program = program


async def told(cluster: Cluster) -> bool:
    return (await levels(cluster))[1] == NEW_LEVEL


async def refused(node: Node, old: tuple[str, ...]) -> None:
    """The older version refuses the directory, or is refused by the others."""
    assert await asyncio.to_thread(node.stop) == 0
    node.program = old
    node.start()
    status = await asyncio.to_thread(node.wait)
    assert status == 1, node.log()[-2000:]
    assert f"needs level {NEW_LEVEL}" in node.log()
