"""The records, in memory: by key, in order, with one revision for the whole store.

Records are immutable and untracked by the garbage collector, so a million of them neither cost a collection nor have
to be copied for a snapshot. They live in `BUCKETS` dictionaries; a view shares all of them, and a shared one is copied
before it is first changed. A view therefore costs some tens of microseconds whatever is stored. Any number of views may
be open, and a released one needs no merging back. (Copying one dictionary of a million records takes 35 to 170 ms,
which is a pause every client sees.)

Revisions are etcd's: each write transaction that changes something takes the next one, and all its changes carry it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from syncline.kv.commands import MAX_RANGE_BYTES, MAX_RANGE_ITEMS
from syncline.kv.digest import content_checksum, record_checksum, state_digest
from syncline.kv.key_index import KeyIndex
from syncline.kv.records import KeyRecord, RangePage
from syncline.kv.sizes import RECORD_OVERHEAD_BYTES, record_size

__all__ = ["Store", "StoreTooLarge", "StoreView", "prefix_end"]

BUCKETS: Final = 8192
"""Dictionaries that hold the records; a power of two. A million keys make 122 each: a few microseconds to copy."""

_MASK: Final = BUCKETS - 1
_PAGE_STEP: Final = 256
"""Keys that are read before the bytes of a page are counted again."""


def prefix_end(prefix: bytes) -> bytes | None:
    """The end of the range of all keys with this prefix: the least key above them, None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


class StoreView:
    """The store as it stood at `revision`, in key order; for reading on any thread beside the store's writer."""

    __slots__ = ("_buckets", "_chunks", "count", "digest", "revision")

    def __init__(
        self, revision: int, count: int, digest: int, chunks: list[list[bytes]], buckets: list[_Bucket]
    ) -> None:
        self.revision: int = revision
        self.count: int = count
        self.digest: int = digest
        self._chunks = chunks
        self._buckets = buckets

    def __iter__(self) -> Iterator[list[KeyRecord]]:
        """The records in ascending order of their keys, some hundreds at a time."""
        buckets = self._buckets
        for chunk in self._chunks:
            yield [buckets[hash(key) & _MASK][key] for key in chunk]

    def release(self) -> None:
        """Release the records, a few at a time: freeing a million at once would block every other thread."""
        while self._chunks:
            self._chunks.pop()
        while self._buckets:
            self._buckets.pop()


_Bucket = dict[bytes, KeyRecord]


