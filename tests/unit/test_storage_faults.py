"""Failing disks: each operation of a workload fails once. The log is then dead; a restart finds what was durable.

The worst of it: after a failed sync a system shows bytes that are not on the disk. So a start may find such bytes, act
on them, and lose them in the next power cut, unless it makes them durable first.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from syncline.consensus.types import HardState, SnapshotMeta
from syncline.errors import DiskFull, StorageError
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import DataDir, Identity
from syncline.storage.snapshots.store import SnapshotManifest, SnapshotStore
from syncline.storage.space import Shortage
from syncline.storage.wal.recovery import _LogReader
from syncline.storage.wal.writer import Wal, WalWrite
from syncline.testing.sim.disk import SimDisk, Survival
from tests.helpers.crash_cases import EMPTY, MEMBERS, SURVIVALS, Crashes, Image, Node, entries_of, sha256
from tests.helpers.small_filesystem import mounted
from tests.helpers.storage import append, held, open_wal, row


def workload(node: Node) -> None:
    node.append(1, 5)
    node.append(6, 30, commit=4, size=120)
    node.append(25, 33, term=2, commit=20, size=120)
    node.snapshot(20, b"twenty" * 200)
    node.append(34, 50, term=2, commit=33, size=120)
    node.snapshot(33, b"thirty-three")
    node.compact()
    node.install(200, 7, b"z" * 3000)
    node.append(201, 230, term=7, commit=220, size=120)


def operations(work: Callable[[Node], None]) -> int:
    disk = SimDisk(random.Random(0))
    work(Node(disk))
    return disk.serial


class FailAt:
    """Fails the operation with this number, counted from now on."""

    def __init__(self, disk: SimDisk, number: int, code: int = errno.EIO) -> None:
        self.left = number
        self.code = code
        self.disk = disk
        self.harmless = False
        disk.before = self

    def __call__(self, operation: str, path: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.harmless = operation == "remove" and path.endswith(".snap")  # the newest is durable by then
            raise OSError(self.code, f"as told: {operation} of {path}")


def fail_once(seed: int, number: int) -> tuple[SimDisk, tuple[Image, ...]]:
    """Run the workload into a failure; returns the disk with its cache, and what a start may find there."""
    disk = SimDisk(random.Random(seed))
    fault = FailAt(disk, number)
    node: Node | None = None
    try:
        node = Node(disk)
        workload(node)
        assert fault.harmless, "the failure was swallowed"
    except (OSError, StorageError):
        assert not fault.harmless, "a snapshot that is durable was called a failure"
    disk.before = None
    if node is None:
        return disk, (EMPTY,)
    wal = node.started.wal
    if wal.failure is not None:
        serial = disk.serial
        with pytest.raises(StorageError, match="as told"):
            wal.write([WalWrite((), HardState(99, 0, 220))])
        with pytest.raises(StorageError, match="as told"):
            wal.compact(1)
        assert disk.serial == serial, "nothing more reaches the disk"
    return disk, node.possible


def start_checked(disk: SimDisk, possible: tuple[Image, ...], rng: random.Random) -> None:
    """The process starts again on the same cache; then the power fails, and it starts once more."""
    disk.kill()
    crashes = Crashes(rng.getrandbits(32), each=0, nested=0)
    found = crashes.found(disk, possible)
    for survival in (Survival.NOTHING, rng.choice(SURVIVALS)):
        assert crashes.found(disk.crashed(survival), (found,)) == found


@pytest.mark.parametrize("part", range(4))
def test_any_operation_may_fail(part: int) -> None:
    rng = random.Random(part)
    for number in range(1 + part, operations(workload) + 1, 4):
        for seed in range(12):
            disk, possible = fail_once(rng.getrandbits(32) + seed, number)
            start_checked(disk, possible, rng)


@pytest.mark.parametrize("part", range(4))
def test_the_start_after_it_may_fail_too(part: int) -> None:
    rng = random.Random(part)
    for number in range(1 + part, operations(workload) + 1, 4):
        disk, possible = fail_once(rng.getrandbits(32), number)
        disk.kill()
        disk.crash(Survival.TORN)
        for attempt in (rng.randrange(1, 12), rng.randrange(1, 12)):
            FailAt(disk, attempt)
            with suppress(OSError, StorageError):
                Crashes(0, each=0, nested=0).found(disk, possible)
            disk.before = None
            disk.kill()
        start_checked(disk, possible, rng)


def failing_sync_then_power_cut(seed: int) -> None:
    disk = SimDisk(random.Random(seed))
    node = Node(disk)
    node.append(1, 5)
    disk.fail("sync")
    with pytest.raises(StorageError):
        node.append(6, 12, size=300)
    start_checked(disk, node.possible, random.Random(seed))


def test_what_a_start_has_seen_survives_the_next_power_cut() -> None:
    for seed in range(50):
        failing_sync_then_power_cut(seed)


def test_without_writing_the_last_frame_again_it_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The known bug: believing the cache after a failed sync."""
    plain = _LogReader.finish

    def finish(self: _LogReader) -> object:
        self._repair = False
        return plain(self)

    monkeypatch.setattr(_LogReader, "finish", finish)
    with pytest.raises(AssertionError):
        test_what_a_start_has_seen_survives_the_next_power_cut()


