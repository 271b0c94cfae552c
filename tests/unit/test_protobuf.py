"""The codec of Protocol Buffers, compared with Google's on random messages of etcd's tables."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf import message as google_message
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.server.etcd.messages import ENUMS, MESSAGES, Message, MessageField
from syncline.server.etcd.protobuf import MAX_DEPTH, MAX_FIELDS, DecodeError, decode, encode

TYPES: Final = {"bool": 8, "bytes": 12, "int64": 3, "string": 9, "uint32": 13, "uint64": 4}
"""FieldDescriptorProto.Type."""


def field_of(number: int, field: MessageField, oneofs: list[str]) -> descriptor_pb2.FieldDescriptorProto:
    made = descriptor_pb2.FieldDescriptorProto(name=field.name, number=number, label=3 if field.repeated else 1)
    if field.type in TYPES:
        made.type = TYPES[field.type]
    else:
        made.type, made.type_name = (14 if field.type in ENUMS else 11), f".t.{flat(field.type)}"
    if field.oneof:
        if field.oneof not in oneofs:
            oneofs.append(field.oneof)
        made.oneof_index = oneofs.index(field.oneof)
    return made


def flat(name: str) -> str:
    return name.replace(".", "_")


def classes() -> dict[str, Any]:
    """Google's classes for all messages of the table."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=flat(name))
        for text, number in values.items():
            enum.value.add(name=f"{flat(name)}_{text}", number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=flat(name))
        oneofs: list[str] = []
        for number, field in fields.items():
            message.field.append(field_of(number, field, oneofs))
        for oneof in oneofs:
            message.oneof_decl.add(name=oneof)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{flat(name)}")) for name in MESSAGES}


GOOGLE: Final = classes()

SCALARS: Final[dict[str, st.SearchStrategy[object]]] = {
    "bool": st.booleans(),
    "bytes": st.binary(max_size=200),
    "int64": st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 300),
    "string": st.text(max_size=20),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
}


@st.composite
def messages(draw: st.DrawFn, name: str, depth: int = 4) -> Message:
    """A message of the table; one field of each oneof at most."""
    made: Message = {}
    oneofs: set[str] = set()
    for field in MESSAGES[name].values():
        if not draw(st.booleans()) or field.oneof in oneofs or (depth == 0 and field.type in MESSAGES):
            continue
        if field.oneof:
            oneofs.add(field.oneof)
        values = SCALARS.get(field.type)
        if values is None:
            is_enum = field.type in ENUMS
            values = st.sampled_from(sorted(ENUMS[field.type].values())) if is_enum else messages(field.type, depth - 1)
        made[field.name] = draw(st.lists(values, max_size=3)) if field.repeated else draw(values)
    return made


def fill(target: Any, name: str, message: Message) -> None:
    """Put a message into one of Google's."""
    for field in MESSAGES[name].values():
        value = message.get(field.name)
        if value is None:
            continue
        is_message = field.type in MESSAGES
        if field.repeated:
            for one in value:  # type: ignore[attr-defined]
                if is_message:
                    fill(getattr(target, field.name).add(), field.type, one)
                else:
                    getattr(target, field.name).append(one)
        elif is_message:
            getattr(target, field.name).SetInParent()
            fill(getattr(target, field.name), field.type, value)  # type: ignore[arg-type]
        else:
            setattr(target, field.name, value)


def taken(source: Any, name: str) -> Message:
    """One of Google's as a message, without default values outside of oneofs."""
    made: Message = {}
    for field in MESSAGES[name].values():
        value, is_message = getattr(source, field.name), field.type in MESSAGES
        if field.repeated:
            if len(value):
                made[field.name] = [taken(one, field.type) if is_message else one for one in value]
        elif is_message or field.oneof:
            if source.HasField(field.name):
                made[field.name] = taken(value, field.type) if is_message else value
        elif value:
            made[field.name] = value
    return made


def plain(name: str, message: Message) -> Message:
    """A message without default values outside of oneofs."""
    made: Message = {}
    for field in MESSAGES[name].values():
        value = message.get(field.name)
        is_message = field.type in MESSAGES
        if value is None or (not value and not field.oneof and not (is_message and not field.repeated)):
            continue
        if is_message:
            value = [plain(field.type, one) for one in value] if field.repeated else plain(field.type, value)  # type: ignore[arg-type,attr-defined]
        made[field.name] = value
    return made


@st.composite
def named_messages(draw: st.DrawFn) -> tuple[str, Message]:
    name = draw(st.sampled_from(sorted(MESSAGES)))
    return name, draw(messages(name))


@settings(deadline=None, max_examples=300)
@given(named_messages())
def test_protobuf_encoded_messages_are_read_by_google(named: tuple[str, Message]) -> None:
    name, message = named
    read = GOOGLE[name].FromString(encode(name, message))
    assert taken(read, name) == plain(name, message)


@settings(deadline=None, max_examples=300)
@given(named_messages())
def test_protobuf_messages_of_google_are_read(named: tuple[str, Message]) -> None:
    name, message = named
    written = GOOGLE[name]()
    fill(written, name, message)
    data = written.SerializeToString()
    assert plain(name, decode(name, data)) == plain(name, message)
    assert decode(name, encode(name, decode(name, data))) == decode(name, data)


