"""The short way through a log: it finds just what the long way finds, and is taken where it should be."""

from __future__ import annotations

import random
from collections.abc import Callable
from zlib import crc32

import pytest

from syncline.consensus.types import HardState
from syncline.errors import StorageError
from syncline.storage.wal import scan as wal_scan
from syncline.storage.wal.format import SEGMENT_HEADER_BYTES
from syncline.storage.wal.frame import (
    FRAME_CHECKED_BYTES,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FRAME_TAIL,
    SECTOR_BYTES,
    BodyError,
    FrameBuilder,
    FrameHeader,
    decode_frame,
    decode_frame_header,
)
from syncline.storage.wal.layout import LAYOUTS, NEWEST, RecordLayout
from syncline.storage.wal.recovery import recover
from syncline.storage.wal.steady import Course, read_steady
from syncline.storage.wal.writer import Wal, WalWrite
from syncline.testing.sim.disk import SimDisk, Survival
from tests.helpers.crash_cases import WAL, Node, entries_of

COUNT_AT = NEWEST.entries.size - 20
"""Where an entries record says how many entries it holds."""


def steady(node: Node) -> None:
    """What a log mostly holds: entries one by one and in batches, commits with them and alone."""
    for index in range(1, 60):
        node.append(index, index, commit=index - 1, size=100 + 7 * index)
    for first in range(60, 120, 12):
        node.append(first, first + 11, size=40)
    for commit in range(60, 90):
        node.write(WalWrite((), HardState(1, 1, commit)))


def unsteady(node: Node) -> None:
    """Each way in which a frame can be more than the next one."""
    rng = random.Random(5)
    for _ in range(60):
        image = node.image
        last, term = image.last_index, max(1, image.state.term)
        kind = rng.randrange(6)
        first = last + 1
        if kind == 0 and last > image.state.commit:
            first, term = rng.randint(image.state.commit + 1, last), term + 1
        elif kind == 1:
            term += 1
        node.append(first, first + rng.randrange(5), term=term, size=rng.randrange(1, 700))
        if kind == 2:
            node.write(WalWrite((), HardState(term + 1, rng.randrange(3), image.state.commit)))
        elif kind == 3:
            node.write(WalWrite((), HardState(term, node.image.state.vote, rng.randint(image.state.commit, first))))
        elif kind == 4 and rng.random() < 0.2:
            node.install(first + 20, term + 1, b"x" * rng.randrange(900))


def what_is_found(disk: SimDisk) -> object:
    """All that a recovery tells, and every entry by way of the locations that it noted."""
    try:
        found = recover(disk, WAL, log_id=5, repair=False)
    except StorageError as error:
        return str(error)
    assert found is not None
    replay, active = found.replay, found.active
    state = (replay.base_index, replay.base_term, replay.last_index, replay.last_term, replay.hard_state, replay.marker)
    terms = [replay.terms.term(index) for index in range(replay.base_index, replay.last_index + 1)]
    places = [replay.locations.find(index) is not None for index in range(replay.base_index, replay.last_index + 1)]
    return state, terms, places, active.end, active.previous, found.torn, found.notes, len(found.segments)


def damaged(disk: SimDisk, rng: random.Random) -> SimDisk:
    after = disk.crashed(rng.choice(list(Survival)), rng)
    for _ in range(rng.randrange(2)):
        path = rng.choice([path for path in after.paths() if path.startswith(WAL)])
        if size := len(after.read_file(path)):
            after.flip_bit(path, rng.randrange(size))
    return after


