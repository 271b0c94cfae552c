"""Batches of plain puts: they are read at once, with the command and the answer that each operation by itself gives."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.kv.commands import OperationBatch, Put, encode_command
from syncline.server.api.plain_puts import plain_puts
from tests.helpers.kv_node import KvWire

PUT = {"op": "put", "key": b"a", "value": b"1"}
PUTS = st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=300)), min_size=1, max_size=40)
PACKED = "Content-Type: application/msgpack"


def packed(*ops: object) -> bytes:
    return msgspec.msgpack.encode({"ops": ops})


@settings(max_examples=50, deadline=None)
@given(given_puts=PUTS)
def test_plain_puts_have_the_command_that_is_made_with_all_checks(given_puts: list[tuple[bytes, bytes]]) -> None:
    """Byte for byte: it is the fingerprint of a batch that is sent again, perhaps to a node of another version."""
    puts = plain_puts(packed(*({"op": "put", "key": key, "value": value} for key, value in given_puts)), 100, 1000)
    assert puts == [Put(key, value) for key, value in given_puts]
    batch = OperationBatch(tuple(puts))
    assert encode_command(batch, checked=True) == encode_command(batch)


TWICE = packed(PUT).replace(b"\x83", b"\x84") + b"\xa3key\xc4\x01b"

OTHERS = {
    "a condition": packed(PUT, {**PUT, "if_absent": True}),
    "a default that is given": packed({**PUT, "prev": False}),
    "another operation": packed(PUT, {"op": "get", "key": b"a"}),
    "an unknown member": packed({**PUT, "more": 1}),
    "a member twice": TWICE,
    "a longer form": packed(PUT).replace(b"\xc4\x011", b"\xc5\x00\x011"),
    "no key": packed({**PUT, "key": b""}),
    "a key above the limit": packed({**PUT, "key": b"k" * 11}),
    "a value above the limit": packed({**PUT, "value": b"v" * 11}),
    "a key that is text": packed({**PUT, "key": "a"}),
    "no operation": packed(),
    "too many operations": packed(*[PUT] * 1001),
    "bytes behind it": packed(PUT) + b"\0",
    "no MessagePack": b"\xc1",
}


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_plain_puts_leave_any_other_batch_to_the_reader_of_operations(body: bytes) -> None:
    assert plain_puts(packed(PUT), 10, 10) is not None
    assert plain_puts(body, 10, 10) is None


async def test_plain_puts_are_answered_like_operations_with_a_default_given() -> None:
    wires = KvWire(), KvWire()
    plain, other = packed(PUT, PUT, {**PUT, "key": b"b"}), packed(PUT, {**PUT, "prev": False}, {**PUT, "key": b"b"})
    answers = [await wire.ask("POST", "/batch", body, PACKED) for wire, body in zip(wires, (plain, other), strict=True)]
    assert answers[0].status == 200
    assert answers[0].body == answers[1].body
    as_json = await wires[0].ask("POST", "/batch", plain, PACKED, "Accept: application/json")
    assert [one["created"] for one in msgspec.json.decode(as_json.body)["results"]] == [False, False, False]


async def test_plain_puts_with_a_member_twice_are_refused() -> None:
    answer = await KvWire().ask("POST", "/batch", TWICE, PACKED)
    assert answer.status == 400
    assert b"given twice" in answer.body
