"""The log on disk: a sequence of segment files, written a batch at a time, read back when the node starts.

One write is one frame and one sync, however many entries it holds. After a crash it is there completely, or not at
all. The format is in `format`, the rule that separates a torn write from corruption in `scan`, the start in
`recovery`.

A write has two halves: `begin` puts the frame into the file, and `finish` records that its sync has returned. The
caller makes the sync between them and need not wait for it. `write` does all three, and the rest that a write may
need: a new segment, several frames.

Threads: `begin`, `finish`, `write` and `compact` are for the log's writer. It may change its thread, but makes one
call at a time, and after `begin` none but `finish`. `read_entries`, `check_space` and `shortage` are the event
loop's, a `reader` is another thread's. Shared objects are either never changed once published (segments) or locked
(locations).

`begin` waits for a disk only if the system blocks writers because too much is unwritten. A disk that hangs blocks the
sync before: nothing is written until that has returned.

Fail-stop: after an error of a write, a sync, a rename or a removal nothing more is ever written through the object;
the error is kept and named by every later call. The data of the failed call may be there after a restart, or not: it
was not acknowledged. A sync is never repeated after it failed, because it may then report success for data that is
lost.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

from syncline.consensus.types import NONE, HardState, LogEntry, SnapshotMeta
from syncline.errors import CorruptionError, DiskFull, StorageError
from syncline.platform.disk import Disk, File
from syncline.storage.advice import how_to_repair
from syncline.storage.space import RESERVE_BYTES, CheckSpace, Shortage, SpaceGuard, SpareFile, is_disk_full
from syncline.storage.wal.format import FORMAT_VERSION, SEGMENT_LIMIT_BYTES, SegmentHeader
from syncline.storage.wal.frame import FRAME_LIMIT_BYTES, FrameBuilder, frame_bound
from syncline.storage.wal.locations import TermRuns
from syncline.storage.wal.reader import EntryReader
from syncline.storage.wal.recovery import Recovered, Replay, recover
from syncline.storage.wal.segment import ActiveSegment, NotBegun, segment_room

__all__ = ["NotBegun", "Recovery", "Wal", "WalWrite", "WriteResult"]

SEGMENT_BYTES: Final = 64 << 20
"""The default size of a segment: compaction frees this much at a time. Precedent: etcd, raft-wal."""

SMALL_SEGMENT_BYTES: Final = 1 << 20
"""The size of a segment that is begun while the disk is nearly full: the log goes on in the reserve."""

SPARE_NAME: Final = "spare"
"""The file beside the segments that holds space and nothing else: see `space.SpareFile`."""

BATCH_SPLIT_BYTES: Final = 16 << 20
"""A larger batch is written as several frames, each synced separately: it bounds a reader's memory."""

BEGIN_BYTES: Final = 256 << 10
"""Bytes of entries' data that `begin` takes: it is encoded, checked and copied in a good half millisecond, while
which the caller does nothing else."""


class WalWrite(msgspec.Struct, frozen=True):
    """One append of the core, made durable as a whole. Parts that don't change are left out.

    `entries` are contiguous; they replace entries of the log from the first one's index on. `snapshot` says that the
    log restarts after the snapshot of that index, which is durable in the snapshot store already; all entries before
    this write are void.
    """

    entries: Sequence[LogEntry] = ()
    hard_state: HardState | None = None
    snapshot: SnapshotMeta | None = None


