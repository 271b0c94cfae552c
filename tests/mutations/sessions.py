"""Bugs planted in the sessions, and what must notice each of them."""

from __future__ import annotations

from typing import Any

import pytest

from syncline.node import applier
from syncline.node.idle_sessions import IdleSessions
from syncline.sessions.entries import OnceKey, SessionChange, SessionCommand
from syncline.sessions.snapshot import Source, read_section
from syncline.sessions.table import CommandState, KeyFault, Record, SessionTable
from syncline.storage.snapshots.store import SnapshotReader
from syncline.testing.faults.sessions import SAME
from syncline.testing.invariants.sessions import OnceForItsKey
from tests.mutations.catalogue import Mutation, simulator_hunt, test_hunt

__all__ = [
    "SESSIONS",
    "another_ones_answer",
    "duplicates_are_applied",
    "ended_session_runs_again",
    "idle_end_ignores_later_uses",
    "new_leader_takes_all_for_idle",
    "table_is_not_in_the_snapshot",
]

ONCE = OnceForItsKey.name
TABLE, CLUSTER = "unit.test_session_table", "integration.test_sessions"


def ended_session_runs_again(patch: pytest.MonkeyPatch) -> None:
    """A retry in an ended or evicted session is taken for the first attempt in a new one."""
    begin = SessionTable.begin

    def forgiving(self: SessionTable, command: SessionCommand, index: int) -> Record | KeyFault | None:
        if command.key.session and command.key.session not in self:
            self._open(command.key.session, index)
        return begin(self, command, index)

    patch.setattr(SessionTable, "begin", forgiving)


def duplicates_are_applied(patch: pytest.MonkeyPatch) -> None:
    """A known key is no reason not to apply the command."""
    begin = SessionTable.begin

    def forgetful(self: SessionTable, command: SessionCommand, index: int) -> Record | KeyFault | None:
        held = begin(self, command, index)
        return held if isinstance(held, KeyFault) else None

    patch.setattr(SessionTable, "begin", forgetful)


def table_is_not_in_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    """A node that was restored from a snapshot knows no keys from before it."""

    def lost(_: SnapshotReader, source: Source) -> SessionTable:
        read_section(source)  # the state machine's data follow
        return SessionTable()

    patch.setattr(applier, "read_sessions", lost)


def another_ones_answer(patch: pytest.MonkeyPatch) -> None:
    """The recorded answer is that of the command before."""
    finish, last = SessionTable.finish, [b""]

    def late(self: SessionTable, key: OnceKey, state: CommandState, answer: bytes = b"") -> None:
        finish(self, key, state, last[0] or answer)
        last[0] = answer

    patch.setattr(SessionTable, "finish", late)


def idle_end_ignores_later_uses(patch: pytest.MonkeyPatch) -> None:
    """A session that was used between the leader's decision and its entry is ended all the same."""
    change = SessionTable.change

    def blunt(self: SessionTable, decided: SessionChange, index: int, term: int) -> bool:
        later = SessionChange(decided.opened, decided.ended, decided.term, 2**62)
        return change(self, later, index, term)

    patch.setattr(SessionTable, "change", blunt)


def new_leader_takes_all_for_idle(patch: pytest.MonkeyPatch) -> None:
    """A new leader counts as if it had led all the time."""
    tick = IdleSessions.tick

    def eager(self: IdleSessions) -> None:
        if not self._notes:
            past: Any = (self._callbacks.clock() - 0.9 * self.idle_s, self._core.last_index)
            self._notes.append(past)
            self._term = self._core.term
        tick(self)

    patch.setattr(IdleSessions, "tick", eager)


SESSIONS: tuple[Mutation, ...] = (
    Mutation(
        "session evicted and run again",
        "issue 18",
        ended_session_runs_again,
        (
            simulator_hunt(ONCE, "sessions"),
            test_hunt(TABLE, "test_session_that_was_never_opened_runs_nothing", "EXPIRED"),
        ),
    ),
    Mutation(
        "a repeated command is applied again", "issue 18", duplicates_are_applied, (simulator_hunt(ONCE, "sessions"),)
    ),
    Mutation(
        "a snapshot does not bring the sessions",
        "issue 18",
        table_is_not_in_the_snapshot,
        (simulator_hunt(f"{ONCE}|equal states", "sessions", "kill", "snapshot"),),
    ),
    Mutation(
        "a repeated command has another one's answer",
        "issue 18",
        another_ones_answer,
        (simulator_hunt(SAME, "sessions"),),
    ),
    Mutation(
        "a session in use is ended as idle",
        "issue 18",
        idle_end_ignores_later_uses,
        (test_hunt(TABLE, "test_session_idle_end_spares_a_session_that_was_used_since", "assert"),),
    ),
    Mutation(
        "a new leader ends a session too early",
        "issue 18",
        new_leader_takes_all_for_idle,
        (test_hunt(CLUSTER, "test_session_is_not_ended_early_by_a_new_leader", "session has ended"),),
    ),
)
