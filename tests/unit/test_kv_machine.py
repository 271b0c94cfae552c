"""The machine: determinism, refusals that change nothing, snapshots at any index."""

from __future__ import annotations

import io

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import NodeFailed, Outcome, Rejected
from syncline.kv.commands import (
    ABSENT,
    EXISTS,
    MAX_DELETED_KEYS,
    MAX_TXN_READ_BYTES,
    Command,
    CompareTarget,
    Comparison,
    Delete,
    DeleteRange,
    Get,
    Put,
    Range,
    Txn,
    TxnCompare,
    TxnOperation,
    encode_command,
)
from syncline.kv.machine import KvMachine
from syncline.kv.records import (
    BatchAnswer,
    DeleteAnswer,
    DeleteRangeAnswer,
    GetAnswer,
    IncrementAnswer,
    PutAnswer,
    RangePage,
    TxnAnswer,
)
from syncline.kv.store import KeyStore
from syncline.kv.versions import is_later
from syncline.node.fsm import BatchingFSM, Entry
from tests.helpers.kv_commands import accepted, commands, contents, entries, persisted
from tests.helpers.naive_kv import NaiveMachine, State, keys_of, record_of, within

histories = st.lists(commands.filter(accepted), max_size=25)
long_histories = st.lists(commands.filter(accepted), min_size=8, max_size=30)


def machine_of(*commands: Command) -> KvMachine:
    machine = KvMachine()
    machine.apply_batch(entries(commands))
    return machine


def apply(machine: KvMachine, command: Command) -> object:
    return machine.apply(Entry(1, 1, encode_command(command)))


@settings(max_examples=150, deadline=None)
@given(long_histories, st.integers(0, 25))
def test_the_machine_answers_as_the_naive_one_does(history: list[Command], restored_at: int) -> None:
    """Every command, leases and past revisions included, with a snapshot and its restore in between."""
    machine, naive = KvMachine(), NaiveMachine()
    for at, (entry, command) in enumerate(zip(entries(history), history, strict=True)):
        if at == restored_at:
            stream = persisted(machine)
            machine = KvMachine()
            machine.restore(io.BytesIO(stream))
        (result,) = machine.apply_batch([entry])
        assert bare(result) == naive.apply(command, entry.index)
        assert_same(machine.store, naive.state)
    machine.store.check()
    for revision in range(naive.state.oldest, naive.state.revision + 1):
        page = machine.store.range(revision=revision)
        assert list(map(record_of, page.items)) == within(naive.state.past[revision], b"", None)


def assert_same(store: KeyStore, state: State) -> None:
    assert (store.revision, store.oldest) == (state.revision, state.oldest)
    assert {record.key: record_of(record) for record in contents(store)} == state.records
    assert list(store.leases.records()) == list(state.leases.values())
    assert all(store.leases.keys(lease) == keys_of(state, lease) for lease in state.leases)


def bare(result: object) -> object:
    """An answer without checksums; the code of a refusal."""
    match result:
        case Rejected():
            return result.code
        case BatchAnswer(results, revision):
            return (BatchAnswer, list(map(bare, results)), revision)
        case TxnAnswer(succeeded, revision, results):
            return TxnAnswer(succeeded, revision, tuple(map(bare, results)))  # type: ignore[arg-type]
        case GetAnswer(record, revision):
            return GetAnswer(record and record_of(record), revision)
        case RangePage(items, more, revision, count, after):
            return RangePage(list(map(record_of, items)), more, revision, count, after)
        case PutAnswer() | DeleteAnswer() | IncrementAnswer():
            return msgspec.structs.replace(result, previous=result.previous and record_of(result.previous))
        case DeleteRangeAnswer():
            return msgspec.structs.replace(result, previous=tuple(map(record_of, result.previous)))
    return result


