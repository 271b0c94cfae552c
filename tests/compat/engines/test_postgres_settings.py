"""PostgreSQL whose settings make its promises void while programs use a log there, and a table that is locked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import psycopg
import pytest

import syncline
from syncline import Engine
from syncline.engines import postgres as engine
from syncline.errors import ConfigError, DeadlineExceeded, NotLeader, Outcome
from tests.compat.engines.servers import PostgresServer
from tests.helpers.node_cluster import Listing

pytestmark = [pytest.mark.timeout(180), pytest.mark.deadline(90.0)]

WAIT_S = 30.0


async def _lead(node: Engine[object]) -> None:
    async with node.leadership(timeout=0.3):
        pass


CALLS = {
    "apply": lambda node: node.apply(b"more", timeout=0.3),
    "read": lambda node: node.read_index(timeout=0.3),
    "leadership": _lead,
}


async def _refuses(call: Callable[[], Awaitable[object]], text: str) -> None:
    """Call again and again, until the server's processes have the new setting: `not_applied`, with this text."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await call()
            except (DeadlineExceeded, NotLeader) as error:
                if text in str(error) and error.outcome is Outcome.NOT_APPLIED:
                    return


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize("setting", ["synchronous_commit", "fsync"])
async def test_engine_postgres_promises_nothing_while_data_may_be_lost(
    setting: str, call: str, postgres: PostgresServer
) -> None:
    """The server was in order when the node opened. What it acknowledges now does not survive its end."""
    async with syncline.open(postgres.url(f"unsafe-{setting}-{call}"), Listing()) as node:
        await node.apply(b"one", timeout=20)
        with postgres.session() as session:
            session.execute(f"ALTER SYSTEM SET {setting} = off")
            session.execute("SELECT pg_reload_conf()")
            try:
                await _refuses(lambda: CALLS[call](node), f"the server has {setting}=off")
            finally:
                session.execute(f"ALTER SYSTEM RESET {setting}")
                session.execute("SELECT pg_reload_conf()")
        await node.apply(b"after", timeout=WAIT_S)
        await node.read_index(timeout=WAIT_S)
        async with node.leadership(timeout=WAIT_S) as term:
            await term.apply(b"led", timeout=WAIT_S)


async def test_engine_postgres_attempts_on_a_locked_table_do_not_gather(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VACUUM FULL and ALTER lock a table for long. Attempts that are given up would wait there, each in a session."""
    monkeypatch.setattr(engine, "LOCK_MS", 100)
    async with syncline.open(postgres.url("locked"), Listing()) as node:
        await node.apply(b"one", timeout=20)
        with psycopg.connect(postgres.url("x").partition("?")[0]) as operator:
            operator.execute("LOCK TABLE syncline_entries IN ACCESS EXCLUSIVE MODE")
            await _refuses(lambda: node.apply(b"two", timeout=1), "canceling statement due to lock timeout")
            operator.rollback()
        assert await node.apply(b"three", timeout=WAIT_S) == 2


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("&sslmode=require", "server does not support SSL"),
        ("&sslmode=junk", 'invalid sslmode value: "junk"'),
        ("&options=-cjunk%3D1", 'unrecognized configuration parameter "junk"'),
    ],
)
async def test_open_postgres_tells_at_once_what_never_works(more: str, text: str, postgres: PostgresServer) -> None:
    with pytest.raises(ConfigError, match=text):
        await asyncio.wait_for(syncline.open(postgres.url("never") + more, Listing()), 10)


async def test_open_postgres_names_the_right_to_make_tables(postgres: PostgresServer) -> None:
    with postgres.session() as session:
        session.execute("CREATE SCHEMA closed")
        session.execute("CREATE ROLE newcomer LOGIN")
        session.execute("GRANT USAGE ON SCHEMA closed TO newcomer")
        try:
            url = postgres.url("rights", user="newcomer") + "&options=-csearch_path%3Dclosed"
            with pytest.raises(ConfigError, match="denied for schema closed: the first open needs CREATE"):
                await asyncio.wait_for(syncline.open(url, Listing()), 10)
        finally:
            with contextlib.suppress(psycopg.Error):
                session.execute("DROP SCHEMA closed")
            session.execute("DROP OWNED BY newcomer")
            session.execute("DROP ROLE newcomer")


async def test_engine_postgres_reads_in_spite_of_the_warnings_of_others(postgres: PostgresServer) -> None:
    """A trigger that an operator made, say. A warning of the server itself means that a commit may be on no standby."""
    async with syncline.open(postgres.url("warned"), Listing()) as node:
        await node.apply(b"one", timeout=WAIT_S)
        with postgres.session() as session:
            session.execute(
                "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE WARNING 'look'; RETURN NEW; END $$"
            )
            session.execute(
                "CREATE TRIGGER warns BEFORE UPDATE ON syncline_head FOR EACH ROW WHEN (NEW.log = 'warned')"
                " EXECUTE FUNCTION warn()"
            )
            try:
                assert await node.apply(b"two", timeout=WAIT_S) == 2
                await node.read_index(timeout=WAIT_S)
            finally:
                session.execute("DROP FUNCTION warn CASCADE")