class WriteResult(msgspec.Struct, frozen=True):
    """The result of a batch. `size_bytes` is its size on disk, `entries` its number of entries."""

    last_index: int
    entries: int
    size_bytes: int

    @property
    def entry_bytes(self) -> int:
        """The average size of an entry of the batch, rounded up; 0 without entries."""
        return -(-self.size_bytes // self.entries) if self.entries else 0


class _Unsynced(msgspec.Struct, frozen=True):
    """A batch in the active segment that does not count before its sync."""

    marker: SnapshotMeta | None
    entries: list[LogEntry]
    hard_state: HardState | None
    offset: int


class Recovery(msgspec.Struct, frozen=True):
    """The content of the log when it was opened.

    `base_index` and `base_term` are of the entry just before the first one. `snapshot` is the marker of the last
    snapshot that was installed, or None. `torn` describes the bytes cut from the end, in a sentence for the operator;
    `notes` name harmless damage. `terms` is for the caller to keep.
    """

    hard_state: HardState
    snapshot: SnapshotMeta | None
    base_index: int
    base_term: int
    last_index: int
    last_term: int
    terms: TermRuns
    torn: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Recovered) -> Recovery:
        """Make the result of a recovery."""
        replay = found.replay
        return cls(
            hard_state=replay.hard_state,
            snapshot=replay.marker,
            base_index=replay.base_index,
            base_term=replay.base_term,
            last_index=replay.last_index,
            last_term=replay.last_term,
            terms=replay.terms,
            torn=found.torn,
            notes=tuple(found.notes),
        )

    @property
    def first_index(self) -> int:
        return self.base_index + 1

    @property
    def is_empty(self) -> bool:
        """Nothing was ever written: a new log."""
        return self.last_index == 0 and self.hard_state == HardState()


