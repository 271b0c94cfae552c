"""Snapshots of the key-value store: those of each format stay readable, and the newest is still written so."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from syncline.errors import CorruptionError, Rejected
from syncline.kv.records import KeyRecord, LeaseRecord
from syncline.kv.snapshots import read_snapshot
from syncline.kv.store import KeyStore
from tests.compat.make_kv_snapshot import snapshot_bytes, written_store
from tests.helpers.auth_commands import add_users
from tests.helpers.kv_commands import contents

FIXTURES = Path(__file__).parent.parent / "fixtures"


def golden(version: int) -> bytes:
    return (FIXTURES / f"kv-snapshot-v{version}.bin").read_bytes()


def read(version: int) -> KeyStore:
    return read_snapshot(io.BytesIO(golden(version)))


def test_kv_snapshot_of_version_1_is_a_store_without_history() -> None:
    store = read(1)
    store.check()
    assert (store.revision, store.oldest, store.history_revisions, len(store)) == (42, 43, 0, 26)
    assert store.get(b"key/14") == store.get(b"key/14", 42)
    assert [plain(record) for record in contents(store)[-2:]] == [
        (b"key/98", b"", 42, 42, 1, 0),
        (b"key/99", bytes(range(256)), 42, 42, 1, 0),
    ]
    with pytest.raises(Rejected) as refusal:
        store.get(b"key/14", 41)
    assert (refusal.value.code, refusal.value.details) == ("compacted", {"oldest": 43})
    assert list(store.changes(43)) == []
    store.put(b"key/00", b"new", 0, 43)
    (revision, (change,)) = next(store.changes(43))
    assert revision == 43
    assert change.previous is not None
    assert change.previous.value == b"value 25"
    store.check()


def test_kv_snapshot_of_version_2_is_read_whole() -> None:
    store = read(2)
    store.check()
    assert (store.revision, store.oldest, len(store)) == (44, 30, 26)
    assert store.digest == written_store().digest == GOLDEN_DIGEST
    assert list(store.leases.records()) == [
        LeaseRecord(7, 30_000, 12_000),
        LeaseRecord(2**63 - 1, 9_000, 9_000, own=True),
    ]
    assert [store.leases.keys(lease) for lease in (7, 2**63 - 1)] == [[b"key/03"], [b"key/98"]]
    assert list(store.changes(30)) == list(written_store().changes(30))
    for revision in range(30, 45):
        assert store.range(revision=revision) == written_store().range(revision=revision)


def test_kv_snapshot_of_the_same_state_has_the_same_bytes() -> None:
    """Whatever the sweep has done, and also after it was read."""
    store = written_store()
    assert snapshot_bytes(store) == golden(2)
    store.sweep(1_000)
    assert snapshot_bytes(store) == golden(2)
    assert snapshot_bytes(read(2)) == golden(2)


def test_kv_snapshot_of_version_3_has_the_users_too() -> None:
    store = read(3)
    store.check()
    assert store.auth.view() == add_users(written_store()).auth.view()
    assert (store.auth.enabled, store.auth.revision, store.auth.permissions("ann").is_admin) == (True, 8, False)
    assert store.digest == add_users(written_store()).digest != GOLDEN_DIGEST
    assert snapshot_bytes(store) == golden(3)


@pytest.mark.parametrize("at", range(0, 400, 3))
def test_kv_snapshot_with_damaged_users_is_refused(at: int) -> None:
    data = bytearray(golden(3))
    data[-1 - at] ^= 1
    with pytest.raises(CorruptionError):
        read_snapshot(io.BytesIO(bytes(data)))


def test_kv_snapshot_is_as_the_document_says() -> None:
    """A second reader, from `docs/formats.md` alone."""
    data = golden(2)
    assert data[:12] == b"syncline-kv\n"
    assert struct.unpack_from("<I", data, 12) == (2,)
    at, sections = 16, []
    while at < len(data):
        kind, length, checksum = struct.unpack_from("<BII", data, at)
        payload = data[at + 9 : at + 9 + length]
        assert zlib.crc32(payload) == checksum
        sections.append((kind, msgspec.msgpack.decode(payload)))
        at += 9 + length
    assert [kind for kind, _ in sections] == [1, 4, 2, 5, 3]
    head, leases, records, changes, trailer = (content for _, content in sections)
    assert head == [44, 26, 30, len(changes), 2]
    assert trailer == [44, 26, GOLDEN_DIGEST.to_bytes(16, "big")]
    assert leases == [[7, 30_000, 12_000, False, 0], [2**63 - 1, 9_000, 9_000, True, 0]]
    assert [record[0] for record in records] == sorted(record[0] for record in records)
    present = {record[0]: record for record in records}
    last: dict[bytes, Any] = {}
    revisions = []
    for what, before in changes:
        record = present[what] if isinstance(what, bytes) else what
        key, value, create, mod, version, lease, _ = record
        assert before is None or (key not in last and before[3] < 30)
        revisions.append(mod)
        previous = last.get(key, before)
        if version == 0:
            assert (value, create, lease) == (b"", 0, 0)
        elif previous is None or previous[4] == 0:
            assert (version, create) == (1, mod)
        else:
            assert (version, create) == (previous[4] + 1, previous[2])
        last[key] = record
    assert revisions == sorted(revisions)
    assert set(revisions) == set(range(30, 45))
    assert {key for key, record in last.items() if record[4]} == {key for key in last if key in present}


def plain(record: KeyRecord) -> tuple[bytes, bytes, int, int, int, int]:
    return record.key, record.value, record.create_revision, record.mod_revision, record.version, record.lease


GOLDEN_DIGEST = 78759916408738521069439802295860494502
