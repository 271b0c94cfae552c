"""The records, in memory: by key, in order, with one revision for the whole store.

Records are immutable and untracked by the garbage collector. A million of them neither cost a collection nor have to
be copied for a snapshot. They live in `BUCKETS` dictionaries; a view shares all of them, and a shared one is copied
before it is first changed. A view therefore costs some tens of microseconds whatever is stored. Any number of views may
be open, and a released one needs no merging back. (Copying one dictionary of a million records takes 35 to 170 ms,
which is a pause every client sees.)

Revisions are etcd's: each write transaction that changes something takes the next one, and all its changes carry it.
Each revision from `oldest` on can be read (`kv.history`); compaction moves `oldest` up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from syncline.errors import Rejected
from syncline.kv.auth.records import AuthRecord
from syncline.kv.auth.state import AuthState
from syncline.kv.commands import MAX_RANGE_BYTES, MAX_RANGE_ITEMS
from syncline.kv.digest import content_checksum, record_checksum, state_digest, state_digest_v1
from syncline.kv.history import History, HistoryView
from syncline.kv.key_index import KeyIndex
from syncline.kv.leases import LeaseBook
from syncline.kv.records import Change, KeyRecord, LeaseRecord, RangePage, is_sound
from syncline.kv.sizes import RECORD_OVERHEAD_BYTES, record_size

__all__ = ["KeyStore", "StoreTooLarge", "StoreView", "prefix_end"]

BUCKETS: Final = 8192
"""Dictionaries that hold the records; a power of two. A million keys make 122 each: a few microseconds to copy."""

_MASK: Final = BUCKETS - 1

_RELEASED_AT_ONCE: Final = 16
"""Buckets that a view releases in one step: with a million records 2,000 records, in some 0.2 ms. For a small store the
8,192 steps of one bucket each cost more than all else that a snapshot does."""

_PAGE_STEP: Final = 256
"""Keys that are read before the bytes of a page are counted again."""

MAX_EXAMINED_KEYS: Final = 10_000
"""Keys that one page at a past revision looks at. Keys that did not exist then are on its way too."""


def prefix_end(prefix: bytes) -> bytes | None:
    """The end of the range of all keys with this prefix: the least key above them, None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


class StoreView:
    """The store as it stood at `revision`, in key order; for reading on any thread beside the store's writer."""

    __slots__ = ("_buckets", "_chunks", "auth", "count", "digest", "history", "leases", "oldest", "revision")

    def __init__(
        self, store: KeyStore, chunks: list[list[bytes]], buckets: list[_Bucket], history: HistoryView
    ) -> None:
        self.revision: int = store.revision
        self.oldest: int = store.oldest
        self.count: int = len(store)
        self.digest: int = store.digest
        self.leases: tuple[LeaseRecord, ...] = store.leases.view()
        self.auth: tuple[AuthRecord, ...] = store.auth.view()
        self.history: HistoryView = history
        """The changes in `[oldest, revision]`."""
        self._chunks = chunks
        self._buckets = buckets

    def get(self, key: bytes) -> KeyRecord | None:
        """The record of a key, if it existed."""
        return self._buckets[hash(key) & _MASK].get(key)

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
            del self._buckets[-_RELEASED_AT_ONCE:]
        self.history.release()


_Bucket = dict[bytes, KeyRecord]


