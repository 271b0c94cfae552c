"""PostgreSQL whose tables, rights or settings are changed while programs use a log there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import psycopg
import pytest

import syncline
from syncline import LogReplica
from syncline.errors import ConfigError, DeadlineExceeded, NodeFailed, Outcome, StorageError
from tests.compat.engines.servers import PostgresServer
from tests.helpers.node_cluster import Listing

pytestmark = [pytest.mark.timeout(180), pytest.mark.deadline(90.0)]

OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> %s"


@contextlib.asynccontextmanager
async def _setting(session: psycopg.Connection[tuple[object, ...]], name: str, value: str) -> AsyncIterator[None]:
    """A setting of the server, for all sessions but this one."""
    before = session.execute(f"SHOW {name}").fetchone()
    assert before is not None
    session.execute(f"SET {name} = '{before[0]}'")
    session.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    session.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        session.execute(f"ALTER SYSTEM RESET {name}")
        session.execute("SELECT pg_reload_conf()")


async def test_engine_postgres_goes_on_after_its_connections_were_ended(postgres: PostgresServer) -> None:
    """Each command is applied once, in order, and is answered."""
    machine = Listing()
    async with syncline.open(postgres.url("ended"), machine) as node:
        with postgres.session() as session:
            for number in range(60):
                waits = node.apply(b"%d" % number, timeout=20)
                if number % 6 == 0:
                    session.execute(OTHERS, [session.info.backend_pid])
                await waits
        await node.read_index(timeout=20)
    assert machine.items == [b"%d" % number for number in range(60)]


async def test_engine_postgres_that_is_read_only_says_so_and_goes_on(postgres: PostgresServer) -> None:
    machine = Listing()
    async with syncline.open(postgres.url("read-only"), machine) as node:
        assert isinstance(node, LogReplica)
        await node.apply(b"one", timeout=20)
        with postgres.session() as session:
            async with _setting(session, "default_transaction_read_only", "on"):
                async with asyncio.timeout(20):
                    while "read-only" not in node.stats().trouble:
                        with contextlib.suppress(DeadlineExceeded):
                            await node.read_index(timeout=0.2)
                with pytest.raises(DeadlineExceeded, match="read-only") as raised:
                    await node.apply(b"two", timeout=1)
                assert raised.value.outcome is Outcome.NOT_APPLIED
                assert await node.read(lambda: len(machine.items), stale=True) == 1
        assert await node.apply(b"three", timeout=20) == 2


async def test_open_postgres_refuses_a_log_whose_records_were_deleted(postgres: PostgresServer) -> None:
    """It must not begin with an empty state, as if nothing had ever been acknowledged."""
    url = postgres.url("deleted")
    async with syncline.open(url, Listing()) as node:
        await node.apply(b"one", timeout=20)
        with postgres.session() as session:
            session.execute("DELETE FROM syncline_entries WHERE log = 'deleted'")
        with pytest.raises(NodeFailed, match="is not the one that this node has read"):
            await node.read_index(timeout=20)
    with pytest.raises(NodeFailed, match="its records behind 0 are gone"):
        await syncline.open(url, Listing())


async def test_open_postgres_tells_at_once_which_privilege_is_missing(postgres: PostgresServer) -> None:
    url = postgres.url("rights", user="limited")
    async with syncline.open(postgres.url("rights"), Listing()) as node:
        await node.apply(b"one", timeout=20)
    with postgres.session() as session:
        session.execute("CREATE ROLE limited LOGIN")
        session.execute("GRANT ALL ON syncline_head, syncline_snapshots TO limited")
        with pytest.raises(ConfigError, match="permission denied for table syncline_entries"):
            await asyncio.wait_for(syncline.open(url, Listing()), 10)
        session.execute("GRANT ALL ON syncline_entries TO limited")
        async with syncline.open(url, Listing()) as node:
            session.execute("REVOKE ALL ON syncline_snapshots FROM limited")
            with pytest.raises(StorageError, match="permission denied for table syncline_snapshots"):
                await node.snapshot()
            session.execute("REVOKE ALL ON syncline_entries FROM limited")
            with pytest.raises(DeadlineExceeded, match="permission denied for table syncline_entries") as raised:
                await node.apply(b"two", timeout=1)
            assert raised.value.outcome is Outcome.NOT_APPLIED
            session.execute("GRANT ALL ON syncline_entries TO limited")
            assert await node.apply(b"three", timeout=20) == 2
        session.execute("DROP OWNED BY limited")
        session.execute("DROP ROLE limited")


async def test_open_postgres_names_a_column_that_was_changed(postgres: PostgresServer) -> None:
    url = postgres.url("changed")
    async with syncline.open(url, Listing()) as node:
        await node.apply(b"one", timeout=20)
    with postgres.session() as session:
        session.execute("CREATE SCHEMA apart")
        session.execute("CREATE TABLE apart.syncline_entries (LIKE syncline_entries)")
        session.execute("INSERT INTO apart.syncline_entries SELECT * FROM syncline_entries WHERE log = 'changed'")
        session.execute("ALTER TABLE apart.syncline_entries ALTER body TYPE text USING encode(body, 'hex')")
        try:
            apart = url + "&options=-csearch_path%3Dapart,public"
            with pytest.raises(NodeFailed, match="changed the type of a column of syncline_entries"):
                await syncline.open(apart, Listing())
            session.execute("ALTER TABLE apart.syncline_entries DROP COLUMN seq")
            with pytest.raises(ConfigError, match=r'column "?m.seq"? does not exist') as raised:
                await asyncio.wait_for(syncline.open(apart, Listing()), 10)
            assert "LINE" not in str(raised.value)
        finally:
            session.execute("DROP SCHEMA apart CASCADE")
