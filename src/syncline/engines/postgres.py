"""The log in a table of PostgreSQL (`syncline[postgres]`). `docs/engines.md` has the tables.

The row of a log in `syncline_head` has the next position. An append takes it by an UPDATE: its row lock makes the order
of the positions the order of the commits. So a reader never sees a position before a lower one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import waiting

from syncline.engines.backend import (
    PART_BYTES,
    BackendLost,
    FenceLost,
    LogPage,
    LogRecord,
    LogReplaced,
    Mark,
    StoredSnapshot,
    check_left,
)
from syncline.engines.postgres_errors import connecting_failed, query_failed
from syncline.engines.urls import PostgresUrl
from syncline.errors import ConfigError, NodeFailed

__all__ = ["PostgresBackend"]

FORMAT: Final = 1
SNAPSHOT_BYTES: Final = 256 << 20
CONNECT_S: Final = 2
"""For each host: an attempt must have time for all of them."""
IDLE_MS: Final = 10_000
"""How long a process that is paused, or a host that is gone, holds the locks of its transaction: every append waits."""
LOCK_MS: Final = 4_000
"""How long a statement waits for a lock in the server: less than the time of its attempt."""
WAIT_S: Final = 0.1
"""How often psycopg looks at a connection that is silent."""
HARMLESS: Final = ("varsup.c", "pl_exec.c")
"""Where warnings come from that say nothing of the commit: numbers of transactions run out, or a trigger warns."""
PAGE_RECORDS: Final = 32
FIRST_POLL_S: Final = 0.005
LAST_POLL_S: Final = 0.05
COLUMN_MS: Final = 1_000
TABLES_LOCK: Final = 0x53796E63

log: Final = logging.getLogger("syncline.engines")

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS syncline_head (
    log text PRIMARY KEY, id bigint NOT NULL, format int NOT NULL, next bigint NOT NULL DEFAULT 1,
    epoch bigint NOT NULL DEFAULT 0, trim bigint NOT NULL DEFAULT 0, snap bigint NOT NULL DEFAULT 0,
    holder text, until timestamptz, machine text
) WITH (fillfactor = 10);
CREATE TABLE IF NOT EXISTS syncline_entries (
    log text NOT NULL, idx bigint NOT NULL, writer bigint NOT NULL, seq bigint NOT NULL, body bytea NOT NULL,
    PRIMARY KEY (log, idx), UNIQUE (log, writer, seq)
);
CREATE TABLE IF NOT EXISTS syncline_snapshots (
    log text NOT NULL, idx bigint NOT NULL, part int NOT NULL, body bytea NOT NULL, PRIMARY KEY (log, idx, part)
);
"""

_FOUND: Final = """
SELECT to_regclass('syncline_head') IS NOT NULL AND to_regclass('syncline_snapshots') IS NOT NULL, EXISTS (
    SELECT 1 FROM pg_attribute
    WHERE attrelid = to_regclass('syncline_head') AND attname = 'machine' AND NOT attisdropped
)
"""
"""Whether the tables are there, and whether they were made by a version that notes the machine of a log, or since."""

_LOCK_TIMEOUT: Final = """
SELECT set_config('lock_timeout', %s, false)
WHERE pg_backend_pid() = %s AND current_setting('lock_timeout') = '0'
"""
"""Statements that wait for a table (VACUUM FULL, ALTER) end by themselves too: those of attempts that were given up
would gather. Not behind a pool, which shows another process: other clients would get the setting with the session."""

_READ: Final = """
SELECT h.id, h.next, h.trim, m.writer, m.seq, e.idx, e.writer, e.seq, e.body
FROM syncline_head h
LEFT JOIN syncline_entries m ON m.log = h.log AND m.idx = %(mark)s
LEFT JOIN LATERAL (
    SELECT idx, writer, seq, body FROM syncline_entries
    WHERE log = h.log AND idx > %(seen)s ORDER BY idx LIMIT %(limit)s
) e ON true
WHERE h.log = %(log)s ORDER BY e.idx
"""

_SAFE: Final = f"""(SELECT set_config('lock_timeout', '{LOCK_MS}', true)) IS NOT NULL
        AND current_setting('fsync') <> 'off' AND current_setting('synchronous_commit') <> 'off'
        AND (current_setting('synchronous_commit') <> 'local' OR current_setting('synchronous_standby_names') = '')"""
