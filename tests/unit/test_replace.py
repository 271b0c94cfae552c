"""A directory that changes hands: crashed at every step no node starts on it, and it is completed. Nothing is lost."""

from __future__ import annotations

import random

import msgspec
import pytest

from syncline.errors import CorruptionError, RepairNeeded, StorageError
from syncline.storage.datadir import DataDir, Identity, encode_identity
from syncline.storage.replace import Replacement, begin, complete, free_folder, give_up, read_note
from syncline.testing.sim.disk import SimDisk, Survival

OLD = Identity(0xC1, 0xA, "a", started=True)
NEW = Identity(0xC1, 0xB, "a")
NOTE = Replacement(
    cluster_id=f"{0xC1:016x}",
    old_id=f"{0xA:016x}",
    new_id=f"{0xB:016x}",
    name="a",
    address="a:7100",
    http="http://a:8080",
    voter=True,
    endpoints=("http://b:8080",),
    folder="set-aside-1",
)
FILES = {
    "identity": encode_identity(OLD),
    "wal/0000000000000001.wal": b"the log",
    "wal/0000000000000002.wal": b"more of it",
    "snapshots/0000000000000001-0000000000000001.snap": b"a snapshot",
    "joining": b"{}",
}


def used(files: dict[str, bytes] | None = None) -> SimDisk:
    """The disk of a node that ran."""
    disk = SimDisk(random.Random(1))
    for directory in ("/d", "/d/wal", "/d/snapshots"):
        disk.make_dirs(directory)
    for name, content in (FILES if files is None else files).items():
        disk.write_file(f"/d/{name}", content)
    return disk


def under(disk: SimDisk, directory: str) -> dict[str, bytes]:
    return {path[len(directory) + 1 :]: disk.read_file(path) for path in disk.paths() if path.startswith(directory)}


def opened(disk: SimDisk) -> Identity | None:
    directory = DataDir.open(disk, "/d")
    directory.release()
    return directory.identity


def check_completed(disk: SimDisk) -> None:
    assert opened(disk) == NEW
    kept = under(disk, "/d/set-aside-1")
    assert kept.pop("replacement")
    assert kept == FILES
    assert {path for path in under(disk, "/d") if not path.startswith("set-aside-1/")} == {"LOCK", "identity"}
    assert read_note(disk, "/d") is None


def test_the_note_keeps_nodes_off_until_the_directory_is_the_new_members() -> None:
    disk = used()
    begin(disk, "/d", NOTE)
    assert read_note(disk, "/d") == NOTE
    with pytest.raises(RepairNeeded, match=r"syncline repair --data-dir /d.*again"):
        opened(disk)
    assert complete(disk, "/d", NOTE) == "/d/set-aside-1"
    check_completed(disk)
    assert free_folder(disk, "/d") == "set-aside-2"


def test_crashed_anywhere_no_node_starts_in_between_and_it_is_completed() -> None:
    disk = used()
    cases = 0
    began = False

    def crash(operation: str, path: str) -> None:
        nonlocal cases
        for survival in Survival:
            for seed in range(3):
                cases += 1
                look(disk.crashed(survival, random.Random(cases * 7 + seed)), f"{operation} of {path}")

    def look(crashed: SimDisk, moment: str) -> None:
        try:
            identity = opened(crashed)
        except RepairNeeded:
            identity = None
        assert identity in ((None, NEW) if began else (None, OLD)), moment
        if identity == OLD:
            assert under(crashed, "/d").keys() - {"LOCK", "replacement.tmp"} == FILES.keys(), moment
            return
        note = read_note(crashed, "/d")
        if note is not None:
            assert complete(crashed, "/d", note) == "/d/set-aside-1"
        check_completed(crashed.crashed(Survival.NOTHING))

    disk.before = crash
    begin(disk, "/d", NOTE)
    began = True
    complete(disk, "/d", NOTE)
    assert cases > 200


def test_replacement_begun_again_near_its_end_keeps_the_old_identity() -> None:
    disk = used()
    begin(disk, "/d", NOTE)

    def crash(operation: str, path: str) -> None:
        if operation == "rename" and "replacement" in path:
            raise InterruptedError

    disk.before = crash
    with pytest.raises(InterruptedError):
        complete(disk, "/d", NOTE)
    disk.before = None
    assert disk.read_file("/d/identity") == encode_identity(NEW)
    again = msgspec.structs.replace(NOTE, new_id=f"{0xC:016x}")
    begin(disk, "/d", again)
    complete(disk, "/d", again)
    assert opened(disk) == Identity(0xC1, 0xC, "a")
    assert disk.read_file("/d/set-aside-1/identity") == FILES["identity"]


def test_what_is_not_there_is_not_missed() -> None:
    for missing in ((), ("identity",), ("joining", "identity"), tuple(FILES)):
        disk = used({name: content for name, content in FILES.items() if name not in missing})
        begin(disk, "/d", NOTE)
        complete(disk, "/d", NOTE)
        assert opened(disk) == NEW
        assert under(disk, "/d/set-aside-1").keys() - {"replacement"} == FILES.keys() - set(missing)


def test_a_damaged_identity_is_set_aside_too() -> None:
    disk = used(FILES | {"identity": b"rot"})
    begin(disk, "/d", NOTE)
    complete(disk, "/d", NOTE)
    assert disk.read_file("/d/set-aside-1/identity") == b"rot"
    assert opened(disk) == NEW


def test_a_note_that_is_taken_back_leaves_everything_as_it_was() -> None:
    disk = used()
    begin(disk, "/d", NOTE)
    give_up(disk, "/d")
    after = disk.crashed(Survival.NOTHING)
    assert under(after, "/d") == FILES
    assert opened(after) == OLD


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff", b'{"name": 1}'])
def test_a_damaged_note_is_told_and_keeps_nodes_off_all_the_same(content: bytes) -> None:
    disk = used(FILES | {"replacement": content})
    with pytest.raises(CorruptionError, match="/d/replacement is damaged"):
        read_note(disk, "/d")
    with pytest.raises(StorageError):
        opened(disk)
