"""A follower that comes back megabytes behind costs the leader's event loop no long turn, and no wait for a disk."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Final

import pytest

from syncline import Raft
from syncline.platform.disk import OsDisk, OsFile
from syncline.transport.pacing import LARGEST_WINDOW_BYTES
from tests.helpers.node_cluster import Cluster, cluster, until

VALUE_BYTES: Final = 50_000
VALUES: Final = 160
SLACK_BYTES: Final = 256 * 1024
"""A frame above the window, and what else a turn sends."""


class WatchedDisk(OsDisk):
    """Notes which thread reads how much of which file, and which asks for the free space."""

    def __init__(self) -> None:
        self.on_loop: list[str] = []
        self.beside: list[str] = []
        self.loop_thread = threading.get_ident()

    def note(self, what: str) -> None:
        (self.on_loop if threading.get_ident() == self.loop_thread else self.beside).append(what)

    def open(self, path: str, *, create: bool = False, write: bool = False) -> OsFile:
        file = super().open(path, create=create, write=write)
        return WatchedFile(self, file)

    def free_bytes(self, path: str) -> int:
        self.note("space")
        return super().free_bytes(path)


class WatchedFile(OsFile):
    def __init__(self, disk: WatchedDisk, file: OsFile) -> None:
        super().__init__(file.path, file.descriptor)
        self._disk = disk

    def read_at(self, offset: int, size: int) -> bytes:
        self._disk.note(self.path.rpartition(".")[2])
        return super().read_at(offset, size)


class Turns:
    """The most that one turn of the event loop sends to the peers, looked at between all turns."""

    def __init__(self, raft: Raft[object]) -> None:
        self._raft = raft
        self._loop = asyncio.get_running_loop()
        self._before = self._sent()
        self.largest = 0
        self._handle = self._loop.call_soon(self._look)

    def _sent(self) -> int:
        return sum(one.sent_bytes for one in self._raft._driver.parts.transport.stats().values())

    def _look(self) -> None:
        now = self._sent()
        self.largest = max(self.largest, now - self._before)
        self._before = now
        self._handle = self._loop.call_soon(self._look)

    def stop(self) -> None:
        self._handle.cancel()


async def left_behind(nodes: Cluster, disk: WatchedDisk) -> tuple[Raft[object], str]:
    """A leader that has old entries on disk alone, and the name of a follower that is down and lacks them."""
    away = next(name for name in "abc" if nodes.rafts[name] is not await_leader(nodes))
    await nodes.stop(away)
    leader = await nodes.leader()
    for number in range(VALUES):
        await leader.apply(bytes([number]) * VALUE_BYTES, timeout=20.0)
    for name in list(nodes.rafts):
        await nodes.stop(name)
        await nodes.start(name, disk=disk)
    leader = await nodes.leader()
    for raft in nodes.rafts.values():  # what is applied at a start may come from disk
        await until(raft, lambda raft=raft: raft.stats().applied == leader.stats().last_index)  # type: ignore[misc]
    return leader, away


def await_leader(nodes: Cluster) -> Raft[object] | None:
    return next((raft for raft in nodes.rafts.values() if raft.is_leader), None)


@pytest.mark.deadline(100.0)
async def test_loop_reads_no_log_for_a_follower_that_lags(tmp_path: Path) -> None:
    """The whole window was read from disk in one turn: 260 to 400 ms."""
    disk = WatchedDisk()
    async with cluster(tmp_path, reserve_bytes=8 << 20) as nodes:
        await nodes.leader()
        leader, away = await left_behind(nodes, disk)
        disk.on_loop.clear()
        disk.beside.clear()
        turns = Turns(leader)
        behind = await nodes.start(away)
        await until(behind, lambda: len(nodes.machines[away].items) >= VALUES)
        turns.stop()
        assert "wal" not in disk.on_loop
        assert "wal" in disk.beside
        assert "space" not in disk.on_loop
        assert turns.largest < LARGEST_WINDOW_BYTES + SLACK_BYTES
        assert turns.largest < VALUES * VALUE_BYTES / 3, "it was spread over several turns"


@pytest.mark.deadline(100.0)
async def test_loop_reads_no_snapshot_that_it_sends(tmp_path: Path) -> None:
    disk = WatchedDisk()
    async with cluster(tmp_path, snapshot_entries=50, trailing_entries=0, snapshots_retained=1) as nodes:
        await nodes.leader()
        leader, away = await left_behind(nodes, disk)
        await leader.snapshot()
        await until(leader, lambda: leader.stats().first_index > VALUES)
        disk.on_loop.clear()
        disk.beside.clear()
        behind = await nodes.start(away)
        await until(behind, lambda: len(nodes.machines[away].items) >= VALUES)
        assert nodes.machines[away].restored
        assert "snap" not in disk.on_loop
        assert "snap" in disk.beside


async def test_space_is_asked_for_beside_the_loop_at_intervals(tmp_path: Path) -> None:
    disk = WatchedDisk()
    async with cluster(tmp_path, "a") as nodes:
        await nodes.stop("a")
        raft = await nodes.start("a", disk=disk, reserve_bytes=0)
        disk.on_loop.clear()
        disk.beside.clear()
        driver = raft._driver
        ticks = 30
        end_s = driver.loop.time() + ticks * driver.config.heartbeat_s
        await until(raft, lambda: driver.loop.time() > end_s and "space" in disk.beside)
        assert "space" not in disk.on_loop
        assert disk.beside.count("space") <= ticks / 5
