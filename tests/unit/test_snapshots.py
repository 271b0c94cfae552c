"""Snapshots: whole or not there, never replaced by older ones, rot noticed, receiving goes on where it ended."""

from __future__ import annotations

import errno
import hashlib
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncline import __version__
from syncline.consensus.types import MembershipState, SnapshotMeta
from syncline.errors import (
    CorruptionError,
    DiskFull,
    FormatVersionError,
    NothingToSnapshot,
    StorageError,
    UsageError,
    WrongDirectory,
)
from syncline.platform.disk import Disk, OsDisk
from syncline.storage.snapshots import file as snapshot_file
from syncline.storage.snapshots import write as snapshot_write
from syncline.storage.snapshots.file import decode_manifest, encode_manifest
from syncline.storage.snapshots.store import SnapshotManifest, SnapshotStore
from tests.helpers.storage import QuickDisk, TroubledDisk

CLUSTER = 0xC1
THREE = MembershipState((1, 2, 3), (4,))


def opened(path: Path, *, disk: Disk | None = None, retain: int = 2) -> SnapshotStore:
    return SnapshotStore.open(disk or QuickDisk(), str(path), cluster_id=CLUSTER, retain=retain)


def made(store: SnapshotStore, index: int, data: bytes = b"state", term: int = 1) -> SnapshotManifest:
    writer = store.create(index, term, THREE, b"runtime")
    writer.write(data)
    return writer.commit()


def data_in(store: SnapshotStore, manifest: SnapshotManifest) -> bytes:
    with store.read(manifest) as reader:
        return reader.buffered().read()


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def offered(index: int, data: bytes, *, term: int = 1, cluster: int = CLUSTER) -> SnapshotManifest:
    digest = hashlib.sha256(data).hexdigest()
    return SnapshotManifest(index, term, THREE, cluster, len(data), digest, "1.2.3", b"runtime")


# Making.


def test_a_new_store_is_empty(tmp_path: Path) -> None:
    store = opened(tmp_path / "snapshots")
    assert store.newest() is None
    assert store.list() == []
    assert store.damage == ()


def test_a_snapshot_comes_back_whole(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3_000_000)
    store = opened(tmp_path)
    writer = store.create(7, 3, THREE, b"runtime")
    for start in range(0, len(data), 70_001):
        writer.write(memoryview(data)[start : start + 70_001])
    assert writer.size_bytes == len(data)
    manifest = writer.commit()
    assert manifest == SnapshotManifest(
        7, 3, THREE, CLUSTER, len(data), hashlib.sha256(data).hexdigest(), __version__, b"runtime"
    )
    assert manifest.meta == SnapshotMeta(7, 3, THREE)
    for held in (store, opened(tmp_path)):
        assert held.newest() == manifest
        assert data_in(held, manifest) == data
    with store.read(manifest) as reader:
        assert reader.read(10) == data[:10]
        assert reader.read_at(1_234_567, 89) == data[1_234_567 : 1_234_567 + 89]
        assert reader.read(5) == data[10:15]
        assert reader.read_at(len(data) - 2, 100) == data[-2:]
        assert reader.read_at(len(data), 1) == b""


def test_an_empty_snapshot(tmp_path: Path) -> None:
    store = opened(tmp_path)
    manifest = store.create(1, 1, MembershipState()).commit()
    assert manifest.size_bytes == 0
    assert data_in(opened(tmp_path), manifest) == b""


def test_it_is_synced_before_it_gets_its_name_and_the_name_after_it(tmp_path: Path) -> None:
    disk = TroubledDisk()
    store = opened(tmp_path, disk=disk)
    disk.trouble.log.clear()
    made(store, 5)
    assert [name for name, _ in disk.trouble.log] == ["create", "write", "write", "sync", "rename", "sync_dir"]


def test_a_large_one_is_synced_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_write, "BUFFER_BYTES", 1000)
    monkeypatch.setattr(snapshot_write, "SYNC_EVERY_BYTES", 3000)
    disk = TroubledDisk()
    store = opened(tmp_path, disk=disk)
    disk.trouble.log.clear()
    made(store, 5, bytes(10_000))
    writer = store.create(6, 1, THREE)
    for _ in range(10):
        writer.write(bytes(1000))
    writer.commit()
    assert [name for name, _ in disk.trouble.log].count("sync") == 2 + 4


