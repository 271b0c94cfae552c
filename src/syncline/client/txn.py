"""Operations and compares as data, and the form in which requests carry them.

A request is a tree of fields in which bytes are bytes. MessagePack carries it as it is. JSON has no bytes: there each
one stands as text under its own name if it is UTF-8, else as base64 under `NAME_base64`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from syncline.client.arguments import (
    checked_count,
    checked_flag,
    checked_items,
    checked_number,
    checked_revision,
    checked_text,
    checked_timeout_s,
    duration_text,
    lease_text,
    to_bytes,
)
from syncline.errors import ConfigError

__all__ = [
    "MSGPACK_BODY",
    "Compare",
    "DeleteOp",
    "DeletePrefixOp",
    "DeleteRangeOp",
    "GetOp",
    "IncrementOp",
    "ListOp",
    "Operation",
    "PutOp",
    "TouchOp",
    "TxnOp",
    "Fields",
    "compare_fields",
    "has_writes",
    "operation_fields",
    "packed_batch",
    "txn_body",
]

Target: TypeAlias = Literal["mod_revision", "create_revision", "version", "value", "lease"]
CompareOperator: TypeAlias = Literal["==", "!=", "<", ">"]
Fields: TypeAlias = dict[str, object]

_KINDS: Final = "PutOp, DeleteOp, DeletePrefixOp, DeleteRangeOp, GetOp, ListOp, IncrementOp, TouchOp or TxnOp"

READS: Final = frozenset({"get", "range"})
"""Names of operations that write nothing."""

MSGPACK_BODY: Final = (("Content-Type", "application/msgpack"), ("Accept", "application/msgpack"))
"""Header fields of a batch."""

BASE64_VALUES: Final = frozenset({"value"})
"""Fields that JSON always carries as base64: a value that is text today need not be text tomorrow."""


class Compare(msgspec.Struct, frozen=True):
    """A condition on one key, or on each key of a range.

    It compares the `value` if one is given, the `lease` if one is given (an id; 0: the key has none), else the number
    `target` (0 for an absent key). With `end` it holds if it holds for each key from `key` up to and without `end`;
    with `prefix=True`, for each key that begins with `key`.
    """

    key: bytes
    target: Target = "mod_revision"
    op: CompareOperator = "=="
    number: int = 0
    value: bytes | None = None
    lease: str | int | None = None
    end: bytes | None = None
    prefix: bool = False


class PutOp(msgspec.Struct, frozen=True):
    """Write a key.

    `lease` attaches it to a lease; `ttl` (seconds) gives it a new lease of its own. `previous=True`: the result has
    what was replaced. The conditions `if_revision`, `if_absent` and `if_present` are for batches; a transaction has
    compares.
    """

    key: bytes
    value: bytes
    lease: str | int | None = None
    ttl: float | None = None
    previous: bool = False
    if_revision: int | None = None
    if_absent: bool = False
    if_present: bool = False


class DeleteOp(msgspec.Struct, frozen=True):
    """Delete a key. `previous` and the conditions are those of `PutOp`."""

    key: bytes
    previous: bool = False
    if_revision: int | None = None
    if_present: bool = False


class DeletePrefixOp(msgspec.Struct, frozen=True):
    """Delete every key that begins with `prefix`. `limit`: the first so many; 0: all."""

    prefix: bytes
    limit: int = 0
    previous: bool = False


class DeleteRangeOp(msgspec.Struct, frozen=True):
    """Delete every key from `start` up to and without `end` (None: to the last key)."""

    start: bytes
    end: bytes | None = None
    limit: int = 0
    previous: bool = False


class GetOp(msgspec.Struct, frozen=True):
    """Read a key: as it is in its turn, or as it was at `revision`."""

    key: bytes
    revision: int = 0


class ListOp(msgspec.Struct, frozen=True):
    """List the keys that begin with `prefix`, or those from `start` up to and without `end`."""

    prefix: bytes | None = None
    start: bytes | None = None
    end: bytes | None = None
    limit: int = 0
    values: bool = False
    reverse: bool = False
    revision: int = 0


class IncrementOp(msgspec.Struct, frozen=True):
    """Add `by` to the decimal number that is the key's value. An absent key counts as `initial`."""

    key: bytes
    by: int = 1
    initial: int = 0
    previous: bool = False