"""A condition of each statement whose commit is a promise: see `PostgresBackend.check_settings`.

An operator may change a setting at any time, and so may another client of the same pool of PgBouncer.

`set_config`: an attempt that was given up goes on in the server. If its commit waits for a standby, it has the row
locked, and those behind it would gather until the server has no session left. So they end by themselves.
"""

_APPEND: Final = """
WITH moved AS (
    UPDATE syncline_head SET next = next + 1
    WHERE log = %(log)s AND id = %(id)s AND (%(fence)s = 0 OR epoch = %(fence)s)
        AND (trim >= %(mark)s OR EXISTS (
            SELECT 1 FROM syncline_entries WHERE log = %(log)s AND idx = %(mark)s
                AND writer = %(mark_writer)s AND seq = %(mark_seq)s
        ))
        AND SAFE
    RETURNING next - 1 AS idx
), made AS (
    INSERT INTO syncline_entries (log, idx, writer, seq, body)
    SELECT %(log)s, idx, %(writer)s, %(seq)s, %(body)b FROM moved
    ON CONFLICT (log, writer, seq) DO NOTHING
)
SELECT 1 FROM moved
""".replace("SAFE", _SAFE)

_CONFIRM: Final = """
WITH h AS (
    UPDATE syncline_head SET next = next
    WHERE log = %(log)s AND SAFE RETURNING id, next, trim
)
SELECT h.id, h.next, h.trim, m.writer, m.seq FROM h
LEFT JOIN syncline_entries m ON m.log = %(log)s AND m.idx = %(mark)s
""".replace("SAFE", _SAFE)

_CONFIRM_ON_PRIMARY: Final = """
SELECT h.id, h.next, h.trim, m.writer, m.seq FROM syncline_head h
LEFT JOIN syncline_entries m ON m.log = h.log AND m.idx = %(mark)s WHERE h.log = %(log)s
"""

_ACQUIRE: Final = """
UPDATE syncline_head
SET epoch = epoch + 1, holder = %(holder)s, until = clock_timestamp() + make_interval(secs => %(ttl)s)
WHERE log = %(log)s AND (until IS NULL OR until < clock_timestamp())
    AND SAFE RETURNING epoch
""".replace("SAFE", _SAFE)

_KEEP: Final = """
UPDATE syncline_head SET until = clock_timestamp() + make_interval(secs => %(ttl)s)
WHERE log = %(log)s AND epoch = %(token)s AND until >= clock_timestamp()
    AND SAFE RETURNING 1
""".replace("SAFE", _SAFE)


class _Connection(psycopg.AsyncConnection[Any]):  # type: ignore[misc]  # psycopg has no types in `make verify`
    """A connection that is closed when a request is cut short.

    psycopg would ask the server to cancel the statement. If a commit waits for its synchronous standby, that ends the
    wait: the commit stands, and every node sees it, while no standby has it.
    """

    async def wait(self, gen: Any, interval: float = WAIT_S, **more: Any) -> Any:
        """Wait for the server, as psycopg does."""
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, **more)
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


