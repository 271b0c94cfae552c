"""Transactions: compares on leases and over ranges, previous records, past revisions, numbers; nothing half done."""

from __future__ import annotations

import io

import pytest

from syncline.errors import Rejected
from syncline.kv.commands import (
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
    LeaseGrant,
    LeaseRevoke,
    Put,
    Range,
    Touch,
    Txn,
    TxnCompare,
    TxnOperation,
    encode_command,
)
from syncline.kv.machine import KvMachine
from syncline.kv.records import (
    CompactAnswer,
    DeleteAnswer,
    DeleteRangeAnswer,
    GetAnswer,
    IncrementAnswer,
    PutAnswer,
    RangePage,
    TxnAnswer,
)
from syncline.kv.store import KeyStore
from syncline.node.fsm import Entry
from tests.helpers.kv_commands import entries, persisted

VERSION, VALUE, LEASE = CompareTarget.VERSION, CompareTarget.VALUE, CompareTarget.LEASE
EQUAL, NOT_EQUAL, GREATER, LESS = Comparison


def apply(machine: KvMachine, command: Command) -> object:
    return machine.apply(Entry(1, 1, encode_command(command)))


def machine_of(*commands: Command) -> KvMachine:
    machine = KvMachine()
    for entry in entries(commands):
        machine.apply(entry)
    return machine


def refusal(machine: KvMachine, command: Command) -> str:
    before = persisted(machine)
    with pytest.raises(Rejected) as raised:
        apply(machine, command)
    assert persisted(machine) == before
    return raised.value.code


def results_of(machine: KvMachine, *then: TxnOperation) -> tuple[object, ...]:
    answer = apply(machine, Txn(then=then))
    assert isinstance(answer, TxnAnswer)
    return answer.results


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (TxnCompare(b"leased", LEASE, EQUAL, 7), True),
        (TxnCompare(b"leased", LEASE, NOT_EQUAL, 7), False),
        (TxnCompare(b"a1", LEASE, EQUAL, 0), True),
        (TxnCompare(b"missing", LEASE, EQUAL, 0), True),
        (TxnCompare(b"a", VALUE, EQUAL, b"v", b"b"), True),  # each key of [a, b)
        (TxnCompare(b"a", VALUE, EQUAL, b"v", b"c"), False),  # b1 has another value
        (TxnCompare(b"b", VALUE, EQUAL, b"w", True), False),  # to the last key
        (TxnCompare(b"leased", VALUE, EQUAL, b"x", True), True),
        (TxnCompare(b"a", VERSION, GREATER, 0, True), True),
        (TxnCompare(b"a", VERSION, GREATER, 1, True), False),
        # No key in the range: as for an absent key.
        (TxnCompare(b"x", VERSION, EQUAL, 0, True), True),
        (TxnCompare(b"x", VERSION, GREATER, 0, b"z"), False),
        (TxnCompare(b"x", VALUE, NOT_EQUAL, b"", b"z"), False),
        (TxnCompare(b"c", VERSION, EQUAL, 0, b"a"), True),  # an end before the start
    ],
)
def test_txn_compare_of_leases_and_ranges(compare: TxnCompare, holds: bool) -> None:
    machine = machine_of(
        LeaseGrant(7, 10), Put(b"a1", b"v"), Put(b"a2", b"v"), Put(b"b1", b"w"), Put(b"leased", b"x", 7)
    )
    answer = apply(machine, Txn((compare,)))
    assert answer == TxnAnswer(holds, 4, ())


def test_txn_compare_of_a_large_range_looks_at_every_key() -> None:
    """More than one page: the last key decides."""
    machine = machine_of(*[Put(b"%04d" % number, b"v") for number in range(700)])
    same = TxnCompare(b"0", VALUE, EQUAL, b"v", True)
    assert apply(machine, Txn((same,))) == TxnAnswer(True, 700, ())
    apply(machine, Put(b"0699", b"w"))
    assert apply(machine, Txn((same,))) == TxnAnswer(False, 701, ())


def test_txn_compare_of_too_many_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.work.MAX_TXN_READ_BYTES", 1000)
    monkeypatch.setattr("syncline.kv.work.RANGE_BYTES", 0)
    monkeypatch.setattr("syncline.kv.work.READ_OVERHEAD_BYTES", 160)
    machine = machine_of(*[Put(b"%04d" % number, b"v") for number in range(9)])
    assert refusal(machine, Txn((TxnCompare(b"0", VALUE, EQUAL, b"v", True),))) == "reads_too_large"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("deleted", [(Delete(b"m"),), (DeleteRange(b"m", b"n"),), (Txn((), (Delete(b"m"),)),)])
