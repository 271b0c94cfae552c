"""Syncs as the system makes them: an error of the kernel stops the node, and directories are synced.

The errors are put in at the last place before the system: into the answer of the kernel, and into the call of `os`. So
nothing of the project's own code is replaced, and whatever ignores an error or leaves a sync out is noticed.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from syncline.errors import NodeFailed
from syncline.node.config import Config
from syncline.node.fsm import BytesSnapshot, Entry
from syncline.node.raft import Raft
from syncline.platform import kernel_sync
from syncline.platform.disk import File, OsDisk
from syncline.platform.kernel_sync import KernelSync
from syncline.platform.worker import Flusher, ThreadWorkers
from syncline.platform.world import World
from tests.helpers.forged_kernel import ForgedKernel
from tests.helpers.ports import free_block

TIMEOUT_S = 20.0

on_linux = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in kernel_sync.SYSCALLS, reason="the kernel of Linux is asked"
)


class Echo:
    """A state machine that keeps the last command."""

    last = b""

    def apply(self, entry: Entry) -> bytes:
        self.last = entry.data
        return entry.data

    def snapshot(self) -> BytesSnapshot:
        return BytesSnapshot(self.last)

    def restore(self, source: object) -> None:
        raise AssertionError("nothing is restarted")


class OnThread(ThreadWorkers):
    """As on a system whose kernel does not sync beside its caller."""

    def flusher(self, file: File, done: Callable[[BaseException | None], None]) -> Flusher | None:
        return None


async def opened(path: Path, *, kernel: bool, **settings: int) -> Raft[object]:
    address = f"127.0.0.1:{free_block(1)}"
    config = Config(name="a", data_dir=str(path / "a"), listen=address, peers={"a": address})
    config = msgspec.structs.replace(config, **settings)
    raft = await Raft.open(config, Echo(), world=World(workers=ThreadWorkers() if kernel else OnThread()))
    assert raft._driver.parts.writer.syncs_on_a_thread is not kernel
    assert await raft.apply(b"before", timeout=TIMEOUT_S) == b"before"
    return raft


async def fails_and_acknowledges_nothing(raft: Raft[object]) -> str:
    """Why the node stopped, in its own words."""
    with pytest.raises(NodeFailed) as refused:
        await raft.apply(b"after", timeout=TIMEOUT_S)
    reason = str(await raft.failed())
    assert str(refused.value) == reason
    assert raft.role == "stopped"
    await raft.close()
    return reason


async def kernel_sync_fails(path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> str:
    kernel = ForgedKernel(monkeypatch)
    raft = await opened(path, kernel=True)
    kernel.error = error
    return await fails_and_acknowledges_nothing(raft)


@on_linux
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
async def test_kernel_sync_error_stops_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    assert os.strerror(error) in await kernel_sync_fails(tmp_path, monkeypatch, error)


@on_linux
async def test_kernel_sync_error_that_is_ignored_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: the result of the kernel is taken for 0."""
    real = KernelSync.result

    def result(sync: KernelSync) -> int | None:
        return None if real(sync) is None else 0

    monkeypatch.setattr(KernelSync, "result", result)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await kernel_sync_fails(tmp_path, monkeypatch, errno.EIO)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
async def test_thread_sync_error_stops_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    raft = await opened(tmp_path, kernel=False)

    def failing(_: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fdatasync", failing)
    assert os.strerror(error) in await fails_and_acknowledges_nothing(raft)


class Names:
    """What the system is asked to do with names, in order: made, replaced, removed; and directories synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.unsynced: dict[str, list[str]] = {}
        """By directory: changes that no sync of it has followed yet."""
        self.changes = 0
        self.fail_directories = False
        self._root = str(root)
        real_replace, real_mkdir, real_unlink, real_fsync = os.replace, os.mkdir, os.unlink, os.fsync

        def replace(source: str, target: str) -> None:
            real_replace(source, target)
            self._changed(target)

        def mkdir(path: str, mode: int = 0o777) -> None:
            real_mkdir(path, mode)
            self._changed(path)

        def unlink(path: str) -> None:
            real_unlink(path)
            if path.endswith(".wal"):  # an old snapshot that comes back after a crash does no harm
                self._changed(path)

        def fsync(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                if self.fail_directories:
                    raise OSError(errno.EIO, os.strerror(errno.EIO), path)
                self.unsynced.pop(path, None)
            real_fsync(descriptor)

        for name, call in (("replace", replace), ("mkdir", mkdir), ("unlink", unlink), ("fsync", fsync)):
            monkeypatch.setattr(os, name, call)

    def _changed(self, path: str) -> None:
        directory = os.path.dirname(path)
        if directory.startswith(self._root):
            self.changes += 1
            self.unsynced.setdefault(directory, []).append(os.path.basename(path))

    def check(self, when: str) -> None:
        assert not self.unsynced, f"{when}: no sync of the directory followed {self.unsynced}"


SEGMENT = 256 * 1024


async def names_are_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names(monkeypatch, path)
    raft = await opened(path, kernel=False, segment_bytes=SEGMENT, trailing_entries=0, snapshots_retained=1)
    names.check("the first command was acknowledged")
    for number in range(12):
        await raft.apply(b"%d" % number + b"x" * 60_000, timeout=TIMEOUT_S)
        names.check("a command was acknowledged")
    before = names.changes
    for _ in range(2):
        await raft.snapshot()
        names.check("a snapshot was told")
        await raft.apply(b"y" * 60_000, timeout=TIMEOUT_S)
    assert names.changes > before + 2, "names were changed"
    await raft.close()
    names.check("the node was closed")
    return names


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are read in /proc")
async def test_directories_are_synced_before_anything_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not durable is lost in a crash, and all that is behind it."""
    assert (await names_are_synced(tmp_path, monkeypatch)).unsynced == {}


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are read in /proc")
async def test_directory_sync_that_does_nothing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug."""
    monkeypatch.setattr(OsDisk, "sync_dir", lambda *_: None)
    with pytest.raises(AssertionError, match="no sync of the directory"):
        await names_are_synced(tmp_path, monkeypatch)


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are read in /proc")
async def test_directory_sync_error_stops_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, tmp_path)
    raft = await opened(tmp_path, kernel=False, segment_bytes=SEGMENT)
    names.fail_directories = True
    filling = raft.apply_many([b"x" * 60_000] * 12, timeout=TIMEOUT_S)
    with pytest.raises(NodeFailed, match="Input/output error"):
        await filling[-1]
    assert "Input/output error" in str(filling[-1].exception())
    await raft.close()