class TouchOp(msgspec.Struct, frozen=True):
    """Give a key a new time to live of `ttl` seconds, without its value."""

    key: bytes
    ttl: float


class TxnOp(msgspec.Struct, frozen=True):
    """A transaction as an operation: in a batch, or inside another transaction."""

    compare: tuple[Compare, ...] = ()
    then: tuple[Operation, ...] = ()
    else_: tuple[Operation, ...] = ()


Operation: TypeAlias = (
    PutOp | DeleteOp | DeletePrefixOp | DeleteRangeOp | GetOp | ListOp | IncrementOp | TouchOp | TxnOp
)


def txn_body(compare: Sequence[Compare], then: Sequence[Operation], else_: Sequence[Operation]) -> bytes:
    """The JSON of `POST /txn`."""
    return msgspec.json.encode(json_form(_txn_fields(compare, then, else_)))


def packed_batch(items: Sequence[Fields]) -> bytes:
    """The MessagePack of `POST /batch`, of operations as `operation_fields` makes them."""
    return msgspec.msgpack.encode({"ops": items})


def has_writes(items: Sequence[Fields]) -> bool:
    """Whether one of the operations of a batch writes."""
    return any(item["op"] not in READS for item in items)


def operation_fields(item: Operation, *, in_batch: bool) -> Fields:
    """The fields of one operation, those that have their defaults left out.

    Raises:
        TypeError: it is no operation, or one of its fields has the wrong type.
        ConfigError: a field has a value that can't be used.
    """
    match item:
        case PutOp():
            fields: Fields = {"op": "put", "key": to_bytes(item.key, "key"), "value": to_bytes(item.value, "value")}
            if item.lease is not None:
                fields["lease"] = lease_text(item.lease)
            if item.ttl is not None:
                fields["ttl"] = duration_text(checked_timeout_s(item.ttl, "ttl"))
            return _with_conditions(fields, item, in_batch)
        case DeleteOp():
            return _with_conditions({"op": "delete", "key": to_bytes(item.key, "key")}, item, in_batch)
        case DeletePrefixOp():
            return _deleting({"op": "delete_range", "prefix": to_bytes(item.prefix, "prefix")}, item)
        case DeleteRangeOp():
            return _deleting({"op": "delete_range", **_bounds(item.start, item.end)}, item)
        case GetOp():
            fields = {"op": "get", "key": to_bytes(item.key, "key")}
            return _with_revision(fields, item.revision)
        case ListOp():
            return _listing(item)
        case IncrementOp():
            by, initial = checked_number(item.by, "by"), checked_number(item.initial, "initial")
            fields = {"op": "increment", "key": to_bytes(item.key, "key"), "by": by, "initial": initial}
            return _with_previous(fields, item.previous)
        case TouchOp():
            ttl = duration_text(checked_timeout_s(item.ttl, "ttl"))
            return {"op": "touch", "key": to_bytes(item.key, "key"), "ttl": ttl}
        case TxnOp():
            return {"op": "txn", **_txn_fields(item.compare, item.then, item.else_)}
        case _:
            raise TypeError(f"an operation must be {_KINDS}, not {type(item).__name__}")