def refused(name: str, data: bytes) -> str:
    """Why it can't be decoded; empty if it can."""
    try:
        decode(name, data)
    except DecodeError as error:
        return str(error)
    return ""


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=60))
def test_protobuf_random_bytes_are_judged_as_by_google(name: str, data: bytes) -> None:
    """What Google's parser takes gives the same message here; what it refuses is refused.

    In a message without fields that parser does not see the field number 0, which no field may have. Go's refuses it.
    """
    try:
        expected = taken(GOOGLE[name].FromString(data), name)
    except google_message.DecodeError:
        with pytest.raises(DecodeError):
            decode(name, data)
        return
    if not MESSAGES[name] and (refusal := refused(name, data)):
        assert "is not a field's" in refusal
    else:
        assert plain(name, decode(name, data)) == expected


@settings(deadline=None, max_examples=300)
@given(named_messages(), st.randoms(use_true_random=False))
def test_protobuf_damaged_messages_raise_only_decode_errors(named: tuple[str, Message], random: Any) -> None:
    name, message = named
    data = bytearray(encode(name, message))
    for _ in range(3):
        if data:
            data[random.randrange(len(data))] = random.randrange(256)
    with suppress(DecodeError):
        decode(name, data)


def test_protobuf_unknown_fields_of_each_wire_type_are_skipped() -> None:
    unknown = bytes.fromhex("f80107") + b"\xfa\x01\x02ab" + b"\xf9\x01" + bytes(8) + b"\xfd\x01" + bytes(4)
    group = b"\xfb\x01" + unknown + b"\xfc\x01"
    data = unknown + encode("etcdserverpb.PutRequest", {"key": b"a"}) + group
    assert decode("etcdserverpb.PutRequest", data) == {"key": b"a"}


def test_protobuf_unpacked_and_packed_numbers_are_the_same() -> None:
    packed = encode("etcdserverpb.WatchCreateRequest", {"filters": [0, 1]})
    assert packed == b"\x2a\x02\x00\x01"
    assert decode("etcdserverpb.WatchCreateRequest", b"\x28\x00\x28\x01") == {"filters": [0, 1]}
    assert decode("etcdserverpb.WatchCreateRequest", packed) == {"filters": [0, 1]}


def test_protobuf_the_last_field_of_a_oneof_counts() -> None:
    both = encode("etcdserverpb.Compare", {"version": 3}) + encode("etcdserverpb.Compare", {"value": b""})
    assert decode("etcdserverpb.Compare", both) == {"value": b""}


def test_protobuf_a_field_that_the_table_lacks_is_a_fault() -> None:
    """A misspelt name must not be left out in silence."""
    with pytest.raises(KeyError):
        encode("etcdserverpb.PutRequest", {"keys": b"a"})


def test_protobuf_nesting_is_limited() -> None:
    data = b""
    for _ in range(MAX_DEPTH):
        inner = b"\x22" + bytes((0x80 | (len(data) & 0x7F), len(data) >> 7)) + data  # RequestOp.request_txn
        data = b"\x12" + bytes((0x80 | (len(inner) & 0x7F), len(inner) >> 7)) + inner  # TxnRequest.success
    with pytest.raises(DecodeError, match="nested more than"):
        decode("etcdserverpb.TxnRequest", data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x0a\x05ab", "are left"),
        (b"\x0a", "has no end"),
        (b"\x18" + b"\xff" * 11, "has no end"),
        (b"\x00\x00", "not a field's"),
        (b"\x0e", "wire type 6"),
        (b"\x0c", "wire type 4"),
    ],
)
def test_protobuf_malformed_bytes_are_refused_with_the_place(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode("etcdserverpb.PutRequest", data)


def test_protobuf_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(DecodeError, match="not UTF-8"):
        decode("etcdserverpb.AuthUserAddRequest", b"\x0a\x01\xff")


COMPARES: Message = {"request_txn": {"compare": [{}] * 20_000}}
NESTED: Message = {"success": [COMPARES] * 3}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("etcdserverpb.TxnRequest", b"\x0a\x00" * (MAX_FIELDS + 1)),
        ("etcdserverpb.TxnRequest", encode("etcdserverpb.TxnRequest", NESTED)),
        ("etcdserverpb.TxnRequest", b"\x78\x00" * (MAX_FIELDS + 1)),
        ("etcdserverpb.WatchRequest", b"\x0a\x00" * (MAX_FIELDS + 1)),
        ("etcdserverpb.WatchCreateRequest", b"\x2a\x99\x75" + b"\x00" * (MAX_FIELDS + 1)),
        ("etcdserverpb.TxnRequest", (b"\x7b" + b"\x78\x00" * 30_000 + b"\x7c") * 3),
        ("etcdserverpb.TxnRequest", b"\x7b" + b"\x78\x00" * 40_000 + b"\x7c"),
    ],
    ids=["messages", "inner messages", "unknown fields", "merged messages", "packed numbers", "groups", "group"],
)
def test_protobuf_message_of_very_many_fields_is_refused(name: str, data: bytes) -> None:
    """A field takes two bytes and a microsecond: 2 MiB of them would hold the event loop for seconds."""
    with pytest.raises(DecodeError, match=r"more than|no end within"):
        decode(name, data)


def test_protobuf_transaction_far_above_the_limit_is_read() -> None:
    """So that it is refused with etcd's text."""
    put: Message = {"request_put": {"key": b"k", "value": b"v", "lease": 7}}
    message: Message = {"success": [put] * 2_500}
    assert decode("etcdserverpb.TxnRequest", encode("etcdserverpb.TxnRequest", message)) == message