@settings(deadline=None)
@given(histories)
def test_batches_of_any_size_give_the_same_state_and_answers(history: list[Command]) -> None:
    one, all_at_once = KvMachine(), KvMachine()
    single: list[object] = []
    for entry in entries(history):
        try:
            single.append(one.apply(entry))
        except Rejected as refusal:
            single.append(refusal)
    batch = all_at_once.apply_batch(entries(history))
    assert [_comparable(result) for result in single] == [_comparable(result) for result in batch]
    assert persisted(one) == persisted(all_at_once)


def _comparable(result: object) -> object:
    if isinstance(result, Rejected):
        return (result.code, str(result), result.details)
    if isinstance(result, BatchAnswer):
        return (list(map(_comparable, result.results)), result.revision)
    return result


@settings(deadline=None)
@given(histories, st.integers(0, 25), histories)
def test_restored_at_any_index_it_goes_on_as_if_nothing_had_been(
    history: list[Command], at: int, other_life: list[Command]
) -> None:
    log = entries(history)
    original = KvMachine()
    original.apply_batch(log[:at])
    stream = persisted(original)

    restored = machine_of(*other_life)  # what it held before must leave no trace
    restored.restore(io.BytesIO(stream))
    restored.store.check()
    assert contents(restored.store) == contents(original.store)
    assert restored.store.digest == original.store.digest

    rest, rest_restored = original.apply_batch(log[at:]), restored.apply_batch(log[at:])
    assert [_comparable(result) for result in rest] == [_comparable(result) for result in rest_restored]
    assert persisted(restored) == persisted(original)


@settings(deadline=None)
@given(histories, histories)
def test_a_snapshot_does_not_see_what_is_applied_later(history: list[Command], later: list[Command]) -> None:
    machine = machine_of(*history)
    expected = persisted(machine)
    snapshot = machine.snapshot()
    machine.apply_batch(entries(later))
    sink = io.BytesIO()
    snapshot.persist(sink)
    snapshot.release()
    assert sink.getvalue() == expected
    machine.store.check()


@settings(deadline=None)
@given(histories)
def test_a_refusal_leaves_no_trace(history: list[Command]) -> None:
    machine = KvMachine()
    for entry in entries(history):
        before = persisted(machine)
        (result,) = machine.apply_batch([entry])
        if isinstance(result, Rejected):
            assert persisted(machine) == before


@pytest.mark.parametrize("make", [lambda expect: Put(b"k", b"new", expect=expect), lambda expect: Delete(b"k", expect)])
@pytest.mark.parametrize(
    ("exists", "expect", "holds"),
    [
        (True, None, True),
        (True, EXISTS, True),
        (True, ABSENT, False),
        (True, 2, True),
        (True, 1, False),
        (True, 3, False),
        (False, None, True),
        (False, EXISTS, False),
        (False, ABSENT, True),
        (False, 2, False),
    ],
)
def test_expectations(make: object, exists: bool, expect: int | None, holds: bool) -> None:
    assert callable(make)
    machine = machine_of(Put(b"other", b""), Put(b"k", b"old")) if exists else machine_of(Put(b"other", b""))
    before = persisted(machine)
    if holds:
        apply(machine, make(expect))
        return
    with pytest.raises(Rejected) as raised:
        apply(machine, make(expect))
    assert raised.value.code == "precondition_failed"
    assert raised.value.outcome is Outcome.NOT_APPLIED
    assert raised.value.details == {"revision": 2 if exists else 0, "store_revision": machine.store.revision}
    assert persisted(machine) == before


def test_results_carry_what_a_caller_needs() -> None:
    machine = KvMachine()
    assert apply(machine, Put(b"a", b"1")) == PutAnswer(1, True, 0)
    assert apply(machine, Put(b"a", b"2")) == PutAnswer(2, False, 1)
    assert apply(machine, Delete(b"b")) == DeleteAnswer(False, 2)
    assert apply(machine, Delete(b"a")) == DeleteAnswer(True, 3)
    assert apply(machine, DeleteRange(b"", None)) == DeleteRangeAnswer(0, 3)


