"""The changes of the store since its oldest readable revision, and the versions that they replaced.

Changes stand in revision order in append-only segments. A view shares the segments and remembers how long the last one
was, so it copies a list of some hundred references. Versions that were replaced or deleted also stand by key, oldest
first: a read at a past revision finds its version by a binary search, whatever has happened since. A key that was
written once costs two references here, and nothing once its change was compacted.

Compaction moves the floor at once, and `sweep` frees what is below it in steps. Nothing that is read, and no digest,
depends on how far the sweep has come.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Final, TypeAlias

from syncline.kv.key_index import KeyIndex
from syncline.kv.records import KeyRecord
from syncline.kv.sizes import CHANGE_OVERHEAD_BYTES, TOMBSTONE_BYTES, VERSION_OVERHEAD_BYTES

__all__ = ["SEGMENT_BYTES", "SEGMENT_CHANGES", "History", "HistorySegment", "HistoryView"]

SEGMENT_CHANGES: Final = 1024
"""Changes in one segment, at most. A segment is freed in one go: some hundred microseconds."""

SEGMENT_BYTES: Final = 1024 * 1024
"""Replaced versions in one segment, but for the last: so many bytes may outlive their compaction."""

SWEEP_EVERY: Final = 32
"""New changes in a segment after which compacted ones are freed, if there are any; and when the segment is full."""

SWEPT_AT_ONCE: Final = 64
"""Compacted changes that are freed then: twice as many as were made since, so that writes alone bound the memory."""

LONG_LIST: Final = 64
"""Versions of one key from which on they stand in a deque: removing the first of a long list moves all the others."""

SORTS_PER_COUNT: Final = 8
"""Segments that one count of a past range sorts for the counts after it. The others it goes through: 50 µs each."""

_REPLACED_OVERHEAD_BYTES: Final = VERSION_OVERHEAD_BYTES + CHANGE_OVERHEAD_BYTES
_SUM_MASK: Final = 2**64 - 1

_Versions: TypeAlias = "KeyRecord | list[KeyRecord] | deque[KeyRecord]"

_mod_revision = attrgetter("mod_revision")


class HistorySegment:
    """Some hundred changes. `records` and `previous` only grow, in step, and only in the last segment."""

    __slots__ = ("created", "deleted", "previous", "records", "size_bytes", "start", "sum_before")

    def __init__(self, start: int, sum_before: int) -> None:
        self.start: int = start
        """How many changes there were before the first of this segment, since the store was made or loaded."""
        self.sum_before: int = sum_before
        self.records: list[KeyRecord] = []
        self.previous: list[KeyRecord | None] = []
        self.size_bytes: int = 0
        """The size of the changes, once the segment is full (`History.append`)."""
        self.created: list[bytes] | None = None
        """The keys that came into being here, in order, once a count has asked for them; `deleted` likewise."""
        self.deleted: list[bytes] = []

    def sort(self) -> None:
        """Sort the keys that came and went, for `surplus`. Only for a full segment."""
        self.created = sorted([record.key for record in self.records if record.version == 1])
        self.deleted = sorted([record.key for record in self.records if not record.version])

    def surplus(self, start: bytes, end: bytes | None) -> int:
        """By how many keys of `[start, end)` the segment's changes made the store larger."""
        assert self.created is not None
        return _count_sorted(self.created, start, end) - _count_sorted(self.deleted, start, end)

    def surplus_from(self, at: int, start: bytes, end: bytes | None) -> int:
        """`surplus` of the changes from the place `at` on, by going through them."""
        surplus = 0
        for record in self.records[at:] if at else self.records:
            if record.version < 2 and start <= record.key and (end is None or record.key < end):
                surplus += 1 if record.version else -1
        return surplus


