"""A node that has stopped says so; a node is used on its own thread alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from syncline.errors import NodeFailed, UsageError
from syncline.node.config import Config
from syncline.node.events import Event, NodeStopped
from syncline.node.fsm import BytesSnapshot, Entry
from syncline.node.raft import Raft
from syncline.platform.worker import ThreadWorkers
from tests.helpers.ports import free_block


class Failing:
    """A state machine that fails on one command."""

    def apply(self, entry: Entry) -> int:
        if entry.data == b"fail":
            raise RuntimeError("no")
        return entry.index

    def snapshot(self) -> BytesSnapshot:
        return BytesSnapshot(b"")

    def restore(self, source: object) -> None:
        raise AssertionError("there is no snapshot")


async def opened(path: Path) -> Raft[object]:
    address = f"127.0.0.1:{free_block(1)}"
    raft = await Raft.open(Config(name="a", data_dir=str(path), listen=address, peers={"a": address}), Failing())
    await raft.apply(b"x", timeout=20)
    assert raft.is_leader
    return raft


async def last_event(raft: Raft[object]) -> asyncio.Task[list[Event]]:
    async def collected() -> list[Event]:
        return [event async for event in raft.events()]

    task = asyncio.ensure_future(collected())
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("how", ["close", "fail-stop"])
async def test_raft_that_has_stopped_leads_no_more(tmp_path: Path, how: str) -> None:
    """Two nodes said at once that they lead: one of them had stopped."""
    raft = await opened(tmp_path)
    events = await last_event(raft)
    if how == "close":
        await raft.close()
    else:
        with pytest.raises(NodeFailed):
            await raft.apply(b"fail", timeout=20)
    assert not raft.is_leader
    assert raft.leader is None
    assert raft.role == "stopped"
    assert (raft.stats().role, raft.stats().leader, raft.stats().progress) == ("stopped", None, {})
    assert raft.no_leader.startswith("this node has stopped: ")
    last = (await events)[-1]
    assert isinstance(last, NodeStopped)
    assert ("closed" if how == "close" else "RuntimeError: no") in last.reason
    await raft.close()


async def test_raft_used_from_another_thread_is_refused(tmp_path: Path) -> None:
    """It would be a race with the loop, seen as lost answers days later."""
    raft = await opened(tmp_path)
    for use in (
        lambda: raft.apply(b"y"),
        lambda: raft.apply_many([b"y"]),
        lambda: raft._apply_then(b"y", lambda *_: None),
        raft.read_index,
        raft.barrier,
    ):
        with pytest.raises(UsageError, match="call_soon_threadsafe"):
            await asyncio.to_thread(use)
    before = raft.stats().last_index
    await raft.apply(b"z", timeout=20)
    assert raft.stats().last_index == before + 1
    await raft.close()


def test_workers_tell_how_long_the_machine_slept() -> None:
    slept_s = ThreadWorkers().asleep_s()
    assert slept_s >= -0.001
    assert abs(ThreadWorkers().asleep_s() - slept_s) < 1.0
