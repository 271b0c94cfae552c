"""A start reads the log and the state beside the event loop, and lets go of both if it is given up."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from syncline.errors import DirectoryLocked
from syncline.node.config import Config
from syncline.node.fsm import BytesSnapshot, Entry
from syncline.node.opening import open_beside
from syncline.node.raft import Raft
from syncline.platform.disk import File, OsDisk, OsFile
from syncline.platform.worker import Flusher, ThreadWorkers
from syncline.platform.world import World
from syncline.storage.datadir import FIRST_PEERS_NAME
from tests.helpers.ports import free_block

DEADLINE_S = 20.0


class SlowMachine:
    """A state machine whose restore ends when the test says so."""

    def __init__(self) -> None:
        self.applied = 0
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.thread = ""

    def apply(self, _entry: Entry) -> int:
        self.applied += 1
        return self.applied

    def snapshot(self) -> BytesSnapshot:
        return BytesSnapshot(b"%d" % self.applied)

    def restore(self, source: BinaryIO) -> None:
        self.thread = threading.current_thread().name
        self.began.set()
        assert self.go_on.wait(DEADLINE_S)
        self.applied = int(source.read())


async def stored_state(path: Path) -> Config:
    """The settings of a closed node whose directory has a snapshot of one command."""
    address = f"127.0.0.1:{free_block(1)}"
    config = Config(name="a", data_dir=str(path / "a"), listen=address, peers={"a": address})
    raft = await Raft.open(config, SlowMachine())
    assert await raft.apply(b"x", timeout=DEADLINE_S) == 1
    await raft.snapshot()
    await raft.close()
    return config


async def until(event: threading.Event) -> None:
    """Wait for an event of a thread, on a loop that goes on."""
    deadline_s = asyncio.get_running_loop().time() + DEADLINE_S
    while not event.is_set():
        assert asyncio.get_running_loop().time() < deadline_s
        await asyncio.sleep(0.005)


async def test_raft_open_with_a_slow_restore_leaves_the_loop_free(tmp_path: Path) -> None:
    """The loop releases the restore itself: were it blocked by it, nothing would."""
    config = await stored_state(tmp_path)
    machine = SlowMachine()
    opening = asyncio.ensure_future(Raft.open(config, machine))
    await until(machine.began)
    assert not opening.done()
    machine.go_on.set()
    async with await opening:
        assert machine.applied == 1
        assert machine.thread != threading.main_thread().name


async def test_raft_open_cancelled_in_restore_lets_the_directory_go(tmp_path: Path) -> None:
    """SIGTERM in a start that loads a large state: it ends at once, and the same directory opens again."""
    config = await stored_state(tmp_path)
    machine = SlowMachine()
    opening = asyncio.ensure_future(Raft.open(config, machine))
    await until(machine.began)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    with pytest.raises(DirectoryLocked):
        await Raft.open(config, SlowMachine())
    machine.go_on.set()
    deadline_s = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        again = SlowMachine()
        again.go_on.set()
        try:
            raft = await Raft.open(config, again)
        except DirectoryLocked:
            assert asyncio.get_running_loop().time() < deadline_s
            continue
        break
    assert again.applied == 1
    await raft.close()


class BrokenHints(OsDisk):
    """A disk that can't read the file of the first peers."""

    def exists(self, path: str) -> bool:
        return path.endswith(FIRST_PEERS_NAME) or super().exists(path)

    def open(self, path: str, *, create: bool = False, write: bool = False) -> OsFile:
        if path.endswith(FIRST_PEERS_NAME):
            raise OSError(errno.EIO, "input/output error", path)
        return super().open(path, create=create, write=write)


class NoSync(ThreadWorkers):
    """Workers whose flusher fails in its trial."""

    def flusher(self, file: File, done: Callable[[BaseException | None], None]) -> Flusher | None:
        raise OSError(errno.EIO, "input/output error")


@pytest.mark.parametrize("world", [World(disk=BrokenHints()), World(workers=NoSync())], ids=["first peers", "log"])
async def test_raft_open_that_fails_in_assembly_leaves_no_thread(tmp_path: Path, world: World) -> None:
    """Threads that were started stayed until the process ended, one set for each attempt."""

    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("syncline-")}

    address, before = f"127.0.0.1:{free_block(1)}", threads()
    config = Config(name="a", data_dir=str(tmp_path / "a"), listen=address, peers={"a": address})
    for _ in range(2):  # the second attempt finds the directory unlocked
        with pytest.raises(OSError, match="input/output error"):
            await Raft.open(config, SlowMachine(), world=world)
    for thread in threads() - before:
        thread.join(10.0)  # it was told to end
    assert threads() <= before  # those of an earlier test may be ending


@pytest.mark.parametrize("when", ["before the end", "between the end and its delivery"])
async def test_open_beside_releases_what_no_caller_takes(when: str) -> None:
    released: list[BytesIO] = []
    began, go_on = threading.Event(), threading.Event()
    opened = BytesIO()

    def work() -> BytesIO:
        began.set()
        assert go_on.wait(DEADLINE_S)
        return opened

    task = asyncio.ensure_future(open_beside(ThreadWorkers(), work, released.append))
    await until(began)
    if when == "before the end":
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
    else:
        go_on.set()
        threading.Event().wait(0.05)  # the thread ends its work while the loop stands still
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadline_s = asyncio.get_running_loop().time() + DEADLINE_S
    while not released:
        assert asyncio.get_running_loop().time() < deadline_s
        await asyncio.sleep(0.005)
    assert released == [opened]


async def test_open_beside_raises_what_the_work_raises() -> None:
    def work() -> BytesIO:
        raise DirectoryLocked("held")

    with pytest.raises(DirectoryLocked, match="held"):
        await open_beside(ThreadWorkers(), work, BytesIO.close)


class StandInWorkers(ThreadWorkers):
    """One worker without a thread: it delivers in the next turn of the loop, and ends when the test says so."""

    def __init__(self) -> None:
        self.delivered: list[Callable[[], object]] = []
        self.closing, self.may_end = asyncio.Event(), asyncio.Event()

    def start(self, _name, process, deliver, _failed):  # type: ignore[no-untyped-def]
        def work(item: object) -> None:
            deliver(process([item]))
            for call in self.delivered:
                call()

        async def close() -> None:
            self.closing.set()
            await self.may_end.wait()

        loop = asyncio.get_running_loop()
        return SimpleNamespace(put=lambda item: loop.call_soon(work, item), close=close)


@pytest.mark.parametrize("when", ["in the turn of the delivery", "while the thread ends"])
async def test_open_beside_cancelled_after_the_delivery_releases(when: str) -> None:
    """The lock of the data directory was kept until the process ended."""
    released: list[BytesIO] = []
    opened, workers = BytesIO(), StandInWorkers()
    task = asyncio.ensure_future(open_beside(workers, lambda: opened, released.append))
    if when == "while the thread ends":
        await workers.closing.wait()
        task.cancel()
    else:
        workers.delivered.append(task.cancel)
    workers.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert released == [opened]