def test_a_lease_that_was_never_granted_is_refused() -> None:
    machine = KvMachine()
    for command in (Put(b"k", b"v", lease=5), Txn(then=(Put(b"j", b"v"), Put(b"k", b"v", lease=5)))):
        with pytest.raises(Rejected) as raised:
            apply(machine, command)
        assert raised.value.code == "lease_not_found"
        assert machine.store.revision == 0


def test_garbage_in_the_log_is_an_answer_and_not_a_failure() -> None:
    machine = machine_of(Put(b"k", b"v"))
    before = persisted(machine)
    good = encode_command(Put(b"l", b"v"))
    refused, result = machine.apply_batch([Entry(1, 1, b"\xc1garbage"), Entry(2, 1, good)])
    assert isinstance(refused, Rejected)
    assert refused.code == "bad_command"
    assert result == PutAnswer(2, True, 0)
    apply(machine, Delete(b"l"))
    assert persisted(machine) != before  # the revision has moved on


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\x91" * 100_000, msgspec.msgpack.encode([128, b"k"]), msgspec.msgpack.encode([0, 5, b"v"])],
)
def test_machine_garbage_is_refused_by_check_and_by_apply(data: bytes) -> None:
    machine = KvMachine()
    for refuse in (lambda: machine.check(data), lambda: machine.apply(Entry(1, 1, data))):
        with pytest.raises(Rejected, match="bad command"):
            refuse()


def test_machine_check_passes_a_good_command_and_refuses_a_later_one() -> None:
    """What this version can't read must not enter the log through this leader, whatever it will mean later."""
    machine = KvMachine()
    machine.check(encode_command(Put(b"k", b"v")))
    with pytest.raises(Rejected):
        machine.check(msgspec.msgpack.encode([14, b"k"]))


@given(
    st.binary(max_size=64)
    | st.recursive(st.none() | st.integers(-1, 200) | st.binary(max_size=3), st.lists).map(msgspec.msgpack.encode)
)
def test_machine_any_bytes_give_an_answer_or_stop_in_words(data: bytes) -> None:
    machine = KvMachine()
    if is_later(data):
        with pytest.raises(NodeFailed, match="of a later version"):
            machine.apply_batch([Entry(1, 1, data)])
    else:
        [answer] = machine.apply_batch([Entry(1, 1, data)])
        assert answer is not None


def test_a_transaction_is_one_revision() -> None:
    machine = machine_of(Put(b"a", b"1"))
    result = apply(machine, Txn(then=(Put(b"b", b"2"), Delete(b"a"), Put(b"c", b"3"), Get(b"b"), Range(b"", None))))
    assert isinstance(result, TxnAnswer)
    assert (result.succeeded, result.revision) == (True, 2)
    assert {record.mod_revision for record in contents(machine.store)} == {2}
    put, _, _, get, page = result.results
    assert put == PutAnswer(2, True, 0)
    assert isinstance(get, GetAnswer)
    assert get.record == machine.store.get(b"b")  # a transaction sees its own writes
    assert isinstance(page, RangePage)
    assert [record.key for record in page.items] == [b"b", b"c"]


def test_a_transaction_that_writes_nothing_takes_no_revision() -> None:
    machine = machine_of(Put(b"a", b"1"))
    result = apply(machine, Txn(then=(Get(b"a"), Delete(b"zz"), DeleteRange(b"x", b"z"))))
    assert isinstance(result, TxnAnswer)
    assert result.revision == machine.store.revision == 1


def test_nested_compares_look_at_the_state_before_the_transaction() -> None:
    machine = machine_of(Put(b"a", b"1"))
    was_absent = TxnCompare(b"b", CompareTarget.VERSION, Comparison.EQUAL, 0)
    result = apply(machine, Txn(then=(Put(b"b", b""), Txn((was_absent,), (Put(b"yes", b""),), (Put(b"no", b""),)))))
    assert isinstance(result, TxnAnswer)
    assert machine.store.get(b"yes") is not None
    assert machine.store.get(b"no") is None