def test_txn_reads_behind_its_own_deletes_are_bounded(deleted: tuple[TxnOperation, ...], reverse: bool) -> None:
    """Each range finds the large record in place of the small one that is deleted before it."""
    large = b"a" if reverse else b"z"
    machine = machine_of(Put(b"m", b"small"), Put(large, bytes(6 << 20)))
    page = Range(b"", None, 1, reverse=reverse)
    assert refusal(machine, Txn((), (*deleted, page, page, page))) == "reads_too_large"
    assert machine.store.revision == 2
    *_, first, second = results_of(machine, *deleted, page, page)
    assert isinstance(first, RangePage)
    assert first == second
    assert [record.key for record in first.items] == [large]


def test_txn_reads_of_keys_behind_its_own_deletes_are_few() -> None:
    machine = machine_of(Put(b"m", b"small"), Put(b"z", bytes(6 << 20)))
    keys = Range(b"", None, 1, keys_only=True)
    *_, last = results_of(machine, Delete(b"m"), *[keys] * 100)
    assert isinstance(last, RangePage)
    assert [(record.key, record.value) for record in last.items] == [(b"z", b"")]


@pytest.mark.parametrize("end", [False, 1, "x", 2.5])
def test_txn_compare_with_a_wrong_end_is_refused(end: object) -> None:
    compare = TxnCompare(b"a", VERSION, EQUAL, 0, end)  # type: ignore[arg-type]
    with pytest.raises(Rejected) as raised:
        encode_command(Txn((compare,)))
    assert raised.value.code == "bad_command"


def test_results_hold_previous_records_if_asked() -> None:
    machine = machine_of(Put(b"a", b"1"), Put(b"b", b"2"), Put(b"c", b"3"), Put(b"n", b"40"))
    a, b, c, n = [machine.store.get(key) for key in (b"a", b"b", b"c", b"n")]
    assert a and b and c and n
    put, delete, ranged, increment, absent = results_of(
        machine,
        Put(b"a", b"new", previous=True),
        Delete(b"b", previous=True),
        DeleteRange(b"c", b"d", previous=True),
        Increment(b"n", 2, previous=True),
        Put(b"new", b"", previous=True),
    )
    assert put == PutAnswer(5, False, 1, a)
    assert delete == DeleteAnswer(True, 5, b)
    assert ranged == DeleteRangeAnswer(1, 5, False, (c,))
    assert increment == IncrementAnswer(5, 42, n)
    assert absent == PutAnswer(5, True, 0)
    assert apply(machine, Put(b"a", b"", previous=True)) == PutAnswer(6, False, 5, machine.store.get(b"a", 5))
    assert apply(machine, Delete(b"zz", previous=True)) == DeleteAnswer(False, 6)


def test_previous_records_of_a_range_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machine_of(*[Put(b"%d" % number, bytes(200)) for number in range(9)])
    monkeypatch.setattr("syncline.kv.work.MAX_TXN_READ_BYTES", 1000)
    monkeypatch.setattr("syncline.kv.work.RANGE_BYTES", 0)
    monkeypatch.setattr("syncline.kv.work.READ_OVERHEAD_BYTES", 160)
    assert refusal(machine, DeleteRange(b"", None, previous=True)) == "reads_too_large"
    answer = apply(machine, DeleteRange(b"", None, 2, previous=True))
    assert isinstance(answer, DeleteRangeAnswer)
    assert ([record.key for record in answer.previous], answer.more) == ([b"0", b"1"], True)
    assert apply(machine, DeleteRange(b"", None)) == DeleteRangeAnswer(7, 11)


def test_txn_reads_at_past_revisions() -> None:
    machine = machine_of(Put(b"a", b"1"), Put(b"b", b"1"), Put(b"a", b"2"), Delete(b"b"))
    put, now, past, gone, page, present = results_of(
        machine, Put(b"a", b"3"), Get(b"a"), Get(b"a", 2), Get(b"b", 3), Range(b"", None, revision=2), Get(b"a", 4)
    )
    assert put == PutAnswer(5, False, 3)
    values = [
        answer.record and answer.record.value for answer in (now, past, gone, present) if isinstance(answer, GetAnswer)
    ]
    assert values == [b"3", b"1", b"1", b"2"]
    assert isinstance(page, RangePage)
    assert ([record.value for record in page.items], page.revision) == ([b"1", b"1"], 2)


@pytest.mark.parametrize("read", [lambda at: Get(b"a", at), lambda at: Range(b"", None, revision=at)])
def test_txn_reads_beyond_the_history_are_refused_whole(read: object) -> None:
    assert callable(read)
    machine = machine_of(Put(b"a", b"1"), Put(b"a", b"2"), Put(b"a", b"3"), Compact(3))
    for at, code in ((2, "compacted"), (4, "future_revision"), (2**63 - 1, "future_revision")):
        assert refusal(machine, Txn(then=(Put(b"mark", b""), read(at)))) == code
    assert results_of(machine, Put(b"mark", b""), read(3))


