"""The simulated disk: it is a disk, and it fails in all the ways that its text promises."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncline.errors import DirectoryLocked
from syncline.platform.disk import Disk, OsDisk
from syncline.testing.sim.disk import SimDisk, Survival

SECTOR = 512


def new_disk(seed: int = 0, **settings: int) -> SimDisk:
    disk = SimDisk(random.Random(seed), **settings)
    disk.make_dirs("/d")
    return disk


def outcomes(disk: SimDisk, survival: Survival, look: Callable[[SimDisk], object], tries: int = 400) -> set[object]:
    """What many crashes of one disk leave."""
    return {look(disk.crashed(survival, random.Random(seed))) for seed in range(tries)}


def content(path: str) -> Callable[[SimDisk], bytes | None]:
    return lambda disk: disk.read_file(path) if disk.exists(path) else None


# A disk like the real one.


@pytest.fixture(params=["simulated", "real"])
def any_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Disk, str]]:
    if request.param == "simulated":
        yield SimDisk(random.Random(0)), "data/a"
    else:
        yield OsDisk(), f"{tmp_path}/data/a"


def test_both_disks_do_the_same(any_disk: tuple[Disk, str]) -> None:
    """One script of operations, one expected outcome, for the real disk and the simulated one."""
    disk, base = any_disk
    disk.make_dirs(base)
    disk.make_dirs(base)
    file = disk.open(f"{base}/f", create=True, write=True)
    file.write_at(3, b"abc")
    assert (file.size(), file.read_at(0, 10)) == (6, b"\0\0\0abc")
    file.allocate(2000)
    file.allocate(10)
    file.write_at(1500, memoryview(b"xyz" * 300))
    assert (file.size(), file.read_at(1499, 5)) == (2400, b"\0xyzx")
    file.truncate(1502)
    file.truncate(1600)
    assert file.read_at(1498, 200) == b"\0\0xy" + bytes(98)
    assert file.read_at(1600, 1) == file.read_at(5000, 1) == b""
    file.sync()
    file.close()
    disk.make_dirs(f"{base}/deep/er")
    disk.rename(f"{base}/f", f"{base}/deep/g")
    disk.sync_dir(base)
    assert disk.list(base) == ["deep"]
    assert disk.list(f"{base}/deep") == ["er", "g"]
    assert disk.exists(f"{base}/deep/er")
    disk.rename(f"{base}/deep", f"{base}/moved")
    assert disk.list(f"{base}/moved") == ["er", "g"]
    reader = disk.open(f"{base}/moved/g")
    disk.remove(f"{base}/moved/g")
    assert reader.read_at(3, 3) == b"abc", "an open file outlives its name"
    with pytest.raises(OSError, match=r"."):
        reader.write_at(0, b"x")
    reader.close()
    disk.remove_tree(f"{base}/moved")
    assert disk.list(base) == []
    assert disk.free_bytes(base) > 0


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda disk, base: disk.open(f"{base}/absent"), errno.ENOENT),
        (lambda disk, base: disk.open(f"{base}/f", create=True), errno.EEXIST),
        (lambda disk, base: disk.open(f"{base}/no/where", create=True), errno.ENOENT),
        (lambda disk, base: disk.rename(f"{base}/absent", f"{base}/x"), errno.ENOENT),
        (lambda disk, base: disk.remove(f"{base}/absent"), errno.ENOENT),
        (lambda disk, base: disk.list(f"{base}/absent"), errno.ENOENT),
        (lambda disk, base: disk.list(f"{base}/f"), errno.ENOTDIR),
        (lambda disk, base: disk.sync_dir(f"{base}/absent"), errno.ENOENT),
        (lambda disk, base: disk.make_dirs(f"{base}/f"), errno.EEXIST),
        (lambda disk, base: disk.free_bytes(f"{base}/absent"), errno.ENOENT),
    ],
)
def test_both_disks_refuse_the_same(any_disk: tuple[Disk, str], call: Callable[[Disk, str], object], code: int) -> None:
    disk, base = any_disk
    disk.make_dirs(base)
    disk.open(f"{base}/f", create=True).close()
    with pytest.raises(OSError, match=r".") as caught:
        call(disk, base)
    assert caught.value.errno == code


def test_both_disks_lock(any_disk: tuple[Disk, str]) -> None:
    disk, base = any_disk
    disk.make_dirs(base)
    lock = disk.lock(f"{base}/LOCK", b"123\n")
    with pytest.raises(DirectoryLocked) as caught:
        disk.lock(f"{base}/LOCK", b"4\n")
    assert caught.value.pid == 123
    lock.release()
    disk.lock(f"{base}/LOCK", b"4\n").release()


def test_a_full_disk_can_still_be_locked() -> None:
    """What is in the file only tells people who holds it."""
    disk = new_disk(capacity_bytes=0)
    disk.lock("/d/LOCK", b"1\n")
    with pytest.raises(DirectoryLocked):
        disk.lock("/d/LOCK", b"2\n")


# Crashes: data.


def written(disk: SimDisk, data: bytes = b"old") -> None:
    """A file `/d/f` that is durable."""
    file = disk.open("/d/f", create=True, write=True)
    file.write_at(0, data)
    file.sync()
    disk.sync_dir("/d")
    file.close()


def test_what_was_synced_survives_every_crash() -> None:
    disk = new_disk()
    written(disk, b"x" * 2000)
    for survival in Survival:
        assert outcomes(disk, survival, content("/d/f"), 50) == {b"x" * 2000}


def test_what_was_not_synced_may_survive_or_not() -> None:
    disk = new_disk()
    written(disk, b"old")
    disk.open("/d/f", write=True).write_at(0, b"new")
    assert outcomes(disk, Survival.NOTHING, content("/d/f")) == {b"old"}
    assert outcomes(disk, Survival.EVERYTHING, content("/d/f")) == {b"new"}
    for survival in (Survival.SECTORS, Survival.MOST, Survival.FEW, Survival.EARLIEST):
        assert outcomes(disk, survival, content("/d/f")) == {b"old", b"new"}


def test_any_subset_of_sectors_survives() -> None:
    disk = new_disk()
    written(disk, bytes(4 * SECTOR))
    file = disk.open("/d/f", write=True)
    for number in range(4):
        file.write_at(number * SECTOR, b"%d" % (number + 1) * SECTOR)
    seen = outcomes(disk, Survival.SECTORS, disk_pattern, 2000)
    assert len(seen) == 16, "later sectors without earlier ones, too"


def disk_pattern(disk: SimDisk) -> tuple[int, ...]:
    data = disk.read_file("/d/f")
    return tuple(data[number * SECTOR] for number in range(4))


def test_sectors_are_torn_at_any_byte() -> None:
    disk = new_disk()
    written(disk, b"o" * SECTOR)
    disk.open("/d/f", write=True).write_at(0, b"n" * SECTOR)
    seen = outcomes(disk, Survival.TORN, content("/d/f"), 3000)
    cuts = {data.count(b"n") for data in seen if isinstance(data, bytes)}
    assert {0, SECTOR} < cuts
    assert len(cuts) > 300
    assert all(data == b"n" * data.count(b"n") + b"o" * data.count(b"o") for data in seen if isinstance(data, bytes))


def test_each_of_several_versions_may_survive() -> None:
    disk = new_disk()
    written(disk, b"0")
    file = disk.open("/d/f", write=True)
    for number in range(1, 4):
        file.write_at(0, b"%d" % number)
    assert outcomes(disk, Survival.SECTORS, content("/d/f")) == {b"0", b"1", b"2", b"3"}


def test_the_earliest_part_survives_in_order() -> None:
    disk = new_disk()
    written(disk, bytes(4 * SECTOR))
    file = disk.open("/d/f", write=True)
    for number in range(4):
        file.write_at(number * SECTOR, b"\1")
    seen = outcomes(disk, Survival.EARLIEST, disk_pattern)
    assert seen == {(1,) * count + (0,) * (4 - count) for count in range(5)}


def test_lengths_are_lost_like_data() -> None:
    disk = new_disk()
    written(disk, b"12345")
    file = disk.open("/d/f", write=True)
    file.truncate(2)
    assert outcomes(disk, Survival.SECTORS, content("/d/f")) >= {b"12345", b"12"}
    file.sync()
    assert outcomes(disk, Survival.NOTHING, content("/d/f"), 5) == {b"12"}
    file.write_at(2, b"678")
    assert {b"12", b"12\0\0\0", b"12678"} <= outcomes(disk, Survival.TORN, content("/d/f"))


def test_allocated_space_reads_as_zeros_after_a_crash() -> None:
    disk = new_disk()
    file = disk.open("/d/f", create=True, write=True)
    disk.sync_dir("/d")
    file.allocate(3000)
    assert outcomes(disk, Survival.SECTORS, content("/d/f")) == {b"", bytes(3000)}
    file.sync()
    assert outcomes(disk, Survival.SECTORS, content("/d/f")) == {bytes(3000)}


# Crashes: names.


def test_a_new_file_is_lost_unless_its_directory_was_synced() -> None:
    disk = new_disk()
    file = disk.open("/d/f", create=True, write=True)
    file.write_at(0, b"data")
    file.sync()
    assert outcomes(disk, Survival.NOTHING, content("/d/f"), 5) == {None}
    assert outcomes(disk, Survival.SECTORS, content("/d/f")) == {None, b"data"}
    disk.sync_dir("/d")
    assert outcomes(disk, Survival.NOTHING, content("/d/f"), 5) == {b"data"}


def test_a_name_without_its_data_is_an_empty_file() -> None:
    disk = new_disk()
    disk.open("/d/f", create=True, write=True).write_at(0, b"data")
    disk.sync_dir("/d")
    assert {b"", b"data", bytes(4)} == outcomes(disk, Survival.SECTORS, content("/d/f"))


def test_a_rename_is_lost_or_done_as_a_whole() -> None:
    disk = new_disk()
    written(disk, b"old")
    other = disk.open("/d/g", create=True, write=True)
    other.write_at(0, b"new")
    other.sync()
    disk.sync_dir("/d")
    disk.rename("/d/g", "/d/f")
    look = lambda after: tuple((path, after.read_file(path)) for path in after.paths())  # noqa: E731
    before: tuple[tuple[str, bytes], ...] = (("/d/f", b"old"), ("/d/g", b"new"))
    assert outcomes(disk, Survival.SECTORS, look) == {before, (("/d/f", b"new"),)}
    disk.sync_dir("/d")
    assert outcomes(disk, Survival.NOTHING, look, 5) == {(("/d/f", b"new"),)}


def test_a_removal_is_lost_unless_the_directory_was_synced() -> None:
    disk = new_disk()
    written(disk)
    disk.remove("/d/f")
    assert outcomes(disk, Survival.NOTHING, content("/d/f"), 5) == {b"old"}
    assert outcomes(disk, Survival.SECTORS, content("/d/f")) == {None, b"old"}
    disk.sync_dir("/d")
    assert outcomes(disk, Survival.EVERYTHING, content("/d/f"), 5) == {None}


def test_changes_of_names_survive_in_any_subset() -> None:
    disk = new_disk()
    written(disk)
    disk.open("/d/g", create=True).close()
    disk.remove("/d/f")
    seen = outcomes(disk, Survival.SECTORS, lambda after: tuple(after.paths()))
    assert seen == {("/d/f",), ("/d/f", "/d/g"), ("/d/g",), ()}, "the removal without the creation, too"


def test_a_crash_on_the_spot_ends_the_process() -> None:
    disk = new_disk()
    written(disk)
    file = disk.open("/d/f", write=True)
    disk.lock("/d/LOCK", b"1")
    file.write_at(0, b"new")
    disk.crash(Survival.NOTHING)
    assert disk.read_file("/d/f") == b"old"
    uses: list[Callable[[], object]] = [
        lambda: file.read_at(0, 1),
        lambda: file.write_at(0, b"x"),
        file.sync,
        file.size,
    ]
    for use in uses:
        with pytest.raises(OSError, match=r"."):
            use()
    disk.lock("/d/LOCK", b"2").release()


def test_a_killed_process_leaves_the_cache() -> None:
    disk = new_disk()
    written(disk)
    disk.open("/d/f", write=True).write_at(0, b"new")
    disk.kill()
    assert disk.read_file("/d/f") == b"new"
    assert disk.crashed(Survival.NOTHING).read_file("/d/f") == b"old"


def test_one_seed_decides() -> None:
    def run(seed: int) -> list[tuple[str, bytes]]:
        disk = new_disk(seed)
        for number in range(20):
            file = disk.open(f"/d/{number}", create=True, write=True)
            file.write_at(0, b"%d" % number * 300)
            if number % 3:
                file.sync()
        disk.crash(Survival.TORN)
        return [(path, disk.read_file(path)) for path in disk.paths()]

    assert run(1) == run(1)
    assert run(1) != run(2)


# Errors.


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("create", lambda disk, _file: disk.open("/d/new", create=True)),
        ("open", lambda disk, _file: disk.open("/d/f")),
        ("read_at", lambda _disk, file: file.read_at(0, 1)),
        ("write_at", lambda _disk, file: file.write_at(0, b"x")),
        ("sync", lambda _disk, file: file.sync()),
        ("allocate", lambda _disk, file: file.allocate(100)),
        ("truncate", lambda _disk, file: file.truncate(1)),
        ("mkdir", lambda disk, _file: disk.make_dirs("/d/new")),
        ("rename", lambda disk, _file: disk.rename("/d/f", "/d/g")),
        ("remove", lambda disk, _file: disk.remove("/d/f")),
        ("rmdir", lambda disk, _file: disk.remove_tree("/d")),
        ("sync_dir", lambda disk, _file: disk.sync_dir("/d")),
    ],
)
def test_each_operation_fails_on_order(operation: str, call: Callable[[SimDisk, object], object]) -> None:
    disk = new_disk()
    written(disk)
    file = disk.open("/d/f", write=True)
    disk.fail(operation, error=errno.ENOSPC)
    with pytest.raises(OSError, match=r".") as caught:
        call(disk, file)
    assert caught.value.errno == errno.ENOSPC


def test_faults_wait_for_their_turn_and_their_file() -> None:
    disk = new_disk()
    disk.fail("sync", suffix="/f", skip=1, times=2)
    files = [disk.open(f"/d/{name}", create=True, write=True) for name in "fg"]
    results = []
    for _ in range(4):
        for file in files:
            try:
                file.sync()
                results.append(True)
            except OSError:
                results.append(False)
    assert results == [True, True, False, True, False, True, True, True]
    disk.fail("sync", times=-1)
    for _ in range(3):
        with pytest.raises(OSError, match=r"."):
            files[1].sync()
    disk.heal()
    files[1].sync()


def test_simdisk_errors_follow_a_file_through_renames() -> None:
    """Who orders an error for a kind of file means the name that it has now, whatever it was opened by."""
    disk = new_disk()
    disk.make_dirs("/d/wal")
    file = disk.open("/d/wal/1.wal.tmp", create=True, write=True)
    fault = disk.fail("sync", suffix=".wal")
    file.sync()
    disk.rename("/d/wal/1.wal.tmp", "/d/wal/1.wal")
    with pytest.raises(OSError, match=r"1\.wal"):
        file.sync()
    assert fault.happened == 1
    disk.rename("/d/wal", "/d/old")
    disk.fail("write_at", suffix="old/1.wal")
    with pytest.raises(OSError, match=r"old/1\.wal"):
        file.write_at(0, b"x")


def test_after_a_failed_sync_lost_data_read_as_if_they_were_there() -> None:
    lost = 0
    for seed in range(20):
        disk = new_disk(seed)
        written(disk, b"old" * 300)
        file = disk.open("/d/f", write=True)
        file.write_at(0, b"new" * 300)
        disk.fail("sync")
        with pytest.raises(OSError, match=r"."):
            file.sync()
        assert file.read_at(0, 900) == b"new" * 300
        file.sync()
        lost += disk.crashed(Survival.EVERYTHING).read_file("/d/f") != b"new" * 300
    assert 5 < lost < 20


def test_a_failed_write_may_have_written_a_part() -> None:
    seen = set()
    for seed in range(50):
        disk = new_disk(seed)
        written(disk, b"....")
        disk.fail("write_at")
        with pytest.raises(OSError, match=r"."):
            disk.open("/d/f", write=True).write_at(0, b"1234")
        seen.add(disk.read_file("/d/f"))
    assert seen == {b"....", b"1...", b"12..", b"123.", b"1234"}


def test_a_full_disk_and_space_again() -> None:
    disk = new_disk(capacity_bytes=10 * SECTOR)
    file = disk.open("/d/f", create=True, write=True)
    file.allocate(6 * SECTOR)
    assert disk.free_bytes("/d") == 4 * SECTOR
    file.write_at(0, bytes(6 * SECTOR))
    assert disk.free_bytes("/d") == 4 * SECTOR, "what was reserved is not taken twice"
    other = disk.open("/d/g", create=True, write=True)
    attempts: list[Callable[[], None]] = [
        lambda: other.write_at(0, bytes(5 * SECTOR)),
        lambda: other.allocate(5 * SECTOR),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match=r".") as caught:
            attempt()
        assert caught.value.errno == errno.ENOSPC
    other.truncate(0)
    other.write_at(0, bytes(4 * SECTOR))
    assert disk.free_bytes("/d") == 0
    disk.remove("/d/f")
    assert disk.free_bytes("/d") == 6 * SECTOR
    disk.capacity_bytes = 20 * SECTOR
    other.allocate(15 * SECTOR)


def test_syncs_take_time_and_are_seen() -> None:
    disk = new_disk()
    disk.sync_s = 0.25
    synced: list[str] = []
    disk.on_sync = synced.append
    written(disk)
    file = disk.open("/d/f", write=True)
    file.sync()
    assert disk.busy_s == 0.5
    assert synced == ["/d/f", "/d/f"]


def test_rot_and_loss() -> None:
    disk = new_disk()
    written(disk, b"abc")
    disk.flip_bit("/d/f", 1, 0)
    assert disk.read_file("/d/f") == b"acc"
    assert disk.crashed(Survival.NOTHING).read_file("/d/f") == b"acc"
    disk.empty("/d/f")
    assert disk.crashed(Survival.EVERYTHING).read_file("/d/f") == b""
    disk.lose("/d/f")
    assert not disk.exists("/d/f")
    assert not disk.crashed(Survival.EVERYTHING).exists("/d/f")


def test_the_hook_sees_each_change_before_it_happens() -> None:
    disk = new_disk()
    seen: list[tuple[str, str]] = []
    disk.before = lambda operation, path: seen.append((operation, path))
    written(disk)
    disk.rename("/d/f", "/d/g")
    disk.open("/d/g").read_at(0, 3)
    assert seen == [
        ("create", "/d/f"),
        ("write_at", "/d/f"),
        ("sync", "/d/f"),
        ("sync_dir", "/d"),
        ("rename", "/d/g"),
    ]


# The proof: a log that does not sync, or syncs too little, loses what it acknowledged.


def naive_log(disk: SimDisk, *, sync: bool, sync_names: bool, counts: list[int]) -> None:
    """Appends numbered lines, and a new file every four lines. `counts` gets how many were acknowledged."""
    for number in range(12):
        path = f"/d/{number // 4}"
        file = disk.open(path, create=number % 4 == 0, write=True)
        file.write_at(file.size(), b"%03d" % number)
        if sync:
            file.sync()
        if sync_names:
            disk.sync_dir("/d")
        file.close()
        counts.append(number + 1)


def lines(disk: SimDisk) -> list[int]:
    data = b"".join(disk.read_file(path) for path in disk.paths())
    return [int(data[at : at + 3] or b"-1") if data[at : at + 3].isdigit() else -1 for at in range(0, len(data), 3)]


@pytest.mark.parametrize(
    ("sync", "sync_names", "safe"),
    [(False, False, False), (True, False, False), (False, True, False), (True, True, True)],
)
def test_a_log_that_does_not_sync_all_it_must_loses_data(sync: bool, sync_names: bool, safe: bool) -> None:
    lost = cases = 0
    for seed in range(30):
        disk = new_disk(seed)
        counts = [0]

        def crash_here(_operation: str, _path: str, disk: SimDisk = disk, counts: list[int] = counts) -> None:
            nonlocal lost, cases
            for survival in Survival:
                cases += 1
                kept = lines(disk.crashed(survival))
                lost += kept[: counts[-1]] != list(range(counts[-1]))

        disk.before = crash_here
        naive_log(disk, sync=sync, sync_names=sync_names, counts=counts)
    assert cases > 1000
    assert (lost == 0) == safe, f"{lost} of {cases}"
