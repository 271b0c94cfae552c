"""The data directory: one process, one node, and refusals that say what to do."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import (
    CorruptionError,
    DirectoryLocked,
    FormatVersionError,
    StorageError,
    WrongDirectory,
)
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import DataDir, Identity, decode_identity, encode_identity
from syncline.testing.sim.disk import SimDisk
from tests.helpers.storage import TroubledDisk

IDENTITY = Identity(cluster_id=0xC1, node_id=0xA, name="a")


def opened(path: Path | str) -> DataDir:
    return DataDir.open(OsDisk(), str(path))


def test_new_directory_has_no_identity(tmp_path: Path) -> None:
    directory = opened(tmp_path / "deep" / "data")
    assert directory.identity is None
    assert not directory.started
    assert directory.wal_path == f"{tmp_path}/deep/data/wal"
    assert directory.snapshots_path == f"{tmp_path}/deep/data/snapshots"
    directory.release()


def test_the_identity_is_kept(tmp_path: Path) -> None:
    directory = opened(tmp_path)
    directory.write_identity(IDENTITY)
    directory.mark_started()
    directory.release()
    again = opened(f"{tmp_path}/")
    assert again.identity == Identity(0xC1, 0xA, "a", started=True)
    assert again.started
    again.release()


def test_the_lock_holds_the_pid_and_keeps_others_out(tmp_path: Path) -> None:
    directory = opened(tmp_path)
    assert (tmp_path / "LOCK").read_text().strip() == str(os.getpid())
    with pytest.raises(DirectoryLocked, match="it has opened a node there and has not closed it"):
        opened(tmp_path)
    directory.release()
    opened(tmp_path).release()


def test_a_failed_open_gives_the_lock_back(tmp_path: Path) -> None:
    (tmp_path / "identity").write_bytes(b"rubbish")
    for _ in range(2):
        with pytest.raises(CorruptionError, match="identity"):
            opened(tmp_path)


def test_it_never_becomes_another_nodes(tmp_path: Path) -> None:
    directory = opened(tmp_path)
    directory.write_identity(IDENTITY)
    for other in (Identity(0xC1, 0xB, "b"), Identity(0xC2, 0xA, "a")):
        with pytest.raises(WrongDirectory, match="data directory of its own"):
            directory.write_identity(other)
    directory.write_identity(Identity(0xC1, 0xA, "renamed"))
    directory.release()
    again = opened(tmp_path)
    assert again.identity == Identity(0xC1, 0xA, "renamed")
    again.release()


@pytest.mark.parametrize("operation", ["write", "sync", "rename"])
def test_a_failed_identity_leaves_the_old_one(tmp_path: Path, operation: str) -> None:
    disk = TroubledDisk()
    directory = DataDir.open(disk, str(tmp_path))
    directory.write_identity(IDENTITY)
    disk.trouble.arm(operation)
    with pytest.raises(OSError, match="as told"):
        directory.mark_started()
    directory.release()
    again = opened(tmp_path)
    assert again.identity == IDENTITY
    assert not (tmp_path / "identity.tmp").exists()
    again.release()


def test_the_identity_is_synced_before_and_after_its_rename(tmp_path: Path) -> None:
    disk = TroubledDisk()
    directory = DataDir.open(disk, str(tmp_path))
    disk.trouble.log.clear()
    directory.write_identity(IDENTITY)
    directory.release()
    durable = ["create", "write", "sync", "rename", "sync_dir"]
    assert [operation for operation, _ in disk.trouble.log][: len(durable)] == durable


def test_identity_is_replaced_on_a_full_disk() -> None:
    """Each start writes it. Without space of its own a node could not start again on a full disk."""
    disk = SimDisk(random.Random(1))
    directory = DataDir.open(disk, "/node")
    directory.write_identity(IDENTITY)
    disk.capacity_bytes = disk.used_bytes()
    for start in range(1, 4):
        directory.write_identity(msgspec.structs.replace(IDENTITY, incarnations=tuple(range(start, 0, -1))))
        disk.capacity_bytes = disk.used_bytes()
    directory.release()
    assert DataDir.open(disk, "/node").identity == msgspec.structs.replace(IDENTITY, incarnations=(3, 2, 1))


def test_identity_write_tells_a_full_disk_without_a_spare() -> None:
    disk = SimDisk(random.Random(1))
    directory = DataDir.open(disk, "/node")
    directory.write_identity(IDENTITY)
    disk.remove("/node/identity.spare")
    disk.capacity_bytes = disk.used_bytes()
    with pytest.raises(OSError, match="space"):
        directory.write_identity(msgspec.structs.replace(IDENTITY, started=True))


def test_a_path_that_cannot_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="can't be used"):
        opened(tmp_path / "file")
    with pytest.raises(StorageError, match="can't be used"):
        opened(tmp_path / "file" / "below")


@pytest.mark.parametrize("name", ["wal", "snapshots"])
def test_a_lost_identity_is_not_taken_for_a_new_node(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    opened(tmp_path).release()
    (tmp_path / name / "something").write_bytes(b"x")
    with pytest.raises(CorruptionError, match="is missing"):
        opened(tmp_path)


def test_another_format_is_refused_with_the_version_that_wrote_it(tmp_path: Path) -> None:
    directory = opened(tmp_path)
    directory.write_identity(IDENTITY)
    directory.release()
    path = tmp_path / "identity"
    content = json.loads(path.read_text())
    content["format_version"] = 9
    content["written_by"] = "7.1.0"
    content["something_new"] = [1, 2]
    path.write_text(json.dumps(content))
    with pytest.raises(FormatVersionError, match=r"7\.1\.0"):
        opened(tmp_path)


def test_every_flipped_bit_and_every_cut_of_the_identity_is_noticed() -> None:
    data = encode_identity(Identity(0xC1, 0xA, "node-a", started=True))
    for position in range(len(data)):
        with pytest.raises(CorruptionError):
            decode_identity("identity", data[:position])
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises((CorruptionError, FormatVersionError)):
                decode_identity("identity", bytes(damaged))


@given(st.binary(max_size=300))
def test_any_bytes_as_an_identity_give_an_error_of_ours(data: bytes) -> None:
    with pytest.raises((CorruptionError, FormatVersionError)):
        decode_identity("identity", data)


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**63 - 1), st.text(max_size=100), st.booleans())
def test_any_identity_comes_back(cluster_id: int, node_id: int, name: str, started: bool) -> None:
    identity = Identity(cluster_id, node_id, name, started=started)
    assert decode_identity("identity", encode_identity(identity)) == identity


def test_a_copied_directory_is_usable(tmp_path: Path) -> None:
    directory = opened(tmp_path / "a")
    directory.write_identity(IDENTITY)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = opened(tmp_path / "b")
    assert copy.identity == IDENTITY
    copy.release()
    directory.release()
