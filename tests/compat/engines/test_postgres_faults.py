"""PostgreSQL that is silent, that waits for a standby, or whose row is locked by a process that does not go on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import psycopg
import pytest

import syncline
from syncline.engines import contact
from syncline.engines import postgres as engine
from syncline.engines.backends import make_backend
from syncline.engines.postgres import PostgresBackend
from syncline.errors import ConfigError, DeadlineExceeded
from syncline.platform.world import World
from tests.compat.engines.servers import PostgresServer
from tests.helpers.node_cluster import Listing

pytestmark = [pytest.mark.timeout(180), pytest.mark.deadline(90.0)]

RELOAD_S = 20.0


@contextlib.asynccontextmanager
async def _standby_is_missing(server: PostgresServer) -> AsyncIterator[psycopg.Connection[tuple[object, ...]]]:
    """Every commit waits for a standby that does not come, but for those of the session that is given."""
    with server.session() as session:
        session.execute("SET synchronous_commit = local")
        session.execute("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
        try:
            await _reloaded(session, "missing")
            yield session
        finally:
            session.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await _reloaded(session, "")


async def _reloaded(session: psycopg.Connection[tuple[object, ...]], names: str) -> None:
    session.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(RELOAD_S):
        while session.execute("SHOW synchronous_standby_names").fetchone() != (names,):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


async def test_engine_postgres_acknowledges_nothing_without_its_standby(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of an attempt must not end the wait of its commit: all nodes would see what only the primary has."""
    monkeypatch.setattr(contact, "ATTEMPT_S", 0.5)
    machine, other = Listing(), Listing()
    async with (
        syncline.open(postgres.url("standby"), machine) as node,
        syncline.open(postgres.url("standby"), other) as second,
    ):
        assert await node.apply(b"one", timeout=20) == 1
        await second.read_index(timeout=20)
        async with _standby_is_missing(postgres) as session:
            with pytest.raises(DeadlineExceeded):
                await node.apply(b"two", timeout=9)
            with pytest.raises(DeadlineExceeded):
                await second.read_index(timeout=1)
            assert machine.items == other.items == [b"one"]
            [(sessions,)] = session.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            ).fetchall()
            assert isinstance(sessions, int)
            assert sessions < 30, "attempts that were given up do not gather in the server"
        await node.read_index(timeout=30)
        assert machine.items == [b"one", b"two"], "the standby is not waited for any more"


async def test_engine_postgres_close_does_not_wait_for_a_silent_server(postgres: PostgresServer) -> None:
    node = await syncline.open(postgres.url("silent"), Listing())
    await node.apply(b"one", timeout=20)
    postgres.signal(signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded):
            await node.apply(b"two", timeout=0.5)
        with pytest.raises(DeadlineExceeded):
            await node.read_index(timeout=0.5)
        await asyncio.wait_for(node.close(), 3)
    finally:
        postgres.signal(signal.SIGCONT)


async def test_engine_postgres_goes_on_while_another_process_is_paused(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paused, or its host has gone, in the transaction of a snapshot, with the row of the log locked."""
    monkeypatch.setattr(engine, "IDLE_MS", 1_000)
    url = postgres.url("paused")
    async with syncline.open(url, Listing()) as node:
        await node.apply(b"one", timeout=20)
        paused = make_backend(url, World().rng)
        assert isinstance(paused, PostgresBackend)
        await paused.start()
        try:
            with contextlib.suppress(Exception):  # the server has ended the session
                async with paused._bulk.use(transaction=True) as cursor:
                    await cursor.execute("UPDATE syncline_head SET trim = trim WHERE log = 'paused'")
                    assert await node.apply(b"two", timeout=40) == 2
        finally:
            await paused.close()
        assert await node.apply(b"three", timeout=1) == 3


async def test_open_postgres_refuses_local_commits_with_standbys(postgres: PostgresServer) -> None:
    async with _standby_is_missing(postgres):
        with pytest.raises(ConfigError, match="synchronous_commit=local does not wait"):
            await syncline.open(postgres.url("local") + "&options=-csynchronous_commit%3Dlocal", Listing())
