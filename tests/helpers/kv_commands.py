"""A naive key-value store to compare the real one with, and strategies for the commands of both."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from syncline.errors import Rejected
from syncline.kv.commands import (
    ABSENT,
    EXISTS,
    LARGEST_NUMBER,
    LEAST_NUMBER,
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
    encode_command,
)
from syncline.kv.machine import KvMachine
from syncline.kv.records import KeyRecord
from syncline.kv.store import KeyStore
from syncline.node.fsm import Entry

KEYS = [b"a", b"a\0", b"ab", b"b", b"b/1", b"b/2", b"\xff", b"\xff\xff"]

keys = st.sampled_from([*KEYS, *[b"a", b"b"] * 4])  # some of them often, so that they exist
bounds = st.sampled_from([b"", *KEYS])
ends = st.none() | bounds
expects = st.none() | st.sampled_from([ABSENT, EXISTS]) | st.integers(1, 30)
leases = st.integers(1, 4)
ttls = st.integers(1, 9)
terms = st.sampled_from([1, 1, 1, 2])
revisions = st.just(0) | st.integers(0, 20)
numbers = st.integers(-3, 3) | st.sampled_from([LEAST_NUMBER, LARGEST_NUMBER])
values = st.binary(max_size=8) | numbers.map(lambda number: b"%d" % number)


@st.composite
def all_puts(draw: st.DrawFn, expects: st.SearchStrategy[int | None]) -> Put:
    """Puts without a lease, with one that may exist, and with one of their own."""
    lease = draw(st.just(0) | leases)
    ttl_ms = draw(st.just(0) | ttls) if lease else 0
    return Put(draw(keys), draw(values), lease, draw(expects), ttl_ms, draw(st.booleans()))


puts = all_puts(expects)
deletes = st.builds(Delete, keys, expects, st.booleans())
delete_ranges = st.builds(DeleteRange, bounds, ends, st.integers(0, 3), st.booleans())
compare_ends = st.none() | st.just(True) | bounds
compares = st.builds(
    TxnCompare,
    keys,
    st.sampled_from([target for target in CompareTarget if target is not CompareTarget.VALUE]),
    st.sampled_from(Comparison),
    st.integers(0, 20),
    compare_ends,
) | st.builds(
    TxnCompare,
    keys,
    st.just(CompareTarget.VALUE),
    st.sampled_from(Comparison),
    values,
    st.none() | st.just(True) | bounds,
)
reads: st.SearchStrategy[TxnOperation] = st.builds(Get, keys, revisions) | st.builds(
    Range, bounds, ends, st.integers(0, 3), st.booleans(), st.booleans(), st.booleans(), revisions
)
increments = st.builds(Increment, keys, numbers, numbers, st.booleans())
touches = st.builds(Touch, keys, ttls, leases)
operations: st.SearchStrategy[TxnOperation] = st.recursive(
    st.one_of(
        all_puts(st.none()),
        st.builds(Delete, keys, st.none(), st.booleans()),
        delete_ranges,
        reads,
        increments,
        touches,
    ),
    lambda part: st.builds(
        Txn,
        st.lists(compares, max_size=2).map(tuple),
        st.lists(part, max_size=3).map(tuple),
        st.lists(part, max_size=3).map(tuple),
    ),
    max_leaves=6,
)
txns = operations.map(lambda part: part if isinstance(part, Txn) else Txn((), (part,)))
batches = st.builds(
    OperationBatch,
    st.lists(st.one_of(puts, deletes, delete_ranges, increments, touches, reads, txns), max_size=6).map(tuple),
)


@st.composite
def decisions(draw: st.DrawFn, parts: st.SearchStrategy[Any], kind: Any) -> Command:
    """What a leader decides about leases, mostly knowing when they got their full time."""
    chosen = draw(st.lists(parts, max_size=3).map(tuple))
    renewed = draw(st.tuples(*[st.integers(1, 9)] * len(chosen)) | st.just(()))
    command: Command = kind(chosen, draw(terms), renewed)
    return command


lease_commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(LeaseGrant, leases, ttls),
    st.builds(LeaseGrant, leases, ttls),
    st.builds(LeaseRevoke, leases),
    decisions(leases, LeaseEnd),
    decisions(st.tuples(leases, ttls), LeaseCheckpoint),
)
compacts = st.builds(Compact, st.integers(0, 20), st.just(0) | terms)
commands: st.SearchStrategy[Command] = st.one_of(
    puts, puts, puts, deletes, delete_ranges, txns, increments, touches, lease_commands, compacts, batches
)


def accepted(command: Command) -> bool:
    """Whether the command may enter the log at all."""
    try:
        encode_command(command)
    except Rejected:
        return False
    return True


def entries(commands: Iterable[Command], first_index: int = 1) -> list[Entry]:
    return [Entry(first_index + at, 1, encode_command(command)) for at, command in enumerate(commands)]


def persisted(machine: KvMachine) -> bytes:
    """The bytes of a snapshot of the machine."""
    sink = Sink()
    snapshot = machine.snapshot()
    snapshot.persist(sink)
    snapshot.release()
    return sink.data


def contents(store: KeyStore) -> list[KeyRecord]:
    """Every record, in order."""
    return [record for batch in store.view() for record in batch]


class Sink:
    """A snapshot sink in memory."""

    def __init__(self) -> None:
        self._written = io.BytesIO()
        self.largest_write = 0

    def write(self, data: bytes) -> None:
        self.largest_write = max(self.largest_write, len(data))
        self._written.write(data)

    @property
    def data(self) -> bytes:
        return self._written.getvalue()


class NaiveStore:
    """The same behaviour, said in the plainest way: one dictionary, copied at will."""

    def __init__(self) -> None:
        self.revision = 0
        self.records: dict[bytes, tuple[bytes, int, int, int]] = {}  # value, create, mod, version

    def put(self, key: bytes, value: bytes, revision: int) -> int:
        _, create, mod, version = self.records.get(key, (b"", revision, 0, 0))
        self.records[key] = (value, create, revision, version + 1)
        self.revision = revision
        return mod

    def delete(self, key: bytes, revision: int) -> bool:
        if self.records.pop(key, None) is None:
            return False
        self.revision = revision
        return True

    def within(self, start: bytes, end: bytes | None) -> list[bytes]:
        return sorted(key for key in self.records if key >= start and (end is None or key < end))

    def mod_revision(self, key: bytes) -> int:
        return self.records[key][2] if key in self.records else 0

    def meets(self, key: bytes, expect: int | None) -> bool:
        mod = self.mod_revision(key)
        return expect is None or mod == expect or (expect == EXISTS and mod > 0)

    def holds(self, compare: TxnCompare) -> bool:
        record = self.records.get(compare.key)
        if compare.target is CompareTarget.VALUE and record is None:
            return False
        value, create, mod, version = record or (b"", 0, 0, 0)
        left: object = {
            CompareTarget.VALUE: value,
            CompareTarget.MOD_REVISION: mod,
            CompareTarget.CREATE_REVISION: create,
            CompareTarget.VERSION: version,
        }[compare.target]
        right: object = compare.operand
        held: dict[Comparison, bool] = {
            Comparison.EQUAL: left == right,
            Comparison.NOT_EQUAL: left != right,
            Comparison.GREATER: left > right,  # type: ignore[operator]
            Comparison.LESS: left < right,  # type: ignore[operator]
        }
        return held[compare.comparison]

    def apply(self, command: Command) -> object:
        """The answer as plain data; None for a refusal."""
        revision = self.revision + 1
        if isinstance(command, Put | Delete) and not self.meets(command.key, command.expect):
            return None
        before = NaiveStore()
        before.revision, before.records = self.revision, dict(self.records)
        assert isinstance(command, Put | Delete | DeleteRange | Txn)
        return self._run(command, revision, before)

    def _run(self, part: TxnOperation, revision: int, before: NaiveStore) -> object:
        match part:
            case Put(key, value):
                return ("put", self.put(key, value, revision))
            case Delete(key):
                return ("delete", self.delete(key, revision))
            case DeleteRange(start, end, limit):
                found = self.within(start, end)
                gone = [key for key in found[: limit or len(found)] if self.delete(key, revision)]
                return ("delete_range", len(gone), len(gone) < len(found))
            case Get(key):
                return ("get", key in self.records, self.mod_revision(key))
            case Range(start, end, limit, reverse, _, count_only):
                found = self.within(start, end)
                shown = (found[::-1] if reverse else found)[: limit or len(found)]
                return ("range", [] if count_only else shown, len(found))
            case Txn(compares, then, else_):
                succeeded = all(map(before.holds, compares))
                return (
                    "txn",
                    succeeded,
                    [self._run(part, revision, before) for part in (then if succeeded else else_)],
                )
            case Increment() | Touch():
                raise AssertionError(part)
