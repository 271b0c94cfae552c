"""An attacker on the peer ports of a live cluster under writes: no node stops, nothing grows, no write is lost.

`SYNCLINE_FUZZ_SECONDS` makes it longer (600 for the full run), `SYNCLINE_FUZZ_SEED` makes it another one.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from syncline.errors import OperationError
from syncline.node.member_registry import parse_id
from syncline.node.secret_file import read_secret_file, write_secret_file
from syncline.transport.handshake import PROTOCOL_VERSION, Hello, Purpose, Welcome
from tests.helpers.peer_fuzzer import Fuzzer, Target
from tests.helpers.process_cluster import Cluster, Node, eventually, running_cluster
from tests.helpers.transport import RawEnd

SECONDS = float(os.environ.get("SYNCLINE_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("SYNCLINE_FUZZ_SEED", "1"))
WRITERS = 4
KEYS = 50
"""Of each writer, written again and again: what the cluster keeps does not grow."""

WINDOW_S = 15.0
"""Some write is acknowledged in each: longer than an election and a timed-out call on a busy machine."""

RSS_GROWTH_BYTES = 160 << 20
"""A log with snapshots of the usual settings takes some of it; a frame of 64 MiB that is kept, or a link for each
greeting, takes more."""

FD_GROWTH = 24


class Writers:
    """Clients that write numbers that grow, each to keys of its own."""

    def __init__(self, endpoints: list[str]) -> None:
        self.acknowledged: dict[bytes, int] = {}
        self.count = 0
        self.longest_pause_s = 0.0
        self._endpoints = endpoints
        self._stopping = False
        self._last_s = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]

    async def _write(self, writer: int) -> None:
        loop = asyncio.get_running_loop()
        async with AsyncClient(self._endpoints, timeout=5.0) as client:
            number = 0
            while not self._stopping:
                number += 1
                key = b"w%d/%d" % (writer, number % KEYS)
                try:
                    await client.put(key, b"%d" % number)
                except OperationError:
                    continue
                self.acknowledged[key] = number
                self.count += 1
                self.longest_pause_s = max(self.longest_pause_s, loop.time() - self._last_s)
                self._last_s = loop.time()

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


def open_files(node: Node) -> int:
    return len(os.listdir(f"/proc/{node.pid}/fd"))


def rss_bytes(node: Node) -> int:
    fields = Path(f"/proc/{node.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


async def look(node: Node, nodes: list[tuple[Node, int]], cluster_id: int, secret: bytes) -> Target:
    """Ask a node who it is, as a program that has the secret."""
    node_id = next(own for other, own in nodes if other is node)
    end = await RawEnd.dial(node.peer)
    hello = Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, cluster_id, 2**61 + 1, node_id, Purpose.MESSAGES, 1)
    welcome = await end.introduce(hello, secret)
    assert isinstance(welcome, Welcome), welcome
    await end.close()
    return Target(node.peer, node_id, welcome)


async def check_writes(cluster: Cluster, writers: Writers) -> None:
    async with cluster.client() as client:
        for key, number in writers.acknowledged.items():
            found = await client.get(key)
            assert found is not None, key
            assert int(found.value) >= number, (key, number, found.value)


async def attack(cluster: Cluster, fuzzer: Fuzzer, writers: Writers) -> None:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + SECONDS
    attackers = [asyncio.create_task(work) for work in (fuzzer.strangers(end_s), fuzzer.members(end_s))]
    count, looked_s = writers.count, loop.time()
    while not all(task.done() for task in attackers):
        await asyncio.wait(attackers, timeout=1.0)
        for node in cluster.nodes:
            assert node.running, f"{node.name} has stopped:\n{node.log()[-4000:]}"
        if loop.time() - looked_s > WINDOW_S:
            assert writers.count > count, f"no write within {WINDOW_S:g} s"
            count, looked_s = writers.count, loop.time()
    for task in attackers:
        task.result()


@pytest.mark.deadline(SECONDS * 2 + 120)
@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 240)
async def test_peer_port_under_attack_keeps_every_promise(tmp_path: Path) -> None:
    """By strangers and by a program that has the secret, over the real handshake."""
    print(f"seed {SEED}, {SECONDS:g} s")
    path = str(tmp_path / "peer-secret")
    write_secret_file(path)
    secret = read_secret_file(path)[0]
    async with running_cluster(str(tmp_path), 3, peer_secret_file=path) as cluster:
        statuses = [await cluster.status(node) for node in cluster.nodes]
        nodes = [(node, parse_id(status.id)) for node, status in zip(cluster.nodes, statuses, strict=True)]
        cluster_id = parse_id(statuses[0].cluster_id)
        targets = [await look(node, nodes, cluster_id, secret) for node in cluster.nodes]
        writers = Writers(cluster.endpoints)
        await eventually("writes go on", lambda: asyncio.sleep(0, writers.count > 500))
        before = [(open_files(node), rss_bytes(node)) for node in cluster.nodes]
        fuzzer = Fuzzer(random.Random(SEED), targets, cluster_id, secret)
        await attack(cluster, fuzzer, writers)
        await writers.stop()
        print(f"{sum(fuzzer.sent.values())} attacks: {fuzzer.sent}")
        print(f"{writers.count} writes, the longest pause {writers.longest_pause_s:.1f} s")
        assert min(fuzzer.sent.values()) > 0
        await check_writes(cluster, writers)
        for node, (files, memory) in zip(cluster.nodes, before, strict=True):
            print(f"{node.name}: {open_files(node) - files:+d} files, {(rss_bytes(node) - memory) >> 20:+d} MiB")
            await eventually(
                f"{node.name} lets go of the attacker's connections",
                lambda node=node, files=files: asyncio.sleep(0, open_files(node) <= files + FD_GROWTH),  # type: ignore[misc]
            )
            assert rss_bytes(node) - memory < RSS_GROWTH_BYTES
            assert secret.hex() not in node.log()
            assert "Traceback" not in node.log()
