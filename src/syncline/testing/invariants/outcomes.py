"""Compare the clients' answers with the log.

The committed log is replayed on a separate state machine. That gives the one order of all writes, their results, and
the state at each revision. Every answer must fit, in its content and in its place in time. This check uses the
simulation's knowledge of the log; the linearizability checker uses the clients' histories alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from syncline.consensus.types import EntryType
from syncline.errors import Rejected
from syncline.kv.commands import Command, Delete, Put, Txn, decode_command
from syncline.kv.machine import CommandResult, KvMachine
from syncline.kv.records import DeleteAnswer, PutAnswer, TxnAnswer
from syncline.node.envelope import Kind, decode_proposal
from syncline.node.fsm import Entry
from syncline.testing.invariants.base import Facts, Verdict
from syncline.testing.invariants.sessions import NaiveSessions
from syncline.testing.linearizability import history
from syncline.testing.linearizability.history import (
    NotApplied,
    Operation,
    Ran,
    ReadCall,
    Refused,
    Result,
    Seen,
    Written,
)

__all__ = ["ONCE", "ORDER", "TOLD", "check_outcomes"]

TOLD: Final = "every answer fits the log"
ONCE: Final = "acknowledged writes are there once, refused ones never"
ORDER: Final = "answers keep the order of time"
NEVER_BACK: Final = "a client never reads back in time on a node"


class _Replayed:
    """A command of the log: where it stands, what it came to, and the store's revision after it."""

    __slots__ = ("command", "index", "result", "revision")

    def __init__(self, index: int, command: Command, result: CommandResult | Rejected, revision: int) -> None:
        self.index = index
        self.command = command
        self.result = result
        self.revision = revision


class _Replay:
    """The committed log, carried out once more."""

    def __init__(self, facts: Facts) -> None:
        self.by_value: dict[bytes, list[_Replayed]] = {}
        self._versions: dict[bytes, list[tuple[int, bytes | None, int]]] = {}
        machine, sessions = KvMachine(), NaiveSessions()
        for index in range(1, facts.last_committed + 1):
            entry = facts.committed_entry(index)
            if entry.type is not EntryType.NORMAL or not entry.data:
                continue
            proposal = decode_proposal(entry.data)
            if proposal.kind == Kind.COMMAND:
                self._apply(machine, Entry(index, entry.term, proposal.data))
            elif proposal.kind == Kind.SESSION:
                sessions.change(entry, proposal)
            elif proposal.kind == Kind.SESSION_COMMAND and (data := sessions.applied(entry, proposal)) is not None:
                self._apply(machine, Entry(index, entry.term, data))

    def _apply(self, machine: KvMachine, entry: Entry) -> None:
        command = decode_command(entry.data)
        [result] = machine.apply_batch([entry])
        revision = machine.store.revision
        done = _Replayed(entry.index, command, result, revision)
        for key, value in _written(command):
            if value is not None:
                self.by_value.setdefault(value, []).append(done)
            record = machine.store.get(key)
            held = (record.value, record.mod_revision) if record is not None else (None, 0)
            versions = self._versions.setdefault(key, [])
            if not versions or versions[-1][1:] != held:
                versions.append((revision, *held))

    def at(self, key: bytes, revision: int) -> tuple[bytes | None, int]:
        """The key's value and mod_revision in the state of a revision."""
        versions = self._versions.get(key, [])
        place = bisect_right(versions, revision, key=lambda version: version[0])
        return versions[place - 1][1:] if place else (None, 0)


def check_outcomes(facts: Facts, operations: list[Operation], verdict: Verdict) -> None:
    """Check the history of a run that has ended: every node has all entries."""
    replay = _Replay(facts)
    told: list[tuple[Operation, int]] = []
    for operation in operations:
        revision = _check(operation, replay, verdict)
        if revision is not None:
            told.append((operation, revision))
    _check_order(told, verdict)
    _check_stale(operations, verdict)


