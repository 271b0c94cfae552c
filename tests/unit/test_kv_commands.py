"""Commands: what is encoded is read back, and what can't be carried out is refused the same way everywhere."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from syncline.errors import Rejected, TooLarge
from syncline.kv import commands as kv
from syncline.kv.commands import (
    MAX_COMMAND_BYTES,
    MAX_KEY_BYTES,
    MAX_TXN_DEPTH,
    MAX_TXN_OPS,
    MAX_VALUE_BYTES,
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
    decode_command,
    encode_command,
)
from tests.helpers.kv_commands import accepted, commands


def raw(command: object) -> bytes:
    """Encoded without any check, as a foreign or faulty proposer might."""
    return msgspec.msgpack.encode(command)


def nested(depth: int) -> Txn:
    txn = Txn(then=(Put(b"k", b"v"),))
    for _ in range(depth - 1):
        txn = Txn(then=(txn,))
    return txn


@given(commands.filter(accepted))
def test_a_command_is_read_back_as_it_was_encoded(command: Command) -> None:
    assert decode_command(encode_command(command)) == command


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_a_command_or_are_refused(data: bytes) -> None:
    try:
        command = decode_command(data)
    except Rejected:
        event("refused")
    else:
        event("a command")
        assert decode_command(encode_command(command)) == command


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        raw([14, b"k"]),  # no such command
        raw([3, b"k"]),  # a read is no command of its own
        raw(Put(b"", b"v")),
        raw(Put(b"k" * (MAX_KEY_BYTES + 1), b"v")),
        raw(Put(b"k", b"v" * (MAX_VALUE_BYTES + 1))),
        raw(Put(b"k", b"v", lease=-1)),
        raw(Put(b"k", b"v", lease=2**63)),
        raw(Put(b"k", b"v", expect=-2)),
        raw([0, b"k", b"v", 0, None, 0, False, 1]),  # a field that this version does not know
        raw([0, "k", b"v", 0, None]),
        raw([0, b"k"]),
        raw(Put(b"k", b"v")) + b"\0",
        raw(Put(b"k", b"v"))[:-1],
        raw(DeleteRange(b"k" * (MAX_KEY_BYTES + 2), None)),
        raw(Txn((TxnCompare(b"k", CompareTarget.VERSION, Comparison.EQUAL, b"1"),))),
        raw(Txn((TxnCompare(b"k", CompareTarget.VALUE, Comparison.EQUAL, 1),))),
        raw(Txn(then=(Put(b"k", b"v", expect=1),))),
        raw(nested(MAX_TXN_DEPTH + 1)),
        b"\x94\x05\x90\x91" * 100_000,  # deeper than any decoder goes
        b"\x00" * (MAX_COMMAND_BYTES + 1),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_every_node_refuses_what_is_no_command(data: bytes) -> None:
    with pytest.raises(Rejected) as raised:
        decode_command(data)
    assert raised.value.code == "bad_command"
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (Put(b"", b""), Rejected),
        (Put(b"k" * (MAX_KEY_BYTES + 1), b""), TooLarge),
        (Put(b"k", bytes(MAX_VALUE_BYTES + 1)), TooLarge),
        (Put(b"k", b"", lease=-1), Rejected),
        (Put(b"k", b"", expect=-2), Rejected),
        (Delete(b"k", expect=2**63), Rejected),
        (Delete(b""), Rejected),
        (DeleteRange(bytes(MAX_KEY_BYTES + 2), None), TooLarge),
        (DeleteRange(b"", bytes(MAX_KEY_BYTES + 2)), TooLarge),
        (DeleteRange(b"", None, -1), Rejected),
        (Txn((TxnCompare(b"", CompareTarget.VERSION, Comparison.EQUAL, 1),)), Rejected),
        (Txn(then=(Get(b""),)), Rejected),
        (Txn(then=(Put(b"k", bytes(MAX_VALUE_BYTES)), Put(b"l", bytes(MAX_VALUE_BYTES)))), TooLarge),
        (nested(MAX_TXN_DEPTH + 1), TooLarge),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, type) else type(value).__name__,
)
def test_what_every_node_would_refuse_is_not_proposed(command: Command, error: type[Exception]) -> None:
    with pytest.raises(error):
        encode_command(command)


def test_the_largest_allowed_are_allowed() -> None:
    put = Put(b"k" * MAX_KEY_BYTES, bytes(MAX_VALUE_BYTES), 2**63 - 1, 2**63 - 1)
    assert decode_command(encode_command(put)) == put
    every = DeleteRange(b"k" * MAX_KEY_BYTES + b"\0", b"k" * MAX_KEY_BYTES + b"\0")
    assert decode_command(encode_command(every)) == every
    assert decode_command(encode_command(nested(MAX_TXN_DEPTH))) == nested(MAX_TXN_DEPTH)


def test_transaction_limits_operations_and_compares_over_all_levels() -> None:
    compare = TxnCompare(b"k", CompareTarget.VERSION, Comparison.EQUAL, 1)
    inner = Txn((compare,) * 64, tuple(Get(b"%d" % at) for at in range(63)))
    full = Txn((compare,) * 64, (inner, *inner.then), (Get(b"k"),))
    assert decode_command(encode_command(full)) == full
    for above in (
        Txn((*full.compares, compare), full.then, full.else_),
        Txn(full.compares, full.then, (*full.else_, Get(b"k"))),
    ):
        with pytest.raises(TooLarge, match=str(MAX_TXN_OPS + 1)):
            encode_command(above)
        with pytest.raises(Rejected):
            decode_command(raw(above))


PUT = Put(b"k", b"v")
WIDE = DeleteRange(b"a", b"z")


@pytest.mark.parametrize(
    "branch",
    [
        (PUT, PUT),
        (PUT, Delete(b"k")),
        (Delete(b"k"), PUT),
        (PUT, WIDE),
        (WIDE, PUT),
        (WIDE, Delete(b"k")),
        (PUT, DeleteRange(b"", None)),
        (PUT, Txn(then=(PUT,))),
        (PUT, Txn(else_=(PUT,))),
        (Txn(then=(Txn(else_=(WIDE,)),)), PUT),
        (Txn(then=(PUT, PUT)),),
    ],
)
def test_a_transaction_that_could_write_a_key_twice_is_refused(branch: tuple[TxnOperation, ...]) -> None:
    for txn in (Txn(then=branch), Txn(else_=branch)):
        with pytest.raises(Rejected, match="twice"):
            encode_command(txn)
        with pytest.raises(Rejected, match="twice"):
            decode_command(raw(txn))


@pytest.mark.parametrize(
    "branch",
    [
        (PUT, Put(b"l", b"v")),
        (PUT, Get(b"k"), Range(b"", None)),
        (PUT, DeleteRange(b"a", b"k"), DeleteRange(b"k\0", None)),
        (WIDE, WIDE),
        (Txn(then=(PUT,), else_=(PUT,)), Delete(b"l")),
    ],
)
def test_a_transaction_that_writes_each_key_once_is_taken(branch: tuple[TxnOperation, ...]) -> None:
    assert decode_command(encode_command(Txn(then=branch, else_=branch))) == Txn(then=branch, else_=branch)


def test_all_names_are_there() -> None:
    assert sorted(kv.__all__) == sorted(set(kv.__all__))
    assert all(hasattr(kv, name) for name in kv.__all__)