class StoreTooLarge(Exception):
    """More records than fit. `size_bytes`: the size of the records that were loaded so far."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the records count for more than {size_bytes} bytes")
        self.size_bytes = size_bytes


class Store:
    """The state. One thread writes and reads it; views go to others.

    Writing takes the revision that the change belongs to: the current one plus one, the same for all changes of one
    transaction. Everything is deterministic: it depends on the sequence of the calls alone.
    """

    __slots__ = ("_buckets", "_checksums", "_index", "_owned", "revision", "size_bytes")

    def __init__(self) -> None:
        self.revision: int = 0
        """The revision of the latest change; 0: none yet."""
        self._index = KeyIndex()
        self._buckets: list[_Bucket] = [{}] * BUCKETS
        self._owned = bytearray(BUCKETS)  # 0: a view shares the bucket (at first they are all one, the empty one)
        self._checksums = 0
        self.size_bytes: int = 0
        """The size of all records (`sizes`)."""

    @classmethod
    def from_records(cls, revision: int, batches: Iterator[list[KeyRecord]], *, max_bytes: int = 0) -> Store:
        """A store of these records, whose keys must ascend strictly; raises ValueError for any that can't be.

        It stops with `StoreTooLarge` as soon as they count for more than `max_bytes` (0: no limit).
        """
        store = cls()
        store.revision = revision
        for batch in batches:
            store._load(batch)
            if max_bytes and store.size_bytes > max_bytes:
                raise StoreTooLarge(store.size_bytes)
        return store

    def __len__(self) -> int:
        return len(self._index)

    @property
    def digest(self) -> int:
        """128 bits that equal stores share and that different ones almost surely do not."""
        return state_digest(self.revision, len(self._index), self._checksums)

    def get(self, key: bytes) -> KeyRecord | None:
        """The record of a key, if it exists."""
        return self._buckets[hash(key) & _MASK].get(key)

    def range(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        limit: int = 0,
        after: bytes | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        max_bytes: int = MAX_RANGE_BYTES,
    ) -> RangePage:
        """One page of the keys in `[start, end)`; `end` None: to the last key.

        `limit` 0: as many as a page may hold (`MAX_RANGE_ITEMS`, and `max_bytes` of keys and values; one record is
        always returned). `after` is the last key of the page before. `keys_only` leaves the values out.
        """
        assert limit >= 0
        count = self._index.count(start, end)
        if count_only:
            return RangePage([], count > 0, self.revision, count)
        if after is not None:
            if reverse:
                end = after if end is None else min(end, after)
            else:
                start = max(start, after + b"\0")
        limit = min(limit or MAX_RANGE_ITEMS, MAX_RANGE_ITEMS)
        items, full = self._collect(start, end, limit, reverse, keys_only, max_bytes)
        if not full and len(items) < limit:
            return RangePage(items, False, self.revision, count)
        if not items:
            return RangePage(items, count > 0, self.revision, count)
        rest = (start, items[-1].key) if reverse else (items[-1].key + b"\0", end)
        return RangePage(items, bool(self._index.first(*rest, 1)), self.revision, count)

    def count(self, start: bytes, end: bytes | None) -> int:
        """How many keys are in `[start, end)`."""
        return self._index.count(start, end)

    def put(self, key: bytes, value: bytes, lease: int, revision: int) -> KeyRecord | None:
        """Set a key; the record it replaces, if any."""
        assert 0 <= revision - self.revision <= 1
        place = hash(key) & _MASK
        bucket = self._buckets[place] if self._owned[place] else self._own(place)
        previous = bucket.get(key)
        if previous is None:
            checksum = content_checksum(key, value, revision, revision, 1, lease)
            record = KeyRecord(key, value, revision, revision, 1, lease, checksum)
            self._index.add(key)
            self._checksums += checksum
            self.size_bytes += len(key) + len(value) + RECORD_OVERHEAD_BYTES
        else:
            key = previous.key  # the object that the index holds too
            created = previous.create_revision
            version = previous.version + 1
            checksum = content_checksum(key, value, created, revision, version, lease)
            record = KeyRecord(key, value, created, revision, version, lease, checksum)
            self._checksums += checksum - previous.checksum
            self.size_bytes += len(value) - len(previous.value)
        bucket[key] = record
        self.revision = revision
        return previous

    def delete(self, key: bytes, revision: int) -> KeyRecord | None:
        """Remove a key; the record that went. Without one nothing changes, the revision included."""
        assert 0 <= revision - self.revision <= 1
        place = hash(key) & _MASK
        if key not in self._buckets[place]:
            return None
        bucket = self._buckets[place] if self._owned[place] else self._own(place)
        previous = bucket.pop(key)
        self._index.remove(key)
        self._checksums -= previous.checksum
        self.size_bytes -= record_size(key, previous.value)
        self.revision = revision
        return previous

    def delete_range(self, start: bytes, end: bytes | None, limit: int, revision: int) -> int:
        """Remove the first `limit` keys of `[start, end)`; how many went."""
        keys = self._index.first(start, end, limit)
        for key in keys:
            self.delete(key, revision)
        return len(keys)

    def view(self) -> StoreView:
        """The store as it stands now, unaffected by later changes."""
        self._owned = bytearray(BUCKETS)
        return StoreView(self.revision, len(self._index), self.digest, self._index.freeze(), self._buckets.copy())

    def check(self) -> None:
        """Assert the invariants, the incremental digest among them; for tests."""
        self._index.check()
        keys = self._index.first(b"", None, len(self._index))
        records = [self._buckets[hash(key) & _MASK][key] for key in keys]
        assert sum(map(len, self._buckets)) == len(keys)
        assert keys == [record.key for record in records]
        assert all(0 < one.create_revision <= one.mod_revision <= self.revision for one in records)
        assert self.size_bytes == sum(record_size(one.key, one.value) for one in records)
        assert self.digest == state_digest(self.revision, len(keys), sum(map(record_checksum, records)))

    def _load(self, records: list[KeyRecord]) -> None:
        self._index.extend([record.key for record in records])
        total = size_bytes = 0
        for record in records:
            key = record.key
            checksum = record_checksum(record)
            if checksum != record.checksum:
                raise ValueError(f"the checksum of key {key[:64]!r} is wrong")
            if not 0 < record.create_revision <= record.mod_revision <= self.revision:
                raise ValueError(f"key {key[:64]!r} of revision {record.mod_revision} in a store at {self.revision}")
            total += checksum
            size_bytes += record_size(key, record.value)
            place = hash(key) & _MASK
            bucket = self._buckets[place] if self._owned[place] else self._own(place)
            bucket[key] = record
        self._checksums += total
        self.size_bytes += size_bytes

    def _own(self, place: int) -> _Bucket:
        bucket = self._buckets[place] = self._buckets[place].copy()
        self._owned[place] = 1
        return bucket

    def _collect(
        self, start: bytes, end: bytes | None, limit: int, reverse: bool, keys_only: bool, max_bytes: int
    ) -> tuple[list[KeyRecord], bool]:
        """Up to `limit` records, and whether `max_bytes` was met before."""
        items: list[KeyRecord] = []
        size_bytes = 0
        while len(items) < limit:
            step = min(_PAGE_STEP, limit - len(items))
            keys = self._index.last(start, end, step) if reverse else self._index.first(start, end, step)
            for key in keys:
                record = self._buckets[hash(key) & _MASK][key]
                if keys_only:
                    record = _without_value(record)
                size_bytes += len(key) + len(record.value)
                if size_bytes > max_bytes and items:
                    return items, True
                items.append(record)
            if len(keys) < step:
                break
            if reverse:
                end = keys[-1]
            else:
                start = keys[-1] + b"\0"
        return items, False


def _without_value(record: KeyRecord) -> KeyRecord:
    return KeyRecord(record.key, b"", record.create_revision, record.mod_revision, record.version, record.lease)
