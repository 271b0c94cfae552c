"""Logs that a version of Syncline has made which does not note the machine of a log."""

from __future__ import annotations

import psycopg
import pytest

import syncline
from syncline.errors import NodeFailed
from tests.compat.engines.servers import PostgresServer
from tests.helpers.engine_checks import Registers
from tests.helpers.node_cluster import Listing

pytestmark = [pytest.mark.deadline(90.0)]


def _admin(server: PostgresServer) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(server.url("x").partition("?")[0], autocommit=True)


async def test_postgres_tables_of_an_earlier_version_note_the_machine(postgres: PostgresServer) -> None:
    """The owner of the tables adds the column at its next open. A node that ran before goes on."""
    url, machine = postgres.url("earlier"), Listing()
    async with syncline.open(url, machine) as before:
        await before.apply(b"one", timeout=20)
        with _admin(postgres) as session:
            session.execute("ALTER TABLE syncline_head DROP COLUMN machine")
        async with syncline.open(url, Listing()) as node:
            assert await node.apply(b"two", timeout=20) == 2
        assert await before.apply(b"three", timeout=20) == 3
        with pytest.raises(NodeFailed, match="this log is of the machine 'Listing'"):
            await syncline.open(url, Registers())


async def test_postgres_role_that_can_add_no_column_goes_on(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not own the tables. There is a warning that says what the owner can do."""
    async with syncline.open(postgres.url("owned"), Listing()) as node:
        await node.apply(b"one", timeout=20)
    with _admin(postgres) as session:
        session.execute("ALTER TABLE syncline_head DROP COLUMN machine")
        session.execute("CREATE ROLE member LOGIN")
        session.execute("GRANT ALL ON syncline_head, syncline_entries, syncline_snapshots TO member")
        async with syncline.open(postgres.url("owned", user="member"), Listing()) as node:
            assert await node.apply(b"two", timeout=20) == 2
        assert "ALTER TABLE syncline_head ADD COLUMN machine text" in caplog.text
        session.execute("ALTER TABLE syncline_head ADD COLUMN machine text")
        session.execute("DROP OWNED BY member")
        session.execute("DROP ROLE member")


async def test_postgres_waits_little_for_the_lock_of_the_column(postgres: PostgresServer) -> None:
    """A snapshot that another node stores holds the table. Every node would wait behind the one that waits for it."""
    url = postgres.url("held")
    async with syncline.open(url, Listing()) as node:
        await node.apply(b"one", timeout=20)
    with _admin(postgres) as session:
        session.execute("ALTER TABLE syncline_head DROP COLUMN machine")
        with session.transaction():
            session.execute("SELECT count(*) FROM syncline_head")
            async with syncline.open(url, Listing()) as node:
                assert await node.apply(b"two", timeout=20) == 2
    async with syncline.open(url, Listing()) as node:
        assert await node.apply(b"three", timeout=20) == 3
        with pytest.raises(NodeFailed, match="this log is of the machine 'Listing'"):
            await syncline.open(url, Registers())
