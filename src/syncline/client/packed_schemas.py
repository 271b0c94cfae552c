"""The MessagePack of `POST /batch`: the structs of `schemas` with their bytes as they are.

Each field that JSON splits in two (`key` and `key_base64`) is one here, `bin` under the plain name. In Python it has
the name of the second one, and the first is never given: so the same code handles both forms.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from syncline.client.schemas import (
    Count,
    ErrorBody,
    ExpectedRevision,
    MaybeBytes,
    MaybeText,
    Number,
    Revision,
    Sequence,
    SessionId,
)

__all__ = [
    "PackedBatchAnswer",
    "PackedBatchBody",
    "PackedCompare",
    "PackedDelete",
    "PackedDeleteRange",
    "PackedGet",
    "PackedIncrement",
    "PackedKey",
    "PackedOnce",
    "PackedOperation",
    "PackedPut",
    "PackedRange",
    "PackedResult",
    "PackedTouch",
    "PackedTxn",
]


class PackedCompare(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One condition of a transaction."""

    key: ClassVar[UnsetType] = UNSET
    key_base64: MaybeBytes = msgspec.field(name="key", default=UNSET)
    end: ClassVar[UnsetType] = UNSET
    end_base64: MaybeBytes = msgspec.field(name="end", default=UNSET)
    prefix: ClassVar[UnsetType] = UNSET
    prefix_base64: MaybeBytes = msgspec.field(name="prefix", default=UNSET)
    op: str = "=="
    target: str = "mod_revision"
    number: int | UnsetType = UNSET
    value: ClassVar[UnsetType] = UNSET
    value_base64: MaybeBytes = msgspec.field(name="value", default=UNSET)
    lease: MaybeText = UNSET


class PackedOnce(msgspec.Struct, kw_only=True):
    """What an operation takes effect once by."""

    session: SessionId | UnsetType = UNSET
    sequence: Sequence | UnsetType = UNSET


class PackedPut(PackedOnce, tag_field="op", tag="put", forbid_unknown_fields=True, kw_only=True):
    """Write a key."""

    key: ClassVar[UnsetType] = UNSET
    key_base64: bytes = msgspec.field(name="key")
    value: ClassVar[UnsetType] = UNSET
    value_base64: bytes = msgspec.field(name="value")
    lease: MaybeText = UNSET
    ttl: MaybeText = UNSET
    prev: bool = False
    if_revision: ExpectedRevision | UnsetType = UNSET
    if_absent: bool = False
    if_present: bool = False


class PackedDelete(PackedOnce, tag_field="op", tag="delete", forbid_unknown_fields=True, kw_only=True):
    """Delete a key."""

    key: ClassVar[UnsetType] = UNSET
    key_base64: bytes = msgspec.field(name="key")
    prev: bool = False
    if_revision: ExpectedRevision | UnsetType = UNSET
    if_absent: bool = False
    if_present: bool = False


class PackedGet(msgspec.Struct, tag_field="op", tag="get", forbid_unknown_fields=True, kw_only=True):
    """Read a key."""

    key: ClassVar[UnsetType] = UNSET
    key_base64: bytes = msgspec.field(name="key")
    revision: Revision | UnsetType = UNSET


class PackedIncrement(PackedOnce, tag_field="op", tag="increment", forbid_unknown_fields=True, kw_only=True):
    """Add to a decimal number."""

    key: ClassVar[UnsetType] = UNSET
    key_base64: bytes = msgspec.field(name="key")
    by: Number = 1
    initial: Number = 0
    prev: bool = False


class PackedTouch(PackedOnce, tag_field="op", tag="touch", forbid_unknown_fields=True, kw_only=True):
    """Give a key a time to live."""

    key: ClassVar[UnsetType] = UNSET
    key_base64: bytes = msgspec.field(name="key")
    ttl: str


class PackedBounds(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A range of keys."""

    prefix: ClassVar[UnsetType] = UNSET
    prefix_base64: MaybeBytes = msgspec.field(name="prefix", default=UNSET)
    start: ClassVar[UnsetType] = UNSET
    start_base64: MaybeBytes = msgspec.field(name="start", default=UNSET)
    end: ClassVar[UnsetType] = UNSET
    end_base64: MaybeBytes = msgspec.field(name="end", default=UNSET)
    limit: Count = 0


class PackedDeleteRange(PackedBounds, tag_field="op", tag="delete_range", forbid_unknown_fields=True, kw_only=True):
    """Delete the keys of a range."""

    session: SessionId | UnsetType = UNSET
    sequence: Sequence | UnsetType = UNSET
    prev: bool = False


class PackedRange(PackedBounds, tag_field="op", tag="range", forbid_unknown_fields=True, kw_only=True):
    """Read the keys of a range."""

    reverse: bool = False
    values: bool = False
    revision: Revision | UnsetType = UNSET


class PackedTxn(PackedOnce, tag_field="op", tag="txn", forbid_unknown_fields=True, kw_only=True):
    """A transaction."""

    compare: tuple[PackedCompare, ...] = ()
    then: tuple[PackedOperation, ...] = ()
    else_: tuple[PackedOperation, ...] = msgspec.field(name="else", default=())


PackedOperation: TypeAlias = (
    PackedPut | PackedDelete | PackedGet | PackedDeleteRange | PackedRange | PackedIncrement | PackedTouch | PackedTxn
)


class PackedBatchBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is asked."""

    ops: list[PackedOperation]


class PackedKey(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A key in an answer."""

    key: ClassVar[UnsetType] = UNSET
    key_base64: bytes = msgspec.field(name="key")
    mod_revision: int
    create_revision: int
    version: int
    size_bytes: int | UnsetType = UNSET
    lease: MaybeText = UNSET
    value: ClassVar[UnsetType] = UNSET
    value_base64: MaybeBytes = msgspec.field(name="value", default=UNSET)


class PackedResult(msgspec.Struct, kw_only=True):
    """The result of one operation: see `ResultItem`."""

    status: int | UnsetType = UNSET
    op: MaybeText = UNSET
    error: ErrorBody | UnsetType = UNSET
    replayed: bool | UnsetType = UNSET
    succeeded: bool | UnsetType = UNSET
    results: list[PackedResult] | UnsetType = UNSET
    found: bool | UnsetType = UNSET
    key: ClassVar[UnsetType] = UNSET
    key_base64: MaybeBytes = msgspec.field(name="key", default=UNSET)
    mod_revision: int | UnsetType = UNSET
    create_revision: int | UnsetType = UNSET
    version: int | UnsetType = UNSET
    size_bytes: int | UnsetType = UNSET
    lease: MaybeText = UNSET
    value: int | bytes | UnsetType = UNSET
    value_base64: ClassVar[UnsetType] = UNSET
    keys: list[PackedKey] | UnsetType = UNSET
    count: int | UnsetType = UNSET
    deleted: int | UnsetType = UNSET
    more: bool | UnsetType = UNSET
    revision: int | UnsetType = UNSET
    created: bool | UnsetType = UNSET
    prev: PackedKey | list[PackedKey] | UnsetType = UNSET


class PackedBatchAnswer(msgspec.Struct, kw_only=True):
    """What is answered."""

    results: list[PackedResult]
