"""`syncline repair` with real nodes: a rotten log, a lost directory, no quorum, and a kill at each of its steps."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from syncline.client import AsyncClient
from syncline.platform.disk import OsDisk
from syncline.storage.inspect import FrameView, read_log
from syncline.storage.wal.format import segment_name
from tests.helpers.process_cluster import Cluster, Node, eventually, running_cluster

LIMIT_S: Final = 60.0
KEYS: Final = 60

DYING: Final = """
import os, sys
from syncline.cli.repair import command as repair
from syncline.cli.main import main
from syncline.client import AsyncClient
from syncline.platform.disk import OsDisk

point = sys.argv.pop(1)
moves = 0

def die(*_, **__):
    os._exit(9)

async def die_after(work):
    await work
    die()

rename, remove = OsDisk.rename, AsyncClient.remove_member

def counted(self, source, target):
    global moves
    moves += "set-aside" in target
    if point == "files moved" and moves == 2:
        die()
    rename(self, source, target)

OsDisk.rename = counted
if point == "removed":
    AsyncClient.remove_member = lambda self, *a, **k: die_after(remove(self, *a, **k))
sys.exit(main(sys.argv[1:]))
"""
"""The command, killed at one of its steps."""


def repair(node: Node, *arguments: str, dying: str = "") -> subprocess.CompletedProcess[str]:
    program = ["-c", DYING, dying] if dying else ["-m", "syncline"]
    command = [sys.executable, *program, "repair", "--data-dir", node.data_dir, "--yes", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SYNCLINE_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL, env=environment
    )


def rot(node: Node, after: int) -> str:
    """Flip a bit of an entry in the middle of what the node's log holds behind an index; the file's name."""
    path = f"{node.data_dir}/wal/{segment_name(1)}"
    parts = [part for part in read_log(OsDisk(), os.path.dirname(path)) if isinstance(part, FrameView)]
    frames = [frame for frame in parts if (frame.first_index or 0) > after]
    frame = frames[len(frames) // 2]
    with open(path, "r+b") as file:
        file.seek(frame.offset + frame.size_bytes // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    return path


def refused_start(node: Node) -> str:
    """What a start of the node says that refuses."""
    before = len(node.log())
    node.start()
    assert node.wait() == 7
    return node.log()[before:]


def fingerprint(directory: str) -> dict[str, str]:
    """Every file below a directory but its lock, by the hash of its content."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        if path.is_file() and path.name != "LOCK":
            found[str(path.relative_to(directory))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


async def fill(cluster: Cluster, prefix: str) -> None:
    async with AsyncClient(cluster.endpoints, timeout=10.0, batching=False) as client:  # an entry of the log for each
        await asyncio.gather(*(client.put(f"{prefix}{number}", f"value {number}") for number in range(KEYS)))


async def ids(cluster: Cluster, through: Node) -> dict[str, tuple[str, str]]:
    """Id and role of each member, by name."""
    async with through.client() as client:
        return {member.name: (member.id, member.role) for member in (await client.members()).members}


async def wait_acquainted(node: Node) -> int:
    """Wait until the node has heard where each member serves clients; how far its log has got then."""

    async def heard() -> int | None:
        async with node.client() as client:
            status = await client.status()
            return status.last_index if all(member.http for member in status.members) else None

    return await eventually(f"{node.name} knows everybody", heard)


async def wait_voter(cluster: Cluster, node: Node) -> str:
    """Wait until the node is a voter with all data; its id."""
    await cluster.wait_ready([node])

    async def voter() -> str | None:
        node_id, role = (await ids(cluster, node))[node.name]
        return node_id if role == "voter" else None

    return await eventually(f"{node.name} is a voter", voter)


async def contents(node: Node) -> list[tuple[bytes, bytes | None, int]]:
    async with node.client() as client:
        return [(item.key, item.value, item.mod_revision) async for item in client.scan(values=True)]


@pytest.mark.deadline(110)
async def test_node_with_a_corrupt_log_is_replaced_and_its_old_id_refused(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path / "nodes")) as cluster:
        broken, other = cluster.node("n2"), cluster.node("n3")
        old_ids = await ids(cluster, other)
        acquainted = await wait_acquainted(broken)
        for prefix in "abc":
            await fill(cluster, prefix)
        broken.stop()
        ghost_dir = tmp_path / "ghost"
        shutil.copytree(broken.data_dir, ghost_dir)
        await fill(cluster, "d")
        path = rot(broken, acquainted)

        said = refused_start(broken)
        assert path in said
        assert "syncline repair" in said
        before = fingerprint(broken.data_dir)
        ran = repair(broken, "--json")
        assert (ran.returncode, ran.stderr) == (0, "")
        report = json.loads(ran.stdout)
        assert (report["status"], report["name"]) == ("repaired", "n2")
        assert report["old_id"] == old_ids["n2"][0]
        assert path in report["problems"][0]
        moved = fingerprint(report["set_aside"])
        moved.pop("replacement")
        assert moved == before, "nothing was deleted or changed"
        assert (await ids(cluster, other))["n2"] == (report["new_id"], "learner")

        broken.start()  # with its old flags, --initial-cluster among them
        assert await wait_voter(cluster, broken) == report["new_id"]
        assert {name: role for name, (_, role) in (await ids(cluster, other)).items()} == {
            "n1": "voter", "n2": "voter", "n3": "voter"
        }  # fmt: skip
        await cluster.wait_caught_up()
        assert await contents(broken) == await contents(other) != []
        broken.stop()

        ghost = Node("n2", str(tmp_path), broken.http_port, broken.settings)
        ghost.data_dir = str(ghost_dir)
        ghost.start()
        assert ghost.wait() == 1
        assert "removed from the cluster" in ghost.log()
        assert "syncline repair --replace" in ghost.log()


