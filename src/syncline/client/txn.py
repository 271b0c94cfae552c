"""Transactions as data: compares and operations, and their JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from syncline.client.arguments import to_bytes
from syncline.client.schemas import (
    CompareItem,
    DeleteItem,
    DeleteRangeItem,
    GetItem,
    OperationItem,
    PutItem,
    TxnBody,
    split,
)

__all__ = ["Compare", "DeleteOp", "DeletePrefixOp", "GetOp", "Operation", "PutOp", "txn_body"]

Target: TypeAlias = Literal["mod_revision", "create_revision", "version"]
CompareOperator: TypeAlias = Literal["==", "!=", "<", ">"]


class Compare(msgspec.Struct, frozen=True):
    """A condition on one key: its `value` if one is given, else the number `target` (0 for an absent key)."""

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
        TxnBody(
            compare=[_compare(item) for item in compare],
            then=[_operation(item) for item in then],
            else_=[_operation(item) for item in else_],
        )
    )


def _compare(item: Compare) -> CompareItem:
    key, key_bytes = split(to_bytes(item.key, "key"))
    if item.value is None:
        return CompareItem(key=key, key_base64=key_bytes, op=item.op, target=item.target, number=item.number)
    value = to_bytes(item.value, "value")
    return CompareItem(key=key, key_base64=key_bytes, op=item.op, target="value", value_base64=value)


def _operation(item: Operation) -> OperationItem:
    match item:
        case PutOp():
            key, key_bytes = split(to_bytes(item.key, "key"))
            return PutItem(key=key, key_base64=key_bytes, value_base64=to_bytes(item.value, "value"))
        case DeleteOp():
            key, key_bytes = split(to_bytes(item.key, "key"))
            return DeleteItem(key=key, key_base64=key_bytes)
        case DeletePrefixOp():
            prefix, prefix_bytes = split(to_bytes(item.prefix, "prefix"))
            return DeleteRangeItem(prefix=prefix, prefix_base64=prefix_bytes)
        case GetOp():
            key, key_bytes = split(to_bytes(item.key, "key"))
            return GetItem(key=key, key_base64=key_bytes)
        case _:
            raise TypeError(f"an operation must be PutOp, DeleteOp, DeletePrefixOp or GetOp, not {type(item).__name__}")
