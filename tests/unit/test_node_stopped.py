"""A node that has stopped says so; a node is used on its own thread alone."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from syncline.errors import Closed, DeadlineExceeded, NodeFailed, Outcome, SynclineError, UsageError
from syncline.node.config import Config
from syncline.node.events import Event, NodeStopped
from syncline.node.fsm import BytesSnapshot, Entry
from syncline.node.raft import Raft
from syncline.platform.worker import ThreadWorkers
from tests.helpers.node_cluster import Cluster, cluster
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


async def test_change_under_way_when_its_node_fails_is_of_unknown_outcome(tmp_path: Path) -> None:
    """It said `not_applied` of a change that was committed."""
    raft = await opened(tmp_path)
    change = asyncio.ensure_future(raft._changes._durable(1 << 40, asyncio.get_running_loop().time() + 20))
    await asyncio.sleep(0)
    with pytest.raises(NodeFailed) as failed:
        await raft.apply(b"fail", timeout=20)
    with pytest.raises(NodeFailed) as of_change:
        await change
    assert of_change.value.outcome is failed.value.outcome is Outcome.UNKNOWN
    with pytest.raises(NodeFailed) as of_later:
        await raft.apply(b"y", timeout=20)
    assert of_later.value.outcome is Outcome.NOT_APPLIED
    assert of_later.value.__cause__ is failed.value.__cause__ is not None
    await raft.close()


@pytest.mark.parametrize("how", ["close", "fail-stop"])
async def test_change_made_again_when_its_node_stops_is_unknown(tmp_path: Path, how: str) -> None:
    """The second attempt has certainly failed; the first one may still be in the log."""
    raft = await opened(tmp_path)
    changes, attempts = raft._changes, 0

    async def propose(*_: object, **__: object) -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise DeadlineExceeded("no answer", outcome=Outcome.UNKNOWN)
        if how == "close":
            await raft.close()
        else:
            with pytest.raises(NodeFailed):
                await raft.apply(b"fail", timeout=20)
        raft._driver.running.check()
        raise AssertionError("the node has stopped")

    changes._propose = propose  # type: ignore[method-assign]
    with pytest.raises(SynclineError) as error:
        await changes.many([], (), None, 20.0, force=False)
    assert attempts == 2
    assert isinstance(error.value, Closed if how == "close" else NodeFailed)
    assert error.value.outcome is Outcome.UNKNOWN
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


class RaisingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise LookupError("the handler can't write")


async def test_node_stopped_under_a_raising_log_handler_tells_all_that_wait(tmp_path: Path) -> None:
    """A handler of the program may raise. A wait for the node's end must not go on for ever, and is told the reason."""
    handler, logger = RaisingHandler(), logging.getLogger("syncline.node")
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        watching = asyncio.create_task(_told(raft))
        await asyncio.sleep(0)
        raft._driver.loop.set_exception_handler(lambda *_: None)  # the handler's error ends there
        logger.addHandler(handler)
        try:
            with pytest.raises(NodeFailed, match=r"Listing\.apply raised"):
                await raft.apply(b"break", timeout=20.0)
            async with asyncio.timeout(20.0):
                failure = await raft.failed()
                assert "Listing.apply raised" in str(failure)
                assert failure.__notes__ == ["a logging handler raised LookupError: the handler can't write"]
                assert [type(event) for event in await watching] == [NodeStopped]
        finally:
            logger.removeHandler(handler)
            raft._driver.loop.set_exception_handler(None)


async def test_node_closed_under_a_raising_log_handler_closes_its_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler, logger = RaisingHandler(), logging.getLogger("syncline.node")
    nodes = Cluster(tmp_path, "a")
    await nodes.start_all()
    raft = await nodes.leader()
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, logger.name), pytest.raises(LookupError, match="the handler can't write"):
            await raft.close()
    finally:
        logger.removeHandler(handler)
    with pytest.raises(Closed):
        await raft.failed()
    await nodes.start("a")  # the lock was released
    await nodes.stop_all()


async def _told(raft: Raft[object]) -> list[Event]:
    return [event async for event in raft.events(NodeStopped)]
