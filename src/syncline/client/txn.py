"""Transactions as data: compares and operations, and their JSON."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from syncline.client.arguments import to_bytes
from syncline.client.wire import json_key

__all__ = ["Compare", "DeleteOp", "DeletePrefixOp", "GetOp", "Operation", "PutOp", "txn_body"]

Target: TypeAlias = Literal["mod_revision", "create_revision", "version"]
CompareOperator: TypeAlias = Literal["==", "!=", "<", ">"]


class Compare(msgspec.Struct, frozen=True):
    """A condition on one key: its `value` where one is given, else the number `target` (0 for an absent key)."""

    key: bytes
    target: Target = "mod_revision"
    op: CompareOperator = "=="
    number: int = 0
    value: bytes | None = None


class PutOp(msgspec.Struct, frozen=True):
    """Write a key."""

    key: bytes
    value: bytes


class DeleteOp(msgspec.Struct, frozen=True):
    """Delete a key."""

    key: bytes


class DeletePrefixOp(msgspec.Struct, frozen=True):
    """Delete every key that begins with `prefix`."""

    prefix: bytes


class GetOp(msgspec.Struct, frozen=True):
    """Read a key, at the transaction's own revision."""

    key: bytes


Operation: TypeAlias = PutOp | DeleteOp | DeletePrefixOp | GetOp


def txn_body(compare: Sequence[Compare], then: Sequence[Operation], else_: Sequence[Operation]) -> bytes:
    """The body of `POST /txn`."""
    return msgspec.json.encode(
        {
            "compare": [_compare(item) for item in compare],
            "then": [_operation(item) for item in then],
            "else": [_operation(item) for item in else_],
        }
    )


def _compare(item: Compare) -> dict[str, str | int]:
    fields: dict[str, str | int] = {**json_key("key", to_bytes(item.key, "key")), "op": item.op}
    if item.value is None:
        return {**fields, "target": item.target, "number": item.number}
    return {**fields, "target": "value", **_value(item.value)}


def _operation(item: Operation) -> dict[str, str]:
    match item:
        case PutOp():
            return {"op": "put", **json_key("key", to_bytes(item.key, "key")), **_value(item.value)}
        case DeleteOp():
            return {"op": "delete", **json_key("key", to_bytes(item.key, "key"))}
        case DeletePrefixOp():
            return {"op": "delete_range", **json_key("prefix", to_bytes(item.prefix, "prefix"))}
        case GetOp():
            return {"op": "get", **json_key("key", to_bytes(item.key, "key"))}
        case _:
            raise TypeError(f"an operation must be PutOp, DeleteOp, DeletePrefixOp or GetOp, not {type(item).__name__}")


def _value(data: object) -> dict[str, str]:
    return {"value_base64": base64.b64encode(to_bytes(data, "value")).decode("ascii")}
