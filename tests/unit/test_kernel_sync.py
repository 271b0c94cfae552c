"""Syncs that the kernel makes beside the event loop: their end, their errors, and systems that have none."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from syncline.platform import kernel_sync
from syncline.platform.disk import OsDisk, OsFile
from syncline.platform.kernel_sync import KernelFlusher, KernelSync, open_kernel_sync
from syncline.platform.worker import Flusher, ThreadWorkers
from tests.helpers.forged_kernel import ForgedKernel

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in kernel_sync.SYSCALLS, reason="the kernel of Linux is asked"
)

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture
def file(tmp_path: Path) -> OsFile:
    made = OsDisk().open(f"{tmp_path}/f", create=True, write=True)
    made.write_at(0, b"abc")
    return made


class Ends:
    """What a flusher has told, in order."""

    def __init__(self) -> None:
        self.told: list[BaseException | None] = []
        self._changed = asyncio.Event()

    def __call__(self, error: BaseException | None) -> None:
        self.told.append(error)
        self._changed.set()

    async def count(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.told) < count:
                self._changed.clear()
                await self._changed.wait()


def flusher_of(file: OsFile, ends: Ends) -> Flusher:
    flusher = ThreadWorkers().flusher(file, ends)
    assert isinstance(flusher, KernelFlusher), "this system offers them"
    return flusher


def on(make_loop: Callable[[], asyncio.AbstractEventLoop], scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(scenario)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("make_loop", LOOPS)
def test_the_end_of_each_sync_is_told_on_the_loop(
    file: OsFile, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario() -> None:
        ends = Ends()
        flusher = flusher_of(file, ends)
        for number in range(1, 101):
            file.write_at(number, b"x")
            flusher.flush(file)
            assert len(ends.told) == number - 1, "never from within the call"
            await ends.count(number)
        await flusher.close()
        await flusher.close()
        assert ends.told == [None] * 100

    on(make_loop, asyncio.sleep(0))  # the first loop of its kind may open what it keeps
    before = descriptors()
    on(make_loop, scenario())
    assert descriptors() == before


@pytest.mark.parametrize("make_loop", LOOPS)
def test_a_close_waits_for_the_sync_under_way(file: OsFile, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> None:
        ends = Ends()
        flusher = flusher_of(file, ends)
        file.write_at(0, bytes(4 << 20))
        flusher.flush(file)
        await flusher.close()
        assert ends.told == [None]

    on(make_loop, scenario())


def test_kernel_sync_close_does_not_block_the_loop(file: OsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system takes tens of milliseconds for it, even where nothing is under way."""
    plain = KernelSync.close
    goes_on = threading.Event()

    def close(self: KernelSync) -> None:
        assert goes_on.wait(10), "the loop stands still"
        plain(self)

    monkeypatch.setattr(KernelSync, "close", close)

    async def scenario() -> None:
        flusher = flusher_of(file, Ends())
        closing = asyncio.ensure_future(flusher.close())
        await asyncio.sleep(0)
        goes_on.set()
        await closing

    on(asyncio.new_event_loop, scenario())


def test_a_close_that_is_cancelled_lets_go_of_nothing_that_is_in_use(file: OsFile) -> None:
    async def scenario() -> None:
        ends = Ends()
        flusher = flusher_of(file, ends)
        file.write_at(0, bytes(4 << 20))
        flusher.flush(file)
        closing = asyncio.ensure_future(flusher.close())
        await asyncio.sleep(0)
        closing.cancel()
        await ends.count(1)
        assert ends.told == [None]
        await flusher.close()

    on(asyncio.new_event_loop, scenario())


def test_file_closed_in_its_sync_is_synced_and_later_ones_fail(file: OsFile) -> None:
    async def scenario() -> None:
        ends = Ends()
        flusher = flusher_of(file, ends)
        file.write_at(0, bytes(4 << 20))
        flusher.flush(file)
        file.close()
        await ends.count(1)
        assert ends.told == [None]
        flusher.flush(file)
        assert len(ends.told) == 1, "never from within the call"
        await ends.count(2)
        assert isinstance(ends.told[1], OSError)
        assert ends.told[1].errno == errno.EBADF
        await flusher.close()

    on(asyncio.new_event_loop, scenario())