def test_zeros_that_a_failed_recovery_left_in_the_cache_are_written_again() -> None:
    """Else the rest of a torn frame shows up behind later ones after the next power cut, and looks like rot."""
    for seed in range(60):
        disk = SimDisk(random.Random(seed))
        node = Node(disk)
        node.append(1, 2)
        torn: list[SimDisk] = []

        def tear(operation: str, _path: str, disk: SimDisk = disk, torn: list[SimDisk] = torn) -> None:
            if operation == "sync":
                torn.append(disk.crashed(Survival.SECTORS))

        disk.before = tear
        node.append(3, 8, size=250)
        after = torn[0]
        after.fail("sync", suffix=".wal")
        with pytest.raises(OSError, match=r"."):
            Crashes(seed, each=0, nested=0).found(after, node.possible)
        after.kill()
        crashes = Crashes(seed, each=0, nested=0)
        found = crashes.found(after, (*node.possible, written_up_to(2)))
        crashes.go_on(after, found)


def written_up_to(last: int) -> Image:
    return Image(HardState(1, 1, 0), tuple(entries_of(1, last, 1, 60)), 1, None)


def test_a_received_part_whose_sync_failed_is_not_trusted() -> None:
    data = random.Random(1).randbytes(20_000)
    for seed in range(30):
        disk = SimDisk(random.Random(seed))
        node = Node(disk)
        disk.fail("sync", suffix=".part")
        with pytest.raises(StorageError):
            node.install(50, 2, data)
        if seed % 2:
            node.restart()
        node.install(50, 2, data)
        assert Crashes(seed, each=0, nested=0).found(disk.crashed(Survival.NOTHING), node.possible) == node.image


# Full disks.


def test_a_full_disk_at_any_moment_and_space_again() -> None:
    for number in range(1, operations(workload) + 1):
        disk = SimDisk(random.Random(number))
        FailAt(disk, number, errno.ENOSPC)
        node: Node | None = None
        try:
            node = Node(disk)
            workload(node)
        except DiskFull:
            assert node is None or node.started.wal.failure is None, "a snapshot that does not fit is no reason to stop"
        except (OSError, StorageError) as error:
            told = "Make space on the disk" in str(error)  # the log is dead, and says how to go on
            stopped = node is not None and node.started.wal.failure is not None
            assert told == stopped
        disk.before = None
        start_checked(disk, node.possible if node is not None else (EMPTY,), random.Random(number))


def test_a_small_disk_fills_up_and_goes_on_after_space_is_made() -> None:
    disk = SimDisk(random.Random(1), capacity_bytes=40 << 10)
    disk.make_dirs("/wal")
    wal = Wal.open(disk, "/wal", segment_bytes=8 << 10, reserve_bytes=10 << 10)
    accepted = 0
    with pytest.raises(DiskFull, match="Reads go on"):  # noqa: PT012
        while True:
            wal.check_space(500)
            append(wal, row(accepted + 1, accepted + 1, size=500), HardState(1, 1, accepted))
            accepted += 1
    assert accepted > 30
    assert wal.read_entries(1, 10, 1 << 20) == row(1, 9, size=500), "reads go on"
    append(wal, row(accepted + 1, accepted + 1, size=500))  # what is under way goes into the reserve
    wal.compact(accepted - 5)
    wal.check_space(500)
    append(wal, row(accepted + 2, accepted + 2, size=500))
    wal.close()


