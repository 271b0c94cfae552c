"""The leases of a store: which there are, what the log knows of their time, and which keys belong to them.

No clock is here. The log grants, renews and ends leases; the leader's clock decides when it proposes that
(`kv/lessor.py`). Everything is deterministic, the order of the leases included: they are in the order of their grants,
also after a snapshot was loaded.

A key has at most one lease. A lease of its own (`LeaseRecord.own`) belongs to one key, and is gone as soon as that key
is deleted or gets another lease.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from syncline.errors import Rejected
from syncline.kv.limits import MAX_LEASE_ID, MAX_LEASE_KEYS, MAX_LEASES, MAX_TTL_MS
from syncline.kv.records import LeaseRecord

__all__ = [
    "ATTACHED_KEY_BYTES",
    "LEASE_OVERHEAD_BYTES",
    "LeaseBook",
    "LeaseEvent",
    "LeaseObserver",
    "lease_checksum",
]

LEASE_OVERHEAD_BYTES: Final = 512
"""Memory of a lease: its record and numbers, its places in the dictionaries, and the set of its keys. Measured with one
key: 265 bytes for a lease of its own, 445 for another."""

ATTACHED_KEY_BYTES: Final = 64
"""Memory of a key's place among the keys of its lease."""

CHECKSUM_BYTES: Final = 7
"""Bytes of the SHA-256 that a lease's checksum keeps, as a key's does (`kv.digest`)."""

_encode = msgspec.msgpack.Encoder().encode


class LeaseEvent(IntEnum):
    """What happened to a lease."""

    GRANTED = 0
    RENEWED = 1
    """A touch or a checkpoint gave it its full time."""
    CHECKPOINTED = 2
    """What is left of its time was recorded."""
    ENDED = 3


LeaseObserver: TypeAlias = Callable[[LeaseEvent, LeaseRecord], None]
"""Called at each event with the lease's record: the new one, or the last one if it ended. Must not raise."""


def lease_checksum(lease: LeaseRecord) -> int:
    """The checksum (56 bits) of a lease. Its keys are not in it: their own records name the lease."""
    return int.from_bytes(hashlib.sha256(_encode(lease)).digest()[:CHECKSUM_BYTES], "big")