@pytest.mark.parametrize("make_loop", LOOPS)
@pytest.mark.parametrize("fails", [False, True])
def test_sync_that_the_kernel_does_not_take_is_made_by_a_thread(
    file: OsFile, make_loop: Callable[[], asyncio.AbstractEventLoop], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        threads.append(threading.current_thread())
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    kernel = ForgedKernel(monkeypatch)

    async def scenario() -> None:
        ends = Ends()
        flusher = flusher_of(file, ends)
        kernel.submit_error = errno.EAGAIN
        flusher.flush(file)
        assert ends.told == [], "never from within the call"
        await ends.count(1)
        kernel.submit_error = 0
        assert len(threads) == 1
        assert threads[0] is not threading.current_thread(), "the loop waits for no disk"
        if fails:
            [error] = ends.told
            assert isinstance(error, OSError)
            assert error.errno == errno.EIO
        else:
            assert ends.told == [None]
            flusher.flush(file)
            await ends.count(2)
            assert len(threads) == 1, "the next one is the kernel's again"
        await flusher.close()

    on(make_loop, scenario())


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_sync_error_of_the_kernel_is_told_with_its_number_and_file(
    file: OsFile, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """The error is in the kernel's answer: what reads it is the code under test."""
    kernel = ForgedKernel(monkeypatch)

    async def scenario() -> None:
        ends = Ends()
        flusher = flusher_of(file, ends)
        kernel.error = error
        flusher.flush(file)
        await ends.count(1)
        [told] = ends.told
        assert isinstance(told, OSError)
        assert (told.errno, told.filename) == (error, file.path)
        await flusher.close()

    on(asyncio.new_event_loop, scenario())


def test_sync_result_that_the_kernel_does_not_tell_is_an_error(file: OsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sync has ended, and nobody knows how: it must not be taken for a success."""
    kernel = ForgedKernel(monkeypatch)

    async def scenario() -> None:
        ends = Ends()
        flusher = flusher_of(file, ends)
        kernel.events_error = errno.EPERM
        flusher.flush(file)
        await ends.count(1)
        [told] = ends.told
        assert isinstance(told, OSError)
        assert told.errno == errno.EPERM
        await flusher.close()

    on(asyncio.new_event_loop, scenario())


def test_two_at_a_time_are_refused(file: OsFile) -> None:
    async def scenario() -> None:
        flusher = flusher_of(file, Ends())
        flusher.flush(file)
        with pytest.raises(AssertionError, match="under way"):
            flusher.flush(file)
        await flusher.close()

    on(asyncio.new_event_loop, scenario())


def test_an_interrupted_call_is_made_again(file: OsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = ForgedKernel(monkeypatch)
    sync = KernelSync()
    kernel.interruptions = 1
    sync.submit(file.descriptor)
    assert sync.wait() == 0
    assert kernel.interruptions == 0
    assert sync.result() is None, "told once"
    sync.close()


def unknown_machine(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel_sync, "SYSCALLS", {})


def calls_are_forbidden(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel_sync, "SYSCALLS", {os.uname().machine: (100_000, 100_001, 100_002, 100_003)})


def request_is_unknown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel_sync, "IOCB_CMD_FDSYNC", 4711)


def file_system_knows_no_sync(patch: pytest.MonkeyPatch) -> None:
    ForgedKernel(patch).error = errno.EINVAL


def no_ctypes(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "syncline.platform.kernel_sync", None)


@pytest.mark.parametrize(
    "lacking", [unknown_machine, calls_are_forbidden, request_is_unknown, file_system_knows_no_sync, no_ctypes]
)
async def test_a_system_that_has_no_such_syncs_has_no_flusher(
    file: OsFile, monkeypatch: pytest.MonkeyPatch, lacking: Callable[[pytest.MonkeyPatch], None]
) -> None:
    lacking(monkeypatch)
    before = descriptors()
    assert ThreadWorkers().flusher(file, Ends()) is None
    assert descriptors() == before, "nothing is left behind"


def test_what_cannot_be_synced_has_no_flusher() -> None:
    reader, writer = os.pipe()
    assert open_kernel_sync(reader) is None
    os.close(reader)
    os.close(writer)


def sync_fails(kernel: ForgedKernel) -> None:
    kernel.error = errno.EIO


def result_is_not_to_be_had(kernel: ForgedKernel) -> None:
    kernel.events_error = errno.EIO


@pytest.mark.parametrize("fail", [sync_fails, result_is_not_to_be_had])
async def test_a_trial_that_fails_is_not_repeated_in_another_way(
    file: OsFile, monkeypatch: pytest.MonkeyPatch, fail: Callable[[ForgedKernel], None]
) -> None:
    fail(ForgedKernel(monkeypatch))
    before = descriptors()
    with pytest.raises(OSError, match="Input/output"):
        ThreadWorkers().flusher(file, Ends())
    assert descriptors() == before


async def test_a_file_of_another_kind_is_not_the_kernel_s(tmp_path: Path) -> None:
    class OwnFile(OsFile):
        pass

    plain = OsDisk().open(f"{tmp_path}/f", create=True, write=True)
    assert ThreadWorkers().flusher(OwnFile(plain.path, plain.descriptor), Ends()) is None