@pytest.mark.deadline(110)
async def test_killed_anywhere_it_is_completed_by_the_same_command(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path)) as cluster:
        broken, away, other = cluster.node("n1"), cluster.node("n2"), cluster.node("n3")
        acquainted = await wait_acquainted(broken)
        for prefix in "abc":
            await fill(cluster, prefix)
        broken.kill()
        rot(broken, acquainted)
        before = fingerprint(broken.data_dir)

        away.kill()
        ran = repair(broken)
        assert ran.returncode == 4
        assert "1 of the 2 other voters answers, and a change needs 2 of 3: n2 does not" in ran.stderr
        assert fingerprint(broken.data_dir) == before
        away.start()
        await cluster.wait_ready([away, other])

        for point in ("removed", "files moved"):
            ran = repair(broken, dying=point)
            assert ran.returncode == 9, (point, ran)
        assert "in the middle of a repair" in refused_start(broken)
        ran = repair(broken)
        assert (ran.returncode, ran.stderr) == (0, "")
        kept = fingerprint(f"{broken.data_dir}/set-aside-1")
        kept.pop("replacement")
        assert kept == before
        broken.start()
        await wait_voter(cluster, broken)
        await cluster.wait_caught_up()
        assert await contents(broken) == await contents(other) != []
        assert len(await ids(cluster, other)) == 3


@pytest.mark.deadline(110)
async def test_a_lost_directory_is_that_of_a_new_member_afterwards(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path)) as cluster:
        await fill(cluster, "a")
        leader = await cluster.leader()
        others = [node for node in cluster.nodes if node is not leader]
        old_id = (await ids(cluster, others[0]))[leader.name][0]
        leader.kill()
        shutil.rmtree(leader.data_dir)
        endpoints = ",".join(node.url for node in others)
        ran = repair(leader, "--name", others[0].name, "--endpoints", endpoints)
        assert ran.returncode == 1
        assert "runs: it answers" in ran.stderr
        ran = repair(leader, "--name", leader.name, "--endpoints", endpoints)
        assert (ran.returncode, ran.stderr) == (0, "")
        leader.start()
        assert await wait_voter(cluster, leader) != old_id
        await cluster.wait_caught_up()
        assert await contents(leader) == await contents(others[0]) != []


def snapshots(node: Node) -> list[Path]:
    return sorted(Path(node.data_dir).glob("snapshots/*.snap"))


async def without_intact_snapshot(cluster: Cluster) -> Node:
    """Stop a follower whose log begins with a snapshot that the leader sent it, and flip a bit in each that it has."""
    broken = (await cluster.followers())[0]
    broken.stop()
    for prefix in "abc":
        await fill(cluster, prefix)
    broken.start()
    await cluster.wait_ready([broken])
    await wait_acquainted(broken)
    await cluster.wait_caught_up()
    broken.stop()
    damaged = snapshots(broken)
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert damaged
    return broken


@pytest.mark.deadline(110)
async def test_without_an_intact_snapshot_one_of_another_member_will_do(tmp_path: Path) -> None:
    """Even without a quorum: with the file the node is back under its id, and so is the quorum."""
    async with running_cluster(str(tmp_path), snapshot_entries="50", trailing_entries="5") as cluster:
        broken = await without_intact_snapshot(cluster)
        other, away = (node for node in cluster.nodes if node is not broken)
        old_ids = await ids(cluster, other)
        away.kill()
        assert "copy another member's newest one" in refused_start(broken)
        assert repair(broken, "--endpoints", other.url).returncode == 4, "it has no quorum to ask"
        shutil.copy(snapshots(other)[-1], Path(broken.data_dir, "snapshots"))
        broken.start()
        await cluster.wait_ready([broken, other])
        async with cluster.client() as client:
            await client.put("again", "written")
        away.start()
        await cluster.wait_ready()
        await cluster.wait_caught_up()
        assert await ids(cluster, broken) == old_ids
        assert len(held := await contents(broken)) == 3 * KEYS + 1
        assert held == await contents(other) == await contents(away)


@pytest.mark.deadline(110)
async def test_a_node_without_an_intact_snapshot_is_replaced(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path), snapshot_entries="50", trailing_entries="5") as cluster:
        broken = await without_intact_snapshot(cluster)
        other = next(node for node in cluster.nodes if node is not broken)
        old_id = (await ids(cluster, other))[broken.name][0]
        assert "the newest intact snapshot" in refused_start(broken)
        ran = repair(broken, "--endpoints", other.url)
        assert (ran.returncode, ran.stderr) == (0, "")
        broken.start()
        assert await wait_voter(cluster, broken) != old_id
        await cluster.wait_caught_up()
        assert len(held := await contents(broken)) == 3 * KEYS
        assert held == await contents(other)