class LeaseBook:
    """The leases of one store."""

    __slots__ = ("_keys", "_leases", "_observers", "_own_keys", "checksum_sum", "index", "size_bytes")

    def __init__(self) -> None:
        self._leases: dict[int, LeaseRecord] = {}
        self._own_keys: dict[int, bytes] = {}  # of leases of one key
        self._keys: dict[int, set[bytes]] = {}  # of all other leases
        self._observers: list[LeaseObserver] = []
        self.index: int = 0
        """The index of the log entry that is applied at the moment, for `LeaseRecord.renewed`; no part of the state."""
        self.checksum_sum: int = 0
        """The sum of the checksums of all leases; part of the store's digest."""
        self.size_bytes: int = 0
        """The memory of all leases and of their keys' places, for the store's limit."""

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: int) -> bool:
        return lease in self._leases

    def get(self, lease: int) -> LeaseRecord | None:
        """The record of a lease, if it exists."""
        return self._leases.get(lease)

    def records(self) -> Iterable[LeaseRecord]:
        """The records of all leases, in the order of their grants. Don't change the book during the iteration."""
        return self._leases.values()

    def view(self) -> tuple[LeaseRecord, ...]:
        """The records of all leases as they are now, for a snapshot."""
        return tuple(self._leases.values())

    def keys(self, lease: int) -> list[bytes]:
        """The keys of a lease in ascending order; none for an unknown lease."""
        own = self._own_keys.get(lease)
        return sorted(self._keys.get(lease, ())) if own is None else [own]

    def key_count(self, lease: int) -> int:
        """How many keys the lease has."""
        return len(self._keys.get(lease, ())) + (lease in self._own_keys)

    def observe(self, observer: LeaseObserver) -> None:
        """Call `observer` at each event from now on. A restored store has a new book, without observers."""
        self._observers.append(observer)

    # -- refusals ------------------------------------------------------------------------------------------------------

    def check_grant(self, lease: int, granted: int = 0) -> None:
        """Raise `Rejected` if the lease can't be granted: `lease_exists`, or `limit` above `MAX_LEASES`.

        `granted`: leases that the same transaction grants before this one.
        """
        if lease in self._leases:
            raise Rejected(
                f"there is a lease {lease:016x} already: choose another id",
                code="lease_exists",
                details={"lease": f"{lease:016x}"},
            )
        if len(self._leases) + granted >= MAX_LEASES:
            raise Rejected(
                f"there are {len(self._leases)} leases, and the limit is {MAX_LEASES}: end some, or share leases"
                " between keys",
                code="limit",
                details={"limit": MAX_LEASES},
            )

    def check_attach(self, lease: int, key: bytes, joining: int = 0) -> None:
        """Raise `Rejected` if the key can't be attached to the lease: `lease_not_found`, or `lease_full`.

        `joining`: keys that the same transaction attaches to the lease before this one.
        """
        record = self.find(lease)
        if record.own:
            if self._own_keys.get(lease, key) != key:
                raise _full(lease, 1)
        elif key not in self._keys[lease] and len(self._keys[lease]) + joining >= MAX_LEASE_KEYS:
            raise _full(lease, MAX_LEASE_KEYS)

    def find(self, lease: int) -> LeaseRecord:
        """The record of a lease. Raises `Rejected` (`lease_not_found`) if there is none."""
        record = self._leases.get(lease)
        if record is None:
            raise Rejected(
                f"there is no lease {lease:016x}: it was never granted, or it has ended",
                code="lease_not_found",
                details={"lease": f"{lease:016x}"},
            )
        return record

    # -- changes -------------------------------------------------------------------------------------------------------

    def grant(self, lease: int, ttl_ms: int, own: bool = False) -> LeaseRecord:
        """Add a lease with its full time. It must not exist (`check_grant`)."""
        assert lease not in self._leases, lease
        record = LeaseRecord(lease, ttl_ms, ttl_ms, own, self.index)
        self._add(record)
        self._tell(LeaseEvent.GRANTED, record)
        return record

    def renew(self, lease: int, ttl_ms: int) -> LeaseRecord:
        """Give a lease another TTL, and its full time."""
        before = self._leases[lease]
        record = replace(before, ttl_ms=ttl_ms, rest_ms=ttl_ms, renewed=self.index)
        self._set(before, record)
        self._tell(LeaseEvent.RENEWED, record)
        return record

    def checkpoint(self, lease: int, rest_ms: int) -> LeaseRecord:
        """Record what is left of a lease's time. The TTL or more gives it its full time."""
        before = self._leases[lease]
        if rest_ms >= before.ttl_ms:
            return self.renew(lease, before.ttl_ms)
        record = replace(before, rest_ms=rest_ms)
        self._set(before, record)
        self._tell(LeaseEvent.CHECKPOINTED, record)
        return record

    def end(self, lease: int) -> LeaseRecord:
        """Remove a lease. Its keys must be gone, or have another lease."""
        assert self.key_count(lease) == 0, (lease, self.key_count(lease))
        record = self._leases.pop(lease)
        self._keys.pop(lease, None)
        self.checksum_sum -= lease_checksum(record)
        self.size_bytes -= LEASE_OVERHEAD_BYTES
        self._tell(LeaseEvent.ENDED, record)
        return record

    def moved(self, key: bytes, old_lease: int, new_lease: int) -> None:
        """Move a key from one lease to another; 0 is none. A lease of its own that loses its key ends."""
        if old_lease == new_lease:
            return
        if old_lease:
            self.detach(old_lease, key)
            if self._leases[old_lease].own:
                self.end(old_lease)
        if new_lease:
            self.attach(new_lease, key)

    def attach(self, lease: int, key: bytes) -> None:
        """Add a key to a lease that has room for it (`check_attach`)."""
        if self._leases[lease].own:
            assert lease not in self._own_keys, lease
            self._own_keys[lease] = key
        else:
            assert key not in self._keys[lease], (lease, key)
            self._keys[lease].add(key)
        self.size_bytes += ATTACHED_KEY_BYTES

    def detach(self, lease: int, key: bytes) -> None:
        """Take a key from its lease."""
        if self._leases[lease].own:
            removed = self._own_keys.pop(lease)
            assert removed == key, (lease, key, removed)
        else:
            self._keys[lease].remove(key)
        self.size_bytes -= ATTACHED_KEY_BYTES

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def load(self, records: Iterable[LeaseRecord]) -> None:
        """Add leases from a snapshot, in its order. Raises ValueError for any that can't be.

        Then `load_key` each key with a lease, and call `check_loaded`.
        """
        for record in records:
            if not (0 < record.id <= MAX_LEASE_ID and 0 < record.rest_ms <= record.ttl_ms <= MAX_TTL_MS):
                raise ValueError(f"a lease {record.id} with a TTL of {record.ttl_ms} ms, {record.rest_ms} of it left")
            if record.id in self._leases or len(self._leases) >= MAX_LEASES or record.renewed < 0:
                raise ValueError(
                    f"the lease {record.id:016x} is there twice, above the limit, or renewed by entry {record.renewed}"
                )
            self._add(record)

    def load_key(self, lease: int, key: bytes) -> None:
        """Attach a key from a snapshot. Raises ValueError if the lease is unknown, or has no room for it."""
        record = self._leases.get(lease)
        if record is None or self.key_count(lease) >= (1 if record.own else MAX_LEASE_KEYS):
            raise ValueError(f"key {key[:64]!r} with the lease {lease:016x}, which is unknown or full")
        self.attach(lease, key)

    def check_loaded(self) -> None:
        """Raise ValueError for a lease of one key whose key the snapshot does not hold."""
        for record in self._leases.values():
            if record.own and record.id not in self._own_keys:
                raise ValueError(f"the lease {record.id:016x} belongs to one key, which does not exist")

    def check(self) -> None:
        """Assert the invariants; for tests."""
        own = {lease for lease, record in self._leases.items() if record.own}
        assert self._own_keys.keys() == own
        assert self._keys.keys() == self._leases.keys() - own
        assert all(lease == record.id for lease, record in self._leases.items())
        assert all(0 < one.rest_ms <= one.ttl_ms <= MAX_TTL_MS for one in self._leases.values())
        assert self.checksum_sum == sum(map(lease_checksum, self._leases.values()))
        attached = len(self._own_keys) + sum(map(len, self._keys.values()))
        assert self.size_bytes == len(self._leases) * LEASE_OVERHEAD_BYTES + attached * ATTACHED_KEY_BYTES

    def _add(self, record: LeaseRecord) -> None:
        self._leases[record.id] = record
        if not record.own:
            self._keys[record.id] = set()
        self.checksum_sum += lease_checksum(record)
        self.size_bytes += LEASE_OVERHEAD_BYTES

    def _set(self, before: LeaseRecord, record: LeaseRecord) -> None:
        self._leases[record.id] = record
        self.checksum_sum += lease_checksum(record) - lease_checksum(before)

    def _tell(self, event: LeaseEvent, record: LeaseRecord) -> None:
        for observer in self._observers:
            observer(event, record)


def _full(lease: int, limit: int) -> Rejected:
    return Rejected(
        f"the lease {lease:016x} has its {limit} keys: it can't hold another one",
        code="lease_full",
        details={"lease": f"{lease:016x}", "limit": limit},
    )
