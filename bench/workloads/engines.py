"""`apply` of one state machine on each engine, with so many in flight, and beside it what one would write by hand.

One server, or one node, of each on this machine's disk: etcd with one member, PostgreSQL, and a cluster of Raft with
one voter in the process. By hand: a `Put` of etcd, and an INSERT in PostgreSQL, for each command, by as many tasks (of
PostgreSQL on at most 16 connections). Nothing is applied there, and no command is exactly-once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.compat.engines.servers import etcd_servers, has_etcd, postgres_programs, postgres_server
from tests.helpers.ports import free_block

import syncline
from bench.figures import Figure, Quiet, Scale
from bench.load import VALUE_BYTES

IN_FLIGHT = (1, 16, 64, 256)
CONNECTIONS = 16
APPLY_S = 30.0
WARM_UP_SHARE = 1 / 5

Call = Callable[[bytes], Awaitable[object]]


class Count:
    """A state machine that costs nothing."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, _: syncline.Entry) -> int:
        self.count += 1
        return self.count

    def snapshot(self) -> syncline.FSMSnapshot:
        return syncline.BytesSnapshot(b"%d" % self.count)

    def restore(self, source: Any) -> None:
        self.count = int(source.read())


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(dir=directory) as folder, contextlib.ExitStack() as servers:
        for name, open_calls in _systems(folder, servers):
            rates = asyncio.run(_measured(open_calls, scale.seconds, quiet))
            for count, per_s in zip(IN_FLIGHT, rates, strict=True):
                title = f"`apply` on {name}, {count} in flight"
                figures.append(Figure(f"engine.{name.replace(' ', '-')}.{count}", title, per_s, "/s"))
    return figures


Calls = Callable[[], contextlib.AbstractAsyncContextManager[Call]]


def _systems(folder: str, servers: contextlib.ExitStack) -> Iterator[tuple[str, Calls]]:
    yield "raft", lambda: _engine(f"raft:{_raft_file(folder)}")
    if has_etcd() and find_spec("aetcd") is not None:
        hosts = servers.enter_context(etcd_servers(Path(folder))).hosts
        yield "etcd", lambda: _engine(f"etcd://{hosts}/bench")
        yield "etcd by hand", lambda: _etcd_by_hand(hosts)
    programs = postgres_programs()
    if programs is not None and find_spec("psycopg") is not None:
        server = servers.enter_context(postgres_server(programs))
        yield "postgresql", lambda: _engine(server.url("bench"))
        yield "postgresql by hand", lambda: _postgres_by_hand(server.url("bench").partition("?")[0])
    yield "memory", lambda: _engine("memory:")


def _raft_file(folder: str) -> str:
    address = f"127.0.0.1:{free_block(1)}"
    path = os.path.join(folder, "cluster.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(
            f'name = "a"\ndata_dir = "{folder}/raft"\npeer_listen = "{address}"\ninsecure = true\n'
            f'[initial_cluster]\na = "{address}"\n'
        )
    return path


@contextlib.asynccontextmanager
async def _engine(url: str) -> AsyncIterator[Call]:
    async with syncline.open(url, Count()) as node:
        yield lambda data: node.apply(data, timeout=APPLY_S)


@contextlib.asynccontextmanager
async def _etcd_by_hand(hosts: str) -> AsyncIterator[Call]:
    from aetcd import rpc

    numbers = itertools.count()
    async with rpc.insecure_channel(hosts) as channel:
        put = rpc.KVStub(channel).Put
        yield lambda data: put(rpc.PutRequest(key=b"hand/%012d" % next(numbers), value=data))


@contextlib.asynccontextmanager
async def _postgres_by_hand(conninfo: str) -> AsyncIterator[Call]:
    import psycopg

    free: asyncio.Queue[Any] = asyncio.Queue()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            connecting = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
            free.put_nowait(await stack.enter_async_context(connecting))
        connection = await free.get()
        await connection.execute("CREATE TABLE hand (id bigserial PRIMARY KEY, body bytea NOT NULL)")
        free.put_nowait(connection)

        async def call(data: bytes) -> None:
            connection = await free.get()
            try:
                await connection.execute("INSERT INTO hand (body) VALUES (%b)", [data])
            finally:
                free.put_nowait(connection)

        yield call


async def _measured(open_calls: Calls, seconds: float, quiet: Quiet) -> list[float]:
    """Calls a second, for each number in flight."""
    async with open_calls() as call:
        rates = []
        for count in IN_FLIGHT:
            await _loaded(call, count, seconds * WARM_UP_SHARE)
            with quiet():
                rates.append(await _loaded(call, count, seconds))
        return rates


async def _loaded(call: Call, count: int, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    begun_s, done = loop.time(), 0
    data = b"x" * VALUE_BYTES

    async def client() -> None:
        nonlocal done
        while loop.time() - begun_s < seconds:
            await call(data)
            done += 1

    await asyncio.gather(*(client() for _ in range(count)))
    return done / (loop.time() - begun_s)