class HistoryView:
    """The changes as they stood at one moment, from the floor on; for reading on any thread."""

    __slots__ = ("_first", "_segments", "_stop", "count")

    def __init__(self, segments: list[HistorySegment], first: int, count: int) -> None:
        self.count: int = count
        self._segments = segments
        self._first = first
        self._stop = first + count

    def __iter__(self) -> Iterator[list[tuple[KeyRecord, KeyRecord | None]]]:
        """Each change as its record and the one before it, in revision order, some hundreds at a time."""
        for segment in self._segments:
            low, high = max(self._first - segment.start, 0), self._stop - segment.start
            yield list(zip(segment.records[low:high], segment.previous[low:high], strict=True))

    def release(self) -> None:
        """Release the changes, a segment at a time."""
        while self._segments:
            self._segments.pop()


class History:
    """All changes in `[oldest, revision]`. One thread changes and reads it; views go to others."""

    __slots__ = (
        "_firsts",
        "_floor",
        "_floor_sum",
        "_full_bytes",
        "_older",
        "_open",
        "_open_bytes",
        "_segments",
        "_sum",
        "_swept",
        "deleted",
        "oldest",
    )

    def __init__(self, oldest: int) -> None:
        self.oldest: int = oldest
        """The oldest revision whose changes are here; the store's revision plus one: none are."""
        self.deleted: KeyIndex = KeyIndex()
        """The keys that do not exist any more, and of which there are still versions."""
        self._older: dict[bytes, _Versions] = {}  # by key, what was replaced or deleted, and the tombstones
        self._open = HistorySegment(0, 0)  # the last one: changes are added to it
        self._segments: list[HistorySegment] = [self._open]
        self._firsts: list[int] = []  # the revision of the first change of each segment that has one
        self._sum = 0  # of the checksums of all changes, modulo 2**64
        self._floor = 0  # how many changes are below `oldest`, counted as `HistorySegment.start` is
        self._floor_sum = 0  # `_sum` as it was before the first change that is not
        self._swept = 0  # how many changes were freed
        self._full_bytes = self._open_bytes = 0

    @property
    def count(self) -> int:
        """How many changes there are from `oldest` on."""
        return self._open.start + len(self._open.records) - self._floor

    @property
    def size_bytes(self) -> int:
        """What the changes and the versions that they replaced count for, those included that await the sweep."""
        return self._full_bytes + self._open_bytes

    @property
    def checksum_sum(self) -> int:
        """The sum of the checksums of all changes from `oldest` on, modulo 2**64."""
        return (self._sum - self._floor_sum) & _SUM_MASK

    @property
    def unswept(self) -> bool:
        """Whether there are changes below `oldest` that `sweep` would free."""
        return self._swept < self._floor

    def append(self, record: KeyRecord, previous: KeyRecord | None) -> None:
        """Add a change: a new record, or a tombstone, and the record that it replaces."""
        # On the way of each write: the checksum and the size are `change_checksum` and `change_size`, spelled out.
        segment = self._open
        records = segment.records
        records.append(record)
        segment.previous.append(previous)
        key = record.key
        held = self._older.get(key)
        if previous is None:
            self._sum += record.checksum
            self._open_bytes += CHANGE_OVERHEAD_BYTES
            if held is not None:
                self.deleted.remove(key)
        else:
            self._sum += record.checksum * (previous.checksum | 1)
            self._open_bytes += len(previous.value) + _REPLACED_OVERHEAD_BYTES
            if held is None:
                self._older[key] = previous
            elif type(held) is deque:
                held.append(previous)
            else:
                self._keep(key, previous)
            if not record.version:
                self._open_bytes += TOMBSTONE_BYTES + len(key)
                self._keep(key, record)
                self.deleted.add(key)
        changes = len(records)
        if changes == 1:
            self._firsts.append(record.mod_revision)
        if changes >= SEGMENT_CHANGES or self._open_bytes >= SEGMENT_BYTES:
            self._fill()
            self.sweep(SWEPT_AT_ONCE)
        elif not changes % SWEEP_EVERY and self._swept < self._floor:
            self.sweep(SWEPT_AT_ONCE)

    def version_at(self, key: bytes, revision: int) -> KeyRecord | None:
        """The version of a key at a revision from `oldest` on, if it was replaced or deleted after it."""
        held = self._older.get(key)
        if held is None:
            return None
        if isinstance(held, KeyRecord):
            return held if held.mod_revision <= revision else None
        at = bisect_right(held, revision, key=_mod_revision)
        return held[at - 1] if at and held[at - 1].version else None

    def surplus_after(self, revision: int, start: bytes, end: bytes | None) -> int:
        """By how many keys of `[start, end)` the changes after `revision` made the store larger."""
        at, place = self._find(revision + 1)
        segments = self._segments[at:]
        if not segments:
            return 0
        surplus = segments[0].surplus_from(place, start, end)
        sorts = SORTS_PER_COUNT
        for segment in segments[1:]:
            if segment.created is None and segment is not self._open and sorts:
                segment.sort()
                sorts -= 1
            if segment.created is not None:
                surplus += segment.surplus(start, end)
            else:
                surplus += segment.surplus_from(0, start, end)
        return surplus

    def changes(self, revision: int, stop: int) -> Iterator[list[tuple[KeyRecord, KeyRecord | None]]]:
        """The changes of each revision in `[revision, stop]`, in order. Later changes of the history do no harm."""
        at, place = self._find(revision)  # now, and not when the first one is asked for: a sweep may come before
        return _groups(self._segments[at:], place, stop)

    def compact(self, oldest: int) -> None:
        """Move the floor up: the changes below `oldest` can't be read any more, and `sweep` frees them."""
        assert oldest >= self.oldest
        self.oldest = oldest
        at, place = self._find(oldest)
        segment = self._segments[at]  # there is one: each revision has changes
        self._floor = segment.start + place
        self._floor_sum = segment.sum_before + sum(map(change_checksum, segment.records[:place], segment.previous))

    def sweep(self, limit: int) -> bool:
        """Free up to `limit` changes below the floor; whether more are left."""
        while limit > 0 and self._swept < self._floor:
            segment = self._segments[0]
            low = self._swept - segment.start
            high = min(low + limit, self._floor - segment.start, len(segment.records))
            for record, previous in zip(segment.records[low:high], segment.previous[low:high], strict=True):
                if previous is not None:
                    self._drop_oldest(record.key)
                if not record.version and self._drop_oldest(record.key):
                    self.deleted.discard(record.key)
            self._swept += high - low
            limit -= high - low
            if high == len(segment.records):  # the last segment has a change that stays
                self._full_bytes -= segment.size_bytes
                del self._segments[0], self._firsts[0]
        return self._swept < self._floor

    def floor_for(self, max_bytes: int) -> int:
        """The least revision from which on the changes count for no more than `max_bytes`."""
        left = max_bytes
        for segment in reversed(self._segments):
            size_bytes = self._open_bytes if segment is self._open else segment.size_bytes
            if size_bytes > left:
                for record, previous in zip(reversed(segment.records), reversed(segment.previous), strict=True):
                    left -= change_size(record, previous)
                    if left < 0:
                        return record.mod_revision + 1
            left -= size_bytes
        return self.oldest

    def view(self) -> HistoryView:
        """The changes as they stand now."""
        at, _ = self._find(self.oldest)
        return HistoryView(self._segments[at:], self._floor, self.count)

    def check(self, find: Callable[[bytes], KeyRecord | None], revision: int) -> None:
        """Assert the invariants beside the records that `find` finds, in a store at `revision`; for tests."""
        self.deleted.check()
        assert self._firsts == [segment.records[0].mod_revision for segment in self._segments if segment.records]
        assert all(segment.records for segment in self._segments[:-1])
        assert self._segments[-1] is self._open
        position = self._segments[0].start
        for segment in self._segments:
            assert segment.start == position
            assert len(segment.records) == len(segment.previous)
            position += len(segment.records)
        assert self._segments[0].start <= self._swept <= self._floor <= position
        unswept = [
            (record, previous)
            for segment in self._segments
            for at, (record, previous) in enumerate(zip(segment.records, segment.previous, strict=True), segment.start)
            if at >= self._swept
        ]
        kept = unswept[self._floor - self._swept :]
        assert all(record.mod_revision < self.oldest for record, _ in unswept[: len(unswept) - len(kept)])
        held = [record.mod_revision for record, _ in kept]
        assert held == sorted(held)
        assert set(held) == set(range(self.oldest, revision + 1))
        assert self.checksum_sum == sum(change_checksum(*change) for change in kept) & _SUM_MASK
        older: dict[bytes, list[KeyRecord]] = {}
        for record, previous in unswept:
            if previous is not None:
                older.setdefault(record.key, []).append(previous)
            if not record.version:
                older[record.key].append(record)
        assert older == {
            key: [versions] if isinstance(versions, KeyRecord) else list(versions)
            for key, versions in self._older.items()
        }
        gone = [key for key in older if find(key) is None]
        assert self.deleted.first(b"", None, len(older) + 1) == sorted(gone)
        assert all(older[key][-1].version == 0 for key in gone)

    def _find(self, revision: int) -> tuple[int, int]:
        """The segment and the place of the first change at `revision` or after; after the last segment if none is."""
        at = bisect_left(self._firsts, revision)
        if at:
            records = self._segments[at - 1].records
            place = bisect_left(records, revision, key=_mod_revision)
            if place < len(records):
                return at - 1, place
        return (at, 0) if at < len(self._firsts) else (len(self._segments), 0)

    def _fill(self) -> None:
        segment = self._open
        segment.size_bytes = self._open_bytes
        self._full_bytes += self._open_bytes
        self._open_bytes = 0
        self._open = HistorySegment(segment.start + len(segment.records), self._sum)
        self._segments.append(self._open)

    def _keep(self, key: bytes, version: KeyRecord) -> None:
        """Keep another version of a key that has some here."""
        held = self._older[key]
        if isinstance(held, KeyRecord):
            self._older[key] = [held, version]
            return
        if len(held) == LONG_LIST and isinstance(held, list):
            held = self._older[key] = deque(held)
        held.append(version)

    def _drop_oldest(self, key: bytes) -> bool:
        """Drop the oldest version of a key that stands here; whether it was the only one."""
        held = self._older[key]
        if not isinstance(held, KeyRecord) and len(held) > 1:
            del held[0]
            return False
        del self._older[key]
        return True


