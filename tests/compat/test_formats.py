"""The file formats are what `docs/formats.md` says, and stay it.

There is a golden directory of each format, written by a version that wrote it; each must stay readable. A second
reader, written from the document alone, takes their files apart with nothing of the program in it.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest

from syncline.consensus.types import NO_LIMIT, HardState, SnapshotMeta
from syncline.errors import CorruptionError, FormatVersionError
from syncline.node.config import Config
from syncline.node.fsm import BytesSnapshot
from syncline.node.fsm import Entry as Command
from syncline.node.raft import Raft
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import DataDir
from syncline.storage.inspect import check_log
from syncline.storage.snapshots.file import SnapshotManifest, decode_manifest, encode_manifest
from syncline.storage.snapshots.store import SnapshotStore
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.writer import Wal, WalWrite
from syncline.testing.sim.disk import SimDisk
from tests.compat.make_data_v1 import (
    ENTRIES,
    IDENTITY,
    MEMBERS,
    RUNTIME,
    SEGMENT_BYTES,
    SNAPSHOT_DATA,
    STATE,
    entry,
    write_log,
)

FIXTURES = Path(__file__).parent.parent / "fixtures"
NEWEST = 2
every_format = pytest.mark.parametrize("version", range(1, NEWEST + 1))


def golden_of(version: int) -> Path:
    return FIXTURES / f"data-v{version}"


@pytest.fixture
def golden(tmp_path: Path, version: int) -> Path:
    """A copy: reading a directory writes to it."""
    shutil.copytree(golden_of(version), tmp_path / "data")
    return tmp_path / "data"


@every_format
def test_golden_directory_of_each_format_is_read(golden: Path, version: int) -> None:
    directory = DataDir.open(OsDisk(), str(golden))
    assert directory.identity == msgspec.structs.replace(IDENTITY, format_version=version)
    store = SnapshotStore.open(OsDisk(), directory.snapshots_path, cluster_id=IDENTITY.cluster_id)
    assert [(held.index, held.term) for held in store.list()] == [(60, 5), (40, 4)]
    assert store.damage == ()
    for manifest in store.list():
        assert (manifest.membership, manifest.runtime) == (MEMBERS, RUNTIME)
        with store.read(manifest) as reader:
            assert reader.readall() == SNAPSHOT_DATA
    wal = Wal.open(OsDisk(), directory.wal_path, segment_bytes=SEGMENT_BYTES, log_id=IDENTITY.node_id, must_exist=True)
    assert wal.recovery.torn is None
    assert wal.recovery.notes == ()
    assert wal.recovery.snapshot == SnapshotMeta(60, 5, MEMBERS)
    log = StoredLog.open(wal, store.list()[0].meta)
    assert log.initial_state() == (STATE, MEMBERS)
    assert log.entries(61, log.last_index() + 1, NO_LIMIT) == ENTRIES
    assert log.term(60) == 5
    wal.close()
    directory.release()


@every_format
def test_log_of_each_format_goes_on_in_the_newest(golden: Path, version: int) -> None:
    """An older log is read, and what is written from then on is in segments of this version."""
    path = f"{golden}/wal"
    wal = Wal.open(OsDisk(), path, segment_bytes=SEGMENT_BYTES, reserve_bytes=0, log_id=IDENTITY.node_id)
    last = wal.last_index
    added = [entry(8, index) for index in range(last + 1, last + 4)]
    wal.write([WalWrite(added, HardState(8, 0, 80))])
    wal.close()
    versions = [u16(file.read_bytes(), 8) for file in sorted(Path(path).iterdir())]
    assert versions[:2] == [version, version]
    assert versions[-1] == NEWEST
    wal = Wal.open(OsDisk(), path, segment_bytes=SEGMENT_BYTES, reserve_bytes=0, log_id=IDENTITY.node_id)
    assert wal.recovery.hard_state == HardState(8, 0, 80)
    assert wal.read_entries(61, last + 4, NO_LIMIT) == [*ENTRIES, *added]
    wal.close()
    report = check_log(OsDisk(), path)
    assert (report.damage, report.last_index) == (None, last + 3)


def test_directory_of_format_1_says_2_before_its_log_does(tmp_path: Path) -> None:
    """Version 1 reads the identity first and takes format 1 alone: it must find there that it is too old."""
    shutil.copytree(golden_of(1), tmp_path / "data")
    disk = OsDisk()
    directory = DataDir.open(disk, str(tmp_path / "data"))
    directory.raise_format()
    directory.release()
    again = DataDir.open(disk, str(tmp_path / "data"))
    assert again.identity == msgspec.structs.replace(IDENTITY, format_version=NEWEST)
    again.release()
    content = json.loads((tmp_path / "data" / "identity").read_bytes())
    assert content["format_version"] != 1
    assert content["written_by"], "what version 1 shows, with the advice to start that version"


async def test_node_on_a_directory_of_format_1_raises_its_format_first(tmp_path: Path) -> None:
    shutil.copytree(golden_of(1), tmp_path / "data")
    (tmp_path / "data" / "wal" / "0000000000000004.wal").write_bytes(b"")  # the log can't be opened: it comes later
    config = Config(name=IDENTITY.name, data_dir=str(tmp_path / "data"), listen="127.0.0.1:7100")
    with pytest.raises(CorruptionError):
        await Raft.open(config, Register())
    assert json.loads((tmp_path / "data" / "identity").read_bytes())["format_version"] == NEWEST


class Register:
    def apply(self, entry: Command) -> object:
        return entry.index

    def snapshot(self) -> BytesSnapshot:
        return BytesSnapshot(b"")

    def restore(self, source: BinaryIO) -> None:
        source.read()


def test_log_of_another_raft_group_is_refused_and_not_damaged(tmp_path: Path) -> None:
    """A later version may share a log between groups: this one must not take that for damage, nor for its own."""
    path = tmp_path / "wal"
    shutil.copytree(golden_of(NEWEST) / "wal", path)
    newest = max(path.iterdir())
    data = bytearray(newest.read_bytes())
    put_group(data, 7)
    newest.write_bytes(data)
    with pytest.raises(FormatVersionError, match="Raft group 7"):
        Wal.open(OsDisk(), str(path), segment_bytes=SEGMENT_BYTES, log_id=IDENTITY.node_id)
    report = check_log(OsDisk(), str(path))
    assert "Raft group 7" in str(report.damage)
    assert "repair" not in str(report.damage)


def put_group(data: bytearray, group: int) -> None:
    """Change the group of the first record of the last frame, and all checksums that cover it."""
    seed, at = u32(data, 60), 64
    while data[at + u32(data, at + 4)]:
        at += u32(data, at + 4)
    size = u32(data, at + 4)
    struct.pack_into("<I", data, at + 33, group)
    struct.pack_into("<I", data, at + 16, zlib.crc32(data[at + 32 : at + size], u32(data, at + 12)))
    struct.pack_into("<I", data, at + 24, zlib.crc32(data[at : at + 24], seed))


def test_snapshot_of_another_raft_group_is_refused() -> None:
    manifest = SnapshotManifest(5, 1, MEMBERS, 1, 0, "0" * 64, "0.9.0", group=7)
    with pytest.raises(FormatVersionError, match="Raft group 7"):
        decode_manifest(encode_manifest(manifest))


def test_this_version_still_writes_the_same_bytes() -> None:
    disk = SimDisk(random.Random(0))
    disk.make_dirs("/wal")
    write_log(disk, "/wal")
    written = {path.rsplit("/", 1)[1]: disk.read_file(path) for path in disk.paths()}
    assert written == {path.name: path.read_bytes() for path in (golden_of(NEWEST) / "wal").iterdir()}


# A reader of the log, from the document alone.


def u16(data: bytes | bytearray, at: int) -> int:
    return int(struct.unpack_from("<H", data, at)[0])


def u32(data: bytes | bytearray, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def u64(data: bytes | bytearray, at: int) -> int:
    return int(struct.unpack_from("<Q", data, at)[0])


def frames(data: bytes) -> list[list[tuple[str, object]]]:
    """The records of each frame of a segment."""
    version = u16(data, 8)
    seed = u32(data, 60)
    at, previous = 64, seed
    found = []
    while data[at : at + 4] == b"\xf7SL\x1a":
        size = u32(data, at + 4)
        assert size % 32 == 0
        assert u32(data, at + 8) == at
        assert u32(data, at + 12) == previous
        body = data[at + 32 : at + size]
        assert zlib.crc32(body, previous) == u32(data, at + 16)
        assert zlib.crc32(data[at : at + 24], seed) == u32(data, at + 24)
        assert data[at + 28 : at + 32] == b"\0\0\0\xff"
        guards = [position for position in range(at + 32, at + size) if position % 512 == 511]
        assert all(data[position] == 0xFF for position in [*guards, at + size - 1])
        records_end = at + 32 + u32(data, at + 20)
        table = iter([data[position] for position in range(records_end, at + size) if position % 512 != 511])
        plain = bytes(
            next(table) if position % 512 == 511 else data[position] for position in range(at + 32, records_end)
        )
        assert set(table) <= {0xFF}
        found.append(records(plain, version))
        previous = u32(data, at + 16)
        at += size
    assert not data[at:].strip(b"\0")
    return found


def records(body: bytes, version: int) -> list[tuple[str, object]]:
    at = 0
    found: list[tuple[str, object]] = []
    while at < len(body):
        kind = body[at]
        if version >= 2:
            assert u32(body, at + 1) == 0
            at += 4
        if kind == 1:
            size, first, count = u32(body, at + 1), u64(body, at + 5), u32(body, at + 13)
            entries = msgspec.msgpack.decode(body[at + 33 : at + 33 + size])
            assert [entry[1] for entry in entries] == list(range(first, first + count))
            assert (entries[0][0], entries[-1][0]) == (u64(body, at + 17), u64(body, at + 25))
            found.append(("entries", entries))
            at += 33 + size
        elif kind == 2:
            found.append(("hard state", (u64(body, at + 1), u64(body, at + 9), u64(body, at + 17))))
            at += 25
        elif kind == 3:
            size = u32(body, at + 1)
            found.append(("marker", msgspec.msgpack.decode(body[at + 5 : at + 5 + size])))
            at += 5 + size
        else:
            assert kind == 4
            found.append(("seal", u64(body, at + 1)))
            at += 9
    assert at == len(body)
    return found


@every_format
def test_the_log_is_what_the_document_says(version: int) -> None:
    log: dict[int, list[object]] = {}
    state: object = None
    previous: tuple[int, int] | None = None
    paths = sorted((golden_of(version) / "wal").iterdir())
    for path in paths:
        data = path.read_bytes()
        assert data[:8] == b"SYNCWAL\n"
        assert (u16(data, 8), u16(data, 10), u32(data, 56)) == (version, 0, 0)
        assert u32(data, 12) == len(data)
        assert u64(data, 16) == IDENTITY.node_id
        assert path.name == f"{u64(data, 24):016x}.wal"
        assert u32(data, 60) == zlib.crc32(data[:60])
        if previous is not None:
            assert (u32(data, 48), u32(data, 52)) == previous
            last = max(log)
            assert (u64(data, 32), u64(data, 40)) == (last, log[last][0])
        parts = frames(data)
        assert [kind for kind, _ in parts[0] if kind != "marker"] == ["hard state"]
        for part in parts:
            for kind, value in part:
                if kind == "entries":
                    assert isinstance(value, list)
                    log = {index: entry for index, entry in log.items() if index < value[0][1]}
                    log.update({entry[1]: entry for entry in value})
                elif kind == "hard state":
                    state = value
        assert (parts[-1] == [("seal", u64(data, 24) + 1)]) == (path != paths[-1])
        previous = end_and_checksum(data)
    assert state == (STATE.term, STATE.vote, STATE.commit)
    assert [log[index] for index in range(61, max(log) + 1)] == [
        [entry.term, entry.index, int(entry.type), entry.data] for entry in ENTRIES
    ]


def end_and_checksum(data: bytes) -> tuple[int, int]:
    """Where the frames of a sealed segment end without the seal, and the last checksum there."""
    at = 64
    last = before = (at, u32(data, 60))
    while data[at : at + 4] == b"\xf7SL\x1a":
        before, last = last, (at + u32(data, at + 4), u32(data, at + 16))
        at += u32(data, at + 4)
    return before


@every_format
def test_the_snapshots_are_what_the_document_says(version: int) -> None:
    paths = sorted((golden_of(version) / "snapshots").iterdir())
    assert [path.name for path in paths] == [
        "0000000000000028-0000000000000004.snap",
        "000000000000003c-0000000000000005.snap",
    ]
    for path in paths:
        data = path.read_bytes()
        assert data[:8] == b"SYNCSNP\n"
        assert (u16(data, 8), u16(data, 10), u32(data, 20), u32(data, 24)) == (version, 0, 0, 0)
        size, start = u32(data, 12), u32(data, 16)
        assert start % 512 == 0
        assert u32(data, 28) == zlib.crc32(data[:28] + data[32:start])
        manifest = msgspec.msgpack.decode(data[32 : 32 + size])
        assert not data[32 + size : start].strip(b"\0")
        state = data[start:]
        assert manifest == {
            "index": int(path.name[:16], 16),
            "term": int(path.name[17:33], 16),
            "membership": [[1, 2, IDENTITY.node_id], [4], [1, 2], [5], True],
            "cluster_id": IDENTITY.cluster_id,
            "size_bytes": len(state),
            "sha256": hashlib.sha256(state).hexdigest(),
            "created_by": "0.1.0",
            "runtime": RUNTIME,
            **({"group": 0} if version >= 2 else {}),
        }


@every_format
def test_the_identity_is_what_the_document_says(version: int) -> None:
    text = (golden_of(version) / "identity").read_text()
    content = json.loads(text)
    assert list(content) == ["format_version", "written_by", "cluster_id", "node_id", "name", "started", "checksum"]
    assert text == json.dumps(content, indent=2) + "\n"
    plain = json.dumps({**content, "checksum": ""}, separators=(",", ":"))
    assert content["checksum"] == f"{zlib.crc32(plain.encode()):08x}"
    assert (content["cluster_id"], content["node_id"]) == ("0123456789abcdef", "1a2b3c4d5e6f7081")
