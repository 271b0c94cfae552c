"""Batches: each operation on its own, in order, and all of them within one bound of work."""

from __future__ import annotations

import pytest

from syncline.errors import Rejected, TooLarge
from syncline.kv.commands import (
    ABSENT,
    BatchOperation,
    CompareTarget,
    Comparison,
    Delete,
    DeleteRange,
    Get,
    Increment,
    OperationBatch,
    Put,
    Range,
    Touch,
    Txn,
    TxnCompare,
    check_batch,
    decode_command,
    encode_command,
    frees_space,
)
from syncline.kv.limits import MAX_BATCH_OPS, MAX_BATCH_PARTS, MAX_TXN_READ_BYTES
from syncline.kv.machine import KvMachine
from syncline.kv.records import BatchAnswer, DeleteRangeAnswer, GetAnswer, IncrementAnswer, PutAnswer, TxnAnswer
from syncline.node.fsm import Entry
from tests.helpers.kv_commands import entries


def batch(machine: KvMachine, *ops: BatchOperation) -> list[object]:
    """The answers of a batch, each refusal as its code."""
    answer = machine.apply(Entry(1, 1, encode_command(OperationBatch(ops))))
    assert isinstance(answer, BatchAnswer)
    assert answer.revision == machine.store.revision
    machine.store.check()
    return [one.code if isinstance(one, Rejected) else one for one in answer.results]


def machine_with(count: int, value: bytes = b"") -> KvMachine:
    machine = KvMachine()
    machine.apply_batch(entries([Put(b"%02d" % number, value) for number in range(count)]))
    return machine


def test_batch_operations_have_revisions_and_refusals_of_their_own() -> None:
    machine = KvMachine()
    answers = batch(
        machine,
        Put(b"a", b"1"),
        Put(b"a", b"2", expect=ABSENT),
        Increment(b"a", 4),
        Get(b"a"),
        Put(b"b", b"", lease=77),
        Touch(b"missing", 10, 1),
        Txn((TxnCompare(b"a", CompareTarget.VALUE, Comparison.EQUAL, b"5"),), (Put(b"c", b""), Delete(b"a"))),
        Get(b"a", 2),
        Delete(b"a"),
    )
    assert answers[0] == PutAnswer(1, True, 0)
    assert answers[1] == "precondition_failed"
    assert answers[2] == IncrementAnswer(2, 5)
    assert isinstance(answers[3], GetAnswer)
    assert answers[4:6] == ["lease_not_found", "not_found"]
    assert isinstance(answers[6], TxnAnswer)
    assert (answers[6].succeeded, answers[6].revision) == (True, 3)
    assert isinstance(answers[7], GetAnswer)
    assert answers[7].record is not None
    assert answers[7].record.value == b"5"
    assert machine.store.revision == 3
    assert [len(group) for _, group in machine.store.changes(1)] == [1, 1, 2]


def test_batch_deletes_share_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.work.MAX_DELETED_KEYS", 5)
    machine = machine_with(20)
    answers = batch(
        machine,
        DeleteRange(b"00", b"04"),
        DeleteRange(b"04", b"06"),  # with the first: 6
        DeleteRange(b"", None),  # too many alone: in no other batch either
        Txn(then=(Put(b"x", b""), DeleteRange(b"04", b"05"))),  # 5 in all
        DeleteRange(b"05", b"06"),
        Put(b"y", b""),
    )
    assert answers[0] == DeleteRangeAnswer(4, 21)
    assert answers[1:3] == ["too_large", "range_too_large"]
    assert isinstance(answers[3], TxnAnswer)
    assert answers[4] == "too_large"
    assert answers[5] == PutAnswer(23, True, 0)
    assert len(machine.store) == 20 - 5 + 2


