"""Bugs of sessions, each planted on purpose: the simulator must find it."""

from __future__ import annotations

import pytest

from syncline.node import applier
from syncline.node.session_entries import SessionEntries
from syncline.sessions.entries import SessionCommand
from syncline.sessions.snapshot import Source, read_section
from syncline.sessions.table import KeyFault, Record, SessionTable
from syncline.storage.snapshots.store import SnapshotReader
from syncline.testing.faults.sessions import SAME
from syncline.testing.invariants.sessions import OnceForItsKey
from tests.simulation.test_planted_bugs_of_consensus import found

ONCE = OnceForItsKey.name


def test_session_that_ended_and_runs_its_commands_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation of the table: a retry of an ended session is taken for the first attempt of a new one."""
    begin = SessionTable.begin

    def forgiving(self: SessionTable, command: SessionCommand, index: int) -> Record | KeyFault | None:
        if command.key.session and command.key.session not in self:
            self._open(command.key.session, index)
        return begin(self, command, index)

    monkeypatch.setattr(SessionTable, "begin", forgiving)
    found(monkeypatch, ONCE, "sessions")


def test_session_whose_duplicates_are_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = SessionTable.begin

    def forgetful(self: SessionTable, command: SessionCommand, index: int) -> Record | KeyFault | None:
        held = begin(self, command, index)
        return held if isinstance(held, KeyFault) else None

    monkeypatch.setattr(SessionTable, "begin", forgetful)
    found(monkeypatch, ONCE, "sessions")


def test_session_table_that_a_snapshot_does_not_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts have no session that would be missing: they run again on the node that was restored, and there alone."""

    def lost(_: SnapshotReader, source: Source) -> SessionTable:
        read_section(source)  # the state machine's data follow
        return SessionTable()

    monkeypatch.setattr(applier, "read_sessions", lost)
    found(monkeypatch, ONCE, "sessions", "kill", "snapshot")


def test_session_answer_that_is_another_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = SessionTable.finish
    last = [b""]

    def late(self: SessionTable, key: object, state: object, answer: bytes = b"") -> None:
        finish(self, key, state, last[0] or answer)  # type: ignore[arg-type]
        last[0] = answer

    monkeypatch.setattr(SessionTable, "finish", late)
    found(monkeypatch, SAME, "sessions")


def test_session_entries_in_one_batch_that_all_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions are made before the batch is applied: one that looks at finished commands alone runs both."""
    take = SessionEntries.take

    def hasty(self: SessionEntries, *arguments: object) -> bool:
        ran = take(self, *arguments)  # type: ignore[arg-type]
        if ran:
            key = next(reversed(arguments[3].running.values())).key  # type: ignore[attr-defined]
            session = self.table._sessions.get(key.session)
            if session is not None:
                del session.records[key.sequence]
        return ran

    monkeypatch.setattr(SessionEntries, "take", hasty)
    found(monkeypatch, ONCE, "sessions")
