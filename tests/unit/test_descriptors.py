"""File descriptors: the limit is raised, some are kept from the clients, and a log that gets none waits."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from syncline.node.log_writer import LogWriter
from syncline.platform import descriptors
from syncline.platform.disk import OsDisk, OsFile
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.writer import NotBegun, Wal, WalWrite
from tests.helpers.storage import held, row
from tests.unit.test_log_writer import World

SEGMENT = 16 * 1024
DEADLINE_S = 10.0


class ShortDisk(OsDisk):
    """A disk for a process that has no descriptor left for the next files, or just one."""

    def __init__(self) -> None:
        self.no_files = 0
        self.no_second = 0

    def open(self, path: str, *, create: bool = False, write: bool = False) -> OsFile:
        if create and self.no_files:
            self.no_files -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        if not (create or write) and self.no_second:
            self.no_second -= 1
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE), path)
        return super().open(path, create=create, write=write)


def open_log(path: Path, disk: OsDisk) -> Wal:
    return Wal.open(disk, str(path), segment_bytes=SEGMENT, reserve_bytes=0, log_id=7)


@pytest.mark.parametrize("what", ["no_files", "no_second"])
def test_wal_write_without_a_descriptor_has_not_begun(tmp_path: Path, what: str) -> None:
    """The node must not stop for it: nothing was written, and the same write succeeds later."""
    disk = ShortDisk()
    wal = open_log(tmp_path, disk)
    wal.write([WalWrite(entries=row(1, 10, size=1000))])
    for _ in range(3):
        setattr(disk, what, 1)
        with pytest.raises(NotBegun, match="ulimit -n"):
            wal.write([WalWrite(entries=row(11, 20, size=1000))])
    assert wal.failure is None
    assert wal.last_index == 10
    wal.write([WalWrite(entries=row(11, 20, size=1000))])
    wal.close()
    again = open_log(tmp_path, OsDisk())
    assert held(again) == row(1, 20, size=1000)
    assert not again.recovery.notes
    again.close()


def test_wal_compaction_without_a_descriptor_is_left_for_later(tmp_path: Path) -> None:
    disk = ShortDisk()
    wal = open_log(tmp_path, disk)
    wal.write([WalWrite(entries=row(1, 12, size=1000))])
    disk.no_files = 1
    wal.compact(12)
    assert wal.failure is None
    wal.compact(12)
    assert [name for name in os.listdir(tmp_path) if name.endswith(".wal")] != []
    wal.write([WalWrite(entries=row(13, 14))])
    wal.close()


class ShortWorld(World):
    """A log writer on a disk that runs out of descriptors."""

    def __init__(self, path: Path) -> None:
        self.disk = ShortDisk()
        self.wal = open_log(path, self.disk)
        self.log = StoredLog.open(self.wal, None)
        self.delivered = []
        self.failures = []
        self.group_done = asyncio.Event()
        self.writer = LogWriter(self.wal, self.log, self.workers(), self._durable, self.failures.append)


async def test_logwriter_without_a_descriptor_waits_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything is delivered once, in order, as soon as there are descriptors again."""
    world = ShortWorld(tmp_path)
    world.disk.no_files = 3
    for last in range(5, 31, 5):
        world.append(row(last - 4, last, size=1000), answer=last)
    await world.until(lambda: len(world.delivered) == 6)
    assert world.delivered == [5, 10, 15, 20, 25, 30]
    assert world.disk.no_files == 0
    await world.writer.close()
    world.wal.close()
    assert caplog.text.count("the log waits") == 1
    again = open_log(tmp_path, OsDisk())
    assert held(again) == row(1, 30, size=1000)
    again.close()


async def test_logwriter_closed_without_a_descriptor_ends(tmp_path: Path) -> None:
    world = ShortWorld(tmp_path)
    world.disk.no_files = 1_000_000
    world.append(row(1, 20, size=1000), answer=20)
    async with asyncio.timeout(DEADLINE_S):
        await world.writer.close()
    assert world.delivered == []
    assert "ulimit -n" in str(world.failures[0])
    world.wal.close()


@pytest.mark.parametrize(
    ("soft", "wanted", "beside", "expected"),
    [
        (1024, 10_000, 0, 832),
        (1024, 10_000, 96, 736),
        (1024, 10_000, 352, 512),
        (100_000, 10_000, 352, 10_000),
        (64, 10_000, 96, 32),
        (resource.RLIM_INFINITY, 10_000, 96, 10_000),
    ],
)
def test_connection_limit_keeps_descriptors_for_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, wanted: int, beside: int, expected: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert descriptors.connection_limit(wanted, beside) == expected


def test_raise_limit_takes_what_the_process_may_have() -> None:
    script = (
        "import resource; from syncline.platform.descriptors import raise_limit;"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, 256)));"
        "raise_limit(); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(256, 256)"
