"""What a client gets back from operations on keys: plain, frozen data. `schemas` has the answers about the cluster."""

from __future__ import annotations

import msgspec

__all__ = [
    "CompactResult",
    "DeleteResult",
    "KeyEvent",
    "GrantedLease",
    "KeyInfo",
    "KeyPage",
    "KeyValue",
    "LeaseDetails",
    "LeaseSummary",
    "OperationResult",
    "PutResult",
    "RevisionEvents",
    "RevokeResult",
    "TouchResult",
    "TxnResult",
]


class CompactResult(msgspec.Struct, frozen=True):
    """A compaction. `oldest` is the oldest revision that can be read now."""

    oldest: int


class KeyValue(msgspec.Struct, frozen=True):
    """One key as it was read. `mod_revision` is the revision of its last change, `revision` the store's."""

    key: bytes
    value: bytes
    mod_revision: int
    revision: int


class PutResult(msgspec.Struct, frozen=True):
    """A write: `revision` is the store's after it, and the key's `mod_revision`.

    `lease`: the key's own lease (16 hexadecimal digits), if it was written with a TTL.
    """

    revision: int
    lease: str = ""


class GrantedLease(msgspec.Struct, frozen=True):
    """A lease with its full time, `ttl_s` seconds. `id` is 16 hexadecimal digits."""

    id: str
    ttl_s: float


class LeaseDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A lease: `ttl_s` of `granted_ttl_s` seconds are left. `more`: it has more keys than these."""

    id: str
    ttl_s: float
    granted_ttl_s: float
    keys: tuple[bytes, ...]
    more: bool = False


class LeaseSummary(msgspec.Struct, frozen=True):
    """A lease of the list: its full time in seconds, and how many keys it has."""

    id: str
    granted_ttl_s: float
    keys: int


class RevokeResult(msgspec.Struct, frozen=True):
    """A lease that was ended: how many keys went with it, and the store's revision."""

    deleted: int
    revision: int


class TouchResult(msgspec.Struct, frozen=True):
    """A key with its full time: its own lease (16 hexadecimal digits), and the store's revision."""

    revision: int
    lease: str
    ttl_s: float


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


class KeyEvent(msgspec.Struct, frozen=True):
    """One change of one key. `type` is put or delete; a deleted key has no value, and `version` 0.

    `previous` is the key before the change, if that was asked for and it existed.
    """

    type: str
    key: bytes
    value: bytes
    create_revision: int
    version: int
    lease: int = 0
    previous: KeyInfo | None = None


class RevisionEvents(msgspec.Struct, frozen=True):
    """All changes of one revision that a watch is of, in order. To go on behind it, watch from `revision + 1`."""

    revision: int
    events: tuple[KeyEvent, ...]


class OperationResult(msgspec.Struct, frozen=True):
    """The result of one operation of a transaction or batch. `op` decides which fields are set.

    - put: `revision`, `created`; `lease` (16 hexadecimal digits) if it got a lease of its own.
    - delete and delete_range: `deleted` (how many), `revision`; `more` if a limit left some.
    - get: `key` and `found`, and if it was found `value`, `mod_revision`, `create_revision`, `version`, `lease`.
    - range: `items`, `count` (in the whole range), `more`.
    - increment: `number`, `revision`. touch: `lease`, `revision`.
    - txn: `succeeded`, `revision`, `results`.

    `previous`: what was replaced or deleted, if the operation asked for it.
    """

    op: str
    revision: int = 0
    deleted: int = 0
    found: bool = False
    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0
    create_revision: int = 0
    version: int = 0
    lease: str = ""
    created: bool = False
    number: int = 0
    count: int = 0
    more: bool = False
    succeeded: bool = False
    items: tuple[KeyInfo, ...] = ()
    previous: tuple[KeyInfo, ...] = ()
    results: tuple[OperationResult, ...] = ()


class TxnResult(msgspec.Struct, frozen=True):
    """A transaction: whether its compares held, and the results of the branch that ran."""

    succeeded: bool
    revision: int
    results: tuple[OperationResult, ...]
