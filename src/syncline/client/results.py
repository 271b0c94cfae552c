"""What a client gets back from operations on keys: plain, frozen data. `schemas` has the answers about the cluster."""

from __future__ import annotations

import msgspec

__all__ = [
    "DeleteResult",
    "KeyInfo",
    "KeyPage",
    "KeyValue",
    "OperationResult",
    "PutResult",
    "TxnResult",
]


class KeyValue(msgspec.Struct, frozen=True):
    """One key as it was read. `mod_revision` is the revision of its last change, `revision` the store's."""

    key: bytes
    value: bytes
    mod_revision: int
    revision: int


class PutResult(msgspec.Struct, frozen=True):
    """A write: `revision` is the store's after it, and the key's `mod_revision`."""

    revision: int


class DeleteResult(msgspec.Struct, frozen=True):
    """A deletion. `deleted` is false if the key did not exist."""

    deleted: bool
    revision: int


class KeyInfo(msgspec.Struct, frozen=True):
    """One key of a listing. `value` is None if values were not asked for; `lease` is 0 if there is none."""

    key: bytes
    mod_revision: int
    create_revision: int
    version: int
    size_bytes: int
    value: bytes | None = None
    lease: int = 0


class KeyPage(msgspec.Struct, frozen=True):
    """Part of a listing, of one revision. Pass `next` as `after` for the next page; it is None on the last.

    `count` is the number of keys in the whole range.
    """

    revision: int
    items: tuple[KeyInfo, ...]
    count: int
    next: str | None


class OperationResult(msgspec.Struct, frozen=True):
    """The result of one operation of a transaction. `op` decides which fields are set.

    put: `revision`. delete and delete_range: `deleted` (how many). get: `found`, and `key`, `value`, `mod_revision`.
    """

    op: str
    revision: int = 0
    deleted: int = 0
    found: bool = False
    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0


class TxnResult(msgspec.Struct, frozen=True):
    """A transaction: whether its compares held, and the results of the branch that ran."""

    succeeded: bool
    revision: int
    results: tuple[OperationResult, ...]