def test_snapshot_is_durable_although_an_old_one_can_not_be_removed(tmp_path: Path) -> None:
    """Its writer would try again for the same entry without end, and a member that needs it would never get it."""
    disk = TroubledDisk()
    store = opened(tmp_path, disk=disk, retain=1)
    made(store, 3)
    disk.trouble.arm("remove", ".snap", errno.EROFS)
    assert made(store, 6).index == 6
    assert [manifest.index for manifest in store.list()] == [6, 3]
    disk.trouble.disarm()
    made(store, 9)
    assert [manifest.index for manifest in store.list()] == [9], "both old ones are removed now"
    assert [manifest.index for manifest in opened(tmp_path, retain=1).list()] == [9]


def test_the_newest_are_retained(tmp_path: Path) -> None:
    store = opened(tmp_path, retain=2)
    for index in (3, 6, 9, 12):
        made(store, index)
    assert [manifest.index for manifest in store.list()] == [12, 9]
    assert len(names(tmp_path)) == 2
    assert [manifest.index for manifest in opened(tmp_path, retain=1).list()] == [12]
    assert len(names(tmp_path)) == 1


def test_an_older_one_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    made(store, 9)
    for index in (8, 9):
        with pytest.raises(NothingToSnapshot, match="9 is durable already"):
            store.create(index, 5, THREE)
        with pytest.raises(NothingToSnapshot):
            store.receive(offered(index, b"x", term=5))


def test_one_that_became_old_while_it_was_made_is_dropped(tmp_path: Path) -> None:
    store = opened(tmp_path)
    writer = store.create(5, 1, THREE)
    writer.write(b"late")
    receiver = store.receive(offered(9, b"newer"))
    receiver.write(0, b"newer")
    newer = receiver.commit()
    with pytest.raises(NothingToSnapshot):
        writer.commit()
    assert store.list() == [newer]
    assert opened(tmp_path).list() == [newer]
    assert len(names(tmp_path)) == 1


def test_an_aborted_one_leaves_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    writer = store.create(5, 1, THREE)
    writer.write(b"x" * 5_000_000)
    writer.abort()
    writer.abort()
    assert names(tmp_path) == []
    with pytest.raises(UsageError):
        writer.write(b"x")
    made(store, 5)


def test_one_is_made_at_a_time(tmp_path: Path) -> None:
    store = opened(tmp_path)
    writer = store.create(5, 1, THREE)
    with pytest.raises(UsageError, match="another snapshot"):
        store.create(6, 1, THREE)
    writer.abort()
    made(store, 6)


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename", "sync_dir"])
@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, StorageError), (errno.ENOSPC, DiskFull)])
def test_a_failure_leaves_the_older_ones_and_the_next_attempt_works(
    tmp_path: Path, operation: str, code: int, kind: type[Exception]
) -> None:
    disk = TroubledDisk()
    store = opened(tmp_path, disk=disk)
    first = made(store, 5)
    disk.trouble.arm(operation, error=code)
    with pytest.raises(kind, match="older ones are untouched"):
        made(store, 8)
    disk.trouble.disarm()
    assert store.newest() == first
    reopened = opened(tmp_path)
    assert first in reopened.list()
    assert data_in(reopened, first) == b"state"
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
    assert made(reopened, 9).index == 9


@pytest.mark.parametrize("operation", ["sync", "rename", "sync_dir"])
def test_a_failed_attempt_is_removed_by_abort_and_can_be_repeated(tmp_path: Path, operation: str) -> None:
    """Else each attempt leaves a file of the size of the state, until the next start."""
    disk = TroubledDisk()
    store = opened(tmp_path, disk=disk)
    writer = store.create(5, 1, THREE)
    writer.write(b"x")
    disk.trouble.arm(operation)
    with pytest.raises(StorageError):
        writer.commit()
    disk.trouble.disarm()
    writer.abort()
    assert names(tmp_path) == []
    assert made(store, 5).index == 5


