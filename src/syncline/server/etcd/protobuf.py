"""Protocol Buffers: messages to bytes and back, by the table of `messages.py` alone.

    data = encode("etcdserverpb.PutRequest", {"key": b"a", "value": b"1"})
    decode("etcdserverpb.PutRequest", data)     # {"key": b"a", "value": b"1"}

It follows proto3 (https://protobuf.dev/programming-guides/encoding/). Unknown fields are skipped. A field that comes
twice has the last value; messages are merged. Numbers may be packed or not. A field with its default value is not
written, unless it belongs to a oneof: there it says which one was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, cast

import msgspec

from syncline.server.etcd.messages import ENUMS, MESSAGES, SCALARS, Message, MessageField

__all__ = ["DecodeError", "decode", "encode"]

MAX_DEPTH: Final = 100
"""Messages within each other, as in protobuf's own parsers: each takes a frame of Python's stack."""

MAX_FIELDS: Final = 15_000
"""Fields and numbers of one message, with those of the messages within: they are read in one turn of the event loop, in
15 to 50 ms. The largest transaction that the store takes has a third of it; an empty field has two bytes."""

MAX_GROUP_BYTES: Final = 64 * 1024
"""Of a group, which is an unknown field: proto3 has none."""

# Wire types.
_VARINT: Final = 0
_FIXED64: Final = 1
_DELIMITED: Final = 2
_GROUP: Final = 3
_END_GROUP: Final = 4
_FIXED32: Final = 5

# Kinds of fields. Plain integers: compared for each field of each message.
_INT: Final = 0
_UINT32: Final = 1
_UINT64: Final = 2
_ENUM: Final = 3
_BOOL: Final = 4
_BYTES: Final = 5
_STRING: Final = 6
_MESSAGE: Final = 7

_KINDS: Final = {"int64": _INT, "uint32": _UINT32, "uint64": _UINT64, "bool": _BOOL, "bytes": _BYTES, "string": _STRING}

_SIGN: Final = 1 << 63
_TWO_64: Final = 1 << 64
_TEN_BYTES: Final = 70
"""Bits of the longest varint."""


class DecodeError(ValueError):
    """The bytes are no message of this kind. The text says at which byte."""


class _FieldPlan(msgspec.Struct, gc=False):
    """How a field is read and written."""

    name: str
    kind: int
    tag: bytes
    """What is before its value. Of a repeated number: before all its values."""
    repeated: bool
    others: tuple[str, ...]
    """The other fields of its oneof."""
    in_oneof: bool
    message: _MessagePlan | None = None


class _MessagePlan(msgspec.Struct):
    """How a message is read (by number) and written (by name)."""

    by_number: dict[int, _FieldPlan]
    by_name: dict[str, _FieldPlan]


def _plan(number: int, field: MessageField, fields: Mapping[int, MessageField]) -> _FieldPlan:
    kind = _KINDS[field.type] if field.type in SCALARS else _ENUM if field.type in ENUMS else _MESSAGE
    wire = _DELIMITED if kind >= _BYTES or field.repeated else _VARINT
    others = tuple(
        other.name for other in fields.values() if field.oneof and other.oneof == field.oneof and other is not field
    )
    return _FieldPlan(field.name, kind, _varint(number << 3 | wire), field.repeated, others, bool(field.oneof))


def _plans() -> dict[str, _MessagePlan]:
    plans = {name: _MessagePlan({}, {}) for name in MESSAGES}
    for name, fields in MESSAGES.items():
        for number, field in fields.items():
            made = _plan(number, field, fields)
            if made.kind == _MESSAGE:
                made.message = plans[field.type]
            plans[name].by_number[number] = plans[name].by_name[field.name] = made
    return plans


# --- writing


def encode(name: str, message: Message) -> bytes:
    """The bytes of a message of the kind `name`. A field that the table does not have is a `KeyError`: a fault."""
    out = bytearray()
    _write(_PLANS[name].by_name, message, out)
    return bytes(out)


def _varint(value: int) -> bytes:
    if value < 128:
        return _SMALL[value]
    return _kept_varint(value) if value >> _REVISION_BITS else _long_varint(value)


def _long_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL: Final = tuple(bytes((value,)) for value in range(128))
_REVISION_BITS: Final = 40
"""Larger numbers are ids of clusters, members and leases: they are in each header, and are kept."""
_kept_varint: Final = lru_cache(256)(_long_varint)


def _write(plans: dict[str, _FieldPlan], message: Message, out: bytearray) -> None:
    for name, value in message.items():
        plan = plans[name]
        if not value and (value is None or not (plan.in_oneof or (plan.kind == _MESSAGE and not plan.repeated))):
            continue
        if plan.repeated:
            _write_all(plan, value, out)
        else:
            _write_value(plan, value, out)


def _write_value(plan: _FieldPlan, value: Any, out: bytearray) -> None:
    kind = plan.kind
    if kind < _BYTES:
        out += plan.tag
        out += _varint(value if value >= 0 else value + _TWO_64)
        return
    if kind == _MESSAGE:
        assert plan.message is not None
        data = bytearray()
        _write(plan.message.by_name, value, data)
    else:
        data = value if kind == _BYTES else value.encode()
    out += plan.tag
    out += _varint(len(data))
    out += data


def _write_all(plan: _FieldPlan, values: Any, out: bytearray) -> None:
    if plan.kind >= _BYTES:
        for value in values:
            _write_value(plan, value, out)
        return
    packed = b"".join([_varint(value if value >= 0 else value + _TWO_64) for value in values])
    out += plan.tag
    out += _varint(len(packed))
    out += packed


# --- reading


def decode(name: str, data: bytes | bytearray | memoryview) -> Message:
    """The message of the kind `name`. Raises `DecodeError`."""
    message: Message = {}
    _read(_PLANS[name].by_number, bytes(data), 0, len(data), message, MAX_DEPTH, MAX_FIELDS)
    return message


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The unsigned number at `at`, of 64 bits, and where it ends."""
    value = shift = 0
    while at < end and shift < _TEN_BYTES:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (_TWO_64 - 1), at
        shift += 7
    raise DecodeError(f"the number at byte {at} has no end")