@pytest.mark.parametrize("comparison", list(Comparison))
def test_a_compare_of_an_absent_value_never_holds(comparison: Comparison) -> None:
    result = apply(KvMachine(), Txn((TxnCompare(b"k", CompareTarget.VALUE, comparison, b""),)))
    assert result == TxnAnswer(False, 0, ())


def test_a_range_too_large_to_delete_is_refused_whole_and_can_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.work.MAX_DELETED_KEYS", 10)
    machine = machine_of(*[Put(b"%02d" % number, b"") for number in range(15)])
    for command in (
        DeleteRange(b"", None),
        DeleteRange(b"", None, 11),
        Txn(then=(Put(b"x", b""), DeleteRange(b"", b"06"), DeleteRange(b"06", b"12"))),
    ):
        with pytest.raises(Rejected) as raised:
            apply(machine, command)
        assert raised.value.code == "range_too_large"
        assert (len(machine.store), machine.store.revision) == (15, 15)
    assert apply(machine, DeleteRange(b"", None, 10)) == DeleteRangeAnswer(10, 16, more=True)
    assert apply(machine, DeleteRange(b"", None, 10)) == DeleteRangeAnswer(5, 17, more=False)
    assert MAX_DELETED_KEYS <= 10_000


@pytest.mark.parametrize(
    "reads",
    [
        (Get(b"a"), Get(b"a"), Get(b"b")),
        (Range(b"", None), Get(b"b")),
        (Put(b"new", b"x" * 80), Get(b"new"), Get(b"a")),
        (Put(b"new", b"x" * 50), Range(b"", b"b"), Range(b"n", None)),
        (Get(b"a"), Txn(then=(Get(b"a"), Get(b"b")))),
    ],
)
def test_transaction_with_too_large_reads_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, reads: tuple[TxnOperation, ...]
) -> None:
    monkeypatch.setattr("syncline.kv.work.MAX_TXN_READ_BYTES", 80)
    monkeypatch.setattr("syncline.kv.work.RANGE_BYTES", 0)
    monkeypatch.setattr("syncline.kv.work.READ_OVERHEAD_BYTES", 0)
    machine = machine_of(Put(b"a", b"1" * 30), Put(b"b", b"2" * 30))
    with pytest.raises(Rejected) as raised:
        apply(machine, Txn(then=(Put(b"mark", b""), *reads)))
    assert raised.value.code == "reads_too_large"
    assert machine.store.get(b"mark") is None
    without_values = (Range(b"", None, keys_only=True), Range(b"", None, count_only=True))
    assert isinstance(apply(machine, Txn(then=(Put(b"mark", b""), Get(b"a"), Get(b"b"), *without_values))), TxnAnswer)
    assert MAX_TXN_READ_BYTES <= 16 << 20


def test_replicas_write_the_same_snapshot_however_they_came_to_the_state() -> None:
    history: list[Command] = [Put(b"%d" % (number * 7 % 40), b"v" * number) for number in range(100)]
    straight = machine_of(*history)
    by_snapshot = KvMachine()
    by_snapshot.restore(io.BytesIO(persisted(machine_of(*history[:50]))))
    by_snapshot.apply_batch(entries(history[50:]))
    assert persisted(straight) == persisted(by_snapshot)


def test_it_has_the_optional_capabilities_that_it_claims() -> None:
    machine = KvMachine()
    assert isinstance(machine, BatchingFSM)
    assert machine.apply_on_loop is True
    assert not hasattr(machine, "applied_index")
    assert msgspec.structs.asdict(PutAnswer(1, True, 0)) == {
        "revision": 1,
        "created": True,
        "previous_revision": 0,
        "previous": None,
        "lease": 0,
    }