class StoreTooLarge(Exception):
    """More records than fit. `size_bytes`: the size of the records that were loaded so far."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the records count for more than {size_bytes} bytes")
        self.size_bytes = size_bytes


class KeyStore:
    """The state. One thread writes and reads it; views go to others.

    Writing takes the revision that the change belongs to: the current one plus one, the same for all changes of one
    transaction. Everything is deterministic: it depends on the sequence of the calls alone.
    """

    __slots__ = (
        "_buckets",
        "_checksums",
        "_history",
        "_index",
        "_owned",
        "_record_bytes",
        "auth",
        "leases",
        "revision",
    )

    def __init__(self, revision: int = 0, oldest: int = 1) -> None:
        self.revision: int = revision
        """The revision of the latest change; 0: none yet."""
        self._index = KeyIndex()
        self._buckets: list[_Bucket] = [{}] * BUCKETS
        self._owned = bytearray(BUCKETS)  # 0: a view shares the bucket (at first they are all one, the empty one)
        self._checksums = 0
        self._record_bytes = 0
        self.leases: LeaseBook = LeaseBook()
        """The leases. `put` and `delete` keep the keys that are attached to them."""
        self.auth: AuthState = AuthState()
        """The users, roles and tokens, with a revision of their own."""
        self._history = History(oldest)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def size_bytes(self) -> int:
        """The size of all records and leases (`sizes`), without the history."""
        return self._record_bytes + self.leases.size_bytes

    @property
    def digest(self) -> int:
        """128 bits that equal stores share and that different ones almost surely do not.

        It covers the history from `oldest` on, and does not depend on the sweep.
        """
        history = self._history
        return state_digest(
            self.revision,
            len(self._index),
            self._checksums,
            history.oldest,
            history.checksum_sum,
            len(self.leases),
            self.leases.checksum_sum,
            auth=self.auth.digest_part(),
        )

    @property
    def digest_v1(self) -> int:
        """The digest of version 1: without history and leases."""
        return state_digest_v1(self.revision, len(self._index), self._checksums)

    @property
    def oldest(self) -> int:
        """The oldest readable revision: each in `[oldest, revision]` can be read, and its changes are kept.

        `revision + 1`: there is no history, and only the present can be read.
        """
        return self._history.oldest

    @property
    def history_revisions(self) -> int:
        """How many revisions can be read: those in `[oldest, revision]`."""
        return self.revision + 1 - self._history.oldest

    @property
    def changes_count(self) -> int:
        """How many changes there are in `[oldest, revision]`."""
        return self._history.count

    @property
    def history_bytes(self) -> int:
        """What the changes, the replaced versions and the tombstones count for, until they are swept (`sizes`)."""
        return self._history.size_bytes

    def get(self, key: bytes, revision: int = 0) -> KeyRecord | None:
        """The record of a key, if it exists; at a past `revision`, if it existed then. 0: now.

        Raises `Rejected`: `compacted` (details: `oldest`) below `oldest`, `future_revision` above the store's.
        """
        record = self._buckets[hash(key) & _MASK].get(key)
        if not revision:
            return record
        self._check_readable(revision)
        if record is not None and record.mod_revision <= revision:
            return record
        return self._history.version_at(key, revision)

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
        revision: int = 0,
    ) -> RangePage:
        """One page of the keys in `[start, end)`; `end` None: to the last key.

        `limit` 0: as many as a page may hold (`MAX_RANGE_ITEMS`, and `max_bytes` of keys and values; one record is
        always returned). `after` is the `after` of the page before. `keys_only` leaves the values out.

        `revision` 0: now. At a past one the page shows the store as it was, and raises what `get` raises. Keys that
        did not exist then take time too, so it ends after `MAX_EXAMINED_KEYS` and may be short, or empty, though
        `more` is set. The page's `revision` is the one that was asked for.
        """
        assert limit >= 0
        past = 0
        if revision:
            self._check_readable(revision)
            past = revision if revision < self.revision else 0
        count = self.count(start, end, past)
        shown = past or self.revision
        if count_only:
            return RangePage([], count > 0, shown, count)
        if after is not None:
            if reverse:
                end = after if end is None else min(end, after)
            else:
                start = max(start, after + b"\0")
        limit = min(limit or MAX_RANGE_ITEMS, MAX_RANGE_ITEMS)
        if past:
            items, last = self._collect_past(past, start, end, limit, reverse, keys_only, max_bytes)
        else:
            items, last = self._collect(start, end, limit, reverse, keys_only, max_bytes)
        if last is None:
            return RangePage(items, False, shown, count)
        rest = (start, last) if reverse else (last + b"\0", end)
        more = self.count(*rest, past) > 0 if past else bool(self._index.first(*rest, 1))
        return RangePage(items, more, shown, count, last if more else None)

    def count(self, start: bytes, end: bytes | None, revision: int = 0) -> int:
        """How many keys are, or at a past revision were, in `[start, end)`. Raises what `get` raises."""
        count = self._index.count(start, end)
        if not revision:
            return count
        self._check_readable(revision)
        return count - self._history.surplus_after(revision, start, end)

    def changes(self, revision: int, end: int = 0) -> Iterator[tuple[int, list[Change]]]:
        """The changes of each revision in `[revision, end]`, whole and in order; `end` 0: to the store's revision.

        `revision` may be the next one, which has no changes yet. Raises what `get` raises, at the call.
        The iterator goes on unharmed if the store changes or is compacted meanwhile, and does not show later changes.
        """
        if revision != self.revision + 1:
            self._check_kept(revision)
        groups = self._history.changes(revision, end or self.revision)
        return (
            (group[0][0].mod_revision, [Change(record, previous) for record, previous in group]) for group in groups
        )

    def compact(self, revision: int) -> bool:
        """Let the history begin with `revision`; whether that changed `oldest`. `sweep` frees what is below it.

        Raises `Rejected` (`future_revision`) above the store's revision.
        """
        if revision > self.revision:
            raise self._future(revision)
        if revision <= self._history.oldest:
            return False
        self._history.compact(revision)
        return True

    def renumber(self, revision: int) -> None:
        """Go on from a later revision, without a history: none of the revisions before it can be read any more.

        For a state that takes the place of a newer one, whose revisions must not come again. Records keep theirs.
        """
        assert revision > self.revision, (revision, self.revision)
        self.revision = revision
        self._history = History(revision + 1)

    def sweep(self, limit: int) -> bool:
        """Free up to `limit` of the changes below `oldest`, about a microsecond each; whether more are left."""
        return self._history.sweep(limit)

    def compaction_target(self, max_revisions: int, max_bytes: int) -> int:
        """The revision to compact to, so that the history keeps at most so many revisions and bytes.

        `oldest` if it keeps no more already. The store's present revision is always kept.
        """
        assert max_revisions > 0
        fitting = max(self._history.floor_for(max_bytes), self.revision + 1 - max_revisions)
        return max(self._history.oldest, min(fitting, self.revision))

    def put(self, key: bytes, value: bytes, lease: int, revision: int) -> KeyRecord | None:
        """Set a key; the record it replaces, if any. A revision may change a key once.

        `lease` is granted and has room for the key (`LeaseBook.check_attach`); 0: none.
        """
        assert 0 <= revision - self.revision <= 1
        place = hash(key) & _MASK
        bucket = self._buckets[place] if self._owned[place] else self._own(place)
        previous = bucket.get(key)
        if previous is None:
            checksum = content_checksum(key, value, revision, revision, 1, lease)
            record = KeyRecord(key, value, revision, revision, 1, lease, checksum)
            self._index.add(key)
            if lease:
                self.leases.moved(key, 0, lease)
            self._checksums += checksum
            self._record_bytes += len(key) + len(value) + RECORD_OVERHEAD_BYTES
        else:
            assert previous.mod_revision < revision, "a key changed twice in one revision"
            key = previous.key  # the object that the index holds too
            created = previous.create_revision
            version = previous.version + 1
            checksum = content_checksum(key, value, created, revision, version, lease)
            record = KeyRecord(key, value, created, revision, version, lease, checksum)
            if lease != previous.lease:
                self.leases.moved(key, previous.lease, lease)
            self._checksums += checksum - previous.checksum
            self._record_bytes += len(value) - len(previous.value)
        bucket[key] = record
        self.revision = revision
        self._history.append(record, previous)
        return previous

    def delete(self, key: bytes, revision: int) -> KeyRecord | None:
        """Remove a key; the record that went. Without one nothing changes, the revision included."""
        assert 0 <= revision - self.revision <= 1
        place = hash(key) & _MASK
        if key not in self._buckets[place]:
            return None
        bucket = self._buckets[place] if self._owned[place] else self._own(place)
        previous = bucket.pop(key)
        assert previous.mod_revision < revision, "a key changed twice in one revision"
        key = previous.key
        self._index.remove(key)
        if previous.lease:
            self.leases.moved(key, previous.lease, 0)
        self._checksums -= previous.checksum
        self._record_bytes -= record_size(key, previous.value)
        self.revision = revision
        checksum = content_checksum(key, b"", 0, revision, 0, 0)
        self._history.append(KeyRecord(key, b"", 0, revision, 0, 0, checksum), previous)
        return previous

    def delete_range(self, start: bytes, end: bytes | None, limit: int, revision: int) -> list[KeyRecord]:
        """Remove the first `limit` keys of `[start, end)`; the records that went, in the order of their keys."""
        gone = [self.delete(key, revision) for key in self._index.first(start, end, limit)]
        return [record for record in gone if record is not None]

    def view(self) -> StoreView:
        """The store as it stands now, its history included, unaffected by later changes."""
        self._owned = bytearray(BUCKETS)
        return StoreView(self, self._index.freeze(), self._buckets.copy(), self._history.view())

    def load(self, records: list[KeyRecord]) -> None:
        """Add records from a snapshot. Raises ValueError if their keys don't ascend strictly, or for any that can't be.

        For a store without changes (`kv.loading`); their leases must be there already.
        """
        self._index.extend([record.key for record in records])
        total = size_bytes = 0
        for record in records:
            key = record.key
            checksum = record_checksum(record)
            if checksum != record.checksum:
                raise ValueError(f"the checksum of key {key[:64]!r} is wrong")
            if not is_sound(record) or record.mod_revision > self.revision:
                raise ValueError(f"key {key[:64]!r} of revision {record.mod_revision} in a store at {self.revision}")
            total += checksum
            size_bytes += record_size(key, record.value)
            place = hash(key) & _MASK
            bucket = self._buckets[place] if self._owned[place] else self._own(place)
            bucket[key] = record
            if record.lease:
                self.leases.load_key(record.lease, key)
        self._checksums += total
        self._record_bytes += size_bytes

    def load_change(self, record: KeyRecord, previous: KeyRecord | None) -> None:
        """Add a change from a snapshot that `kv.loading` has checked; after all records, in the order of revisions."""
        self._history.append(record, previous)

    def check(self) -> None:
        """Assert the invariants, the incremental digest among them; for tests."""
        self._index.check()
        keys = self._index.first(b"", None, len(self._index))
        records = [self._buckets[hash(key) & _MASK][key] for key in keys]
        assert sum(map(len, self._buckets)) == len(keys)
        assert keys == [record.key for record in records]
        assert all(0 < one.create_revision <= one.mod_revision <= self.revision for one in records)
        assert self._record_bytes == sum(record_size(one.key, one.value) for one in records)
        assert self._checksums == sum(map(record_checksum, records))
        self.leases.check()
        self.auth.check()
        attached = {key for lease in self.leases.records() for key in self.leases.keys(lease.id)}
        assert attached == {one.key for one in records if one.lease}
        assert all(one.key in self.leases.keys(one.lease) for one in records if one.lease)
        self._history.check(self.get, self.revision)

    def _own(self, place: int) -> _Bucket:
        bucket = self._buckets[place] = self._buckets[place].copy()
        self._owned[place] = 1
        return bucket

    def _collect(
        self, start: bytes, end: bytes | None, limit: int, reverse: bool, keys_only: bool, max_bytes: int
    ) -> tuple[list[KeyRecord], bytes | None]:
        """Up to `limit` records of at most `max_bytes`, and the key of the last one, if the range may go on."""
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
                    return items, items[-1].key
                items.append(record)
            if len(keys) < step:
                return items, None
            if reverse:
                end = keys[-1]
            else:
                start = keys[-1] + b"\0"
        return items, items[-1].key

    def _collect_past(
        self, revision: int, start: bytes, end: bytes | None, limit: int, reverse: bool, keys_only: bool, max_bytes: int
    ) -> tuple[list[KeyRecord], bytes | None]:
        """`_collect` at a past revision; the range may go on after the key."""
        items: list[KeyRecord] = []
        size_bytes = 0
        version_at = self._history.version_at
        for _ in range(0, MAX_EXAMINED_KEYS, _PAGE_STEP):
            keys = self._keys_ever(start, end, reverse)
            for key in keys:
                record = self._buckets[hash(key) & _MASK].get(key)
                if record is None or record.mod_revision > revision:
                    record = version_at(key, revision)
                    if record is None:
                        continue
                if keys_only:
                    record = _without_value(record)
                size_bytes += len(key) + len(record.value)
                if size_bytes > max_bytes and items:
                    return items, items[-1].key
                items.append(record)
                if len(items) == limit:
                    return items, key
            if len(keys) < _PAGE_STEP:
                return items, None
            if reverse:
                end = keys[-1]
            else:
                start = keys[-1] + b"\0"
        return items, keys[-1]

    def _keys_ever(self, start: bytes, end: bytes | None, reverse: bool) -> list[bytes]:
        """The next keys that exist, or did at a readable revision."""
        live, gone = self._index, self._history.deleted
        if reverse:
            keys = live.last(start, end, _PAGE_STEP)
            others = gone.last(start, end, _PAGE_STEP)
        else:
            keys = live.first(start, end, _PAGE_STEP)
            others = gone.first(start, end, _PAGE_STEP)
        return sorted(keys + others, reverse=reverse)[:_PAGE_STEP] if others else keys

    def _check_readable(self, revision: int) -> None:
        if revision != self.revision:
            self._check_kept(revision)

    def _check_kept(self, revision: int) -> None:
        if revision > self.revision:
            raise self._future(revision)
        oldest = self._history.oldest
        if revision < oldest:
            raise Rejected(
                f"revision {revision} was compacted: the oldest that can be read is {oldest}",
                code="compacted",
                details={"oldest": oldest},
            )

    def _future(self, revision: int) -> Rejected:
        return Rejected(
            f"revision {revision} does not exist yet: the store is at {self.revision}",
            code="future_revision",
            details={"revision": self.revision},
        )


def _without_value(record: KeyRecord) -> KeyRecord:
    return KeyRecord(record.key, b"", record.create_revision, record.mod_revision, record.version, record.lease)
