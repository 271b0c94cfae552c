"""Recovery with real nodes: a lost quorum, `syncline recover` killed at its steps, and the commands of the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from syncline import Raft
from syncline.client import AsyncClient
from syncline.errors import RevisionCompacted
from syncline.node.renumbering import REVISION_JUMP
from tests.helpers.node_cluster import Listing, cluster, until
from tests.helpers.ports import free_block
from tests.helpers.process_cluster import Cluster, Node, eventually, running_cluster

LIMIT_S: Final = 60.0
KEYS: Final = 40
PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "recovery.md").read_text()
PORTS: Final = re.compile(r"127\.0\.0\.1:(?:808|710)([12])\b")

DYING: Final = """
import os, signal, sys
from syncline.cli.main import main
from syncline.platform.disk import OsDisk

point = sys.argv.pop(1)
rename, sync_dir = OsDisk.rename, OsDisk.sync_dir

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def renaming(self, source, target):
    rename(self, source, target)
    if {"snapshot": ".snap", "note": "/recovery", "moved": "set-aside-1/wal", "identity": "/identity"}[point] in target:
        die()

OsDisk.rename = renaming
sys.exit(main(sys.argv[1:]))
"""
"""The command, killed behind one of its steps."""


def recover(directory: str, *arguments: str, dying: str = "") -> subprocess.CompletedProcess[str]:
    program = ["-c", DYING, dying] if dying else ["-m", "syncline"]
    command = [sys.executable, *program, "recover", "--data-dir", directory, *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SYNCLINE_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL, env=environment
    )


async def filled(nodes: Cluster) -> int:
    """Write some keys; the newest revision."""
    async with AsyncClient(nodes.endpoints, timeout=10.0, batching=False) as client:
        await asyncio.gather(*(client.put(f"k{number}", f"value {number}") for number in range(KEYS)))
        return (await client.put("last", "one")).revision


def kill_all(nodes: Cluster) -> None:
    for node in nodes.nodes:
        if node.running:
            node.kill()


async def check_data(client: AsyncClient, newest: int) -> None:
    for number in range(KEYS):
        record = await client.get(f"k{number}")
        assert record is not None
        assert record.value == b"value %d" % number
    assert (await client.put("after", "it")).revision == newest + REVISION_JUMP
    with pytest.raises(RevisionCompacted):
        await client.get("last", revision=newest)


@pytest.mark.deadline(120.0)
@pytest.mark.parametrize(
    "point", ["note", *(pytest.param(point, marks=pytest.mark.slow) for point in ("snapshot", "moved", "identity"))]
)
async def test_recover_killed_behind_a_step_is_completed_by_the_same_command(tmp_path: Path, point: str) -> None:
    """No acknowledged write is lost, and revisions go on above all that were given."""
    async with running_cluster(str(tmp_path)) as nodes:
        newest = await filled(nodes)
        kill_all(nodes)
        first, second, third = nodes.nodes
        shutil.rmtree(third.data_dir)
        chosen, other = (first, second) if is_newest(first, second) else (second, first)
        died = recover(chosen.data_dir, "--compare", other.data_dir, "--yes", dying=point)
        assert died.returncode == -signal.SIGKILL, died
        done = recover(chosen.data_dir, "--compare", other.data_dir, "--yes", "--json")
        assert done.returncode == 0, done
        assert json.loads(done.stdout)["status"] == "recovered"
        chosen.start()
        await nodes.wait_ready([chosen])
        async with chosen.client(timeout=10.0) as client:
            await check_data(client, newest)


def is_newest(node: Node, other: Node) -> bool:
    """Whether the first directory may be recovered: its log is not older than the other one."""
    ran = recover(node.data_dir, "--compare", other.data_dir, "--dry-run", "--json")
    assert ran.returncode == 0 or "is newer" in ran.stderr, ran
    return ran.returncode == 0


@pytest.mark.slow
@pytest.mark.deadline(120.0)
async def test_recover_commands_of_the_page_make_a_cluster_that_grows(tmp_path: Path) -> None:
    """The commands of docs/recovery.md, on a cluster whose third node is gone for good."""
    async with running_cluster(str(tmp_path)) as nodes:
        newest = await filled(nodes)
        first, second, third = nodes.nodes
        first.kill()
        running = recover(first.data_dir, "--yes", "--accept-loss")
        assert running.returncode == 1, running
        assert "the cluster has a leader" in running.stderr
        third.kill()
        shutil.rmtree(third.data_dir)
        running = recover(second.data_dir, "--yes", "--accept-loss")
        assert "is in use by the process with pid" in running.stderr
        second.kill()
        if not is_newest(first, second):
            first, second = second, first
        lost = recover(first.data_dir, "--yes")
        assert (lost.returncode, "say --accept-loss as well" in lost.stderr) == (1, True), lost
        asked = recover(first.data_dir, "--compare", second.data_dir)
        assert (asked.returncode, "say --yes" in asked.stderr) == (2, True), asked
        assert "No acknowledged write can be lost." in asked.stdout
        async with following_the_page(tmp_path, first, second) as clients:
            await check_data(clients[0], newest)

            async def joined() -> bool:
                members = (await clients[0].members()).members
                return [member.role for member in members] == ["voter", "voter"]

            await eventually("the second node votes", joined)
            assert (await clients[1].get("after")) is not None


@contextlib.asynccontextmanager
async def following_the_page(path: Path, first: Node, second: Node) -> AsyncIterator[list[AsyncClient]]:
    """Run the page's commands with these two nodes in the places of n1 and n2."""
    names = {"n1": first.name, "n2": second.name, "new-n2": f"new-{second.name}"}
    ports = {"1": first, "2": second}

    def other(match: re.Match[str]) -> str:
        node = ports[match[1]]
        return node.peer if ":710" in match[0] else node.http

    lines = re.findall(r"^\$ (syncline .*)$", PAGE, re.MULTILINE)
    lines = lines[:4]
    assert [line.split()[1] for line in lines] == ["recover", "recover", "serve", "serve"]
    serving: list[subprocess.Popen[bytes]] = []
    try:
        for line in lines:
            words = [names.get(word, word) for word in shlex.split(PORTS.sub(other, line))[1:]]
            serving += run_command(words, path)
        async with first.client(timeout=10.0) as one, second.client(timeout=10.0) as two:
            for client in (one, two):

                async def reads(client: AsyncClient = client) -> bool:
                    await client.get("readiness")
                    return True

                await eventually("it serves", reads)
            yield [one, two]
    finally:
        for child in serving:
            child.kill()
            child.wait(LIMIT_S)