class _Lane:
    """One connection, for one request at a time. A request that is cut short takes its connection with it."""

    def __init__(self, backend: PostgresBackend) -> None:
        self._backend = backend
        self._lock = asyncio.Lock()
        self._connection: Any = None
        self._warned = ""
        """A warning of the server about the request that is under way."""

    @contextlib.asynccontextmanager
    async def use(self, *, transaction: bool = False) -> AsyncIterator[Any]:
        """A cursor. At the end all of it is committed, and confirmed by the standbys that the server waits for."""
        async with self._lock:
            try:
                connection = await self._connected()
                self._warned = ""
                async with contextlib.AsyncExitStack() as stack:
                    if transaction:
                        await stack.enter_async_context(connection.transaction())
                        await connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS}")
                    yield await stack.enter_async_context(connection.cursor(binary=True))
            except psycopg.Error as error:
                self.drop()
                raise query_failed(self._backend.name, error) from error
            except BaseException:
                self.drop()
                raise
            if self._warned:
                # "canceling wait for synchronous replication": the commit is reported as a success all the same
                self.drop()
                raise BackendLost(
                    f"{self._backend.name}: the server warns, so its answer is not trusted: {self._warned}", sent=True
                )

    async def _connected(self) -> Any:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        backend = self._backend
        try:
            connection = await _Connection.connect(
                backend.url.conninfo,
                autocommit=True,
                prepare_threshold=None,  # PgBouncer in transaction mode has no prepared statements
                connect_timeout=CONNECT_S,
                target_session_attrs="read-write",
            )
        except psycopg.Error as error:
            raise connecting_failed(backend.name, error) from error
        self._connection = connection
        connection.add_notice_handler(self._on_notice)
        await backend.check_settings(connection)
        await connection.execute(_LOCK_TIMEOUT, [str(LOCK_MS), connection.info.backend_pid])
        return connection

    def _on_notice(self, notice: Any) -> None:
        if (notice.sqlstate or "").startswith("01") and notice.source_file not in HARMLESS:
            self._warned = " ".join((notice.message_primary or "a warning").split())

    def drop(self) -> None:
        """Close the connection at once: what it is doing now is of no use."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()


class PostgresBackend:
    """A log in PostgreSQL."""

    snapshot_bytes: int = SNAPSHOT_BYTES

    def __init__(self, url: PostgresUrl) -> None:
        self.url: PostgresUrl = url
        self.name: str = url.shown
        self._log = url.log
        self._id = 0
        self._reading, self._writing, self._other = _Lane(self), _Lane(self), _Lane(self)
        self._bulk = _Lane(self)
        """For snapshots: reads and leases must not wait until one is stored."""
        self._news = asyncio.Event()
        self._poll_s = FIRST_POLL_S
        self._checked = False
        self._notes_machine = True

    async def check_settings(self, connection: Any) -> None:
        """Refuse a server that may lose what it has acknowledged.

        Raises:
            ConfigError: it is set up so.
        """
        cursor = await connection.execute(
            "SELECT current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('synchronous_standby_names'), (SELECT count(*) FROM pg_stat_replication)"
        )
        fsync, commit, names, standbys = await cursor.fetchone()
        for setting, value in (("fsync", fsync), ("synchronous_commit", commit)):
            if value == "off":
                raise ConfigError(
                    f"{self.name}: the server has {setting}=off, so it may lose what it has acknowledged: set it to on"
                )
        if names and commit == "local":
            raise ConfigError(
                f"{self.name}: synchronous_commit=local does not wait for the standbys of"
                " synchronous_standby_names: set it to on"
            )
        if standbys and not names and not self._checked:
            log.warning(
                "%s has standbys, and synchronous_standby_names is empty: a failover may lose what was acknowledged."
                " The nodes would notice it and stop (docs/engines.md)",
                self.name,
            )
        self._checked = True

    async def start(self) -> int:
        """Make the tables and the row of the log, if they are not there."""
        async with self._other.use(transaction=True) as cursor:  # PgBouncer's statement mode refuses it
            made, self._notes_machine = await _row(cursor, _FOUND) or (False, False)
        if not made:
            async with self._other.use(transaction=True) as cursor:
                await cursor.execute("SELECT pg_advisory_xact_lock(%s)", [TABLES_LOCK])
                for statement in _TABLES.split(";")[:-1]:
                    await cursor.execute(statement)
                self._notes_machine = bool((await _row(cursor, _FOUND) or (True, False))[1])
        if not self._notes_machine:
            await self._add_column()
        async with self._other.use() as cursor:
            row = await _row(cursor, "SELECT id, format FROM syncline_head WHERE log = %s", [self._log])
            if row is None:
                await cursor.execute(
                    "INSERT INTO syncline_head (log, id, format) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                    [self._log, secrets.randbits(62) + 1, FORMAT],
                )
                row = await _row(cursor, "SELECT id, format FROM syncline_head WHERE log = %s", [self._log])
        if row is None:
            raise BackendLost("the row of the log is not there", sent=False)
        if row[1] != FORMAT:
            raise NodeFailed(f"{self.name} has format {row[1]}; this version of Syncline reads format {FORMAT}")
        self._id = row[0]
        return self._id

    async def _add_column(self) -> None:
        """Add the column for the machine to tables of an earlier version. Without it all goes on as it did there."""
        try:
            async with self._other.use(transaction=True) as cursor:
                await cursor.execute(f"SET LOCAL lock_timeout = {COLUMN_MS}")  # every node would wait behind this
                await cursor.execute("ALTER TABLE syncline_head ADD COLUMN IF NOT EXISTS machine text")
        except (ConfigError, BackendLost) as error:
            log.warning(
                "the log does not note which machine it is of, so a program with a wrong URL is not refused: %s. Let"
                " the owner of the table run: ALTER TABLE syncline_head ADD COLUMN machine text (docs/engines.md)",
                error,
            )
        else:
            self._notes_machine = True

    async def claim(self, machine: str) -> str:
        """Note the machine in the row of the log."""
        noting = "UPDATE syncline_head SET machine = %s WHERE log = %s AND id = %s AND machine IS NULL"
        async with self._other.use() as cursor:
            if not self._notes_machine:
                return ""
            if machine:
                await cursor.execute(noting, [machine, self._log, self._id])
            row = await _row(cursor, "SELECT id, machine FROM syncline_head WHERE log = %s", [self._log])
        if row is None or row[0] != self._id:
            raise LogReplaced(f"{self.name}: the log was removed, or made again")
        return row[1] or ""

    async def renew(self, log_id: int) -> None:
        """Give the log another id."""
        async with self._other.use() as cursor:
            renewed = "UPDATE syncline_head SET id = %s WHERE log = %s AND id = %s RETURNING 1"
            if await _row(cursor, renewed, [log_id, self._log, self._id]) is None:
                raise LogReplaced(f"{self.name}: the log was removed, or made again")
        self._id = log_id

    def _check(self, row: Sequence[Any] | None, mark: Mark) -> tuple[int, int]:
        """The newest position and what is trimmed, of a row with id, next, trim and the record of the mark."""
        if row is None or row[0] != self._id:
            raise LogReplaced(f"{self.name}: the log was removed, or made again")
        head, trimmed = row[1] - 1, row[2]
        same = (row[3], row[4]) == (mark.writer, mark.sequence)
        if mark.position > head or (mark.position > trimmed and not same):
            raise LogReplaced(
                f"{self.name}: the record at position {mark.position} is not the one that this node has read"
            )
        return head, trimmed

    async def read(self, mark: Mark, seen: int, limit_bytes: int) -> LogPage:  # noqa: ARG002 - bounded by PAGE_RECORDS
        """Records behind `seen`, all of one snapshot of the database."""
        values = {"log": self._log, "mark": mark.position, "seen": seen, "limit": PAGE_RECORDS}
        async with self._reading.use() as cursor:
            await cursor.execute(_READ, values)
            rows = await cursor.fetchall()
        head, trimmed = self._check(rows[0] if rows else None, mark)
        if seen > head:
            raise LogReplaced(f"{self.name} ends at position {head}, and this node has read up to {seen}")
        records = [LogRecord(row[5], row[6], row[7], row[8]) for row in rows if row[5] is not None]
        if not records:
            check_left(self.name, mark, head, trimmed)
        elif not isinstance(records[0].body, bytes):
            raise NodeFailed(f"{self.name}: another program has changed the type of a column of syncline_entries")
        if records:
            self._poll_s = FIRST_POLL_S
        return LogPage(records, records[-1].position if len(records) == PAGE_RECORDS else head, trimmed)

    async def wait(self, seen: int, timeout_s: float) -> None:  # noqa: ARG002 - it polls
        """Wait for the next poll."""
        pause_s = min(self._poll_s, timeout_s)
        self._poll_s = min(2 * self._poll_s, LAST_POLL_S)
        try:
            async with asyncio.timeout(pause_s):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()
        self._poll_s = FIRST_POLL_S

    def kick(self) -> None:
        """Poll now."""
        self._news.set()

    async def append(self, writer: int, sequence: int, body: bytes, fence: int, mark: Mark) -> None:
        """Append, in one statement, if the record of the mark is still there."""
        values = {"log": self._log, "id": self._id, "writer": writer, "seq": sequence, "body": body, "fence": fence}
        values |= {"mark": mark.position, "mark_writer": mark.writer, "mark_seq": mark.sequence}
        async with self._writing.use() as cursor:
            if await _row(cursor, _APPEND, values) is not None:
                return  # it is there: by this attempt, or by an earlier one
            held = "SELECT 1 FROM syncline_entries WHERE log = %(log)s AND writer = %(writer)s AND seq = %(seq)s"
            if await _row(cursor, held, values) is not None:
                return
            self._check(await _row(cursor, _CONFIRM_ON_PRIMARY, values), mark)
            await self.check_settings(cursor.connection)
            epoch = await _row(cursor, "SELECT epoch FROM syncline_head WHERE log = %(log)s", values)
        if fence and epoch is not None and epoch[0] != fence:
            raise FenceLost  # or it was appended before, and trimmed meanwhile: the caller looks
        raise self._changed()

    def _changed(self) -> BackendLost:
        return BackendLost(f"{self.name}: the log, or a setting of the server, has changed meanwhile", sent=False)

    async def confirm(self, mark: Mark) -> int:
        """The newest position, by a commit: a primary that was cut off can't make one."""
        values = {"log": self._log, "mark": mark.position}
        async with self._other.use() as cursor:
            row = None if self.url.primary_reads else await _row(cursor, _CONFIRM, values)
            is_committed = row is not None
            if row is None:
                row = await _row(cursor, _CONFIRM_ON_PRIMARY, values)
            head, _ = self._check(row, mark)
            if not is_committed and not self.url.primary_reads:
                await self.check_settings(cursor.connection)
                raise self._changed()
        return head

    async def snapshot(self) -> StoredSnapshot | None:
        """The newest stored one."""
        async with self._bulk.use() as cursor:
            await cursor.execute(
                "SELECT s.idx, s.body FROM syncline_head h"
                " JOIN syncline_snapshots s ON s.log = h.log AND s.idx = h.snap WHERE h.log = %s ORDER BY s.part",
                [self._log],
            )
            rows = await cursor.fetchall()
        return StoredSnapshot(rows[0][0], b"".join(row[1] for row in rows)) if rows else None

    async def stored_position(self) -> int:
        """Of the newest stored one."""
        async with self._other.use() as cursor:
            return await self._stored_position(cursor)

    async def _stored_position(self, cursor: Any) -> int:
        row = await _row(cursor, "SELECT snap FROM syncline_head WHERE log = %s", [self._log])
        return int(row[0]) if row is not None else 0

    async def store_snapshot(self, snapshot: StoredSnapshot, mark: Mark) -> bool:
        """Store it in one transaction. The row of the log, which each append needs, is locked at the end alone."""
        position, body = snapshot.position, snapshot.body
        async with self._bulk.use(transaction=True) as cursor:
            # A server that was restored has ended the session before: so this holds until the end.
            self._check(await _row(cursor, _CONFIRM_ON_PRIMARY, {"log": self._log, "mark": mark.position}), mark)
            if await self._stored_position(cursor) >= position:
                return False
            for part, start in enumerate(range(0, len(body), PART_BYTES)):
                await cursor.execute(
                    "INSERT INTO syncline_snapshots VALUES (%s, %s, %s, %b) ON CONFLICT DO NOTHING",
                    [self._log, position, part, body[start : start + PART_BYTES]],
                )
                if not cursor.rowcount:
                    return False  # another node has stored one at this position
            await cursor.execute(
                "UPDATE syncline_head SET snap = %s WHERE log = %s AND snap < %s", [position, self._log, position]
            )
            stored = bool(cursor.rowcount)
            await cursor.execute(
                "DELETE FROM syncline_snapshots s USING syncline_head h"
                " WHERE h.log = %s AND s.log = h.log AND s.idx <> h.snap AND s.idx <= %s",
                [self._log, position],
            )
        return stored

    async def trim(self, position: int) -> None:
        """Remove records, and record that, in one transaction."""
        async with self._bulk.use(transaction=True) as cursor:
            await cursor.execute("DELETE FROM syncline_entries WHERE log = %s AND idx <= %s", [self._log, position])
            note = "UPDATE syncline_head SET trim = greatest(trim, %s) WHERE log = %s AND id = %s AND snap >= %s"
            await cursor.execute(note, [position, self._log, self._id, position])
            if not cursor.rowcount:
                raise LogReplaced(f"{self.name}: no snapshot has the records up to position {position}")

    async def acquire(self, holder: str, ttl_s: float) -> int:
        """Take the lease, by the server's clock."""
        async with self._other.use() as cursor:
            row = await _row(cursor, _ACQUIRE, {"log": self._log, "holder": holder, "ttl": ttl_s})
            if row is None:  # another node leads, or the server may lose the token, and give it to two nodes
                await self.check_settings(cursor.connection)
        return int(row[0]) if row is not None else 0

    async def keep(self, token: int, ttl_s: float) -> bool:
        """Renew it."""
        async with self._other.use() as cursor:
            return await _row(cursor, _KEEP, {"log": self._log, "token": token, "ttl": ttl_s}) is not None

    async def release(self, token: int) -> None:
        """Give it back. A command with this token that is still on its way has no effect."""
        async with self._other.use() as cursor:
            await cursor.execute(
                "UPDATE syncline_head SET until = NULL, epoch = epoch + 1 WHERE log = %s AND epoch = %s",
                [self._log, token],
            )

    async def close(self) -> None:
        """Close the connections."""
        for lane in (self._reading, self._writing, self._other, self._bulk):
            lane.drop()


async def _row(cursor: Any, sql: str, values: object = None) -> Sequence[Any] | None:
    """Execute a statement, and return its first row."""
    await cursor.execute(sql, values)
    found: Sequence[Any] | None = await cursor.fetchone()
    return found
