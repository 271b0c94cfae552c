"""Claims, registrations and mappings when their holders and nodes are killed and paused: real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from tests.helpers.process_cluster import Cluster, running_cluster

TTL_S = 2.0
ELECTION_S = 0.5
ALLOWANCE_S = 5.0

HOLDER = """
import asyncio, sys
from syncline.client import AsyncClient

async def main():
    async with AsyncClient(sys.argv[1].split(",")) as kv:
        if sys.argv[2] == "queue":
            async with kv.queue("mail").claim(ttl=2) as item:
                print(item.value.decode(), item.token, flush=True)
                await asyncio.Event().wait()
        async with kv.register("api", "a:1", ttl=2) as registration:
            async for state in registration.states():
                print(state.registered, state.losses, flush=True)

try:
    asyncio.run(main())
except Exception as error:
    print(type(error).__name__, flush=True)
"""


@asynccontextmanager
async def holder(cluster: Cluster, kind: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that holds something until it is killed. Its lines say what it holds."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, ",".join(cluster.endpoints), kind, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def claimed_after_s(kv: AsyncClient, token: int) -> float:
    """Wait for the item of a claimer that is gone; how long it took."""
    begun_s = time.monotonic()
    async with kv.queue("mail").claim(wait=30.0) as item:
        took_s = time.monotonic() - begun_s
        assert (item.value, item.deliveries) == (b"a", 2)
        assert item.token > token
    return took_s


@pytest.mark.deadline(60.0)
async def test_queue_item_comes_back_after_a_crash_and_a_pause(tmp_path: Path) -> None:
    """Within the TTL and two election timeouts, with an allowance for two processes on a busy machine."""
    async with running_cluster(str(tmp_path), size=1) as cluster, cluster.client() as kv:
        mail = kv.queue("mail")
        for number in (signal.SIGKILL, signal.SIGSTOP):
            await mail.put("a")
            async with holder(cluster, "queue") as process:
                value, token = (await line(process)).split()
                assert value == "a"
                os.kill(process.pid, number)
                assert await claimed_after_s(kv, int(token)) < TTL_S + 2 * ELECTION_S + ALLOWANCE_S
                if number == signal.SIGSTOP:
                    os.kill(process.pid, signal.SIGCONT)
                    assert await line(process) == "LeaseLost"
        assert await mail.size() == 0


@pytest.mark.deadline(60.0)
async def test_registration_ends_with_a_crash_and_survives_a_pause(tmp_path: Path) -> None:
    async with (
        running_cluster(str(tmp_path), size=1) as cluster,
        cluster.client() as kv,
        holder(cluster, "service") as process,
        kv.services("api") as api,
    ):
        assert await line(process) == "True 0"
        [first] = await api.wait(1, timeout=10.0)
        process.send_signal(signal.SIGSTOP)
        while api:
            await api.changed(timeout=10.0)
        process.send_signal(signal.SIGCONT)
        [again] = await api.wait(1, timeout=10.0)
        assert (again.address, again.id == first.id) == ("a:1", False)
        told = [await line(process)]
        while told[-1] != "True 1":
            told.append(await line(process))
        process.kill()
        while api:
            await api.changed(timeout=10.0)


@pytest.mark.deadline(90.0)
@pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=pytest.mark.slow)])
async def test_mapping_and_queue_go_on_when_nodes_are_killed(tmp_path: Path, rounds: int) -> None:
    """The mapping never goes back, and shows what was set; each item is delivered once or more, and none is lost."""
    async with running_cluster(str(tmp_path), size=3) as cluster, cluster.client(timeout=20.0) as kv:
        mail, done, revisions = kv.queue("mail"), [], [0]

        async def work() -> None:
            while True:
                async with mail.claim(ttl=5) as item:
                    done.append(item.value)
                    if item.value == b"end":
                        return

        async with kv.mapping("config/") as config:
            worker = asyncio.create_task(work())
            for at in range(rounds):
                await config.set("at", str(at))
                assert config["at"] == str(at).encode()
                revisions.append(config.revision)
                await mail.put_many([f"{at}.{number}" for number in range(5)])
                node = await cluster.leader()
                node.kill()
                await config.set("killed", node.name)
                assert config["killed"] == node.name.encode()
                revisions.append(config.revision)
                node.start()
                await cluster.wait_ready([node])
            await mail.put("end")
            await worker
        assert revisions == sorted(revisions)
        assert {f"{at}.{number}".encode() for at in range(rounds) for number in range(5)} | {b"end"} == set(done)
        assert await mail.size() == 0
