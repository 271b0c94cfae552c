"""Sites of the conformance suite (`tests/helpers/engine_checks.py`) on real servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from syncline import FSM, Engine
from syncline.engines.backends import make_backend
from syncline.engines.replica import LogReplica, open_log
from syncline.platform.world import World
from tests.compat.engines.servers import EtcdServers, PostgresServer
from tests.helpers.engine_faults import FaultyBackend

__all__ = ["ServerSite", "engine_site", "etcd_site", "postgres_site"]


class Servers(Protocol):
    """What can be done to a backend."""

    def stop(self) -> None: ...
    def start(self) -> None: ...
    def save(self) -> None: ...
    def restore(self) -> None: ...
    def forget_machine(self, log: str) -> None: ...


class ServerSite:
    """Nodes on one log of a real server."""

    def __init__(self, url: str, servers: Servers, log: str = "") -> None:
        self.url = url
        self.log = log
        self.rng = random.Random(url)
        self._servers = servers
        self.nodes: list[LogReplica[object]] = []

    async def open(self, fsm: FSM[object]) -> Engine[object]:
        return (await self.open_faulty(fsm))[0]

    async def open_faulty(self, fsm: FSM[object], rate: float = 0.0) -> tuple[LogReplica[object], FaultyBackend]:
        backend = FaultyBackend(make_backend(self.url, self.rng), self.rng, rate)
        node = await open_log(backend, fsm, world=World(rng=random.Random(self.rng.random())))
        self.nodes.append(node)
        return node, backend

    async def restart(self) -> None:
        await asyncio.to_thread(self._servers.stop)
        await asyncio.to_thread(self._servers.start)

    async def forget_machine(self) -> None:
        await asyncio.to_thread(self._servers.forget_machine, self.log)

    async def save(self) -> None:
        await asyncio.to_thread(self._servers.stop)
        self._servers.save()
        await asyncio.to_thread(self._servers.start)

    async def restore(self) -> None:
        await asyncio.to_thread(self._servers.stop)
        self._servers.restore()
        await asyncio.to_thread(self._servers.start)


@asynccontextmanager
async def etcd_site(servers: EtcdServers, log: str) -> AsyncIterator[ServerSite]:
    async with engine_site(ServerSite(f"etcd://{servers.hosts}/{log}", servers, log)) as site:
        yield site


@asynccontextmanager
async def postgres_site(server: PostgresServer, log: str) -> AsyncIterator[ServerSite]:
    async with engine_site(ServerSite(server.url(log), server, log)) as site:
        yield site


@asynccontextmanager
async def engine_site(site: ServerSite) -> AsyncIterator[ServerSite]:
    """Close its nodes at the end."""
    try:
        yield site
    finally:
        for node in site.nodes:
            await node.close()
