"""`Raft.read`: a look at the state machine between two applies, and a close that user code does not hold up."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest

from syncline.errors import Closed, DeadlineExceeded, NodeFailed, UsageError
from syncline.node import raft as raft_module
from syncline.node.config import Config
from syncline.node.fsm import BytesSnapshot, Entry
from syncline.node.raft import Raft
from tests.helpers.async_tests import run
from tests.helpers.ports import free_block

DEADLINE_S = 20.0


class Pair:
    """A state machine whose two halves differ only within an apply. `hold` is waited for by the command "hold"."""

    def __init__(self, *, on_loop: bool = False) -> None:
        self.apply_on_loop = on_loop
        self.one = self.two = 0
        self.began, self.hold = threading.Event(), threading.Event()
        self.thread = 0

    def apply(self, entry: Entry) -> int:
        self.thread = threading.get_ident()
        if entry.data == b"fail":
            raise RuntimeError("no")
        self.one += 1
        if entry.data == b"hold":
            self.began.set()
            assert self.hold.wait(DEADLINE_S)
        self.two += 1
        return self.two

    def snapshot(self) -> BytesSnapshot:
        return BytesSnapshot(b"")

    def restore(self, source: object) -> None:
        raise AssertionError("there is no snapshot")

    def look(self) -> tuple[int, int, int]:
        return self.one, self.two, threading.get_ident()


async def opened(path: Path, machine: Pair) -> Raft[object]:
    address = f"127.0.0.1:{free_block(1)}"
    raft = await Raft.open(Config(name="a", data_dir=str(path), listen=address, peers={"a": address}), machine)
    await raft.apply(b"x", timeout=DEADLINE_S)
    return raft


class AsyncLook:
    async def __call__(self) -> int:
        return 1


async def test_raft_read_with_an_async_look_is_refused(tmp_path: Path) -> None:
    """Nothing would await it: the caller would get a coroutine, which runs anywhere but between two applies."""

    async def look() -> int:
        return 1

    def late() -> object:
        return look()

    raft = await opened(tmp_path, Pair())
    for wrong in (look, AsyncLook(), partial(AsyncLook.__call__, AsyncLook()), late):
        for stale in (False, True):
            with pytest.raises(TypeError, match="async def"):
                await raft.read(wrong, stale=stale, timeout=DEADLINE_S)
    await raft.close()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, DEADLINE_S)


@pytest.mark.parametrize("on_loop", [False, True])
async def test_raft_read_sees_what_was_committed_before_it(tmp_path: Path, on_loop: bool) -> None:
    machine = Pair(on_loop=on_loop)
    raft = await opened(tmp_path, machine)
    for count in range(2, 6):
        await raft.apply(b"x", timeout=DEADLINE_S)
        one, two, thread = await raft.read(machine.look, timeout=DEADLINE_S)
        assert (one, two) == (count, count)
        assert thread == machine.thread
        assert (thread == threading.get_ident()) is on_loop
    await raft.close()


async def test_raft_read_never_runs_within_an_apply(tmp_path: Path) -> None:
    """It waits for the apply under way, until its deadline at most; the next one is answered."""
    machine = Pair()
    raft = await opened(tmp_path, machine)
    holding = raft.apply(b"hold", timeout=DEADLINE_S)
    await until(machine.began)
    with pytest.raises(DeadlineExceeded):
        await raft.read(machine.look, timeout=0.3)
    machine.hold.set()
    await holding
    one, two, _ = await raft.read(machine.look, timeout=DEADLINE_S)
    assert one == two == 2
    await raft.close()


@pytest.mark.parametrize("error", [KeyError, SystemExit, StopIteration])
async def test_raft_read_that_raises_costs_its_caller_alone(tmp_path: Path, error: type[BaseException]) -> None:
    machine = Pair()
    raft = await opened(tmp_path, machine)

    def look() -> None:
        raise error("no")

    with pytest.raises(RuntimeError if error is StopIteration else error):
        await raft.read(look, timeout=DEADLINE_S)
    assert (await raft.read(machine.look, timeout=DEADLINE_S))[0] == 1
    await raft.close()


async def test_raft_read_of_a_stopped_node_says_so(tmp_path: Path) -> None:
    raft = await opened(tmp_path, Pair())
    with pytest.raises(NodeFailed):
        await raft.apply(b"fail", timeout=DEADLINE_S)
    with pytest.raises(NodeFailed):
        await raft.read(list, timeout=DEADLINE_S)
    await raft.close()


async def test_raft_read_that_waits_ends_with_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_module, "CLOSE_S", 0.2)
    machine = Pair()
    raft = await opened(tmp_path, machine)
    raft.apply(b"hold", timeout=DEADLINE_S)
    await until(machine.began)
    raft_read = asyncio.ensure_future(raft.read(machine.look, timeout=DEADLINE_S))
    await asyncio.sleep(0)
    await raft.close()
    with pytest.raises(Closed):
        await raft_read
    machine.hold.set()


async def test_raft_close_is_bounded_in_time_if_the_state_machine_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(raft_module, "CLOSE_S", 0.2)
    machine = Pair()
    raft = await opened(tmp_path, machine)
    holding = raft.apply(b"hold", timeout=DEADLINE_S)
    await until(machine.began)
    async with asyncio.timeout(5):
        await raft.close()
    with pytest.raises(Closed):
        await holding
    machine.hold.set()
    assert "the state machine did not end within 0.2 s" in caplog.text


def test_raft_read_from_another_thread_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        raft = await opened(tmp_path, Pair())
        with pytest.raises(UsageError):
            await asyncio.to_thread(lambda: asyncio.run(raft.read(list)))
        await raft.close()

    run(scenario())