def run_command(words: list[str], path: Path) -> list[subprocess.Popen[bytes]]:
    """Run a command of the page; the process of a server goes on."""
    command = [sys.executable, "-m", "syncline", *words]
    if words[0] == "serve":
        return [subprocess.Popen(command, cwd=path, stdin=subprocess.DEVNULL)]
    ran = subprocess.run(command, cwd=path, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ran.returncode == 0, ran
    return []


@pytest.mark.deadline(120.0)
async def test_backup_commands_of_the_page_begin_a_new_cluster(tmp_path: Path) -> None:
    """Saved from a cluster while writes go on; the new one goes on from revisions far above it."""
    lines = re.findall(r"^\$ (syncline .*)$", PAGE, re.MULTILINE)[4:]
    assert [line.split()[1:3] for line in lines[:4]] == [
        ["backup", "save"],
        ["backup", "verify"],
        ["backup", "schedule"],
        ["backup", "restore"],
    ]
    serving: list[subprocess.Popen[bytes]] = []
    try:
        async with running_cluster(str(tmp_path), 1) as nodes:
            newest = await filled(nodes)
            node = nodes.nodes[0]
            run_command(words_of(lines[0], node), tmp_path)
            run_command(words_of(lines[1], node), tmp_path)
            run_command(words_of(lines[2], node), tmp_path)
        for line in lines[3:]:
            serving += run_command(words_of(line, node), tmp_path)
        async with node.client(timeout=10.0) as client:

            async def reads() -> bool:
                await client.get("readiness")
                return True

            await eventually("it serves", reads)
            await check_data(client, newest)
    finally:
        for child in serving:
            child.kill()
            child.wait(LIMIT_S)


def words_of(line: str, node: Node) -> list[str]:
    """The words of a command of the page, with this node's ports."""
    return shlex.split(PORTS.sub(lambda match: node.peer if ":710" in match[0] else node.http, line))[1:]


# -- the library ------------------------------------------------------------------------------------------------------

EXAMPLES: Final = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


async def test_python_examples_of_the_recovery_page_run(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        await until(leader, lambda: leader.level >= 2)
        await leader.apply(b"one")
        info = await leader.snapshot()
        await leader.apply(b"two")
        snapshot = f"{leader.config.data_dir}/snapshots/{info.index:016x}-{info.term:016x}.snap"
        restoring = next(example for example in EXAMPLES if "raft.restore" in example)
        await run_example(restoring, {"raft": leader, "path": snapshot})
        assert nodes.machine(leader).items == [b"one"]
        await leader.apply(b"three")
        name = leader.config.name
        for each, raft in nodes.rafts.items():
            machine = nodes.machines[each]
            await until(raft, lambda machine=machine: machine.items == [b"one", b"three"])  # type: ignore[misc]
    recovering = next(example for example in EXAMPLES if "Raft.recover" in example)
    other = next(each for each in nodes.peers if each != name)
    recovering = recovering.replace('"b"', repr(str(tmp_path / other)))
    await run_example(recovering, {"Raft": Raft, "config": nodes.config(name), "Counter": Listing})
    raft = await nodes.start(name)
    try:
        assert nodes.machine(raft).items == [b"one", b"three"]
    finally:
        await nodes.stop_all()


async def run_example(example: str, names: dict[str, object]) -> None:
    body = "".join(f"    {line}\n" for line in example.splitlines())
    space: dict[str, object] = dict(names)
    exec(compile(f"async def example():\n{body}", "docs/recovery.md", "exec"), space)
    example_function = space["example"]
    assert callable(example_function)
    await example_function()


NODE: Final = """
import asyncio, json, os, signal, sys
from syncline import Config, Raft
from syncline.node import applier, restore_entries
from tests.helpers.node_cluster import Listing

config, die_at = json.loads(sys.argv[1]), sys.argv[2]
take, load, pieces = restore_entries.ArrivingState.take, applier.restore_renumbered, 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def taking(self, entry, index, term):
    global pieces
    pieces += 1
    if die_at == "piece" and pieces == 4:
        die()
    return take(self, entry, index, term)

def loading(fsm, source):
    if die_at == "load":
        die()
    return load(fsm, source)

restore_entries.ArrivingState.take = taking
applier.restore_renumbered = loading

async def main():
    machine = Listing()
    async with Raft.open(Config(**config), machine) as raft:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().split():
            try:
                if line[0] == "apply":
                    await raft.apply(line[1].encode() * 500)
                elif line[0] == "lead":
                    await raft.transfer_leadership(config["name"])
                elif line[0] == "snapshot":
                    info = await raft.snapshot()
                    print(json.dumps({"file": f"{info.index:016x}-{info.term:016x}.snap"}), flush=True)
                    continue
                elif line[0] == "restore":
                    with open(line[1], "rb") as file:
                        await raft.restore(file, timeout=10.0)
                answer = {"items": [item[:2].decode() for item in machine.items], "level": raft.level,
                          "leads": raft.is_leader}
            except Exception as error:
                answer = {"error": type(error).__name__, "text": str(error), "level": 0, "items": []}
            print(json.dumps(answer), flush=True)

asyncio.run(main())
"""


class LibraryNode:
    """A node of the library in a process of its own, which is told what to do line by line."""

    def __init__(self, config: dict[str, object]) -> None:
        self._config = config
        self.name = str(config["name"])
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, die_at: str = "") -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", NODE, json.dumps(self._config), die_at),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def ask(self, *words: str) -> dict[str, object]:
        """Its answer; empty if it has died."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(" ".join(words).encode() + b"\n")
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
            return json.loads(line) if line else {}
        return {}

    async def until(self, **expected: object) -> None:
        async def answers() -> bool:
            answer = await self.ask("state")
            return all(answer.get(name) == value for name, value in expected.items())

        await eventually(f"{self.name} has {expected}", answers)

    async def kill(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def died(self) -> int:
        assert self._process is not None
        return await self._process.wait()


@contextlib.asynccontextmanager
async def library_nodes(path: Path) -> AsyncIterator[list[LibraryNode]]:
    first = free_block(3)
    peers = {name: f"127.0.0.1:{first + at}" for at, name in enumerate("abc")}
    nodes = [
        LibraryNode(
            {"name": name, "data_dir": str(path / name), "listen": address, "peers": peers, "heartbeat_s": 0.05,
             "election_s": 0.5, "max_entry_bytes": 4096, "reserve_bytes": 0, "segment_bytes": 1 << 20}
        )
        for name, address in peers.items()
    ]  # fmt: skip
    try:
        yield nodes
    finally:
        for node in nodes:
            await node.kill()


OLD, LATER = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"], ["b0", "b1"]


@pytest.mark.deadline(120.0)
@pytest.mark.parametrize(
    ("dies", "die_at", "expected"),
    [
        ("leader", "piece", OLD + LATER),
        pytest.param("follower", "piece", OLD, marks=pytest.mark.slow),
        pytest.param("follower", "load", OLD, marks=pytest.mark.slow),
    ],
)
async def test_restore_with_a_node_killed_leaves_all_nodes_alike(
    tmp_path: Path, dies: str, die_at: str, expected: list[str]
) -> None:
    """Killed while pieces arrive, or before the state is loaded: after its restart it has what the others have."""
    async with library_nodes(tmp_path) as nodes:
        victim = nodes[0]
        for node in nodes:
            await node.start(die_at if node is victim else "")
        leader = victim if dies == "leader" else nodes[1]
        await leader.until(level=2)
        await leader.ask("lead")
        for item in OLD:
            await leader.ask("apply", item)
        saved = await leader.ask("snapshot")
        path = f"{tmp_path}/{leader.name}/snapshots/{saved['file']}"
        for item in LATER:
            await leader.ask("apply", item)
        for node in nodes:
            await node.until(items=OLD + LATER)
        answer = await leader.ask("restore", path)
        assert await victim.died() == -signal.SIGKILL
        assert "error" not in answer
        await victim.start()
        for node in nodes:
            await node.until(items=expected)
