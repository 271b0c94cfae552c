"""Accounts in a sqlite3 file: a durable state machine, which keeps its own applied index (docs/library.md).

Each batch of entries is one transaction. It holds the changes and the index of the last entry. So after a crash the
file has an entry as a whole or not at all, and the node goes on behind it: no entry is applied twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Final

import msgspec

from syncline import Entry, FSMSnapshot, SnapshotSink
from syncline.errors import Rejected

__all__ = ["Accounts", "Deposit", "Transfer"]

TABLES: Final = """
CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, cents INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress (applied INTEGER NOT NULL);
INSERT INTO progress SELECT 0 WHERE NOT EXISTS (SELECT * FROM progress);
"""

LARGEST: Final = 2**62
"""Sums stay below it: sqlite3 has 64 bits."""


class Deposit(msgspec.Struct, tag="deposit"):
    """Add to an account. The answer is its balance."""

    name: str
    cents: int


class Transfer(msgspec.Struct, tag="transfer"):
    """Move from one account to another. The answer is what is left on the first one."""

    source: str
    target: str
    cents: int


_COMMAND: Final = msgspec.msgpack.Decoder(Deposit | Transfer)
_ROW: Final = msgspec.msgpack.Decoder(tuple[str, int])


class Accounts:
    """Balances in cents by name, in the sqlite3 file at `path`.

    `synchronous = NORMAL` is enough: a transaction that a power cut takes away is in the node's log, or in its newest
    snapshot. The node sees the lower `applied_index` and applies it again.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.database = self._connect()  # used by one thread at a time: the node's calls never overlap
        self.database.execute("PRAGMA journal_mode = WAL")  # so that a view can be read while entries are applied
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.executescript(TABLES)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.database.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    # -- what the node calls ------------------------------------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        (index,) = self.database.execute("SELECT applied FROM progress").fetchone()
        assert isinstance(index, int)
        return index

    def apply(self, entry: Entry) -> int:
        (answer,) = self.apply_batch([entry])
        if isinstance(answer, Rejected):
            raise answer
        return answer

    def apply_batch(self, entries: Sequence[Entry]) -> list[int | Rejected]:
        with self.transaction():
            return [self._carry_out(entry) for entry in entries]

    def _carry_out(self, entry: Entry) -> int | Rejected:
        answer = self._change(entry.data)
        if not isinstance(answer, Rejected):  # a refusal changes nothing: it is refused again, if it comes again
            self.database.execute("UPDATE progress SET applied = ?", (entry.index,))
        return answer

    def _change(self, data: bytes) -> int | Rejected:
        """A refusal is a value: the other entries of the batch go on."""
        try:
            command = _COMMAND.decode(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            return Rejected(f"not a command: {error}", code="bad_command")
        if not 0 < command.cents < LARGEST:
            return Rejected(f"{command.cents} cents can't be moved", code="bad_amount")
        if isinstance(command, Deposit):
            return self._add(command.name, command.cents)
        left = self.balance(command.source) - command.cents
        if left < 0:
            return Rejected(f"{command.source} has {left + command.cents} cents", code="too_poor")
        added = self._add(command.target, command.cents)
        return added if isinstance(added, Rejected) else self._add(command.source, -command.cents)

    def _add(self, name: str, cents: int) -> int | Rejected:
        balance = self.balance(name) + cents
        if balance >= LARGEST:
            return Rejected(f"the account of {name} is full", code="overflow")
        self.database.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (name, balance))
        return balance

    def snapshot(self) -> FSMSnapshot:
        view = self._connect()
        view.execute("BEGIN")
        return AccountsView(view, *view.execute("SELECT applied FROM progress").fetchone())  # this read fixes the view

    def restore(self, source: BinaryIO) -> None:
        with self.transaction():
            self.database.execute("DELETE FROM accounts")
            self.database.execute("UPDATE progress SET applied = ?", (int.from_bytes(source.read(8)),))
            while head := source.read(4):
                row = _ROW.decode(source.read(int.from_bytes(head)))
                self.database.execute("INSERT INTO accounts VALUES (?, ?)", row)

    # -- what the program calls, inside `raft.read` -------------------------------------------------------------------

    def balance(self, name: str) -> int:
        row = self.database.execute("SELECT cents FROM accounts WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def total(self) -> int:
        return sum(cents for (cents,) in self.database.execute("SELECT cents FROM accounts"))


class AccountsView:
    """The state at one entry, in a read transaction. It is written row by row, beside `apply`."""

    def __init__(self, view: sqlite3.Connection, applied: int) -> None:
        self._view = view
        self._applied = applied

    def persist(self, sink: SnapshotSink, /) -> None:
        sink.write(self._applied.to_bytes(8))
        for row in self._view.execute("SELECT name, cents FROM accounts ORDER BY name"):
            data = msgspec.msgpack.encode(row)
            sink.write(len(data).to_bytes(4) + data)

    def release(self) -> None:
        self._view.close()