def fill_up(disk: SimDisk) -> None:
    """Somebody else writes until nothing is free."""
    disk.capacity_bytes = disk.used_bytes()


def test_a_log_goes_on_in_its_spare_file_when_others_fill_the_disk() -> None:
    mib = 1 << 20
    disk = SimDisk(random.Random(1), capacity_bytes=100 * mib)
    wal = Wal.open(disk, "/wal", segment_bytes=2 * mib, reserve_bytes=24 * mib)
    assert disk.exists("/wal/spare")
    fill_up(disk)
    assert wal.shortage() is Shortage.LAST_HALF
    for index in range(1, 300):  # more than the rest of the segment: it takes three rotations
        wal.write([WalWrite(entries_of(index, index, 1, 15_000), HardState(1, 1, index - 1))])
    assert not disk.exists("/wal/spare")
    assert disk.list("/wal") == [f"{number:016x}.wal" for number in (1, 2, 3, 4)]
    with pytest.raises(StorageError, match="Make space on the disk"):  # noqa: PT012 - the spare file has an end, too
        for index in range(300, 1000):
            wal.write([WalWrite(entries_of(index, index, 1, 15_000))])
    wal.close()
    disk.capacity_bytes = 100 * mib
    again = Wal.open(disk, "/wal", segment_bytes=2 * mib, reserve_bytes=24 * mib)
    assert again.recovery.last_index >= 300
    assert disk.exists("/wal/spare"), "it is taken again as soon as there is room"
    assert again.shortage() is Shortage.NONE
    again.close()


def test_the_spare_file_is_taken_again_while_the_node_runs() -> None:
    mib = 1 << 20
    disk = SimDisk(random.Random(1), capacity_bytes=100 * mib)
    wal = Wal.open(disk, "/wal", segment_bytes=mib, reserve_bytes=16 * mib)
    fill_up(disk)
    index = 0
    while disk.exists("/wal/spare"):
        index += 1
        wal.write([WalWrite(entries_of(index, index, 1, 15_000))])
    disk.capacity_bytes = 100 * mib
    wal.compact(0)
    assert disk.exists("/wal/spare")
    wal.close()


def test_a_node_starts_on_a_disk_without_a_free_byte() -> None:
    disk = SimDisk(random.Random(1))
    directory = DataDir.open(disk, "/data")
    directory.write_identity(Identity(cluster_id=1, node_id=7, name="a"))
    wal = Wal.open(disk, directory.wal_path, segment_bytes=1 << 20, log_id=7)
    wal.write([WalWrite(entries_of(1, 5, 1, 100), HardState(1, 1, 3))])
    directory.mark_started()
    wal.close()
    disk.kill()
    fill_up(disk)
    directory = DataDir.open(disk, "/data")
    SnapshotStore.open(disk, directory.snapshots_path, cluster_id=1, reserve_bytes=1 << 20)
    wal = Wal.open(disk, directory.wal_path, segment_bytes=1 << 20, log_id=7, must_exist=True)
    assert wal.recovery.last_index == 5
    wal.write([WalWrite((), HardState(2, 0, 4))])
    with pytest.raises(DiskFull):
        wal.check_space(1)
    wal.close()


def test_a_torn_tail_is_cut_even_where_there_is_no_room_to_keep_it() -> None:
    disk = SimDisk(random.Random(1))
    wal = Wal.open(disk, "/wal", segment_bytes=1 << 20, reserve_bytes=0)
    wal.write([WalWrite(entries_of(1, 5, 1, 100))])
    torn: list[SimDisk] = []
    disk.before = lambda operation, _: torn.append(disk.crashed(Survival.SECTORS)) if operation == "sync" else None
    wal.write([WalWrite(entries_of(6, 20, 1, 300))])
    after = torn[0]
    fill_up(after)
    again = Wal.open(after, "/wal", segment_bytes=1 << 20, reserve_bytes=0)
    assert "not kept, because the disk is full" in (again.recovery.torn or "")
    assert after.list("/wal") == ["0000000000000001.wal"]
    assert again.recovery.last_index == 5
    again.write([WalWrite(entries_of(6, 6, 2, 100))])
    again.close()
    final = Wal.open(after.crashed(Survival.NOTHING), "/wal", segment_bytes=1 << 20, reserve_bytes=0)
    assert (final.recovery.torn, final.recovery.last_index) == (None, 6)


