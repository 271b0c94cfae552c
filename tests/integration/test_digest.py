"""Comparison of states on real servers: what operators see over HTTP, and that a node that differs stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from syncline.errors import NodeFailed
from syncline.kv.machine import KvMachine
from syncline.platform.world import World
from syncline.server.app import KvServer
from syncline.server.config import ServerConfig
from tests.helpers.ports import free_block
from tests.helpers.process_cluster import eventually

INTERVAL = 8


async def ask(server: KvServer, request: str) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.http_url.rpartition(":")[2]))
    writer.write(f"{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def with_servers(path: Path, scenario: Callable[[list[KvServer]], Awaitable[None]]) -> None:
    port = free_block(3)
    members = {name: f"127.0.0.1:{port + at}" for at, name in enumerate("abc")}
    servers = [
        await KvServer.open(
            ServerConfig(
                name=name, data_dir=str(path / name), http_listen="127.0.0.1:0", peer_listen=address,
                initial_cluster=members, heartbeat_s=0.05, election_s=0.5, reserve_bytes=0,
            ),
            world=World(digest_interval=INTERVAL),
        )
        for name, address in members.items()
    ]  # fmt: skip
    try:
        await scenario(servers)
    finally:
        for server in servers:
            await server.close()


async def leader_of(servers: list[KvServer]) -> KvServer:
    async def leading() -> KvServer | None:
        leaders = {server.raft.stats().leader for server in servers}
        return next((one for one in servers if one.raft.is_leader), None) if len(leaders) == 1 else None

    return await eventually("the servers follow one leader", leading)


async def write(server: KvServer, count: int) -> None:
    for number in range(count):
        status, body = await ask(server, f"PUT /key/{number}")
        assert status == 200, body


async def until_status(server: KvServer, agreement: str, after: int = 0) -> int:
    """Wait until `/raft/status` tells of a comparison with this result above an index; the index."""

    async def shown() -> int | None:
        status = json.loads((await ask(server, "GET /raft/status"))[1])
        agreed = status["digest_agreement"] == agreement and status["digest_index"] > after
        return int(status["digest_index"]) if agreed else None

    return await eventually(f"{server.raft.config.name} shows {agreement}", shown)


def change_outside_the_log(server: KvServer, key: bytes) -> None:
    machine = server.raft._driver.parts.machine._fsm
    assert isinstance(machine, KvMachine)
    store = machine.store
    store.put(key, b"changed", 0, store.revision)


@pytest.mark.deadline(60.0)
async def test_digest_is_shown_over_http_and_a_node_that_differs_stops(tmp_path: Path) -> None:
    async def scenario(servers: list[KvServer]) -> None:
        leader = await leader_of(servers)
        await write(leader, 2 * INTERVAL)
        for server in servers:
            index = await until_status(server, "agreed")
            assert index % INTERVAL == 0
            assert (await ask(server, "GET /readyz/digest")) == (200, b"ok\n")
            metrics = (await ask(server, "GET /metrics"))[1].decode()
            assert "\nsyncline_digest_agreement 1\n" in metrics
        wrong = next(server for server in servers if server is not leader)
        change_outside_the_log(wrong, b"0")
        await write(leader, 2 * INTERVAL)
        async with asyncio.timeout(20.0):
            failure = await wrong.raft.failed()
        assert isinstance(failure, NodeFailed)
        assert f"node {wrong.raft.config.name} ({wrong.raft.node_id:016x}) has stopped" in str(failure)
        assert leader.raft.is_leader
        await write(leader, INTERVAL)

    await with_servers(tmp_path, scenario)


@pytest.mark.deadline(60.0)
async def test_digest_without_a_majority_fails_readiness_and_writes_go_on(tmp_path: Path) -> None:
    async def scenario(servers: list[KvServer]) -> None:
        leader = await leader_of(servers)
        await write(leader, 2 * INTERVAL)
        for server in servers:
            await until_status(server, "agreed")
            change_outside_the_log(server, server.raft.config.name.encode())
        await write(leader, 2 * INTERVAL)
        for server in servers:
            await until_status(server, "no_majority")
            status, body = await ask(server, "GET /readyz")
            assert status == 503
            assert b"[-]digest failed: the voters' states differ" in body
            assert (await ask(server, "GET /livez"))[0] == 200
            assert "\nsyncline_digest_agreement 0\n" in (await ask(server, "GET /metrics"))[1].decode()
        await write(leader, INTERVAL)

    await with_servers(tmp_path, scenario)