class Wal:
    """The log of one node, open for writing. Make one with `Wal.open`."""

    def __init__(
        self, disk: Disk, path: str, recovered: Recovered, *, segment_bytes: int, reserve_bytes: int, log_id: int
    ) -> None:
        replay = recovered.replay
        self.path = path
        self._disk = disk
        self._log_id = log_id
        self._segment_bytes = segment_bytes
        self._space = SpaceGuard(disk, path, reserve_bytes=reserve_bytes)
        self.check_space: CheckSpace = self._space.check
        """Raise `DiskFull` if so many bytes more would touch the reserve. Cheap: call it for each proposal.

        With `frees_space=True` they let the state shrink, and may use a part of the reserve.
        """
        self._spare = SpareFile(disk, f"{path}/{SPARE_NAME}", self._space, reserve_bytes=reserve_bytes)
        self._spare.keep()
        self._active = recovered.active
        self._segments = tuple(recovered.segments)
        self._locations = replay.locations
        self._hard_state = replay.hard_state
        self._marker = replay.marker
        self._last_index = replay.last_index
        self._last_term = replay.last_term
        self._reader = EntryReader(disk, self._locations, lambda: self._segments)
        self._builder = FrameBuilder()
        self._unsynced: _Unsynced | None = None
        self._failure: str | None = None
        self.recovery: Recovery = Recovery.of(recovered)

    @classmethod
    def open(
        cls,
        disk: Disk,
        path: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        log_id: int = 0,
        must_exist: bool = False,
    ) -> Wal:
        """Open the log in the directory `path`, or begin one; `recovery` is its content.

        `log_id` is any number below 2**64 that names the log, such as the node's id: files of another log are
        refused. `must_exist` is for a node that is known to have had a log: an empty directory is then corruption.

        Raises:
            CorruptionError: the log is not what was written. Nothing was changed.
            FormatVersionError: another version wrote it.
            WrongDirectory: the log has another `log_id`.
            StorageError: an older version wrote the log, and no segment of this version could be begun.
            OSError: the disk refused.
        """
        assert SMALL_SEGMENT_BYTES // 256 <= segment_bytes <= SEGMENT_LIMIT_BYTES
        disk.make_dirs(path)
        recovered = recover(disk, path, log_id=log_id)
        if recovered is None:
            if must_exist:
                raise CorruptionError(
                    f"{path} holds no log, and this node has had one: its files are missing. Put them back. Or: "
                    f"{how_to_repair(os.path.dirname(path))}",
                    file=path,
                )
            guard = SpaceGuard(disk, path, reserve_bytes=reserve_bytes)
            size = segment_bytes if guard.has_room(segment_bytes) else min(segment_bytes, SMALL_SEGMENT_BYTES)
            header = SegmentHeader(log_id, 1, 0, 0, 0, 0, size)
            active = ActiveSegment.create(disk, path, header, HardState(), None)
            recovered = Recovered([active.info], active, Replay(0, 0), None, [])
        wal = cls(disk, path, recovered, segment_bytes=segment_bytes, reserve_bytes=reserve_bytes, log_id=log_id)
        if recovered.active.header.version != FORMAT_VERSION:
            wal._go_on_in_this_version()
        return wal

    @property
    def last_index(self) -> int:
        """The index of the last durable entry, as the writer knows it."""
        return self._last_index

    @property
    def size_bytes(self) -> int:
        """The size of the log on disk: older segments in full, the newest one as far as it is written."""
        return sum(segment.size_bytes for segment in self._segments[:-1]) + self._active.end

    @property
    def failure(self) -> str | None:
        """The error after which nothing is written any more; None if there was none."""
        return self._failure

    @property
    def file(self) -> File:
        """The file that is written to at present."""
        return self._active.file

    def begin(self, batch: Sequence[WalWrite]) -> File | None:
        """Write a batch into the file that is returned. Sync that file, then call `finish`: only then is the batch
        durable.

        None if the batch needs a new segment or several frames: nothing was written, and `write` does it.

        Raises:
            StorageError: the disk failed, now or before. The object is dead; see the module's text.
        """
        self._check_alive()
        change = combine(batch)
        if sum([len(entry.data) for entry in change[1]]) > BEGIN_BYTES:
            return None
        size = self._builder.take(*change)
        if not self._active.has_room(size):
            return None
        return self._put(*change, size)

    def finish(self, error: BaseException | None) -> WriteResult:
        """Record that the sync of the batch has returned, or has failed with `error`.

        Raises:
            StorageError: it has failed.
        """
        unsynced, self._unsynced = self._unsynced, None
        assert unsynced is not None, "nothing was begun"
        if error is not None:
            raise self._fail("syncing", error) from error
        # Only now: before the sync a crash could take entries back that readers or the core have used.
        self._publish(unsynced.marker, unsynced.entries, unsynced.hard_state, unsynced.offset)
        return WriteResult(self._last_index, len(unsynced.entries), self._active.end - unsynced.offset)

    def write(self, batch: Sequence[WalWrite]) -> WriteResult:
        """Make a batch durable: one write, one sync. The writes take effect in their order.

        Raises:
            NotBegun: there is no file descriptor for the next segment. Nothing was written; write it again.
            StorageError: the disk failed, now or before. The object is dead; see the module's text.
        """
        self._check_alive()
        marker, entries, hard_state = combine(batch)
        if marker is None and not entries and hard_state is None:
            return WriteResult(self._last_index, 0, 0)
        size = self._builder.take(marker, entries, hard_state)
        if size > BATCH_SPLIT_BYTES and len(batch) > 1:
            half = len(batch) // 2
            one = self.write(batch[:half])
            try:
                two = self.write(batch[half:])
            except NotBegun as error:
                raise self._fail("writing", error) from error  # a part of the batch is written
            return WriteResult(two.last_index, one.entries + two.entries, one.size_bytes + two.size_bytes)
        if frame_bound(size) > FRAME_LIMIT_BYTES:
            raise StorageError(
                f"a single write of {size} bytes is above the log's limit of {FRAME_LIMIT_BYTES}: "
                "nothing was written. Propose less at once."
            )
        file = self._put(marker, entries, hard_state, size)
        try:
            file.sync()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the sync has not returned
            return self.finish(error)
        return self.finish(None)

    def compact(self, index: int) -> None:
        """Drop segments that hold only entries up to `index`, oldest first, each durably before the next.

        A snapshot at `index` or later must be durable. If the whole log is at or before `index`, it continues in a
        new segment. So the disk space of a log without a successor is freed, too.

        Raises:
            StorageError: the disk failed, now or before.
        """
        self._check_alive()
        try:
            held_back = self._droppable(index) < len(self._segments) - 1
            if self._last_index <= index and (held_back or self._active.end > self._segment_bytes // 2):
                self._rotate(0)
            for segment in self._segments[: self._droppable(index)]:
                self._segments = self._segments[1:]
                self._locations.drop_through(segment.sequence)
                self._disk.remove(segment.path)
                self._disk.sync_dir(self.path)
            self._spare.keep()
        except NotBegun:
            return  # the next compaction drops what this one left
        except BaseException as error:
            raise self._fail("dropping old segments", error) from error

    def read_entries(self, low: int, high: int, max_bytes: int) -> list[LogEntry]:
        """Durable entries from `low` up to but not including `high`, read from disk with their checksums verified.

        At most `max_bytes`, counted as `reader.entry_size` does, but at least one entry. Reads block: a range that
        is not in the system's cache takes a disk's time.

        Raises:
            Compacted: they were dropped.
            CorruptionError: the bytes are not what was written; the node must stop.
        """
        return self._reader.read(low, high, max_bytes)

    def reader(self) -> EntryReader:
        """Another reader of the log's entries, for one other thread. The caller closes it."""
        return EntryReader(self._disk, self._locations, lambda: self._segments)

    def limit(self, *, segment_bytes: int, reserve_bytes: int) -> None:
        """Have another size of segments, from the next one on, and another reserve. The spare file keeps its size."""
        self._segment_bytes = segment_bytes
        self._space.keep(reserve_bytes)

    def free_bytes(self) -> int:
        """The free bytes of the disk. Asks the disk; for any thread."""
        return self._space.free_bytes()

    def has_plenty(self, free_bytes: int, size_bytes: int) -> bool:
        """Whether so many of `free_bytes` are left above the reserve."""
        return free_bytes - size_bytes >= self._space.reserve_bytes

    def shortage(self, free_bytes: int | None = None) -> Shortage:
        """The step of the disk's shortage (see `space`) with so many bytes free; None: asks the disk."""
        return self._space.shortage(free_bytes)

    def close(self) -> None:
        """Close the files. Everything that `write` returned for is durable already."""
        self._failure = self._failure or f"{self.path}: the log was closed"
        self._reader.close()
        self._active.close()

    def _put(
        self, marker: SnapshotMeta | None, entries: list[LogEntry], hard_state: HardState | None, size: int
    ) -> File:
        """Write the frame of the builder's records, in the next segment if this one has no room for it."""
        self._check_order(marker, entries, hard_state)
        try:
            if not self._active.has_room(size):
                self._rotate(size)
            offset = self._active.put(self._builder)
        except NotBegun:
            raise
        except BaseException as error:
            failure = self._fail("writing", error)
            if isinstance(error, Exception):
                raise failure from error
            raise  # an interrupt of the program is on its way through
        self._unsynced = _Unsynced(marker, entries, hard_state, offset)
        return self._active.file

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise StorageError(self._failure)
        assert self._unsynced is None, "what was begun is not finished"

    def _check_order(
        self, marker: SnapshotMeta | None, entries: Sequence[LogEntry], hard_state: HardState | None
    ) -> None:
        """Assert that a batch keeps the log's invariants. The counterpart of the checks in `recovery.Replay`."""
        old, last_index, last_term = self._hard_state, self._last_index, self._last_term
        if marker is not None:
            assert marker.index >= old.commit, f"a snapshot at {marker.index} would undo commit {old.commit}"
            last_index, last_term = marker.index, marker.term
        if entries:
            first = entries[0]
            assert old.commit < first.index <= last_index + 1, (old.commit, first.index, last_index)
            assert first.index <= last_index or first.term >= last_term, (first, last_term)
            assert first.term <= entries[-1].term, (first, entries[-1])
            last_index = entries[-1].index
        if hard_state is not None:
            assert hard_state.term >= old.term, (old, hard_state)
            assert hard_state.commit >= old.commit, (old, hard_state)
            assert hard_state.term > old.term or old.vote in (NONE, hard_state.vote), (old, hard_state)
        state = hard_state or old
        assert state.commit <= last_index, (state, last_index)

    def _publish(
        self, marker: SnapshotMeta | None, entries: Sequence[LogEntry], hard_state: HardState | None, offset: int
    ) -> None:
        """Make a durable batch visible to later calls and readers."""
        if marker is not None:
            self._marker = marker
            self._last_index, self._last_term = marker.index, marker.term
            self._locations.clear()
        if entries:
            first = entries[0].index
            self._locations.add(first, self._active.info.sequence, offset, overwrites=first <= self._last_index)
            self._last_index, self._last_term = entries[-1].index, entries[-1].term
        if hard_state is not None:
            self._hard_state = hard_state

    def _go_on_in_this_version(self) -> None:
        """Begin a segment if an older version wrote the newest one: all frames of a segment are of its version."""
        try:
            self._rotate(0)
        except BaseException as error:
            failure = self._fail("beginning a segment", error)
            self.close()
            raise failure from error

    def _rotate(self, records_bytes: int) -> None:
        """Continue in a new segment, with room for so many bytes of records. All of it is durable on return.

        The new segment is durable under its name before the old one is sealed. After a crash in between both exist,
        and the header of the new one has the end of the old one.
        """
        old = self._active
        state_bytes = FrameBuilder().take(self._marker, (), self._hard_state)
        size = self._segment_bytes if self._space.has_room(self._segment_bytes) else SMALL_SEGMENT_BYTES
        size = max(min(size, self._segment_bytes), segment_room(state_bytes, records_bytes))
        header = SegmentHeader(
            log_id=self._log_id,
            sequence=old.header.sequence + 1,
            base_index=self._last_index,
            base_term=self._last_term,
            previous_end=old.end,
            previous_checksum=old.previous,
            size_bytes=size,
        )
        # In this order: a sealed segment promises a successor. If the seal came first, a crash before the new segment
        # is durable would look like a lost file, and the node could not start.
        self._active = self._begin(header, state_bytes, records_bytes)
        self._segments = (*self._segments, self._active.info)
        old.seal(header.sequence)
        old.close()
        self._spare.keep()

    def _begin(self, header: SegmentHeader, state_bytes: int, records_bytes: int) -> ActiveSegment:
        """Make the next segment; if the disk has no room at all, a small one in place of the spare file."""
        try:
            return ActiveSegment.create(self._disk, self.path, header, self._hard_state, self._marker)
        except DiskFull:
            if not self._spare.give_back():
                raise
        size = max(min(header.size_bytes, SMALL_SEGMENT_BYTES), segment_room(state_bytes, records_bytes))
        header = msgspec.structs.replace(header, size_bytes=size)
        return ActiveSegment.create(self._disk, self.path, header, self._hard_state, self._marker)

    def _droppable(self, index: int) -> int:
        """The number of the oldest segments that hold no needed entry.

        The rest must begin with the entry just after its own base: then the term before its first entry is known.
        If a later segment overwrites entries of earlier ones, one of them may have to stay for a while.
        """
        droppable = 0
        for count, (segment, following) in enumerate(pairwise(self._segments), 1):
            kept = self._locations.first_start_after(segment.sequence)
            first_kept = kept if kept is not None else self._last_index + 1
            if first_kept > index + 1:
                break
            if first_kept == following.base_index + 1:
                droppable = count
        return droppable

    def _fail(self, doing: str, error: BaseException) -> StorageError:
        full = isinstance(error, DiskFull) or (isinstance(error, OSError) and is_disk_full(error))
        hint = "Make space on the disk" if full else "Look into the disk"
        self._failure = self._failure or (
            f"{self.path}: {doing} failed: {error!r}. Nothing more is written, because it is unknown what reached "
            f"the disk. {hint}, then start the node again: it takes up what is durable."
        )
        return StorageError(self._failure)


def combine(
    batch: Sequence[WalWrite],
) -> tuple[SnapshotMeta | None, list[LogEntry], HardState | None]:
    """Combine several writes into one with the same effect: later ones win."""
    marker: SnapshotMeta | None = None
    hard_state: HardState | None = None
    entries: list[LogEntry] = []
    for write in batch:
        if write.hard_state is not None:
            hard_state = write.hard_state
        if write.snapshot is not None:
            marker = write.snapshot
            entries = []
        if write.entries:
            if entries:
                del entries[max(0, write.entries[0].index - entries[0].index) :]
            entries.extend(write.entries)
    return marker, entries, hard_state
