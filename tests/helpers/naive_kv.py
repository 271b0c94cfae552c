"""The key-value machine said in the plainest way: dictionaries that are copied for each command.

Nothing is shared with the real one but the commands and the answers' classes. A refusal drops the copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from syncline.kv.commands import (
    EXISTS,
    Command,
    Compact,
    CompareTarget,
    Comparison,
    Delete,
    DeleteRange,
    Get,
    Increment,
    LeaseCheckpoint,
    LeaseEnd,
    LeaseGrant,
    LeaseRevoke,
    OperationBatch,
    Put,
    Range,
    Touch,
    Txn,
    TxnCompare,
    TxnOperation,
)
from syncline.kv.records import (
    BatchAnswer,
    CompactAnswer,
    DeleteAnswer,
    DeleteRangeAnswer,
    GetAnswer,
    IncrementAnswer,
    KeyRecord,
    LeaseAnswer,
    LeaseCheckpointAnswer,
    LeaseEndAnswer,
    LeaseRecord,
    PutAnswer,
    RangePage,
    TouchAnswer,
    TxnAnswer,
)


class Refused(Exception):
    """The code of a refusal."""


@dataclass
class State:
    """Everything, at one revision. The records have no checksums."""

    revision: int = 0
    oldest: int = 1
    records: dict[bytes, KeyRecord] = field(default_factory=dict)
    leases: dict[int, LeaseRecord] = field(default_factory=dict)
    past: dict[int, dict[bytes, KeyRecord]] = field(default_factory=dict)
    """The records as they were after each revision."""


class NaiveMachine:
    """Answers as the real machine does; a refusal is its code."""

    def __init__(self) -> None:
        self.state = State(past={0: {}})

    def apply(self, command: Command, index: int, term: int = 1) -> object:
        if isinstance(command, OperationBatch):
            results = [self.apply_alone(part, index) for part in command.ops]
            return (BatchAnswer, results, self.state.revision)
        return self.apply_alone(command, index, term)

    def apply_alone(self, command: Command | TxnOperation, index: int, term: int = 1) -> object:
        before, state = self.state, copy.deepcopy(self.state)
        try:
            answer = Run(before, state, index, term).command(command)
        except Refused as refusal:
            return str(refusal)
        state.past[state.revision] = dict(state.records)
        self.state = state
        return answer


class Run:
    """One command. Compares and leases are looked at as they were before it."""

    def __init__(self, before: State, state: State, index: int, term: int) -> None:
        self.before = before
        self.state = state
        self.index = index
        self.term = term
        self.next = before.revision + 1
        self.granted: set[int] = set()
        self.nested = False

    def command(self, command: Command | TxnOperation) -> object:
        state = self.state
        match command:
            case Put(key, expect=int(expect)) | Delete(key, expect=int(expect)):
                self.expect(key, expect)
                return self.step(command)
            case LeaseGrant(lease, ttl_ms):
                self.grant(lease, ttl_ms, own=False)
                return LeaseAnswer(lease, ttl_ms)
            case LeaseRevoke(lease):
                if lease not in state.leases:
                    raise Refused("lease_not_found")
                return LeaseEndAnswer(1, self.end(lease), state.revision)
            case LeaseEnd(leases, decided, renewed):
                self.fence(decided)
                known = [lease for at, lease in enumerate(leases) if self.stands(lease, renewed, at)]
                known = list(dict.fromkeys(known))
                deleted = sum([self.end(lease) for lease in known])
                return LeaseEndAnswer(len(known), deleted, state.revision)
            case LeaseCheckpoint(rests, decided, renewed):
                self.fence(decided)
                found = [self.checkpoint(*rest, renewed, at) for at, rest in enumerate(rests)]
                return LeaseCheckpointAnswer(sum(found))
            case Compact(revision, decided):
                if decided:
                    self.fence(decided)
                if revision > state.revision:
                    raise Refused("future_revision")
                state.oldest = max(state.oldest, revision)
                return CompactAnswer(state.oldest, state.revision)
            case OperationBatch():
                raise AssertionError("a batch inside a batch")
            case Put() | Delete() | DeleteRange() | Txn() | Increment() | Touch() | Get() | Range():
                return self.step(command)
            case _:
                raise AssertionError("users and roles have a model of their own")

    def step(self, step: TxnOperation) -> object:
        state = self.state
        match step:
            case Put(key, value, lease, _, ttl_ms, shown):
                if ttl_ms:
                    self.grant(lease, ttl_ms, own=True)
                elif lease:
                    self.check_attach(lease, key)
                previous = self.put(key, value, lease)
                replaced = previous.mod_revision if previous else 0
                return PutAnswer(
                    self.next, previous is None, replaced, previous if shown else None, lease if ttl_ms else 0
                )
            case Delete(key, _, shown):
                previous = self.delete(key)
                return DeleteAnswer(previous is not None, state.revision, previous if shown else None)
            case DeleteRange(start, end, limit, shown):
                found = within(state.records, start, end)
                gone = found[: limit or len(found)]
                for record in gone:
                    self.delete(record.key)
                return DeleteRangeAnswer(
                    len(gone), state.revision, len(gone) < len(found), tuple(gone) if shown else ()
                )
            case Get(key, revision):
                return GetAnswer(self.at(revision).get(key), revision or state.revision)
            case Range():
                return self.range(step)
            case Increment(key, by, initial, shown):
                previous = state.records.get(key)
                number = (initial if previous is None else number_of(previous.value)) + by
                if not -(2**63) <= number < 2**63:
                    raise Refused("not_a_number")
                self.put(key, str(number).encode(), previous.lease if previous else 0)
                return IncrementAnswer(self.next, number, previous if shown else None)
            case Touch():
                return self.touch(step)
            case Txn(compares, then, else_):
                self.nested = True
                succeeded = all(map(self.holds, compares))
                results = tuple([self.step(part) for part in (then if succeeded else else_)])
                return TxnAnswer(succeeded, state.revision, results)  # type: ignore[arg-type]

    def range(self, step: Range) -> RangePage:
        found = within(self.at(step.revision), step.start, step.end)
        shown = step.revision or self.state.revision
        if step.count_only:
            return RangePage([], bool(found), shown, len(found))
        items = (found[::-1] if step.reverse else found)[: step.limit or len(found)]
        more = len(items) < len(found)
        if step.keys_only:
            items = [record_of(one, value=b"") for one in items]
        return RangePage(items, more, shown, len(found), items[-1].key if more and items else None)

    def touch(self, step: Touch) -> TouchAnswer:
        state = self.state
        record = state.records.get(step.key)
        if record is None:
            raise Refused("not_found")
        lease = state.leases.get(record.lease)
        if lease is not None and lease.own:
            state.leases[lease.id] = LeaseRecord(lease.id, step.ttl_ms, step.ttl_ms, True, self.index)
            return TouchAnswer(state.revision, lease.id)
        self.grant(step.lease, step.ttl_ms, own=True)
        self.put(step.key, record.value, step.lease)
        return TouchAnswer(self.next, step.lease)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes, lease: int) -> KeyRecord | None:
        state = self.state
        previous = state.records.get(key)
        if previous is not None and previous.lease != lease:
            self.left(previous)
        created, version = (previous.create_revision, previous.version + 1) if previous else (self.next, 1)
        state.records[key] = KeyRecord(key, value, created, self.next, version, lease)
        state.revision = self.next
        return previous

    def delete(self, key: bytes) -> KeyRecord | None:
        previous = self.state.records.pop(key, None)
        if previous is not None:
            self.left(previous)
            self.state.revision = self.next
        return previous

    def left(self, record: KeyRecord) -> None:
        """The record has left its lease: a lease of its own goes with it."""
        lease = self.state.leases.get(record.lease)
        if lease is not None and lease.own:
            del self.state.leases[lease.id]

    def grant(self, lease: int, ttl_ms: int, own: bool) -> None:
        if lease in self.before.leases or lease in self.granted:
            raise Refused("lease_exists")
        self.granted.add(lease)
        self.state.leases[lease] = LeaseRecord(lease, ttl_ms, ttl_ms, own, self.index)

    def check_attach(self, lease: int, key: bytes) -> None:
        record = self.before.leases.get(lease)
        if record is None:
            raise Refused("lease_not_found")
        if record.own and keys_of(self.before, lease) != [key]:
            raise Refused("lease_full")

    def end(self, lease: int) -> int:
        keys = keys_of(self.state, lease)
        for key in keys:
            self.delete(key)
        self.state.leases.pop(lease, None)
        if keys:
            self.state.past[self.state.revision] = dict(self.state.records)
            self.next = self.state.revision + 1
        return len(keys)

    def stands(self, lease: int, renewed: tuple[int, ...], at: int) -> bool:
        record = self.state.leases.get(lease)
        return record is not None and (not renewed or renewed[at] == record.renewed)

    def checkpoint(self, lease: int, rest_ms: int, renewed: tuple[int, ...], at: int) -> bool:
        if not self.stands(lease, renewed, at):
            return False
        old = self.state.leases[lease]
        full = rest_ms >= old.ttl_ms
        rest = old.ttl_ms if full else rest_ms
        self.state.leases[lease] = LeaseRecord(lease, old.ttl_ms, rest, old.own, self.index if full else old.renewed)
        return True

    def fence(self, decided: int) -> None:
        if decided != self.term:
            raise Refused("superseded")

    def expect(self, key: bytes, expect: int) -> None:
        record = self.state.records.get(key)
        revision = record.mod_revision if record else 0
        if not (revision == expect or (expect == EXISTS and revision)):
            raise Refused("precondition_failed")

    def at(self, revision: int) -> dict[bytes, KeyRecord]:
        if not revision:
            return self.state.records
        if revision > self.before.revision:
            raise Refused("future_revision")
        if revision < self.before.oldest and (self.nested or revision != self.before.revision):
            raise Refused("compacted")
        return self.before.past[revision]

    def holds(self, compare: TxnCompare) -> bool:
        records = self.before.records
        if compare.end is None:
            found = [records[compare.key]] if compare.key in records else []
        else:
            found = within(records, compare.key, None if compare.end is True else bytes(compare.end))
        if not found:
            return compare.target is not CompareTarget.VALUE and related(compare, 0)
        return all(related(compare, NUMBERS[compare.target](record)) for record in found)


NUMBERS: dict[CompareTarget, Callable[[KeyRecord], int | bytes]] = {
    CompareTarget.VALUE: lambda record: record.value,
    CompareTarget.MOD_REVISION: lambda record: record.mod_revision,
    CompareTarget.CREATE_REVISION: lambda record: record.create_revision,
    CompareTarget.VERSION: lambda record: record.version,
    CompareTarget.LEASE: lambda record: record.lease,
}


def related(compare: TxnCompare, left: int | bytes) -> bool:
    right = compare.operand
    return {
        Comparison.EQUAL: left == right,
        Comparison.NOT_EQUAL: left != right,
        Comparison.GREATER: left > right,  # type: ignore[operator]
        Comparison.LESS: left < right,  # type: ignore[operator]
    }[compare.comparison]


def within(records: dict[bytes, KeyRecord], start: bytes, end: bytes | None) -> list[KeyRecord]:
    return [records[key] for key in sorted(records) if key >= start and (end is None or key < end)]


def keys_of(state: State, lease: int) -> list[bytes]:
    return sorted(key for key, record in state.records.items() if record.lease == lease)


def number_of(value: bytes) -> int:
    digits = value.removeprefix(b"-")
    if not digits or len(digits) > 19 or any(byte not in b"0123456789" for byte in digits):
        raise Refused("not_a_number")
    return int(value)


def record_of(record: KeyRecord, value: bytes | None = None) -> KeyRecord:
    """The record without its checksum, and with another value."""
    shown = record.value if value is None else value
    return KeyRecord(record.key, shown, record.create_revision, record.mod_revision, record.version, record.lease)