def test_txn_reads_at_the_present_without_history_are_refused_whole() -> None:
    """After the first write of the transaction that revision would be gone: it must not fail half done."""
    machine = machine_of()
    machine.store = KeyStore(5, 6)
    assert refusal(machine, Txn(then=(Put(b"mark", b""), Get(b"a", 5)))) == "compacted"


def test_compaction_moves_the_oldest_revision() -> None:
    machine = machine_of(*[Put(b"a", b"%d" % number) for number in range(5)])
    assert apply(machine, Compact(3)) == CompactAnswer(3, 5)
    assert apply(machine, Compact(2)) == CompactAnswer(3, 5)
    assert apply(machine, Compact(0)) == CompactAnswer(3, 5)
    assert refusal(machine, Compact(6)) == "future_revision"
    assert refusal(machine, Compact(4, term=2)) == "superseded"
    assert apply(machine, Compact(5, term=1)) == CompactAnswer(5, 5)
    assert machine.store.revision == 5


@pytest.mark.parametrize(
    ("value", "increment", "number"),
    [
        (None, Increment(b"n"), 1),
        (None, Increment(b"n", -2, 10), 8),
        (b"41", Increment(b"n"), 42),
        (b"-1", Increment(b"n", 1, 100), 0),
        (b"007", Increment(b"n", 0), 7),
        (b"-0", Increment(b"n", 0), 0),
        (b"%d" % LARGEST_NUMBER, Increment(b"n", -1), LARGEST_NUMBER - 1),
        (b"%d" % LEAST_NUMBER, Increment(b"n", 1), LEAST_NUMBER + 1),
        (b"1", Increment(b"n", LEAST_NUMBER), LEAST_NUMBER + 1),
    ],
)
def test_increment_adds_to_decimal_text(value: bytes | None, increment: Increment, number: int) -> None:
    machine = machine_of() if value is None else machine_of(Put(b"n", value))
    answer = apply(machine, increment)
    assert answer == IncrementAnswer(machine.store.revision, number)
    record = machine.store.get(b"n")
    assert record is not None
    assert record.value == b"%d" % number


@pytest.mark.parametrize(
    ("value", "increment"),
    [
        (b"", Increment(b"n")),
        (b"-", Increment(b"n")),
        (b"+1", Increment(b"n")),
        (b" 1", Increment(b"n")),
        (b"1\n", Increment(b"n")),
        (b"1_0", Increment(b"n")),
        (b"1.0", Increment(b"n")),
        (b"0x1", Increment(b"n")),
        ("\u0661".encode(), Increment(b"n")),  # a digit, but not of ASCII
        (b"9" * 19, Increment(b"n", 0)),
        (b"1" * 30, Increment(b"n")),
        (b"%d" % LARGEST_NUMBER, Increment(b"n")),
        (b"%d" % LEAST_NUMBER, Increment(b"n", -1)),
        (None, Increment(b"n", LARGEST_NUMBER, 1)),
    ],
)
def test_increment_of_no_number_is_refused(value: bytes | None, increment: Increment) -> None:
    machine = machine_of(Put(b"x", b"")) if value is None else machine_of(Put(b"n", value))
    assert refusal(machine, increment) == "not_a_number"
    assert refusal(machine, Txn(then=(Put(b"mark", b""), increment))) == "not_a_number"


def test_increment_keeps_the_lease_of_its_key() -> None:
    machine = machine_of(LeaseGrant(7, 10), Put(b"n", b"1", 7), Increment(b"n"))
    assert machine.store.leases.keys(7) == [b"n"]
    apply(machine, LeaseRevoke(7))
    assert machine.store.get(b"n") is None


WRITES: list[TxnOperation] = [Put(b"k", b""), Delete(b"k"), Increment(b"k"), Touch(b"k", 5, 5), DeleteRange(b"", None)]


@pytest.mark.parametrize("first", WRITES, ids=lambda part: type(part).__name__)
@pytest.mark.parametrize("second", WRITES[:4], ids=lambda part: type(part).__name__)
def test_txn_that_writes_a_key_twice_is_refused(first: TxnOperation, second: TxnOperation) -> None:
    for branch in ((first, second), (second, first), (first, Txn(else_=(second,)))):
        with pytest.raises(Rejected, match="twice"):
            encode_command(Txn(then=branch))


def test_observer_is_told_once_of_each_change_of_the_revision() -> None:
    machine, told = KvMachine(), list[int]()
    machine.observe(lambda: told.append(machine.store.revision))
    apply(machine, Put(b"a", b"1"))
    apply(machine, LeaseGrant(1, 10))  # no revision
    apply(machine, Delete(b"missing"))
    machine.apply_batch(entries([Put(b"a", b"2"), Put(b"a", b"3"), Compact(1)]))
    machine.apply_batch(entries([Compact(2)]))
    assert told == [1, 3]
    stream = persisted(machine)
    machine.restore(io.BytesIO(stream))
    assert told == [1, 3, 3]
