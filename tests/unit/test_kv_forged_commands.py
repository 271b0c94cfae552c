"""Commands of a faulty or hostile member: each one is refused, or is a command like any other."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from syncline.errors import NodeFailed, Rejected
from syncline.kv.commands import (
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
    decode_command,
    encode_command,
)
from syncline.kv.limits import MAX_LEASES_AT_ONCE, MAX_TTL_MS
from syncline.kv.machine import KvMachine
from syncline.kv.versions import is_later
from syncline.node.fsm import Entry
from tests.helpers.kv_commands import persisted

encode = msgspec.msgpack.encode
SOUND: list[Command] = [
    Put(b"k", b"v", 3, -1, 4000, True),
    Delete(b"k", 7, True),
    DeleteRange(b"a", None, 2, True),
    Txn(
        (TxnCompare(b"k", CompareTarget.LEASE, Comparison.LESS, 5, True),),
        (Get(b"k", 9), Txn(then=(Put(b"x", b"", 5, ttl_ms=1), Increment(b"n"), Touch(b"t", 1, 2)))),
        (Range(b"", b"z", revision=9),),
    ),
    LeaseGrant(1, 9000),
    LeaseRevoke(5),
    LeaseEnd((5, 6), 3),
    LeaseCheckpoint(((5, 70), (6, 1)), 1),
    Increment(b"k", -2, 5, True),
    Touch(b"k", 70, 5),
    Compact(8, 3),
    OperationBatch((Put(b"k", b"v"), Get(b"k"), Increment(b"n"), Txn(then=(Delete(b"k"),)))),
]
HUGE = [2**63 - 1, 2**63, 2**64 - 1, -(2**63), -1, 0, 1, 127, 128]
foreign: st.SearchStrategy[object] = st.one_of(
    st.sampled_from(HUGE),
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.just(bytes(5000)),
    st.just([]),
    st.just({}),
    st.just({1: 2}),
    st.just([0, b"k", b"v"]),
    st.just([13, [[13, []]]]),
    st.just([[]] * 1001),
    st.just(msgspec.msgpack.Ext(5, b"x")),
    st.just(dt.datetime(2000, 1, 1, tzinfo=dt.UTC)),
)


@st.composite
def forged(draw: st.DrawFn) -> bytes:
    """A sound command with one part replaced, removed or added."""
    whole: object = msgspec.msgpack.decode(encode(draw(st.sampled_from(SOUND))))
    place: object = whole
    while isinstance(place, list):
        inner = [part for part in place if isinstance(part, list) and part]
        if not inner or draw(st.booleans()):
            break
        place = draw(st.sampled_from(inner))
    assert isinstance(place, list)
    at = draw(st.integers(0, len(place) - 1))
    match draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            place[at] = draw(foreign)
        case "remove":
            del place[at]
        case _:
            place.insert(at, draw(foreign))
    return encode(whole)


def must_answer(data: bytes) -> None:
    machine = KvMachine()
    machine.store.put(b"k", b"1", 0, 1)
    before = persisted(machine)
    try:
        command = decode_command(data)
    except Rejected:
        event("refused")
        with pytest.raises(Rejected) as raised:
            machine.check(data)
        assert raised.value.code == "bad_command"
        assert len(str(raised.value)) < 400
    else:
        event(type(command).__name__)
        machine.check(data)
        assert decode_command(encode_command(command)) == command
        assert machine.growth(data) >= 0
    try:
        [answer] = machine.apply_batch([Entry(1, 1, data)])
    except NodeFailed:
        assert is_later(data)
    else:
        if isinstance(answer, Rejected):
            assert persisted(machine) == before
    machine.store.check()


@settings(max_examples=400, deadline=None)
@given(forged())
def test_forged_command_is_refused_or_applied(data: bytes) -> None:
    must_answer(data)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SOUND), st.data())
def test_damaged_command_is_refused_or_applied(command: Command, data: st.DataObject) -> None:
    damaged = bytearray(encode(command))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    must_answer(
        bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) if data.draw(st.booleans()) else bytes(damaged)
    )


@pytest.mark.parametrize(
    "command",
    [
        LeaseGrant(0, 10),
        LeaseGrant(2**63, 10),
        LeaseGrant(2**70, 10),
        LeaseGrant(1, 0),
        LeaseGrant(1, MAX_TTL_MS + 1),
        LeaseGrant("1", 10),  # type: ignore[arg-type]
        LeaseGrant(1, 10.0),  # type: ignore[arg-type]
        LeaseRevoke(-1),
        LeaseEnd((1,) * (MAX_LEASES_AT_ONCE + 1), 1),
        LeaseEnd((0,), 1),
        LeaseEnd((1,), -1),
        LeaseCheckpoint(((1, 0),), 1),
        LeaseCheckpoint(((1, 1),) * (MAX_LEASES_AT_ONCE + 1), 1),
        LeaseCheckpoint(((1, 1, 1),), 1),  # type: ignore[arg-type]
        Increment(b"k", 2**63),
        Increment(b"k", 0, -(2**63) - 1),
        Increment(b"k", True),
        Increment("k"),  # type: ignore[arg-type]
        Touch(b"k", 0, 1),
        Touch(b"k", 1, 0),
        Touch(b"", 1, 1),
        Compact(-1),
        Compact(1, -1),
        Compact(None),  # type: ignore[arg-type]
        Put(b"k", b"v", ttl_ms=5),
        Put(b"k", b"v", 1, ttl_ms=MAX_TTL_MS + 1),
        Put(b"k", b"v", 1, ttl_ms=-1),
        Put(b"k", b"v", previous=1),  # type: ignore[arg-type]
        Get(b"k"),
        Txn(then=(Get(b"k", -1),)),
        Txn(then=(LeaseGrant(1, 1),)),  # type: ignore[arg-type]
        Txn(then=(OperationBatch(()),)),  # type: ignore[arg-type]
        OperationBatch((OperationBatch(()),)),  # type: ignore[arg-type]
        OperationBatch((Compact(1),)),  # type: ignore[arg-type]
        OperationBatch([None]),  # type: ignore[arg-type]
        "put",
        None,
    ],
    ids=lambda command: repr(command)[:50],
)
def test_command_with_a_wrong_field_is_not_encoded(command: Command) -> None:
    with pytest.raises(Rejected) as raised:
        encode_command(command)
    assert raised.value.code == "bad_command"
