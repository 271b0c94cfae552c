"""Watches on whole clusters: each revision once and in order, whatever happens to nodes, leaders and logs."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from threading import get_ident
from typing import Any, cast

import pytest

from syncline.client import AsyncClient, RevisionEvents
from syncline.errors import OperationError, WatchEnded
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.kv.watch_hub import WatchHub
from syncline.server.api.raft_backend import NodeBackend
from syncline.server.app import KvServer
from syncline.testing.raft_cluster import RaftCluster, _raft
from tests.helpers.kv_commands import persisted
from tests.helpers.process_cluster import eventually, running_cluster
from tests.helpers.watches import EventForm
from tests.unit.test_server_app import cluster, free_ports, settings

WRITES = 40


class Watcher:
    """A client that watches all keys, and keeps what it was told."""

    def __init__(self, client: AsyncClient) -> None:
        self.revisions: list[int] = []
        self.values: list[bytes] = []
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(self._run(client))

    async def _run(self, client: AsyncClient) -> None:
        changes = client.watch(prefix="", from_revision=1)
        async with aclosing(cast("Any", changes)):
            async for change in changes:
                self.revisions.append(change.revision)
                self.values += [event.value for event in change.events]
                self.ready.set()

    async def until(self, revision: int) -> None:
        while not self.revisions or self.revisions[-1] < revision:
            self.ready.clear()
            await self.ready.wait()


async def write(client: AsyncClient, value: str) -> int:
    """Write a key, again and again until it is known to be written."""
    while True:
        try:
            return (await client.put("key", value, idempotent=True, timeout=2.0)).revision
        except OperationError:
            await asyncio.sleep(0)


@pytest.mark.deadline(120.0)
async def test_watch_misses_nothing_while_nodes_restart_and_leaders_change(tmp_path: Path) -> None:
    async with cluster(tmp_path) as servers:
        urls = {name: server.http_url for name, server in servers.items()}
        ports = {name: server.config.peer_listen for name, server in servers.items()}
        async with AsyncClient([*urls.values()]) as writer, AsyncClient([*urls.values()]) as reader:
            watcher, last = Watcher(reader), 0
            for number in range(WRITES):
                last = max(last, await write(writer, str(number)))
                if number == 10:
                    await writer.transfer_leadership()
                if number in (15, 22, 29):
                    name = "abc"[number % 3]
                    await servers[name].close()
                    again = settings(
                        tmp_path,
                        name,
                        int(ports[name].rsplit(":", 1)[1]),
                        initial_cluster=ports,
                        http_listen=urls[name].removeprefix("http://"),
                    )
                    servers[name] = await KvServer.open(again)
            await watcher.until(last)
            watcher.task.cancel()
            assert watcher.revisions == [*range(1, last + 1)]
            assert list(dict.fromkeys(watcher.values)) == [b"%d" % n for n in range(WRITES)]


@pytest.mark.deadline(60.0)
async def test_single_node_that_restarts_goes_on_with_its_watches(tmp_path: Path) -> None:
    http = f"127.0.0.1:{free_ports(1)[0]}"
    server = await KvServer.open(settings(tmp_path, http_listen=http))
    try:
        async with AsyncClient(f"http://{http}") as client:
            await write(client, "0")
            watcher = Watcher(client)
            await watcher.until(1)
            await write(client, "1")
            await server.close(drain_s=5.0)
            server = await KvServer.open(
                settings(tmp_path, http_listen=http, peer_port=int(server.config.peer_listen.rsplit(":", 1)[1]))
            )
            last = await write(client, "2")
            await watcher.until(last)
            watcher.task.cancel()
            assert watcher.revisions == [*range(1, last + 1)]
    finally:
        await server.close(drain_s=1.0)


async def test_closing_server_ends_its_watches_before_it_cuts_connections(tmp_path: Path) -> None:
    """A watch must not hold up the end of a node, and is told where to go on."""
    server = await KvServer.open(settings(tmp_path))
    host, port = server.http_url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /watch?prefix= HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head
    await server.close(drain_s=20.0)
    rest = await reader.read()
    assert b'"code":"closed"' in rest
    assert b'"from":1' in rest
    assert rest.endswith(b"0\r\n\r\n")
    writer.close()


async def test_client_that_reads_nothing_is_cut_off_and_can_resume(tmp_path: Path) -> None:
    """Real sockets: what the node holds for it is bounded, and the error tells where to go on."""
    async with KvServer.open(settings(tmp_path)) as server, AsyncClient(server.http_url) as client:
        host, port = server.http_url.removeprefix("http://").rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**16)
        writer.write(b"GET /watch?prefix= HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        watches, last = server.site.watches, 0
        while not watches.cut_off:
            last = (await client.put("key", b"x" * 500_000)).revision
            assert watches.unread_bytes <= 1024 * 1024
        lines = b""
        while not lines.endswith(b"0\r\n\r\n"):
            lines += await reader.read(2**20)
        writer.close()
        assert b'"code":"slow_watcher"' in lines
        resume = int(lines.rpartition(b'"from":')[2].partition(b"}")[0])
        assert lines.count(b'"type":"put"') == resume - 1
        assert len(watches) == 0
        found = [change.revision async for change in taken(client, resume, last)]
        assert found == [*range(resume, last + 1)]


async def taken(client: AsyncClient, first: int, last: int) -> AsyncIterator[RevisionEvents]:
    """The changes of these revisions."""
    async with aclosing(cast("Any", client.watch(prefix="", from_revision=first))) as changes:
        async for change in changes:
            yield change
            if change.revision == last:
                return


async def test_restore_on_another_thread_tells_the_loop_of_it(tmp_path: Path) -> None:
    """A node restores snapshots beside its loop. An error there would stop it."""
    async with KvServer.open(settings(tmp_path)) as server:
        backend, told = cast("NodeBackend", server.site._backend), asyncio.Event()
        threads: list[int] = []

        def observer() -> None:
            threads.append(get_ident())
            told.set()

        backend.observe(observer)
        machine = backend._machine
        snapshot = io.BytesIO(persisted(machine))
        await asyncio.to_thread(machine.restore, snapshot)
        await told.wait()
        assert threads == [get_ident()]


@pytest.mark.deadline(190.0)
@pytest.mark.timeout(200)
async def test_watch_on_a_running_node_goes_on_through_an_installed_snapshot(tmp_path: Path) -> None:
    """Real processes: the node is stopped while the others drop the log that it needs."""
    async with running_cluster(str(tmp_path), snapshot_entries="500", trailing_entries="100") as processes:
        away = (await processes.followers())[0]
        async with away.client(timeout=60.0) as reader, processes.client(timeout=30.0) as writer:
            await writer.put("first", b"v")
            watcher = Watcher(reader)
            await watcher.until(1)
            behind = (await processes.status(away)).last_index
            away.pause()
            others = [node for node in processes.nodes if node is not away]
            # Each put is to be an entry of the log, so none is gathered.
            async with AsyncClient([node.url for node in others], timeout=30.0, batching=False) as client:
                last = 0
                for first in range(0, 1200, 60):
                    keys = [f"key{number}" for number in range(first, first + 60)]
                    puts = [client.put(key, b"v" * 8192, idempotent=True) for key in keys]  # more than a socket takes
                    last = max(result.revision for result in await asyncio.gather(*puts))
            leader = await processes.leader()

            async def compacted() -> bool:
                return (await processes.status(leader)).first_index > behind + 1

            await eventually("the log that it needs is dropped", compacted)
            away.resume()
            await watcher.until(last)
            watcher.task.cancel()
            assert (await processes.status(away)).snapshot_index > behind, "it caught up entry by entry"
            assert watcher.revisions == [*range(1, last + 1)]


# --- on virtual time


class HubOn:
    """A hub on one node of a simulated cluster, with one watch of all keys."""

    def __init__(self, simulated: RaftCluster, name: str, *, stale: bool = False) -> None:
        self.simulated = simulated
        self.machine = cast("KvMachine", simulated.machine(name))
        raft = _raft(simulated._cluster.server(name))
        self.hub = WatchHub(
            lambda: self.machine.store,
            has_leader=lambda: raft.leader is not None,
            confirm=lambda timeout_s: raft.read_index(timeout=timeout_s),
            election_s=raft.config.election_s,
        )
        self.machine.observe(self.hub.changed)
        self.told: list[Any] = []
        simulated._run(self._start(stale))

    async def _start(self, stale: bool) -> None:
        self.watch = self.hub.watch(b"", None, EventForm(), stale=stale, progress_s=2.0)
        self.watch.start(self._wake)

    def _wake(self) -> None:
        asyncio.get_running_loop().call_soon(self._read)

    def _read(self) -> None:
        while (message := self.watch.read()) is not None:
            self.told.append(message)

    @property
    def revisions(self) -> list[int]:
        return [message[0] for message in self.told if message[0] != "progress"]

    @property
    def marks(self) -> int:
        return sum(message[0] == "progress" for message in self.told)


def put(simulated: RaftCluster, count: int) -> None:
    for number in range(count):
        simulated.apply(encode_command(Put(b"key", b"%d" % number)))


def test_watch_on_a_node_that_gets_a_snapshot_loses_no_revision(
    raft_cluster: Callable[..., RaftCluster],
) -> None:
    simulated = raft_cluster(KvMachine)
    name = simulated.followers[0]
    on = HubOn(simulated, name, stale=True)
    put(simulated, 5)
    simulated.run(1.0)
    assert on.revisions == [*range(1, 6)]
    before = on.machine.store
    simulated.isolate(name)
    put(simulated, 200)
    simulated.snapshot(simulated.leader)
    simulated.run(1.0)
    simulated.heal()
    simulated.settle()
    assert on.machine.store is not before, "it was to get a snapshot"
    put(simulated, 5)
    simulated.settle()
    simulated.run(1.0)
    assert on.revisions == [*range(1, 211)]


def test_watch_on_a_node_that_is_cut_off_ends_and_is_told_no_progress(
    raft_cluster: Callable[..., RaftCluster],
) -> None:
    simulated = raft_cluster(KvMachine)
    leader = simulated.leader
    on, stale = HubOn(simulated, leader), HubOn(simulated, leader, stale=True)
    put(simulated, 3)
    simulated.run(10.0)
    assert on.marks >= 3
    simulated.isolate(leader)
    simulated.run(3.0)  # it finds out that it does not lead any more
    marks = stale.marks
    simulated.run(20.0)
    assert isinstance(on.watch.error, WatchEnded)
    assert (on.watch.error.code, on.watch.error.resume) == ("no_leader", 4)
    assert stale.watch.error is None
    assert stale.marks == marks
    simulated.heal()
    put(simulated, 2)
    simulated.settle()
    simulated.run(5.0)
    assert stale.revisions == [*range(1, 6)]
    assert stale.marks > marks


def test_watch_on_the_old_leader_goes_on_after_a_transfer(raft_cluster: Callable[..., RaftCluster]) -> None:
    simulated = raft_cluster(KvMachine)
    on = HubOn(simulated, simulated.leader)
    put(simulated, 3)
    simulated.transfer_leadership()
    put(simulated, 3)
    simulated.settle()
    simulated.run(1.0)
    assert on.revisions == [*range(1, 7)]
    assert on.watch.error is None