def json_form(value: object) -> object:
    """A tree of fields as JSON carries it: bytes as text or base64, under the name that says which."""
    if isinstance(value, list):
        return [json_form(item) for item in value]
    if not isinstance(value, dict):
        return value
    found: Fields = {}
    for name, content in value.items():
        if not isinstance(content, bytes):
            found[name] = json_form(content)
            continue
        text = None if name in BASE64_VALUES else _text(content)
        if text is None:
            found[f"{name}_base64"] = base64.b64encode(content).decode("ascii")
        else:
            found[name] = text
    return found


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _txn_fields(compare: Sequence[Compare], then: Sequence[Operation], else_: Sequence[Operation]) -> Fields:
    return {
        "compare": [compare_fields(item) for item in checked_items(compare, "compare")],
        "then": [operation_fields(item, in_batch=False) for item in checked_items(then, "then")],
        "else": [operation_fields(item, in_batch=False) for item in checked_items(else_, "else_")],
    }


def compare_fields(item: object) -> Fields:
    """The fields of one compare. Raises as `operation_fields` does."""
    if not isinstance(item, Compare):
        raise TypeError(f"a compare must be a Compare, not {type(item).__name__}")
    if item.prefix and item.end is not None:
        raise ConfigError("give a compare one of end and prefix, not both")
    if item.value is not None and item.lease is not None:
        raise ConfigError("give a compare one of value and lease, not both")
    key = to_bytes(item.key, "key")
    fields: Fields = {"prefix": key} if checked_flag(item.prefix, "prefix") else {"key": key}
    if item.end is not None:
        fields["end"] = to_bytes(item.end, "end")
    fields["op"] = checked_text(item.op, "op")
    if item.value is not None:
        return {**fields, "target": "value", "value": to_bytes(item.value, "value")}
    if item.lease is not None:
        return {**fields, "target": "lease", "lease": lease_text(item.lease)}
    number = checked_number(item.number, "number")
    return {**fields, "target": checked_text(item.target, "target"), "number": number}


def _with_conditions(fields: Fields, item: PutOp | DeleteOp, in_batch: bool) -> Fields:
    absent = isinstance(item, PutOp) and checked_flag(item.if_absent, "if_absent")
    present = checked_flag(item.if_present, "if_present")
    if (item.if_revision is not None) + absent + present > 1:
        raise ConfigError("give one of if_revision, if_absent and if_present, not several")
    if item.if_revision is not None:
        fields["if_revision"] = checked_revision(item.if_revision, "if_revision", 0)
    if absent:
        fields["if_absent"] = True
    if present:
        fields["if_present"] = True
    if not in_batch and (absent or present or item.if_revision is not None):
        raise ConfigError("inside a transaction an operation has no condition: give the transaction a Compare")
    return _with_previous(fields, item.previous)


def _with_previous(fields: Fields, previous: bool) -> Fields:
    if checked_flag(previous, "previous"):
        fields["prev"] = True
    return fields


def _with_revision(fields: Fields, revision: int) -> Fields:
    if checked_revision(revision, "revision", 0):
        fields["revision"] = revision
    return fields


def _deleting(fields: Fields, item: DeletePrefixOp | DeleteRangeOp) -> Fields:
    if checked_count(item.limit, "limit"):
        fields["limit"] = item.limit
    return _with_previous(fields, item.previous)


def _bounds(start: bytes | None, end: bytes | None) -> Fields:
    fields: Fields = {"start": b"" if start is None else to_bytes(start, "start")}
    if end is not None:
        fields["end"] = to_bytes(end, "end")
    return fields


def _listing(item: ListOp) -> Fields:
    if item.prefix is not None and (item.start is not None or item.end is not None):
        raise ConfigError("give a ListOp a prefix, or start and end, not both")
    fields: Fields = {"op": "range"}
    if item.prefix is not None:
        fields["prefix"] = to_bytes(item.prefix, "prefix")
    else:
        fields.update(_bounds(item.start, item.end))
    if checked_count(item.limit, "limit"):
        fields["limit"] = item.limit
    if checked_flag(item.values, "values"):
        fields["values"] = True
    if checked_flag(item.reverse, "reverse"):
        fields["reverse"] = True
    return _with_revision(fields, item.revision)
