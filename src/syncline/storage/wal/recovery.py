"""Reading the log back when a node starts.

Segments are read from the oldest to the newest, each frame once, with a bounded part of the log in memory. What a crash
left half-done is completed or undone here, in such a way that a crash in the middle of it changes nothing:

- A segment under its temporary name never held anything: it is removed.
- A torn last frame (`scan` has the rule) is copied to a `.broken` file beside the segment, durably, and only then
  overwritten with zeros. (On a full disk it is not kept.)
- The last valid frame is written once more and synced, and so are the zeros where a torn one was cut before. They may
  have come from the system's cache only: after a failed sync a system may show bytes that are not on the disk and never
  will be.
- The directory is synced: a name that is seen need not be durable yet.

Everything that can't be the work of a crash raises `CorruptionError`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import msgspec

from syncline.consensus.types import HardState, SnapshotMeta
from syncline.errors import WrongDirectory
from syncline.platform.disk import Disk, File
from syncline.storage.advice import data_dir_of, how_to_repair
from syncline.storage.space import is_disk_full
from syncline.storage.wal.format import SEGMENT_HEADER_BYTES, SegmentHeader, rot, segment_name, segment_sequence
from syncline.storage.wal.frame import BodyError, EntriesRecord, Frame, decode_entries
from syncline.storage.wal.locations import Locations, TermRuns
from syncline.storage.wal.scan import Ending, EndKind, SegmentScan
from syncline.storage.wal.segment import TEMPORARY_SUFFIX, ActiveSegment, Segment
from syncline.storage.wal.steady import Course

__all__ = ["Recovered", "Replay", "recover"]

BROKEN_SUFFIX: Final = ".broken"

BROKEN_FILES_LIMIT: Final = 8
"""Cut tails that are kept: enough to look into what happened, not enough to fill a disk by crashing in a circle."""

NOT_CUT_YET: Final = (
    "they will be cut when the node starts (in the log of a running node, they may be a write that is under way)"
)

COPY_BYTES: Final = 1 << 20
"""How much of a torn tail is copied or zeroed at once."""


class Recovered(msgspec.Struct):
    """What was found. `active` is open for writing; `notes` name harmless damage that was found and left alone."""

    segments: list[Segment]
    active: ActiveSegment
    replay: Replay
    torn: str | None
    notes: list[str]


class Replay:
    """The log as its records, taken in order, define it."""

    def __init__(self, base_index: int, base_term: int) -> None:
        self.base_index: int = base_index
        self.base_term: int = base_term
        self.last_index: int = base_index
        self.last_term: int = base_term
        self.hard_state: HardState = HardState()
        self.marker: SnapshotMeta | None = None
        self.locations: Locations = Locations()
        self.terms: TermRuns = TermRuns(base_index, base_term)

    def take_head(self, frame: Frame, path: str) -> None:
        """The first frame of a segment: it repeats the state, so that older segments can go."""
        if frame.entries is not None or frame.hard_state is None:
            raise rot(path, frame.offset, "the segment does not begin with the node's state")
        self.marker = frame.marker
        self._take_hard_state(frame.hard_state, frame, path)

    def take(self, frame: Frame, sequence: int, path: str) -> None:
        """Any other frame."""
        if frame.marker is not None:
            self.marker = frame.marker
            self.last_index = self.base_index = frame.marker.index
            self.base_term = self.last_term = frame.marker.term
            self.terms.reset(self.base_index, self.base_term)
            self.locations.clear()
        if frame.entries is not None:
            self._take_entries(frame.entries, frame, sequence, path)
        if frame.hard_state is not None:
            self._take_hard_state(frame.hard_state, frame, path)

    def carry_on(self, course: Course) -> None:
        """Frames that brought nothing but the next entries and commits."""
        self.last_index = course.last_index
        self.hard_state = HardState(course.term, course.vote, course.commit)

    def _take_entries(self, record: EntriesRecord, frame: Frame, sequence: int, path: str) -> None:
        first, last = record.first_index, record.last_index
        if first > self.last_index + 1:
            raise rot(path, frame.offset, f"entry {first} follows entry {self.last_index}", self.last_index + 1, last)
        if first <= self.hard_state.commit:
            raise rot(path, frame.offset, f"entry {first} replaces a committed one", first, last)
        overwrites = first <= self.last_index
        before = self.terms.term(first - 1) if self.base_index < first <= self.last_index else self.last_term
        if first <= self.base_index:
            # The segments that held what is before `first` were compacted away, and the term there with them: take
            # the first entry that is left for the base.
            self.base_index, self.base_term = first, record.first_term
            self.terms.reset(first, record.first_term)
            self.locations.clear()
        elif record.first_term < before:
            raise rot(path, frame.offset, f"the term goes back at entry {first}", first, last)
        self.locations.add(first, sequence, frame.offset, overwrites=overwrites)
        if overwrites or record.last_term != self.last_term:
            self._take_terms(record, frame, path)
        self.last_index, self.last_term = last, record.last_term

    def _take_terms(self, record: EntriesRecord, frame: Frame, path: str) -> None:
        if record.first_index > self.base_index:
            self.terms.append(record.first_index, record.first_term)
        if record.first_term == record.last_term:
            return
        try:
            entries = decode_entries(record)
        except BodyError as error:
            raise rot(path, frame.offset, str(error), record.first_index, record.last_index) from error
        term = record.first_term
        for entry in entries:
            if entry.term < term:
                raise rot(path, frame.offset, f"the term goes back at entry {entry.index}", entry.index)
            if entry.term > term:
                term = entry.term
                self.terms.append(entry.index, term)

    def _take_hard_state(self, state: HardState, frame: Frame, path: str) -> None:
        old = self.hard_state
        goes_back = state.term < old.term or state.commit < old.commit
        if goes_back or (state.term == old.term and old.vote not in (0, state.vote)):
            raise rot(path, frame.offset, f"the state goes back from {old} to {state}")
        if state.commit > self.last_index:
            raise rot(path, frame.offset, f"entry {state.commit} is committed, and the log ends at {self.last_index}")
        self.hard_state = state


def recover(disk: Disk, directory: str, *, log_id: int, repair: bool = True) -> Recovered | None:
    """Read the log in `directory`; None where there is none yet.

    With `repair` off nothing is changed, and a torn tail is reported only: for tools that look at a log in use. Then
    `FileNotFoundError` says that a running node has dropped a segment before it was read.

    Raises:
        CorruptionError: rot, or a missing file. Nothing was changed.
        WrongDirectory: the log belongs to another node.
    """
    sequences = _find_segments(disk, directory, repair=repair)
    if not sequences:
        return None
    reader = _LogReader(disk, directory, log_id, repair=repair)
    try:
        for sequence in sequences:
            reader.read_segment(sequence)
        return reader.finish()
    except BaseException:
        reader.close()
        raise


def _find_segments(disk: Disk, directory: str, *, repair: bool) -> list[int]:
    sequences = []
    leftovers = False
    for name in disk.list(directory):
        sequence = segment_sequence(name)
        if sequence is not None:
            sequences.append(sequence)
        elif name.endswith(TEMPORARY_SUFFIX) and repair:
            disk.remove(f"{directory}/{name}")
            leftovers = True
    if leftovers:
        disk.sync_dir(directory)
    sequences.sort()
    for before, after in pairwise(sequences):
        if after != before + 1:
            missing = f"{directory}/{segment_name(before + 1)}"
            raise rot(missing, None, f"the file is missing: {segment_name(after)} is there, so it must have been, too")
    return sequences


class _LogReader:
    """Reads segment after segment; each one is judged by what its successor says of it."""

    def __init__(self, disk: Disk, directory: str, log_id: int, *, repair: bool) -> None:
        self._repair = repair
        self._disk = disk
        self._directory = directory
        self._log_id = log_id
        self._replay: Replay | None = None
        self._segments: list[Segment] = []
        self._scan: SegmentScan | None = None
        self._last_frame: Frame | None = None
        self._notes: list[str] = []

    def read_segment(self, sequence: int) -> None:
        path = f"{self._directory}/{segment_name(sequence)}"
        file = self._disk.open(path, write=self._repair)
        try:
            scan = SegmentScan(file)
        except BaseException:
            file.close()
            raise
        before, self._scan = self._scan, scan
        try:
            self._check_header(scan, sequence, before)
        finally:
            if before is not None:
                before.file.close()
        header = scan.header
        self._segments.append(Segment(sequence, path, scan.seed, header.base_index, header.size_bytes, scan.layout))
        self._read_frames(scan)

    def _check_header(self, scan: SegmentScan, sequence: int, before: SegmentScan | None) -> None:
        header, path = scan.header, scan.path
        if header.sequence != sequence:
            raise rot(path, 0, f"the file is segment {header.sequence}, not {sequence}: it was renamed or copied")
        if header.log_id != self._log_id:
            raise WrongDirectory(
                f"{path} belongs to the log {header.log_id:016x}, not {self._log_id:016x}: it is another node's. "
                f"Put this node's own file back. Or: {how_to_repair(data_dir_of(path))}"
            )
        if before is None:
            self._replay = Replay(header.base_index, header.base_term)
            return
        self._check_succession(before, scan)

    def _check_succession(self, before: SegmentScan, scan: SegmentScan) -> None:
        """That the segment before ended just where this one says it did."""
        header, replay = scan.header, self._checked_replay()
        ending = self._ending(before)
        last = self._last_frame
        assert last is not None
        sealed = last.seal is not None
        end, checksum = (last.offset, last.previous) if sealed else (before.offset, before.previous)
        if end < header.previous_end:
            affected = (replay.last_index + 1, header.base_index)
            raise rot(before.path, ending.offset, _why_not_whole(ending, header), *affected)
        if end != header.previous_end or checksum != header.previous_checksum or ending.next_offset is not None:
            reason = f"other frames than those that segment {header.sequence} continues"
            raise rot(before.path, header.previous_end, reason, header.base_index + 1)
        if sealed and last.seal != header.sequence:
            raise rot(before.path, last.offset, f"the segment names {last.seal} as the next one")
        if (header.base_index, header.base_term) != (replay.last_index, replay.last_term):
            reason = f"the segment was begun after entry {header.base_index}, and the log ends at {replay.last_index}"
            raise rot(scan.path, 0, reason, min(header.base_index, replay.last_index) + 1)
        if ending.kind is not EndKind.CLEAN:
            self._notes.append(f"{before.path}: bytes that are no part of the log, from offset {ending.offset} on")

    def _read_frames(self, scan: SegmentScan) -> None:
        replay = self._checked_replay()
        head = scan.next()
        if head is None:
            ending = scan.ending()
            reason = f"the segment's first frame is damaged ({ending.reason})"
            raise rot(scan.path, SEGMENT_HEADER_BYTES, reason, replay.last_index + 1)
        replay.take_head(head, scan.path)
        self._last_frame = head
        self._read_on(scan, head)

    def _read_on(self, scan: SegmentScan, last: Frame) -> None:
        """Take the frames after `last`, as far as they reach."""
        while True:
            if last.seal is None:
                last = self._last_frame = self._follow(scan, last)
            frame = scan.next()
            if frame is None:
                return
            if last.seal is not None:
                raise rot(scan.path, frame.offset, "a frame after the end of the segment")
            self._checked_replay().take(frame, scan.header.sequence, scan.path)
            last = self._last_frame = frame

    def _follow(self, scan: SegmentScan, last: Frame) -> Frame:
        """Take frames that only carry the log on, many at once; gives the last of them, or else `last`."""
        replay, sequence = self._checked_replay(), scan.header.sequence
        state = replay.hard_state
        course = Course(
            scan.offset,
            scan.previous,
            replay.last_index,
            replay.last_term,
            state.term,
            state.vote,
            state.commit,
            last.offset,
            last.previous,
        )
        scan.follow(course, lambda index, offset: replay.locations.add(index, sequence, offset))
        if course.offset == last.end:
            return last
        replay.carry_on(course)
        size = course.offset - course.last_offset
        return Frame(course.last_offset, size, course.last_previous, course.previous)

    def _ending(self, scan: SegmentScan) -> Ending:
        """How a segment ends. Where a running node adds to it meanwhile, it is read on first."""
        ending = scan.ending()
        while not self._repair and ending.kind is not EndKind.CLEAN and scan.look_again():
            assert self._last_frame is not None
            self._read_on(scan, self._last_frame)
            ending = scan.ending()
        return ending

    def finish(self) -> Recovered:
        scan, replay = self._scan, self._checked_replay()
        assert scan is not None
        ending = self._ending(scan)
        last = self._last_frame
        assert last is not None
        if ending.kind is EndKind.ROT:
            until = ending.next_index - 1 if ending.next_index is not None else None
            raise rot(scan.path, ending.offset, ending.reason, replay.last_index + 1, until)
        if last.seal is not None:
            newest = f"{self._directory}/{segment_name(last.seal)}"
            if not self._repair and self._later_than(last.seal):  # begun by a running node since the files were listed
                self.read_segment(last.seal)
                return self.finish()
            raise rot(newest, None, "the log's newest file is missing", replay.last_index + 1)
        torn = None
        if ending.kind is EndKind.TORN:
            torn = self._cut(scan.file, ending) if self._repair else _torn_text(scan.path, ending, NOT_CUT_YET)
        if self._repair:
            self._zero_again(scan.file, ending.offset)
            scan.file.write_at(last.offset, scan.raw(last.offset, last.size_bytes))
            scan.file.sync()
            self._disk.sync_dir(self._directory)
        active = ActiveSegment(scan.file, scan.header, scan.seed, scan.path, scan.offset, scan.previous)
        return Recovered(self._segments, active, replay, torn, self._notes)

    def _later_than(self, sequence: int) -> bool:
        names = self._disk.list(self._directory)
        return any((found := segment_sequence(name)) is not None and found >= sequence for name in names)

    def _cut(self, file: File, ending: Ending) -> str:
        """Keep the torn bytes in a file of their own; `_zero_again` then puts zeros in their place."""
        broken = _broken_path(file, ending.offset)
        try:
            self._copy(file, ending, broken)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._disk.remove(broken + TEMPORARY_SUFFIX)  # that the node starts is worth more than to look into them
            _zero(file, ending.offset, ending.dirty_end)
            return _torn_text(file.path, ending, "they were cut, and not kept, because the disk is full")
        self._disk.rename(broken + TEMPORARY_SUFFIX, broken)
        self._disk.sync_dir(self._directory)
        self._drop_old_broken_files()
        return _torn_text(file.path, ending, f"they were cut and kept in {broken}")

    def _copy(self, file: File, ending: Ending, broken: str) -> None:
        copy = self._disk.open(broken + TEMPORARY_SUFFIX, create=True, write=True)
        try:
            for offset in range(ending.offset, ending.dirty_end, COPY_BYTES):
                size = min(COPY_BYTES, ending.dirty_end - offset)
                copy.write_at(offset - ending.offset, file.read_at(offset, size))
            copy.sync()
        finally:
            copy.close()

    def _zero_again(self, file: File, end: int) -> None:
        """Zeros in place of what was cut at `end`, now or by an earlier start whose sync may have failed."""
        broken = _broken_path(file, end)
        if not self._disk.exists(broken):
            return
        cut = self._disk.open(broken)
        try:
            until = min(end + cut.size(), file.size())
        finally:
            cut.close()
        _zero(file, end, until)

    def _drop_old_broken_files(self) -> None:
        names = [name for name in self._disk.list(self._directory) if name.endswith(BROKEN_SUFFIX)]  # oldest first
        for name in names[:-BROKEN_FILES_LIMIT]:
            self._disk.remove(f"{self._directory}/{name}")

    def _checked_replay(self) -> Replay:
        assert self._replay is not None, "the first segment's header comes first"
        return self._replay

    def close(self) -> None:
        if self._scan is not None:
            self._scan.file.close()


def _broken_path(file: File, offset: int) -> str:
    return f"{file.path}.{offset:08x}{BROKEN_SUFFIX}"


def _why_not_whole(ending: Ending, successor: SegmentHeader) -> str:
    return (
        f"the segment's frames end here, and segment {successor.sequence} says that they reached "
        f"offset {successor.previous_end} ({ending.reason})"
    )


def _zero(file: File, start: int, end: int) -> None:
    for offset in range(start, end, COPY_BYTES):
        file.write_at(offset, bytes(min(COPY_BYTES, end - offset)))


def _torn_text(path: str, ending: Ending, what_becomes_of_them: str) -> str:
    size = ending.dirty_end - ending.offset
    return (
        f"{path} ends with {size} bytes of a write that a crash interrupted, from offset {ending.offset} on "
        f"({ending.reason}). It was never acknowledged: {what_becomes_of_them}."
    )