def test_the_first_segment_is_a_small_one_where_the_disk_is_small() -> None:
    disk = SimDisk(random.Random(1), capacity_bytes=20 << 20)
    wal = Wal.open(disk, "/wal", segment_bytes=16 << 20, reserve_bytes=8 << 20)
    assert disk.used_bytes() <= (1 << 20) + (1 << 20)
    wal.check_space(1000)
    wal.close()


def test_a_snapshot_leaves_half_of_the_reserve_to_the_log() -> None:
    mib = 1 << 20
    disk = SimDisk(random.Random(1), capacity_bytes=20 * mib)
    store = SnapshotStore.open(disk, "/snapshots", cluster_id=1, reserve_bytes=8 * mib)
    writer = store.create(5, 1, SnapshotMeta().membership)
    with pytest.raises(DiskFull, match="kept for the log"):  # noqa: PT012
        for _ in range(30):
            writer.write(bytes(mib))
    assert disk.free_bytes("/") >= 4 * mib
    writer.abort()
    data = bytes(17 * mib)
    offer = SnapshotManifest(5, 1, MEMBERS, 1, len(data), sha256(data), "1.0")
    with pytest.raises(DiskFull, match="kept for the log"):
        store.receive(offer)
    store.receive(msgspec.structs.replace(offer, size_bytes=15 * mib)).abort()


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", 1 << 20) as path:
        yield path


def test_a_real_full_filesystem(small_filesystem: Path) -> None:
    path = f"{small_filesystem}/wal"
    wal = open_wal(path, disk=OsDisk(), segment_bytes=128 << 10)
    written = 0
    with pytest.raises(StorageError, match="Make space on the disk"):  # noqa: PT012
        while written < 1000:
            append(wal, row(written + 1, written + 1, size=5000), HardState(1, 1, written))
            written += 1
    assert 100 < written < 250
    with pytest.raises(StorageError, match="Nothing more is written"):
        append(wal, row(written + 1, written + 1))
    wal.close()
    again = open_wal(path, disk=OsDisk(), segment_bytes=128 << 10)
    assert again.recovery.last_index in (written, written + 1)
    assert held(again)[:written] == row(1, written, size=5000)
    again.compact(written - 10)
    append(again, row(again.last_index + 1, again.last_index + 20, size=5000))
    again.close()


def test_a_real_full_filesystem_refuses_a_snapshot_and_keeps_the_older_one(small_filesystem: Path) -> None:
    store = SnapshotStore.open(OsDisk(), f"{small_filesystem}/snapshots", cluster_id=1)
    writer = store.create(5, 1, SnapshotMeta().membership)
    writer.write(b"small")
    older = writer.commit()
    writer = store.create(6, 1, SnapshotMeta().membership)
    with pytest.raises(DiskFull, match="older ones are untouched"):  # noqa: PT012
        for _ in range(100):
            writer.write(bytes(100_000))
        writer.commit()
    writer.abort()
    assert store.list() == [older]
    writer = store.create(7, 1, SnapshotMeta().membership)
    writer.write(bytes(500_000))
    writer.commit()


def test_the_batch_that_failed_is_there_whole_or_not_at_all() -> None:
    kinds = set()
    for seed in range(60):
        disk = SimDisk(random.Random(seed))
        node = Node(disk)
        node.append(1, 3)
        disk.fail("sync")
        with pytest.raises(StorageError):
            node.write(
                WalWrite(entries_of(4, 5, 1, 150), HardState(1, 1, 3)),
                WalWrite(entries_of(6, 6, 2, 150), HardState(2, 0, 4)),
            )
        found = Crashes(seed, each=0, nested=0).found(disk.crashed(Survival.NOTHING), node.possible)
        kinds.add(found.last_index)
    assert kinds == {3, 6}
