"""What is wrong with a data directory: exactly what would keep a node from starting, and nothing else."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import msgspec
import pytest

from syncline.errors import CorruptionError, FormatVersionError
from syncline.storage.datadir import DataDir, Identity
from syncline.storage.diagnose import Diagnosis, diagnose
from syncline.testing.sim.disk import SimDisk, Survival
from tests.helpers.crash_cases import CLUSTER, IDENTITY, SNAPSHOTS, WAL, Node, Started


def worked() -> SimDisk:
    """A node's disk after some time: two snapshots, the log begins behind the older one."""
    disk = SimDisk(random.Random(1))
    node = Node(disk)
    node.append(1, 20, size=120)
    node.append(21, 40, commit=30, size=120)
    node.snapshot(22, b"twenty-two " * 50)
    node.append(41, 80, commit=60, size=120)
    node.snapshot(40, b"forty " * 60)
    node.compact()
    node.append(81, 83, term=3, commit=80)
    disk.kill()
    return disk


def start(disk: SimDisk) -> None:
    Started(disk).close()


def snapshots(disk: SimDisk) -> list[str]:
    return [path for path in disk.paths() if path.startswith(SNAPSHOTS)]


def segments(disk: SimDisk) -> list[str]:
    return [path for path in disk.paths() if path.startswith(WAL)]


def untouched(disk: SimDisk) -> Diagnosis:
    def refuse(operation: str, path: str) -> None:
        raise AssertionError(f"{operation} of {path}: a diagnosis changes nothing")

    disk.before = refuse
    try:
        return diagnose(disk, "/node")
    finally:
        disk.before = None


def test_a_sound_directory() -> None:
    found = untouched(worked())
    assert found == Diagnosis(
        identity=msgspec.structs.replace(IDENTITY, started=True),
        node_id=5,
        cluster_id=CLUSTER,
        problems=(),
        notes=(),
        empty=False,
    )
    assert found.sound


def test_an_empty_directory_is_neither_sound_nor_damaged() -> None:
    disk = SimDisk(random.Random(1))
    disk.make_dirs("/node")
    found = untouched(disk)
    assert (found.empty, found.sound, found.problems) == (True, False, ())


def test_a_new_members_directory_is_sound_without_a_log() -> None:
    disk = SimDisk(random.Random(1))
    disk.make_dirs("/node")
    directory = DataDir.open(disk, "/node")
    directory.write_identity(IDENTITY)
    directory.release()
    assert untouched(disk).sound


def lose_log(disk: SimDisk) -> None:
    for path in segments(disk):
        disk.lose(path)


def rot_snapshots(disk: SimDisk) -> None:
    for path in snapshots(disk):
        disk.flip_bit(path, 600)


Damage = Callable[[SimDisk], object]

PROBLEMS: dict[str, tuple[Damage, str]] = {
    "rot in the log": (lambda disk: disk.flip_bit(segments(disk)[-1], 300), "The log is damaged"),
    "a lost segment": (lambda disk: disk.lose(segments(disk)[1]), "the file is missing"),
    "a lost log": (lose_log, "has had one: its files are missing"),
    "a rotten identity": (lambda disk: disk.flip_bit("/node/identity", 30), "identity is damaged"),
    "a lost identity": (lambda disk: disk.lose("/node/identity"), "identity is missing"),
    "no intact snapshot": (rot_snapshots, "the newest intact snapshot is missing"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_keeps_a_node_from_starting_is_a_problem(name: str) -> None:
    damage, words = PROBLEMS[name]
    disk = worked()
    damage(disk)
    found = untouched(disk)
    assert any(words in problem for problem in found.problems), found.problems
    assert not found.sound
    assert not found.empty
    assert found.node_id == 5 or not segments(disk), "the log's files tell whose they are"
    with pytest.raises(CorruptionError):
        start(disk)


def test_all_problems_are_told_not_only_the_first() -> None:
    disk = worked()
    disk.flip_bit("/node/identity", 30)
    disk.flip_bit(segments(disk)[-1], 300)
    disk.flip_bit(snapshots(disk)[0], 600)
    found = untouched(disk)
    assert len(found.problems) == 2
    assert len(found.notes) == 0, "an older snapshot is looked at only where it is needed"
    assert (found.node_id, found.cluster_id) == (5, CLUSTER)


def test_corrupt_newest_snapshot_is_noted_if_an_older_one_serves() -> None:
    disk = worked()
    disk.flip_bit(snapshots(disk)[-1], 600)
    found = untouched(disk)
    assert found.sound
    assert "SHA-256" in found.notes[0]
    start(disk)


def test_a_torn_write_is_only_noted() -> None:
    disk = worked()
    wal = Node(disk)
    crashes: list[SimDisk] = []

    def crash(operation: str, _path: str) -> None:
        if operation == "sync":
            crashes.append(disk.crashed(Survival.SECTORS, random.Random(3)))

    disk.before = crash
    wal.started.wal.write([])
    wal.image = wal.started.image(81)
    wal.append(84, 90, term=3, size=200)
    found = diagnose(crashes[-1], "/node")
    assert found.sound
    assert "will be cut when the node starts" in found.notes[0]
    start(crashes[-1])


def test_another_versions_files_are_no_damage() -> None:
    disk = worked()
    content = disk.read_file("/node/identity").replace(b'"format_version": 2', b'"format_version": 9')
    disk.write_file("/node/identity", content)
    with pytest.raises(FormatVersionError):
        diagnose(disk, "/node")


def test_another_clusters_snapshot_is_told() -> None:
    disk = worked()
    directory = DataDir.open(disk, "/node")
    disk.lose("/node/identity")
    directory._identity = None
    directory.write_identity(Identity(0xC2, 5, "a", started=True))
    directory.release()
    assert "snapshot of another cluster" in diagnose(disk, "/node").problems[0]


def test_a_disk_that_can_not_be_read_is_a_problem_and_a_permission_is_not() -> None:
    disk = worked()
    disk.fail("read_at", suffix=".wal", times=1000)
    assert any("disk itself seems to fail" in problem for problem in diagnose(disk, "/node").problems)
    disk.heal()
    disk.fail("open", suffix="identity", error=errno.EACCES)
    with pytest.raises(OSError, match="Permission"):
        diagnose(disk, "/node")