def _groups(
    segments: list[HistorySegment], place: int, stop: int
) -> Iterator[list[tuple[KeyRecord, KeyRecord | None]]]:
    group: list[tuple[KeyRecord, KeyRecord | None]] = []
    current = 0
    for segment in segments:
        for offset in range(place, len(segment.records)):
            record = segment.records[offset]
            if record.mod_revision != current:
                if group:
                    yield group
                if record.mod_revision > stop:
                    return
                group, current = [], record.mod_revision
            group.append((record, segment.previous[offset]))
        place = 0
    if group:
        yield group


def change_checksum(record: KeyRecord, previous: KeyRecord | None) -> int:
    """The checksum of a change: of its record, and of the one that it replaced."""
    return record.checksum if previous is None else record.checksum * (previous.checksum | 1)


def change_size(record: KeyRecord, previous: KeyRecord | None) -> int:
    """What a change counts for beside its record: itself, the version that it replaced, the tombstone."""
    if previous is None:
        return CHANGE_OVERHEAD_BYTES
    tombstone_bytes = 0 if record.version else TOMBSTONE_BYTES + len(record.key)
    return len(previous.value) + _REPLACED_OVERHEAD_BYTES + tombstone_bytes


def _count_sorted(keys: list[bytes], start: bytes, end: bytes | None) -> int:
    return max((len(keys) if end is None else bisect_left(keys, end)) - bisect_left(keys, start), 0)