def _check(operation: Operation, replay: _Replay, verdict: Verdict) -> int | None:
    """Whether the answer is right by itself; the store's revision at its place in the order, if that is known."""
    request, result = operation.request, operation.result
    value = _token(request)
    found = replay.by_value.get(value, []) if value is not None else []
    if value is not None:
        least = 0 if result is None or isinstance(result, NotApplied) else 1
        most = 0 if isinstance(result, NotApplied) else 1
        if not least <= len(found) <= most:
            places = [done.index for done in found]
            verdict.broken(ONCE, f"{_say(operation)}: it stands in the log at {places}")
            return None
    if result is None or isinstance(result, NotApplied):
        return None
    if isinstance(request, ReadCall):
        return _check_read(operation, request, result, replay, verdict)
    if found:
        expected = _told_of(found[0].result)
        if not _agree(result, expected):
            verdict.broken(TOLD, f"{_say(operation)}: by the log it is {expected}")
        return found[0].revision
    return result.revision if isinstance(result, Written) and result.existed else None


def _check_read(
    operation: Operation, request: ReadCall, result: Result, replay: _Replay, verdict: Verdict
) -> int | None:
    assert isinstance(result, Seen), operation
    expected = replay.at(request.key, result.revision)
    if (result.value, result.mod_revision) != expected:
        verdict.broken(TOLD, f"{_say(operation)}: at that revision it was {expected}")
    return None if request.stale else result.revision


def _check_order(told: list[tuple[Operation, int]], verdict: Verdict) -> None:
    """An operation called after another one has returned is not before it in the order."""
    returns = sorted((operation.return_s or 0.0, revision) for operation, revision in told)
    latest = place = 0
    for operation, revision in sorted(told, key=lambda item: item[0].call_s):
        while place < len(returns) and returns[place][0] < operation.call_s:
            latest = max(latest, returns[place][1])
            place += 1
        if revision < latest:
            verdict.broken(ORDER, f"{_say(operation)}: at revision {revision}, and {latest} was answered before")


def _check_stale(operations: Iterable[Operation], verdict: Verdict) -> None:
    seen: dict[tuple[str, str], int] = {}
    for operation in operations:
        result = operation.result
        if not isinstance(result, Seen):
            continue
        pair = operation.client, operation.node
        if result.revision < seen.get(pair, 0):
            verdict.broken(NEVER_BACK, f"{_say(operation)}: it had seen revision {seen[pair]} there")
        seen[pair] = max(result.revision, seen.get(pair, 0))


def _written(command: Command) -> Iterator[tuple[bytes, bytes | None]]:
    """The keys that a command may write, with the values that it would put there."""
    if isinstance(command, Put):
        yield command.key, command.value
    elif isinstance(command, Delete):
        yield command.key, None
    elif isinstance(command, Txn):
        for operation in (*command.then, *command.else_):
            if isinstance(operation, Put | Delete | Txn):
                yield from _written(operation)


def _token(request: history.Call) -> bytes | None:
    """A value that no other request has."""
    if isinstance(request, history.PutCall):
        return request.value
    if isinstance(request, history.TxnCall):
        return next((step.value for step in request.then if isinstance(step, history.PutCall)), None)
    return None


def _told_of(result: CommandResult | Rejected) -> Result:
    """The answer that a client should have got."""
    if isinstance(result, Rejected):
        revision = result.details.get("revision")
        return Refused(revision if isinstance(revision, int) else None)
    if isinstance(result, TxnAnswer):
        return Ran(result.succeeded, result.revision)
    assert isinstance(result, PutAnswer | DeleteAnswer)
    return Written(result.revision)


def _agree(told: Result, expected: Result) -> bool:
    if isinstance(told, Ran) and isinstance(expected, Ran):
        return (told.succeeded, told.revision) == (expected.succeeded, expected.revision)
    if isinstance(told, Written) and isinstance(expected, Written):
        return told.revision == expected.revision
    return told == expected


def _say(operation: Operation) -> str:
    end = f"{operation.return_s:.4f} s" if operation.return_s is not None else "nobody knows when"
    times = f"{operation.call_s:.4f} s to {end}"
    return f"{operation.client} at {operation.node}, {times}: {operation.request} → {operation.result}"
