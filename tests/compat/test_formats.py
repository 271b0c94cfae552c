"""The file formats are what `docs/formats.md` says, and stay it.

The golden directory was written by the first version; it must be readable for ever. A second reader, written from the
document alone, takes its files apart with nothing of the program in it.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
import zlib
from pathlib import Path

import msgspec
import pytest

from syncline.consensus.types import NO_LIMIT, SnapshotMeta
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import DataDir
from syncline.storage.log import StoredLog
from syncline.storage.snapshots import SnapshotStore
from syncline.storage.wal import Wal
from syncline.testing.simdisk import SimDisk
from tests.compat.make_data_v1 import (
    ENTRIES,
    IDENTITY,
    MEMBERS,
    RUNTIME,
    SEGMENT_BYTES,
    SNAPSHOT_DATA,
    STATE,
    write_log,
)

GOLDEN = Path(__file__).parent.parent / "fixtures" / "data-v1"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy: reading a directory writes to it."""
    shutil.copytree(GOLDEN, tmp_path / "data")
    return tmp_path / "data"


def test_the_golden_directory_is_read(golden: Path) -> None:
    directory = DataDir.open(OsDisk(), str(golden))
    assert directory.identity == IDENTITY
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


def test_this_version_still_writes_the_same_bytes() -> None:
    disk = SimDisk(random.Random(0))
    disk.make_dirs("/wal")
    write_log(disk, "/wal")
    written = {path.rsplit("/", 1)[1]: disk.read_file(path) for path in disk.paths()}
    assert written == {path.name: path.read_bytes() for path in (GOLDEN / "wal").iterdir()}


# A reader of the log, from the document alone.


def u16(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<H", data, at)[0])


def u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def u64(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<Q", data, at)[0])


def frames(data: bytes) -> list[list[tuple[str, object]]]:
    """The records of each frame of a segment."""
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
        found.append(records(plain))
        previous = u32(data, at + 16)
        at += size
    assert not data[at:].strip(b"\0")
    return found


def records(body: bytes) -> list[tuple[str, object]]:
    at = 0
    found: list[tuple[str, object]] = []
    while at < len(body):
        kind = body[at]
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


def test_the_log_is_what_the_document_says() -> None:
    log: dict[int, list[object]] = {}
    state: object = None
    previous: tuple[int, int] | None = None
    paths = sorted((GOLDEN / "wal").iterdir())
    for path in paths:
        data = path.read_bytes()
        assert data[:8] == b"SYNCWAL\n"
        assert (u16(data, 8), u16(data, 10), u32(data, 56)) == (1, 0, 0)
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


def test_the_snapshots_are_what_the_document_says() -> None:
    paths = sorted((GOLDEN / "snapshots").iterdir())
    assert [path.name for path in paths] == [
        "0000000000000028-0000000000000004.snap",
        "000000000000003c-0000000000000005.snap",
    ]
    for path in paths:
        data = path.read_bytes()
        assert data[:8] == b"SYNCSNP\n"
        assert (u16(data, 8), u16(data, 10), u32(data, 20), u32(data, 24)) == (1, 0, 0, 0)
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
        }


def test_the_identity_is_what_the_document_says() -> None:
    text = (GOLDEN / "identity").read_text()
    content = json.loads(text)
    assert list(content) == ["format_version", "written_by", "cluster_id", "node_id", "name", "started", "checksum"]
    assert text == json.dumps(content, indent=2) + "\n"
    plain = json.dumps({**content, "checksum": ""}, separators=(",", ":"))
    assert content["checksum"] == f"{zlib.crc32(plain.encode()):08x}"
    assert (content["cluster_id"], content["node_id"]) == ("0123456789abcdef", "1a2b3c4d5e6f7081")