def test_a_sync_that_failed_is_never_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state machine that swallows the error and goes on does not get a snapshot out of it."""
    monkeypatch.setattr(snapshot_write, "BUFFER_BYTES", 10)
    monkeypatch.setattr(snapshot_write, "SYNC_EVERY_BYTES", 10)
    disk = TroubledDisk()
    store = opened(tmp_path, disk=disk)
    writer = store.create(5, 1, THREE)
    disk.trouble.arm("sync")
    with pytest.raises(StorageError, match="as told"):
        writer.write(b"x" * 20)
    disk.trouble.disarm()
    attempts: list[Callable[[], object]] = [lambda: writer.write(b"y"), writer.commit]
    for attempt in attempts:
        with pytest.raises(StorageError, match="as told"):
            attempt()
    writer.abort()
    assert names(tmp_path) == []


def test_leftovers_of_crashes_are_removed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    made(store, 5)
    store.create(6, 1, THREE).write(b"x")
    assert len(names(tmp_path)) == 2
    assert len(opened(tmp_path).list()) == 1
    assert len(names(tmp_path)) == 1


def test_a_dropped_snapshot_stays_readable_while_it_is_open(tmp_path: Path) -> None:
    store = opened(tmp_path, retain=1)
    first = made(store, 5, b"old" * 1000)
    with store.read(first) as reader:
        made(store, 6)
        assert reader.readall() == b"old" * 1000
    with pytest.raises(StorageError, match="no longer there"):
        store.read(first)


def test_how_far_the_log_may_be_compacted(tmp_path: Path) -> None:
    store = opened(tmp_path, retain=2)
    assert store.compaction_index(log_bytes=10, max_log_bytes=100) == 0
    made(store, 10)
    assert store.compaction_index(log_bytes=10, max_log_bytes=100) == 0, "the log from its start can stand in"
    assert store.compaction_index(log_bytes=101, max_log_bytes=100) == 10
    made(store, 20)
    assert store.compaction_index(log_bytes=10, max_log_bytes=100) == 10
    assert store.compaction_index(log_bytes=101, max_log_bytes=100) == 20
    made(store, 30)
    assert store.compaction_index(log_bytes=10, max_log_bytes=100) == 20
    alone = opened(tmp_path, retain=1)
    assert alone.compaction_index(log_bytes=10, max_log_bytes=100) == 30


# Receiving.


def test_a_snapshot_arrives(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(300_000)
    store = opened(tmp_path)
    manifest = offered(9, data, term=4)
    receiver = store.receive(manifest)
    assert receiver.received == 0
    for start in range(0, len(data), 65_536):
        receiver.write(start, data[start : start + 65_536])
    assert receiver.commit() == manifest
    for held in (store, opened(tmp_path)):
        assert held.newest() == manifest
        assert data_in(held, manifest) == data


@pytest.mark.parametrize("restart", [False, True])
def test_receiving_goes_on_where_it_ended(tmp_path: Path, restart: bool) -> None:
    data = random.Random(3).randbytes(10_000)
    store = opened(tmp_path)
    manifest = offered(9, data)
    receiver = store.receive(manifest)
    receiver.write(0, data[:4_000])
    if restart:
        store = opened(tmp_path)
    else:
        receiver.abort()
    receiver = store.receive(manifest)
    assert receiver.received == 4_000
    receiver.write(4_000, data[4_000:])
    receiver.commit()
    assert data_in(store, manifest) == data


def test_other_snapshot_starts_over_and_drops_the_old_part(tmp_path: Path) -> None:
    store = opened(tmp_path)
    receiver = store.receive(offered(9, b"a" * 100))
    receiver.write(0, b"a" * 50)
    receiver.abort()
    other = offered(9, b"b" * 100)
    receiver = store.receive(other)
    assert receiver.received == 0
    assert len(names(tmp_path)) == 1
    receiver.write(0, b"b" * 100)
    receiver.commit()


def test_manifest_that_differs_starts_a_new_transfer(tmp_path: Path) -> None:
    store = opened(tmp_path)
    manifest = offered(9, b"a" * 100)
    receiver = store.receive(manifest)
    receiver.write(0, b"a" * 50)
    receiver.abort()
    import msgspec

    changed = msgspec.structs.replace(manifest, runtime=b"other")
    receiver = store.receive(changed)
    assert receiver.received == 0
    receiver.abort(keep=False)
    assert names(tmp_path) == []


def test_wrong_bytes_are_noticed_and_thrown_away(tmp_path: Path) -> None:
    store = opened(tmp_path)
    manifest = offered(9, b"right" * 100)
    receiver = store.receive(manifest)
    receiver.write(0, b"wrong" * 100)
    with pytest.raises(CorruptionError, match="SHA-256"):
        receiver.commit()
    assert store.newest() is None
    assert names(tmp_path) == []
    receiver = store.receive(manifest)
    receiver.write(0, b"right" * 100)
    assert receiver.commit() == manifest


def test_data_out_of_place_are_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    receiver = store.receive(offered(9, b"x" * 100))
    with pytest.raises(UsageError):
        receiver.write(10, b"x")
    with pytest.raises(UsageError):
        receiver.write(0, b"x" * 101)
    receiver.write(0, b"x" * 99)
    with pytest.raises(UsageError, match="1 bytes"):
        receiver.commit()
    receiver.write(99, b"x")
    receiver.commit()
    with pytest.raises(UsageError):
        receiver.write(100, b"")


def test_one_is_received_at_a_time(tmp_path: Path) -> None:
    store = opened(tmp_path)
    receiver = store.receive(offered(9, b"x"))
    with pytest.raises(UsageError, match="another snapshot"):
        store.receive(offered(10, b"y"))
    receiver.abort()
    store.receive(offered(10, b"y")).abort()


def test_another_clusters_snapshot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongDirectory, match="belongs to cluster"):
        opened(tmp_path).receive(offered(9, b"x", cluster=2))


def test_one_that_does_not_fit_the_disk_is_refused_at_once(tmp_path: Path) -> None:
    disk = TroubledDisk()
    store = opened(tmp_path, disk=disk)
    disk.free = 99
    with pytest.raises(DiskFull, match="99 are free"):
        store.receive(offered(9, b"x" * 100))
    disk.free = 100
    store.receive(offered(9, b"x" * 100)).abort()


def test_of_interrupted_ones_only_the_newest_of_use_is_kept(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.receive(offered(9, b"x" * 100)).abort()
    assert len(names(tmp_path)) == 1
    assert len(names(tmp_path)) == 1 + len(opened(tmp_path).list())
    made(store, 12)
    opened(tmp_path)
    assert [name for name in names(tmp_path) if name.endswith(".part")] == []


def test_interrupted_one_goes_when_one_as_new_is_durable(tmp_path: Path) -> None:
    """A follower that caught up by the log kept the part, of any size, until its next start."""
    store = opened(tmp_path)
    store.receive(offered(9, b"x" * 100)).abort()
    made(store, 8)
    assert len(names(tmp_path)) == 2, "it can still be continued"
    receiver = store.receive(offered(9, b"x" * 100))
    made(store, 9)
    assert len(names(tmp_path)) == 3, "it is being received"
    receiver.abort()
    made(store, 10)
    assert not [name for name in names(tmp_path) if name.endswith(".part")]


def test_making_and_receiving_go_on_side_by_side(tmp_path: Path) -> None:
    store = opened(tmp_path)
    failures: list[BaseException] = []

    def make() -> None:
        try:
            for index in range(2, 60, 2):
                try:
                    made(store, index, b"m" * 10_000)
                except NothingToSnapshot:
                    continue
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            failures.append(error)

    maker = threading.Thread(target=make)
    maker.start()
    indexes = [0]
    for index in range(1, 61, 2):
        try:
            receiver = store.receive(offered(index, b"r" * 10_000))
            receiver.write(0, b"r" * 10_000)
            receiver.commit()
        except NothingToSnapshot:
            pass
        newest = store.newest()
        indexes.append(newest.index if newest is not None else 0)
    maker.join()
    assert not failures
    assert indexes == sorted(indexes), "never back"
    assert [manifest.index for manifest in opened(tmp_path).list()] == [manifest.index for manifest in store.list()]


# Rot.


def test_corrupt_newest_snapshot_gives_way_to_the_next(tmp_path: Path) -> None:
    store = opened(tmp_path)
    older = made(store, 5, b"older")
    made(store, 9, b"newer")
    victim = tmp_path / names(tmp_path)[-1]
    data = bytearray(victim.read_bytes())
    data[-2] ^= 1
    victim.write_bytes(data)
    store = opened(tmp_path)
    assert store.list() == [older]
    assert len(store.damage) == 1
    assert victim.name in store.damage[0]
    assert "SHA-256" in store.damage[0]
    assert [name for name in names(tmp_path) if name.endswith(".broken")] == [f"{victim.name}.broken"]
    assert opened(tmp_path).damage == ()
    assert made(store, 9).index == 9


def test_a_flipped_bit_anywhere_in_a_snapshot_is_noticed(tmp_path: Path) -> None:
    """(Every single bit: `test_rot.py`, in memory.)"""
    store = opened(tmp_path)
    made(store, 5, random.Random(5).randbytes(700))
    path = tmp_path / names(tmp_path)[0]
    pristine = path.read_bytes()
    for position in range(0, len(pristine), 17):
        data = bytearray(pristine)
        data[position] ^= 1 << position % 7
        path.write_bytes(data)
        damaged = opened(tmp_path)
        assert damaged.newest() is None
        assert len(damaged.damage) == 1
        (tmp_path / f"{path.name}.broken").unlink()


@pytest.mark.parametrize("size", [0, 1, 31, 32, 100, 511, 512, 600])
def test_a_snapshot_cut_short_or_grown(tmp_path: Path, size: int) -> None:
    store = opened(tmp_path)
    made(store, 5, b"x" * 200)
    path = tmp_path / names(tmp_path)[0]
    data = path.read_bytes()
    path.write_bytes(data[:size])
    assert opened(tmp_path).newest() is None
    path.write_bytes(data + b"x")
    assert opened(tmp_path).newest() is None


def test_rot_that_appears_later_is_noticed_by_reading(tmp_path: Path) -> None:
    store = opened(tmp_path)
    older = made(store, 5, b"older")
    manifest = made(store, 9, b"x" * 3_000_000)
    path = tmp_path / names(tmp_path)[-1]
    data = bytearray(path.read_bytes())
    data[1_000_000] ^= 1
    path.write_bytes(data)
    with store.read(manifest) as reader, pytest.raises(CorruptionError, match="older snapshot"):
        reader.buffered().read()
    store.set_aside(manifest, "rotten.")
    assert store.newest() == older


def test_few_broken_files_are_kept(tmp_path: Path) -> None:
    for index in range(1, 7):
        store = opened(tmp_path)
        made(store, index)
        path = next(file for file in tmp_path.iterdir() if file.name.endswith(".snap"))
        path.write_bytes(b"")
    opened(tmp_path)
    assert len(names(tmp_path)) == 2


def test_a_renamed_snapshot_does_not_count(tmp_path: Path) -> None:
    made(opened(tmp_path), 5)
    path = tmp_path / names(tmp_path)[0]
    path.rename(tmp_path / f"{99:016x}-{1:016x}.snap")
    store = opened(tmp_path)
    assert store.newest() is None
    assert "renamed" in store.damage[0]


def test_another_clusters_directory_is_refused(tmp_path: Path) -> None:
    made(opened(tmp_path), 5)
    with pytest.raises(WrongDirectory, match="belongs to cluster"):
        SnapshotStore.open(OsDisk(), str(tmp_path), cluster_id=2)


def test_another_format_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_file, "FORMAT_VERSION", 3)
    made(opened(tmp_path), 5)
    monkeypatch.undo()
    with pytest.raises(FormatVersionError, match="format 3"):
        opened(tmp_path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_mutated_snapshots_never_crash_or_pass_for_whole(tmp_path: Path, data: st.DataObject) -> None:
    for file in tmp_path.iterdir():
        file.unlink()
    manifest = made(opened(tmp_path), 5, bytes(range(256)) * 5)
    path = tmp_path / names(tmp_path)[0]
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "insert", "zero", "splice"])):
        case "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        case "cut":
            del content[at : at + data.draw(st.integers(1, 2000))]
        case "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=50))
        case "zero":
            content[at : at + 100] = bytes(len(content[at : at + 100]))
        case _:
            source = data.draw(st.integers(0, len(content) - 1))
            content[at : at + 200] = content[source : source + 200]
    changed = bytes(content) != path.read_bytes()
    path.write_bytes(content)
    try:
        store = opened(tmp_path)
    except StorageError:
        return
    assert store.newest() == (None if changed else manifest)


@given(st.binary(max_size=400))
def test_any_bytes_as_a_manifest_give_a_manifest_or_a_value_error(data: bytes) -> None:
    try:
        manifest = decode_manifest(data)
    except ValueError:
        return
    assert manifest.index >= 1


@given(st.integers(1, 2**60), st.integers(1, 2**60), st.binary(max_size=100), st.integers(0, 2**62))
def test_manifests_come_back(index: int, term: int, runtime: bytes, size: int) -> None:
    manifest = SnapshotManifest(index, term, THREE, 2**64 - 1, size, "ab" * 32, "1.0", runtime)
    assert decode_manifest(encode_manifest(manifest)) == manifest