def test_batch_reads_share_one_limit_and_writes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.work.MAX_TXN_READ_BYTES", 1000)
    monkeypatch.setattr("syncline.kv.work.RANGE_BYTES", 0)
    monkeypatch.setattr("syncline.kv.work.READ_OVERHEAD_BYTES", 160)
    machine = machine_with(10, bytes(200))  # 362 each
    answers = batch(
        machine,
        Range(b"", b"02"),
        Get(b"02"),
        Put(b"x", b""),
        Get(b"03"),
        Range(b"", None, count_only=True),
        Delete(b"00", previous=True),
        Delete(b"00"),
        DeleteRange(b"00", b"02", previous=True),
        Txn((TxnCompare(b"0", CompareTarget.VERSION, Comparison.GREATER, 0, True),), (Put(b"y", b""),)),
    )
    kinds = [one if isinstance(one, str) else type(one).__name__ for one in answers]
    assert kinds == [
        "RangePage",
        "too_large",
        "PutAnswer",
        "too_large",
        "too_large",
        "too_large",
        "DeleteAnswer",
        "too_large",
        "too_large",
    ]


def test_batch_operation_that_reads_too_much_alone_says_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.work.MAX_TXN_READ_BYTES", 1000)
    monkeypatch.setattr("syncline.kv.work.RANGE_BYTES", 0)
    monkeypatch.setattr("syncline.kv.work.READ_OVERHEAD_BYTES", 160)
    machine = machine_with(10, bytes(200))
    assert batch(machine, Range(b"", None)) == ["reads_too_large"]
    assert batch(machine, Range(b"", b"02"), Range(b"", b"02"))[1] == "too_large"
    many = [TxnCompare(b"0", CompareTarget.VERSION, Comparison.GREATER, 0, True)]
    assert batch(machine, Txn(tuple(many))) == ["reads_too_large"]


def test_read_of_one_record_is_never_too_large() -> None:
    """A value may be as large as all reads of a command together, and its key and place come on top."""
    machine = KvMachine()
    machine.apply(Entry(1, 1, encode_command(Put(b"k", bytes(MAX_TXN_READ_BYTES)))))
    shown, refused = batch(machine, Get(b"k"), Get(b"k"))
    assert isinstance(shown, GetAnswer)
    assert refused == "too_large"
    assert isinstance(batch(machine, Put(b"k", b"", previous=True))[0], PutAnswer)


def test_batch_without_operations_is_a_batch() -> None:
    assert batch(KvMachine()) == []


def test_batch_above_its_limits_is_refused() -> None:
    full = OperationBatch((Get(b"k"),) * MAX_BATCH_OPS)
    assert decode_command(encode_command(full)) == full
    with pytest.raises(TooLarge, match="1001 operations"):
        check_batch(OperationBatch((Get(b"k"),) * (MAX_BATCH_OPS + 1)))
    with pytest.raises(Rejected):
        encode_command(OperationBatch((Get(b"k"),) * (MAX_BATCH_OPS + 1)))
    txn = Txn(then=(Get(b"k"),) * 99)  # with itself 100 operations
    allowed = OperationBatch((txn,) * (MAX_BATCH_PARTS // 100))
    assert decode_command(encode_command(allowed)) == allowed
    with pytest.raises(TooLarge, match=f"{MAX_BATCH_PARTS + 1} operations"):
        encode_command(OperationBatch((*allowed.ops, Get(b"k"))))
    compare = TxnCompare(b"k", CompareTarget.VERSION, Comparison.EQUAL, 0)
    with pytest.raises(TooLarge, match="compares"):
        encode_command(OperationBatch((Txn((compare,) * 128),) * 32))


@pytest.mark.parametrize(
    "operation",
    [
        Txn(then=(Put(b"k", b""), Put(b"k", b""))),
        Txn(then=(Put(b"k", b"", expect=1),)),
        Put(b"k", b"", ttl_ms=5),
        Put(b"", b""),
        Get(b""),
    ],
    ids=repr,
)
def test_batch_with_an_operation_that_can_not_be_is_refused(operation: BatchOperation) -> None:
    with pytest.raises(Rejected) as raised:
        encode_command(OperationBatch((Put(b"a", b""), operation)))
    assert raised.value.code == "bad_command"


def test_batch_that_only_deletes_frees_space() -> None:
    assert frees_space(OperationBatch((Delete(b"k"), Get(b"k"), Txn(then=(DeleteRange(b"", None),)))))
    assert not frees_space(OperationBatch((Delete(b"k"), Put(b"k", b""))))
    assert not frees_space(OperationBatch((Get(b"k"),)))
    assert not frees_space(OperationBatch((Touch(b"k", 1, 1), Delete(b"j"))))
