"""The real disk: what `Disk` promises, kept by the operating system."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from syncline.errors import DirectoryLocked
from syncline.platform import disk as disk_module
from syncline.platform.disk import Disk, OsDisk, locked_error


@pytest.fixture
def disk() -> OsDisk:
    return OsDisk()


def test_it_is_a_disk(disk: OsDisk) -> None:
    checked: Disk = disk
    assert checked is disk


def test_a_file_is_read_and_written_at_offsets(disk: OsDisk, tmp_path: Path) -> None:
    file = disk.open(f"{tmp_path}/f", create=True, write=True)
    file.write_at(10, b"world")
    file.write_at(0, bytearray(b"hello"))
    file.write_at(5, memoryview(b"-----"))
    file.sync()
    assert file.read_at(0, 100) == b"hello-----world"
    assert file.read_at(10, 3) == b"wor"
    assert file.read_at(15, 4) == b""
    assert file.size() == 15
    file.truncate(5)
    assert file.read_at(0, 100) == b"hello"
    file.close()
    file.close()


def test_create_refuses_a_name_that_is_taken(disk: OsDisk, tmp_path: Path) -> None:
    disk.open(f"{tmp_path}/f", create=True).close()
    with pytest.raises(FileExistsError):
        disk.open(f"{tmp_path}/f", create=True)
    with pytest.raises(FileNotFoundError):
        disk.open(f"{tmp_path}/absent")


def test_files_are_their_owners_alone(disk: OsDisk, tmp_path: Path) -> None:
    disk.open(f"{tmp_path}/f", create=True).close()
    disk.make_dirs(f"{tmp_path}/d")
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700


def test_short_reads_and_writes_are_continued(disk: OsDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_read, real_write = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real_read(fd, min(size, 3), at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_write(fd, bytes(data)[:4], at))
    file = disk.open(f"{tmp_path}/f", create=True, write=True)
    file.write_at(0, b"0123456789")
    assert file.read_at(0, 10) == b"0123456789"
    assert file.read_at(2, 100) == b"23456789"
    file.close()


def test_allocated_space_reads_as_zeros(disk: OsDisk, tmp_path: Path) -> None:
    file = disk.open(f"{tmp_path}/f", create=True, write=True)
    file.write_at(0, b"abc")
    file.allocate(10_000)
    assert file.size() == 10_000
    assert file.read_at(0, 10_000) == b"abc".ljust(10_000, b"\0")
    file.allocate(10)
    assert file.size() == 10_000
    file.close()


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_where_space_cannot_be_reserved_zeros_are_written(
    disk: OsDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_fd: int, _offset: int, _size: int) -> None:
        raise OSError(code, "as told")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(disk_module, "ZERO_CHUNK_BYTES", 1000)
    file = disk.open(f"{tmp_path}/f", create=True, write=True)
    file.write_at(0, b"abc")
    file.allocate(4_321)
    assert file.read_at(0, 5_000) == b"abc".ljust(4_321, b"\0")
    file.close()


def test_a_full_disk_is_not_taken_for_one_that_cannot_reserve(
    disk: OsDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "as told")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = disk.open(f"{tmp_path}/f", create=True, write=True)
    with pytest.raises(OSError, match="as told"):
        file.allocate(1000)
    file.close()


def test_directories(disk: OsDisk, tmp_path: Path) -> None:
    disk.make_dirs(f"{tmp_path}/a/b/c")
    disk.make_dirs(f"{tmp_path}/a/b/c")
    disk.open(f"{tmp_path}/a/z", create=True).close()
    assert disk.list(f"{tmp_path}/a") == ["b", "z"]
    assert disk.exists(f"{tmp_path}/a/b")
    disk.sync_dir(f"{tmp_path}/a")
    disk.rename(f"{tmp_path}/a/z", f"{tmp_path}/a/b/y")
    assert disk.list(f"{tmp_path}/a/b") == ["c", "y"]
    disk.remove(f"{tmp_path}/a/b/y")
    disk.remove_tree(f"{tmp_path}/a")
    assert not disk.exists(f"{tmp_path}/a")


def test_made_directories_are_synced_into_their_parents(
    disk: OsDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = OsDisk.sync_dir

    def recorded(self: OsDisk, path: str) -> None:
        synced.append(path)
        real(self, path)

    monkeypatch.setattr(OsDisk, "sync_dir", recorded)
    disk.make_dirs(f"{tmp_path}/a/b")
    assert synced == [f"{tmp_path}", f"{tmp_path}/a"]
    disk.make_dirs(f"{tmp_path}/a/b")
    assert synced[2:] == [f"{tmp_path}/a"], "one that is there may come from a process that crashed before its sync"


def test_a_file_in_the_way_of_a_directory(disk: OsDisk, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(OSError, match="f"):
        disk.make_dirs(f"{tmp_path}/f")


def test_rename_replaces(disk: OsDisk, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    disk.rename(f"{tmp_path}/a", f"{tmp_path}/b")
    assert (tmp_path / "b").read_bytes() == b"new"


def test_a_lock_is_held_once_and_names_its_holder(disk: OsDisk, tmp_path: Path) -> None:
    path = f"{tmp_path}/LOCK"
    lock = disk.lock(path, b"%d\n" % os.getpid())
    with pytest.raises(DirectoryLocked, match=str(os.getpid())) as caught:
        disk.lock(path, b"1\n")
    assert caught.value.pid == os.getpid()
    lock.release()
    lock.release()
    again = disk.lock(path, b"12\n")
    assert (tmp_path / "LOCK").read_bytes() == b"12\n", "nothing of the longer old content is left"
    again.release()


def test_a_lock_goes_with_its_process(disk: OsDisk, tmp_path: Path) -> None:
    path = f"{tmp_path}/LOCK"
    program = (
        "import os, sys\n"
        "from syncline.platform.disk import OsDisk\n"
        "lock = OsDisk().lock(sys.argv[1], b'%d' % os.getpid())\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(DirectoryLocked) as caught:
            disk.lock(path, b"")
        assert caught.value.pid == child.pid
        child.kill()
        child.wait()
    disk.lock(path, b"").release()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"nobody", b"99999999999999999"])
def test_an_unreadable_lock_still_gives_a_clear_error(content: bytes) -> None:
    error = locked_error("d/LOCK", content)
    assert error.pid is None or error.pid < 10**10
    assert "process" in str(error)


def test_free_bytes(disk: OsDisk, tmp_path: Path) -> None:
    assert disk.free_bytes(str(tmp_path)) > 0


def test_lock_of_a_node_that_this_process_forgot_to_close_says_so() -> None:
    """A program that opens a second `Raft` without `close` would look for another process in vain."""
    error = locked_error("d/LOCK", b"%d\n" % os.getpid())
    assert error.pid == os.getpid()
    assert "call `close` on the first one, or open it in a `with` or `async with` block" in str(error)


def test_lock_of_another_process_says_that_a_node_is_one_process() -> None:
    """The second worker of a web server meets this."""
    error = locked_error("d/LOCK", b"%d\n" % (os.getpid() + 1))
    assert "a web server with several workers" in str(error)
