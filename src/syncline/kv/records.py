"""The store's records and the answers of its operations: plain, immutable data."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "DeleteRangeAnswer",
    "DeleteAnswer",
    "GetAnswer",
    "KeyRecord",
    "OperationAnswer",
    "PutAnswer",
    "RangePage",
    "TxnAnswer",
]


class KeyRecord(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A key as it stands after the transaction `mod_revision`. Never changed: a write makes a new record.

    `version` counts the writes since the key was created (1: just created); `lease` 0: none. `checksum` covers the
    other fields (`digest.py`); 0 in a record that was read without its value.
    Field order is part of the snapshot format.
    """

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0
    checksum: int = 0


class RangePage(msgspec.Struct, gc=False, frozen=True):
    """One page of a range, all of it at `revision`.

    `more`: records of the range are left beyond the page. `count`: the keys in the whole range, whatever the limit.
    """

    items: list[KeyRecord]
    more: bool
    revision: int
    count: int


class PutAnswer(msgspec.Struct, gc=False, frozen=True):
    """`previous_revision` is the replaced record's mod_revision; 0 and `created` if there was none."""

    revision: int
    created: bool
    previous_revision: int


class DeleteAnswer(msgspec.Struct, gc=False, frozen=True):
    """`deleted` False: there was nothing to delete, and `revision` is the store's unchanged one."""

    deleted: bool
    revision: int


class DeleteRangeAnswer(msgspec.Struct, gc=False, frozen=True):
    """How many keys went; `more`: the limit was met and others are left."""

    deleted: int
    revision: int
    more: bool = False


class GetAnswer(msgspec.Struct, gc=False, frozen=True):
    """A read inside a transaction; `record` None: no such key."""

    record: KeyRecord | None
    revision: int


class TxnAnswer(msgspec.Struct, gc=False, frozen=True):
    """`succeeded`: the compares held, and `results` are those of `then`, else those of `else_`, in order."""

    succeeded: bool
    revision: int
    results: tuple[OperationAnswer, ...]


OperationAnswer: TypeAlias = PutAnswer | DeleteAnswer | DeleteRangeAnswer | GetAnswer | RangePage | TxnAnswer
"""The answer to one operation of a transaction."""