def _read(plans: dict[int, _FieldPlan], data: bytes, at: int, end: int, message: Message, depth: int, left: int) -> int:
    """Read the fields between `at` and `end` into `message`. `left`: how many may still come; it returns the rest."""
    if not depth:
        raise DecodeError(f"messages are nested more than {MAX_DEPTH} deep at byte {at}")
    while at < end:
        left -= 1
        if left < 0:
            raise _too_many(at)
        tag = data[at]
        if tag < 128:
            at += 1
        else:
            tag, at = _read_varint(data, at, end)
        wire = tag & 7
        plan = plans.get(tag >> 3)
        if wire == _DELIMITED:
            size, at = (data[at], at + 1) if at < end and data[at] < 128 else _read_varint(data, at, end)
            stop = at + size
            if stop > end:
                raise DecodeError(f"the field at byte {at} has {size} bytes; {end - at} are left")
            if plan is not None:
                left = _set_delimited(plan, data, at, stop, message, depth, left)
            at = stop
        elif wire == _VARINT:
            value, at = (data[at], at + 1) if at < end and data[at] < 128 else _read_varint(data, at, end)
            if plan is not None and plan.kind < _BYTES:
                _set(plan, _scalar(plan.kind, value), message)
        else:
            begun = at
            at = _skip(tag, data, at, min(end, begun + MAX_GROUP_BYTES), depth)
            left -= (at - begun) >> 1  # a group has fields, of two bytes at least
        if tag < 8 or tag >> 32:
            raise DecodeError(f"the number of the field before byte {at} is not a field's")
    return left


def _too_many(at: int) -> DecodeError:
    return DecodeError(f"the message has more than {MAX_FIELDS} fields before byte {at}")


def _scalar(kind: int, value: int) -> int | bool:
    if kind == _BOOL:
        return value != 0
    if kind == _UINT64:
        return value
    if kind == _UINT32:
        return value & 0xFFFF_FFFF
    if kind == _ENUM:
        value &= 0xFFFF_FFFF
        return value - 0x1_0000_0000 if value & 0x8000_0000 else value
    return value - _TWO_64 if value & _SIGN else value


def _set(plan: _FieldPlan, value: object, message: Message) -> None:
    if plan.repeated:
        cast("list[object]", message.setdefault(plan.name, [])).append(value)
        return
    for other in plan.others:
        message.pop(other, None)
    message[plan.name] = value


def _set_delimited(plan: _FieldPlan, data: bytes, at: int, stop: int, message: Message, depth: int, left: int) -> int:
    kind = plan.kind
    if kind == _BYTES:
        _set(plan, data[at:stop], message)
    elif kind == _STRING:
        try:
            text = data[at:stop].decode()
        except UnicodeDecodeError:
            raise DecodeError(f"the text {plan.name!r} at byte {at} is not UTF-8") from None
        _set(plan, text, message)
    elif kind == _MESSAGE:
        assert plan.message is not None
        before = None if plan.repeated else message.get(plan.name)
        inner: Message = {} if before is None else cast("Message", before)
        left = _read(plan.message.by_number, data, at, stop, inner, depth - 1, left)
        _set(plan, inner, message)
    elif plan.repeated:
        while at < stop:
            left -= 1
            if left < 0:
                raise _too_many(at)
            value, at = _read_varint(data, at, stop)
            _set(plan, _scalar(kind, value), message)
    return left


def _skip(tag: int, data: bytes, at: int, end: int, depth: int) -> int:
    """Where a field of another wire type ends: the table has none, so it is unknown."""
    wire = tag & 7
    if wire in (_FIXED32, _FIXED64):
        at += 8 if wire == _FIXED64 else 4
        if at > end:
            raise DecodeError(f"the message ends within a field, at byte {end}")
        return at
    if wire != _GROUP or not depth:
        raise DecodeError(f"there is no field of wire type {wire} before byte {at}")
    return _skip_group(tag >> 3, data, at, end, depth - 1)


def _skip_group(number: int, data: bytes, at: int, end: int, depth: int) -> int:
    while at < end:
        tag, at = _read_varint(data, at, end)
        wire = tag & 7
        if wire == _END_GROUP:
            if tag >> 3 != number:
                raise DecodeError(f"a group ends before byte {at} that has not begun")
            return at
        if wire == _VARINT:
            _, at = _read_varint(data, at, end)
        elif wire == _DELIMITED:
            size, at = _read_varint(data, at, end)
            at += size
            if at > end:
                raise DecodeError(f"the message ends within a field, at byte {end}")
        else:
            at = _skip(tag, data, at, end, depth)
    raise DecodeError(f"the group of field {number} has no end within {MAX_GROUP_BYTES} bytes")


_PLANS: Final = _plans()
