"""Files that hold anything: noise, and forgeries whose checksums are right. An error of ours comes of it, in little
memory.

`SYNCLINE_FUZZ_EXAMPLES=20000` tries more. Mutations of real files: `test_rot.py`, `test_wal_recovery.py`.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from syncline.consensus.types import NO_LIMIT, HardState
from syncline.errors import StorageError
from syncline.storage.datadir import DataDir, Identity, encode_identity
from syncline.storage.inspect import check_log, list_snapshots, read_log
from syncline.storage.snapshots.file import FIXED_HEADER, MAGIC, encode_manifest
from syncline.storage.snapshots.store import SnapshotManifest, SnapshotStore
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.format import SEGMENT_HEADER, SEGMENT_MAGIC, SegmentHeader, encode_segment_header
from syncline.storage.wal.frame import FRAME_HEADER_BYTES, FrameBuilder
from syncline.storage.wal.layout import NEWEST
from syncline.storage.wal.writer import Wal
from syncline.testing.sim.disk import SimDisk
from tests.helpers.crash_cases import MEMBERS

EXAMPLES = int(os.environ.get("SYNCLINE_FUZZ_EXAMPLES", "150"))
MEMORY_BYTES = 4 << 20
"""More than any of these files needs to be refused: they are small, whatever their lengths say."""

SEGMENT = "/d/wal/0000000000000001.wal"
SNAPSHOT = "/d/snapshots/0000000000000009-0000000000000002.snap"
SIZE = 4096
HUGE = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


def disk_with(path: str, content: bytes) -> SimDisk:
    disk = SimDisk(random.Random(1))
    for directory in ("/d/wal", "/d/snapshots"):
        disk.make_dirs(directory)
    disk.write_file(path, content)
    return disk


def read_in_every_way(path: str, content: bytes) -> None:
    """Start on it and look at it: nothing but errors of ours comes out, and what is accepted can be used."""
    ways: list[Callable[[SimDisk], object]] = [start, look]
    for way in ways:
        disk = disk_with(path, content)
        with little_memory(), contextlib.suppress(StorageError):
            way(disk)


def start(disk: SimDisk) -> None:
    DataDir.open(disk, "/d") if disk.exists("/d/identity") else None
    snapshots = SnapshotStore.open(disk, "/d/snapshots", cluster_id=1)
    wal = Wal.open(disk, "/d/wal", segment_bytes=SIZE, reserve_bytes=0, log_id=7)
    newest = snapshots.newest()
    if newest is not None:
        with snapshots.read(newest) as reader:
            reader.readall()
    log = StoredLog.open(wal, newest.meta if newest is not None else None)
    if log.first_index() <= log.last_index():
        log.entries(log.first_index(), log.last_index() + 1, NO_LIMIT)
    wal.close()


def look(disk: SimDisk) -> None:
    check_log(disk, "/d/wal", log_id=7)
    for _ in read_log(disk, "/d/wal", entries=True):
        pass
    list_snapshots(disk, "/d/snapshots", verify=True)


# Noise.


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from([SEGMENT, SNAPSHOT, "/d/identity"]), st.binary(max_size=3000), st.booleans())
def test_noise(path: str, noise: bytes, with_magic: bool) -> None:
    magic = {SEGMENT: SEGMENT_MAGIC, SNAPSHOT: MAGIC}.get(path, b'{"format_version": 1, ')
    read_in_every_way(path, magic + noise if with_magic else noise)


# Segments whose checksums are right.


def segment(*frames: bytes, header: SegmentHeader | None = None, size: int = SIZE) -> bytes:
    """A segment with a sound first frame, then frames of these records, whatever they are."""
    head = encode_segment_header(header or SegmentHeader(7, 1, 0, 0, 0, 0, SIZE))
    content = bytearray(head)
    seed = previous = int.from_bytes(head[-4:], "little")
    builder = FrameBuilder()
    for number, records in enumerate([b"", *frames]):
        builder.take(None, (), HardState() if number == 0 else None)
        builder._buffer += records
        frame, previous = builder.finish(len(content), seed, previous)
        content += bytes(frame)
        frame.release()
    return bytes(content.ljust(size, b"\0"))


def test_the_forger_can_make_a_sound_segment() -> None:
    disk = disk_with(SEGMENT, segment(NEWEST.hard_state.pack(NEWEST.hard_state_kind, 4, 2, 0)))
    assert check_log(disk, "/d/wal", log_id=7).hard_state == HardState(4, 2, 0)


number = st.one_of(st.sampled_from(HUGE), st.integers(0, 2**64 - 1), st.integers(0, 9))
small = st.one_of(st.sampled_from([n for n in HUGE if n < 2**32]), st.integers(0, 2**32 - 1), st.integers(0, 40))


def kinds(kind: int) -> st.SearchStrategy[bytes]:
    """The kind of a record and its group, which is mostly the right one."""
    groups = st.one_of(st.just(0), st.just(0), st.integers(0, 2**32 - 1))
    return groups.map(lambda group: struct.pack("<BI", kind, group))


record = st.one_of(
    st.builds(
        lambda kind, *head: kind + struct.pack("<IQIQQ", *head[:-1]) + head[-1],
        kinds(1), small, number, small, number, number, st.binary(max_size=60),
    ),
    st.builds(lambda kind, *state: kind + struct.pack("<QQQ", *state), kinds(2), number, number, number),
    st.builds(lambda kind, size, data: kind + struct.pack("<I", size) + data, kinds(3), small, st.binary(max_size=60)),
    st.builds(lambda kind, sequence: kind + struct.pack("<Q", sequence), kinds(4), number),
    st.binary(max_size=40),
)  # fmt: skip
records = st.lists(record, max_size=3).map(b"".join)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(records, min_size=1, max_size=3))
@example([NEWEST.entries.pack(NEWEST.entries_kind, 2**32 - 1, 1, 2**32 - 1, 1, 1)])
@example([NEWEST.entries.pack(NEWEST.entries_kind, 5, 1, 2**32 - 1, 1, 2) + b"\xdd\xff\xff\xff\xff"])
@example([NEWEST.marker_kind + struct.pack("<I", 2**32 - 1)])
@example([NEWEST.marker_kind + struct.pack("<I", 9) + b"\x93\x01\x01\x91\xdd\xff\xff\xff\xff"])
def test_forged_records(frames: list[bytes]) -> None:
    read_in_every_way(SEGMENT, segment(*frames))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.tuples(*[number] * 5), small, small, small)
@example((7, 1, 0, 0, 0), 0, 2**32 - 1, 2**32 - 1)
def test_forged_segment_headers(numbers: tuple[int, int, int, int, int], end: int, checksum: int, size: int) -> None:
    log_id, sequence, index, term, _ = numbers
    fields = SEGMENT_HEADER.pack(SEGMENT_MAGIC, 1, 0, size, log_id, sequence, index, term, end, checksum, 0, 0)[:-4]
    content = fields + zlib.crc32(fields).to_bytes(4, "little")
    read_in_every_way(SEGMENT, content.ljust(SIZE, b"\0"))


@pytest.mark.parametrize("length", [2**32 - 32, 2**31, 256 << 20, 64, 32, 0, 33])
def test_a_frame_that_says_it_is_of_any_length(length: int) -> None:
    """With a right checksum over its header: nothing is allocated for what is not there."""
    content = bytearray(segment())
    at = next(offset for offset in range(64, SIZE, 32) if not any(content[offset : offset + 32]))
    seed = int.from_bytes(content[60:64], "little")
    previous = int.from_bytes(content[80:84], "little")
    checked = struct.pack("<4sIIIII", b"\xf7SL\x1a", length, at, previous, 5, length and length - FRAME_HEADER_BYTES)
    content[at : at + 32] = checked + zlib.crc32(checked, seed).to_bytes(4, "little") + b"\0\0\0\xff"
    read_in_every_way(SEGMENT, bytes(content))


def test_a_segment_that_has_grown_without_end_is_not_read_to_its_end() -> None:
    disk = disk_with(SEGMENT, segment())
    disk.open(SEGMENT, write=True).truncate(1 << 40)
    with little_memory():
        assert "has grown" in (check_log(disk, "/d/wal", log_id=7).damage or "")


# Snapshots whose checksums are right.


def snapshot(manifest: bytes, *, size: int | None = None, offset: int | None = None, data: bytes = b"data") -> bytes:
    start = 32 + len(manifest) + -(32 + len(manifest)) % 512
    stated = (len(manifest) if size is None else size, start if offset is None else offset)
    fixed = FIXED_HEADER.pack(MAGIC, 1, 0, *stated, 0, b"", 0)[:-4]
    rest = manifest.ljust(start - 32, b"\0")
    return fixed + zlib.crc32(rest, zlib.crc32(fixed)).to_bytes(4, "little") + rest + data


SOUND = SnapshotManifest(
    9, 2, MEMBERS, 1, 4, "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7", "0.1", b""
)


def test_the_forger_can_make_a_sound_snapshot() -> None:
    (view,) = list_snapshots(disk_with(SNAPSHOT, snapshot(encode_manifest(SOUND))), "/d/snapshots", verify=True)
    assert (view.damage, view.manifest) == (None, SOUND)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.one_of(st.none(), small), st.one_of(st.none(), small))
@example(2**32 - 1, None)
@example(None, 2**32 - 1)
@example(2**32 - 1, 2**32 - 1)
def test_forged_snapshot_headers(size: int | None, offset: int | None) -> None:
    read_in_every_way(SNAPSHOT, snapshot(encode_manifest(SOUND), size=size, offset=offset))


json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=9), st.binary(max_size=9)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dictionaries(st.sampled_from(SnapshotManifest.__struct_fields__), json_like), st.binary(max_size=9))
@example({"size_bytes": 2**63 - 1}, b"")
@example({"index": 2**64 - 1}, b"")
def test_forged_manifests(changes: dict[str, object], tail: bytes) -> None:
    fields = {**msgspec.to_builtins(SOUND, builtin_types=(bytes,)), **changes}
    read_in_every_way(SNAPSHOT, snapshot(msgspec.msgpack.encode(fields) + tail))


# Identities whose checksums are right.


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.text(max_size=50), st.booleans(), st.binary(max_size=5))
def test_forged_identities(cluster_id: int, node_id: int, name: str, started: bool, tail: bytes) -> None:
    identity = Identity(cluster_id=cluster_id, node_id=node_id, name=name, started=started)
    read_in_every_way("/d/identity", encode_identity(identity) + tail)
