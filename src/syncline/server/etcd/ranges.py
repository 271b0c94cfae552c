"""Ranges of keys, and reads of them, by etcd's rules: for `Range`, and for the reads of a transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

import msgspec

from syncline.kv.limits import MAX_KEY_BYTES
from syncline.kv.records import KeyRecord
from syncline.server.etcd.errors import INVALID_ARGUMENT, NOT_FOUND, EtcdError
from syncline.server.etcd.messages import Message

__all__ = ["RangePlan", "bounds_of", "check_key_size", "key_value", "no_key", "no_lease"]

_ASCEND, _DESCEND = 1, 2
_KEY, _VALUE = 0, 4

_SORT: Final[dict[int, Callable[[KeyRecord], object]]] = {
    0: lambda record: record.key,
    1: lambda record: record.version,
    2: lambda record: record.create_revision,
    3: lambda record: record.mod_revision,
    4: lambda record: record.value,
}
"""By sort target: what is compared."""


def no_key() -> EtcdError:
    """The refusal of a request without a key."""
    return EtcdError(INVALID_ARGUMENT, "etcdserver: key is not provided")


def no_lease() -> EtcdError:
    """The refusal of a lease that is not there, such as one with a negative id."""
    return EtcdError(NOT_FOUND, "etcdserver: requested lease not found")


def check_key_size(message: Message) -> None:
    """Raise `EtcdError` if `key`, `range_end` or `name` is longer than a key can be: for what is kept for long."""
    for name in ("key", "range_end", "name"):
        if len(cast("bytes", message.get(name, b""))) > MAX_KEY_BYTES + 1:  # the end behind a key has one more
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: request is too large")


def bounds_of(message: Message) -> tuple[bytes, bytes | None]:
    """The range `[start, end)` of the fields `key` and `range_end`; `end` None: to the last key.

    Without `range_end` it is the key alone. `range_end` of one zero byte: from the key on. Below the key: no key.
    Raises `EtcdError` if there is no key.
    """
    key, end = cast("bytes", message.get("key", b"")), cast("bytes", message.get("range_end", b""))
    if not key:
        raise no_key()
    if not end:
        return key, key + b"\0"
    if end == b"\0":
        return key, None
    return key, max(key, end)


def key_value(record: KeyRecord) -> Message:
    """A record as etcd's KeyValue."""
    return {
        "key": record.key,
        "create_revision": record.create_revision,
        "mod_revision": record.mod_revision,
        "version": record.version,
        "value": record.value,
        "lease": record.lease,
    }


class RangePlan(msgspec.Struct, frozen=True, gc=False):
    """One RangeRequest, checked. Raises `EtcdError` for what etcd refuses."""

    start: bytes
    end: bytes | None
    single: bool
    """It names one key, not a range."""
    limit: int
    revision: int
    order: int
    target: int
    keys_only: bool
    count_only: bool
    least_mod: int
    most_mod: int
    least_create: int
    most_create: int

    @classmethod
    def of(cls, message: Message) -> RangePlan:
        """The plan of a RangeRequest. Raises `EtcdError`."""
        start, end = bounds_of(message)
        if len(message) == 1:  # most reads name a key alone
            return cls(start, end, True, 0, 0, 0, 0, False, False, 0, 0, 0, 0)
        order, target = _number(message, "sort_order"), _number(message, "sort_target")
        if order not in (0, _ASCEND, _DESCEND) or target not in _SORT:
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: invalid sort option")
        return cls(
            start,
            end,
            not message.get("range_end"),
            max(0, _number(message, "limit")),
            max(0, _number(message, "revision")),
            order,
            target,
            bool(message.get("keys_only")),
            bool(message.get("count_only")),
            _number(message, "min_mod_revision"),
            _number(message, "max_mod_revision"),
            _number(message, "min_create_revision"),
            _number(message, "max_create_revision"),
        )

    @property
    def filters(self) -> bool:
        """Whether it leaves out records by their revisions."""
        return bool(self.least_mod or self.most_mod or self.least_create or self.most_create)

    @property
    def sorts(self) -> bool:
        """Whether it sorts by anything but the key."""
        return self.target != _KEY

    @property
    def reverse(self) -> bool:
        """Whether the keys are read from the last to the first."""
        return self.order == _DESCEND and not self.sorts

    @property
    def needs_all(self) -> bool:
        """Whether all records of the range must be read, whatever the limit."""
        return self.filters or self.sorts

    @property
    def read_limit(self) -> int:
        """How many records must be read; 0: all."""
        return 0 if self.needs_all else self.limit

    @property
    def reads_keys_only(self) -> bool:
        """Whether the values need not be read."""
        return self.keys_only and self.target != _VALUE

    def answer(self, records: list[KeyRecord], count: int, *, more: bool) -> Message:
        """The RangeResponse without a header, from the records that were read. `more`: others were left."""
        if self.filters:
            records = [record for record in records if self._takes(record)]
        if self.sorts:
            # A target without an order sorts in ascending order, as etcd does.
            records = sorted(records, key=_comparable(_SORT[self.target]), reverse=self.order == _DESCEND)
        if self.needs_all and self.limit and len(records) > self.limit:
            records, more = records[: self.limit], True
        kvs = [key_value(record) for record in records]
        if self.keys_only:
            for kv in kvs:
                kv["value"] = b""
        return {"kvs": kvs, "more": more, "count": count}

    def _takes(self, record: KeyRecord) -> bool:
        return (
            record.mod_revision >= self.least_mod
            and (not self.most_mod or record.mod_revision <= self.most_mod)
            and record.create_revision >= self.least_create
            and (not self.most_create or record.create_revision <= self.most_create)
        )


def _comparable(key: Callable[[KeyRecord], object]) -> Callable[[KeyRecord], int]:
    return cast("Callable[[KeyRecord], int]", key)


def _number(message: Message, name: str) -> int:
    return cast("int", message.get(name, 0))