@pytest.mark.parametrize("work", [steady, unsteady])
def test_both_ways_find_the_same(work: Callable[[Node], None], monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimDisk(random.Random(1))
    node = Node(disk)
    crashes: list[SimDisk] = []
    rng = random.Random(2)
    disk.before = lambda *_: crashes.append(damaged(disk, rng)) if rng.random() < 0.3 else None
    work(node)
    crashes.append(disk.crashed(Survival.EVERYTHING))
    followed = 0

    def counted(
        data: bytes, start: int, seed: int, course: Course, locate: Callable[[int, int], None], layout: RecordLayout
    ) -> None:
        nonlocal followed
        before = course.offset
        read_steady(data, start, seed, course, locate, layout)
        followed += course.offset > before

    monkeypatch.setattr(wal_scan, "read_steady", counted)
    short = [what_is_found(crash) for crash in crashes]
    monkeypatch.setattr(wal_scan, "read_steady", lambda *_: None)
    long = [what_is_found(crash) for crash in crashes]
    assert short == long
    assert len(crashes) > 30
    assert followed > len(crashes) // 2, "the short way was taken"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: f"format {layout.version}")
def test_a_guard_in_any_place_of_a_frame(layout: RecordLayout) -> None:
    """Frames at every offset within a sector and of many sizes: one of them has a guard in each byte of its records."""
    seed, previous = 7, 9
    for offset in range(64, 64 + 2048, 32):
        for size in (1, 30, 200, 460, 1200):
            for with_entries, with_state in ((True, True), (True, False), (False, True)):
                builder = FrameBuilder(layout)
                entries = entries_of(4, 5, 2, size) if with_entries else []
                builder.take(None, entries, HardState(3, 1, 4) if with_state else None)
                frame, checksum = builder.finish(offset, seed, previous)
                course = Course(offset, previous, 5 if not with_entries else 3, 2, 3, 1, 3, 0, 0)
                located: list[tuple[int, int]] = []
                data = bytes(frame) + bytes(32)  # in a segment something always follows
                read_steady(data, 0, seed, course, lambda *place, into=located: into.append(place), layout)
                assert course.offset == offset + len(frame)
                assert (course.previous, course.last_offset, course.last_previous) == (checksum, offset, previous)
                assert (course.last_index, course.commit) == (5, 4 if with_state else 3)
                assert located == ([(4, offset)] if with_entries else [])
                frame.release()


def test_guards_in_the_table_of_a_large_frame() -> None:
    """Where a guard is in the hard state, its byte is the table's last; a table of more than 511 has a guard itself."""
    for size in range(262_000, 262_512, 4):
        builder = FrameBuilder()
        builder.take(None, entries_of(4, 4, 2, size), HardState(3, 1, 4))
        frame, _ = builder.finish(64, 7, 9)
        course = Course(64, 9, 3, 2, 3, 1, 3, 0, 0)
        read_steady(bytes(frame), 0, 7, course, lambda *_: None, NEWEST)
        assert (course.offset, course.last_index, course.commit) == (64 + len(frame), 4, 4)


def test_a_table_that_lacks_a_byte() -> None:
    """Nobody writes such a frame. Where its checksums are right all the same, and the byte is not one of the entries,
    which neither way looks into, it is left to the long way."""
    refused = 0
    for offset in range(64, 64 + 512, 32):
        for size in range(4800, 4832):
            builder = FrameBuilder()
            records_bytes = builder.take(None, entries_of(4, 4, 2, size), HardState(3, 1, 4))
            frame, _ = builder.finish(offset, 7, 9)
            data = bytearray(frame)
            table = len(data) - 8  # eight bytes are left to it
            surplus = table - FRAME_HEADER_BYTES - records_bytes
            entries_at = FRAME_HEADER_BYTES + 1 + NEWEST.group_bytes
            data[entries_at : entries_at + 4] = (
                table - NEWEST.hard_state.size - FRAME_HEADER_BYTES - NEWEST.entries.size
            ).to_bytes(4, "little")
            data[table - NEWEST.hard_state.size : table] = NEWEST.hard_state.pack(NEWEST.hard_state_kind, 3, 1, 4)
            sign(data, 0, FrameHeader(len(data), records_bytes + surplus, 9, 0), offset, 7)
            course = Course(offset, 9, 3, 2, 3, 1, 3, 0, 0)
            read_steady(bytes(data), 0, 7, course, lambda *_: None, NEWEST)
            header = decode_frame_header(bytes(data), 0, offset, 7)
            assert header is not None
            try:
                decode_frame(bytes(data), 0, header, offset)
            except BodyError:
                if (offset + table) % SECTOR_BYTES < NEWEST.hard_state.size:
                    refused += 1
                    assert course.offset == offset
    assert refused


def sign(content: bytearray, at: int, header: FrameHeader, offset: int, seed: int) -> int:
    """Give the frame in `content` at `at` a header with right checksums; returns that of its body."""
    body = at + FRAME_HEADER_BYTES
    checksum = crc32(content[body : at + header.size_bytes], header.previous)
    numbers = (header.size_bytes, offset, header.previous, checksum, header.records_bytes)
    fields = FRAME_HEADER.pack(FRAME_MAGIC, *numbers, 0, FRAME_TAIL)[:FRAME_CHECKED_BYTES]
    content[at:body] = fields + crc32(fields, seed).to_bytes(4, "little") + FRAME_TAIL
    return checksum


def forged(segment: bytes, rng: random.Random) -> bytes:
    """A segment with one frame in it that says something else, with right checksums in it and behind it."""
    content = bytearray(segment)
    seed = previous = int.from_bytes(content[SEGMENT_HEADER_BYTES - 4 : SEGMENT_HEADER_BYTES], "little")
    places = []
    offset = SEGMENT_HEADER_BYTES
    while header := decode_frame_header(segment, offset, offset, seed):
        places.append((offset, header))
        offset += header.size_bytes
    victim = rng.randrange(1, len(places))
    for number, (offset, header) in enumerate(places):
        size, length = header.size_bytes, header.records_bytes
        body = offset + FRAME_HEADER_BYTES
        if number == victim:
            match rng.randrange(6):
                case 0:
                    length = rng.choice([0, 1, 28, 29, 37, 66, length - 1, length + 1, size, rng.randrange(1 << 32)])
                case 1:
                    size = rng.choice([32, 64, size - 32, size + 32, size - 1, rng.randrange(1 << 32)])
                case 2:
                    content[body + rng.randrange(37)] = rng.choice([0, 1, 2, 3, 255])
                case 3:
                    content[body + max(0, length - 1 - rng.randrange(29))] = rng.choice([0, 1, 2, 3, 255])
                case 4:
                    content[body + COUNT_AT] = 0
                case _:
                    content[body + rng.randrange(size - FRAME_HEADER_BYTES)] ^= rng.randrange(1, 256)
        previous = sign(content, offset, FrameHeader(size, length, previous, 0), offset, seed)
    return bytes(content)


def test_both_readers_agree_on_frames_that_no_version_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the checksums are right, only what the records say is left to be checked: each byte of it is changed."""
    rng = random.Random(4)
    disk = SimDisk(rng)
    node = Wal.open(disk, WAL, segment_bytes=1 << 16, reserve_bytes=0, log_id=5)
    index = 1
    while index < 200:
        count = rng.choice((0, 1, 1, 1, 5))
        state = HardState(1, 1, index - 1) if rng.random() < 0.7 or not count else None
        node.write([WalWrite(entries_of(index, index + count - 1, 1, rng.choice((3, 60, 100, 400))), state)])
        index += count
    node.close()
    (path,) = [path for path in disk.paths() if path.endswith(".wal")]
    segment = disk.read_file(path)
    outcomes = set()
    for _ in range(600):
        disk.write_file(path, forged(segment, rng))
        monkeypatch.setattr(wal_scan, "read_steady", read_steady)
        short = what_is_found(disk)
        monkeypatch.setattr(wal_scan, "read_steady", lambda *_: None)
        assert what_is_found(disk) == short
        outcomes.add(type(short))
    assert outcomes == {str, tuple}, "some were refused, and some were not"


@pytest.mark.parametrize(
    ("course", "why"),
    [
        (Course(64, 9, 3, 2, 3, 1, 3, 0, 0), None),
        (Course(64, 8, 3, 2, 3, 1, 3, 0, 0), "another checksum before it"),
        (Course(64, 9, 2, 2, 3, 1, 2, 0, 0), "a gap"),
        (Course(64, 9, 4, 2, 3, 1, 3, 0, 0), "an overwritten entry"),
        (Course(64, 9, 3, 1, 3, 1, 3, 0, 0), "another term of the log"),
        (Course(64, 9, 3, 2, 2, 1, 3, 0, 0), "another term"),
        (Course(64, 9, 3, 2, 3, 2, 3, 0, 0), "another vote"),
        (Course(64, 9, 3, 2, 3, 1, 5, 0, 0), "a commit that goes back"),
    ],
)
def test_anything_else_is_left_to_the_long_way(course: Course, why: str | None) -> None:
    builder = FrameBuilder()
    builder.take(None, entries_of(4, 5, 2, 60), HardState(3, 1, 4))
    frame, _ = builder.finish(64, 7, 9)
    before = course.offset
    read_steady(bytes(frame) + bytes(32), 0, 7, course, lambda *_: None, NEWEST)
    assert (course.offset == before) == (why is not None), why
