"""PgBouncer between the nodes and PostgreSQL, in each of its modes (docs/engines.md)."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
import pytest

import syncline
from syncline.engines.replica import LogReplica
from syncline.errors import ConfigError, DeadlineExceeded
from tests.compat.engines.servers import PostgresServer, pgbouncer
from tests.helpers.node_cluster import Listing

pytestmark = [pytest.mark.timeout(180), pytest.mark.deadline(90.0), pytest.mark.usefixtures("with_pgbouncer")]

WAIT_S = 30.0


@pytest.mark.parametrize(("mode", "size"), [("session", 16), ("transaction", 1)])
async def test_engine_postgres_works_through_a_pool(mode: str, size: int, postgres: PostgresServer) -> None:
    """In transaction mode all connections of two nodes share one session of the server. Then the pool is killed."""
    with pgbouncer(postgres, mode, size) as pool:
        url, machine = f"{pool.address}?log=pool-{mode}", Listing()
        async with syncline.open(url, Listing()) as one, syncline.open(url, machine) as two:
            assert isinstance(one, LogReplica)
            async with one.leadership(timeout=WAIT_S) as term, one.session(timeout=WAIT_S) as session:
                await term.apply(b"led", timeout=WAIT_S)
                await session.apply(b"once", timeout=WAIT_S)
            await one.snapshot()
            await asyncio.gather(*(node.apply(b"x", timeout=WAIT_S) for node in [one, two] * 10))
            waits = [one.apply(b"%d" % number, timeout=WAIT_S) for number in range(20)]
            await asyncio.to_thread(pool.stop)
            waits += [one.apply(b"%d" % number, timeout=WAIT_S) for number in range(20, 40)]
            await asyncio.to_thread(pool.start)
            await asyncio.gather(*waits)
            await two.read_index(timeout=WAIT_S)
            assert machine.items == [b"led", b"once", *[b"x"] * 20, *(b"%d" % number for number in range(40))]


async def test_open_postgres_refuses_a_pool_without_transactions(postgres: PostgresServer) -> None:
    """Commands would be taken. But no snapshot would ever be stored, and the log would grow without an end."""
    async with syncline.open(postgres.url("pool-statement"), Listing()) as node:  # makes the tables
        await node.apply(b"one", timeout=WAIT_S)
    with pgbouncer(postgres, "statement", 4) as pool, pytest.raises(ConfigError, match="set pool_mode to transaction"):
        await asyncio.wait_for(syncline.open(f"{pool.address}?log=pool-statement", Listing()), 10)


async def test_open_postgres_tells_that_a_pool_takes_no_options(postgres: PostgresServer) -> None:
    with pgbouncer(postgres, "transaction", 4) as pool:
        url = f"{pool.address}?log=pool-options&options=-csearch_path%3Dpublic"
        with pytest.raises(ConfigError, match="write no options in the URL"):
            await asyncio.wait_for(syncline.open(url, Listing()), 10)


async def test_engine_postgres_settings_of_a_pool_are_its_own(postgres: PostgresServer) -> None:
    """In transaction mode a setting that any client makes stays in the session, which others get next.

    One that would lose what is acknowledged is refused. And a node leaves no setting of its own to others.
    """
    with pgbouncer(postgres, "transaction", 1) as pool:
        async with syncline.open(f"{pool.address}?log=pool-settings", Listing()) as node:
            assert isinstance(node, LogReplica)
            await node.apply(b"one", timeout=WAIT_S)
            with psycopg.connect(pool.address, autocommit=True, prepare_threshold=None) as other:
                assert other.execute("SHOW lock_timeout").fetchone() == ("0",)
                other.execute("SET synchronous_commit = off")
                async with asyncio.timeout(WAIT_S):
                    while "the server has synchronous_commit=off" not in node.stats().trouble:
                        with contextlib.suppress(DeadlineExceeded):
                            await node.apply(b"two", timeout=0.5)
                other.execute("RESET synchronous_commit")
            assert await node.apply(b"three", timeout=WAIT_S) == 2
