"""The store's records and the answers of its operations: plain, immutable data.

The answers' tags and the order of their fields are part of the form in which sessions keep them (`kv.answers`).
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from syncline.errors import Rejected
from syncline.kv.limits import MAX_KEY_BYTES

__all__ = [
    "BatchAnswer",
    "Change",
    "CompactAnswer",
    "DeleteRangeAnswer",
    "DeleteAnswer",
    "GetAnswer",
    "IncrementAnswer",
    "KeyRecord",
    "LeaseAnswer",
    "LeaseCheckpointAnswer",
    "LeaseEndAnswer",
    "LeaseRecord",
    "OperationAnswer",
    "PutAnswer",
    "RangePage",
    "TouchAnswer",
    "TxnAnswer",
    "is_sound",
]


class KeyRecord(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A key as it stands after the transaction `mod_revision`. Never changed: a write makes a new record.

    `version` counts the writes since the key was created (1: just created); `lease` 0: none. `checksum` covers the
    other fields (`digest.py`); 0 in a record that was read without its value.
    A record with `version` 0 is a tombstone: its value is empty, and `mod_revision` is the revision of the delete.
    Field order is part of the snapshot format.
    """

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0
    checksum: int = 0


def is_sound(record: KeyRecord) -> bool:
    """Whether a record can be: its key, and its numbers. Each write since its creation took a revision of its own.

    A tombstone is none.
    """
    age = record.mod_revision - record.create_revision
    return (
        0 < len(record.key) <= MAX_KEY_BYTES
        and record.create_revision > 0
        and 0 < record.version <= age + 1
        and record.lease >= 0
    )


class RangePage(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=4):
    """One page of a range, all of it at `revision`.

    `more`: records of the range are left beyond the page. `count`: the keys in the whole range, whatever the limit.
    `after`: the last key that the page went by, if `more`; the next page begins after it.
    """

    items: list[KeyRecord]
    more: bool
    revision: int
    count: int
    after: bytes | None = None


class Change(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One change of one key: its new record (a tombstone if it was deleted), and the record before, if any."""

    record: KeyRecord
    previous: KeyRecord | None = None


class LeaseRecord(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A lease as the log knows it; what is left of its time is known to the leader alone.

    `rest_ms`: what was left at the last checkpoint; `ttl_ms` if there was none since it was granted, touched or
    renewed. `own`: the lease of one key, gone with it. `renewed`: the index of the log entry that last gave it its full
    time. The leader's clock for the lease starts again then, and what it decided before has no effect.
    Field order is part of the snapshot format.
    """

    id: int
    ttl_ms: int
    rest_ms: int
    own: bool = False
    renewed: int = 0


class PutAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=0):
    """`previous_revision` is the replaced record's mod_revision; 0 and `created` if there was none.

    `previous`: the replaced record, if the command asked for it. `lease`: the key's own lease, if the command granted
    one.
    """

    revision: int
    created: bool
    previous_revision: int
    previous: KeyRecord | None = None
    lease: int = 0


class DeleteAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=1):
    """`deleted` False: there was nothing to delete, and `revision` is the store's unchanged one.

    `previous`: the removed record, if the command asked for it.
    """

    deleted: bool
    revision: int
    previous: KeyRecord | None = None


class DeleteRangeAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=2):
    """How many keys went; `more`: the limit was met and others are left. `previous`: the removed records in the order
    of their keys, if the command asked for them."""

    deleted: int
    revision: int
    more: bool = False
    previous: tuple[KeyRecord, ...] = ()


class IncrementAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=6):
    """`value`: the number after the addition. `previous`: the replaced record, if the command asked for it."""

    revision: int
    value: int
    previous: KeyRecord | None = None


class TouchAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=7):
    """`lease`: the key's own lease, which has its full time again."""

    revision: int
    lease: int


class LeaseAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=8):
    """A lease that was granted."""

    lease: int
    ttl_ms: int


class LeaseEndAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=9):
    """How many leases ended, and how many keys were deleted with them.

    Fewer leases than the command named: the others were gone, or they are still there, because the keys of all are more
    than one command deletes.
    """

    ended: int
    deleted: int
    revision: int


class LeaseCheckpointAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=10):
    """How many leases had their rest recorded; the others were gone."""

    recorded: int


class CompactAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=11):
    """`oldest`: the oldest revision that can be read now."""

    oldest: int
    revision: int


class GetAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=3):
    """A read inside a transaction or batch; `record` None: no such key."""

    record: KeyRecord | None
    revision: int


class TxnAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=5):
    """`succeeded`: the compares held, and `results` are those of `then`, else those of `else_`, in order."""

    succeeded: bool
    revision: int
    results: tuple[OperationAnswer, ...]


OperationAnswer: TypeAlias = (
    PutAnswer | DeleteAnswer | DeleteRangeAnswer | GetAnswer | RangePage | TxnAnswer | IncrementAnswer | TouchAnswer
)
"""The answer to one operation of a transaction or batch."""


class BatchAnswer(msgspec.Struct, frozen=True):
    """One answer or refusal for each operation, in order. `revision`: the store's after the last of them."""

    results: tuple[OperationAnswer | Rejected, ...]
    revision: int
