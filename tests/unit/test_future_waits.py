"""Futures of a node: other threads wait for their results, and each of them ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syncline import ApplyFuture
from syncline.errors import Closed, ConfigError, DeadlineExceeded, NodeFailed, Outcome, Rejected, UsageError
from syncline.node.running import Running
from tests.helpers.node_cluster import cluster

LIMIT_S = 20.0


async def in_thread(function: Callable[..., Any], *arguments: object) -> Any:
    return await asyncio.to_thread(function, *arguments)


@pytest.mark.usefixtures("loop_factory")
async def test_future_result_is_waited_for_on_another_thread(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = nodes.rafts["a"]
        futures = raft.apply_many([b"%d" % number for number in range(20)], timeout=LIMIT_S)
        with ThreadPoolExecutor(20) as pool:
            loop = asyncio.get_running_loop()
            answers = await asyncio.gather(*(loop.run_in_executor(pool, one.result, LIMIT_S) for one in futures))
        assert answers == list(range(1, 21))
        assert [one.result() for one in futures] == answers, "done: no thread waits"
        assert await in_thread(futures[0].result) == 1
        assert await in_thread(raft.read_index(timeout=LIMIT_S).result, LIMIT_S) == raft.stats().applied
        with pytest.raises(Rejected, match="not this one"):
            await in_thread(raft.apply(b"refuse", timeout=LIMIT_S).result, LIMIT_S)


async def test_future_result_with_a_deadline_goes_on_after_it(tmp_path: Path) -> None:
    gate = threading.Event()
    async with cluster(tmp_path, "a") as nodes:
        raft, machine = nodes.rafts["a"], nodes.machines["a"]
        await raft.barrier(timeout=LIMIT_S)
        machine_apply = machine.apply

        def slow(entry: Any) -> object:
            gate.wait(LIMIT_S)
            return machine_apply(entry)

        machine.apply = slow  # type: ignore[method-assign]
        future = raft.apply(b"x", timeout=LIMIT_S)
        with pytest.raises(DeadlineExceeded, match="it goes on") as late:
            await in_thread(future.result, 0.05)
        assert late.value.outcome is Outcome.UNKNOWN
        assert isinstance(late.value, TimeoutError)
        gate.set()
        assert await in_thread(future.result) == 1, "it can be waited for again"


async def test_future_result_on_the_thread_of_a_loop_is_refused(tmp_path: Path) -> None:
    """It would block the loop that has to make the result."""
    async with cluster(tmp_path, "a") as nodes:
        future = nodes.rafts["a"].apply(b"x", timeout=LIMIT_S)
        with pytest.raises(UsageError, match="await the future on its own loop"):
            future.result(1.0)
        with pytest.raises(asyncio.InvalidStateError):
            future.result()

        async def elsewhere() -> None:
            future.result(1.0)

        with pytest.raises(UsageError, match="wait on a thread without one"):
            await in_thread(lambda: asyncio.run(elsewhere()))
        for wrong, error in (("1", TypeError), (0, ConfigError), (-1.0, ConfigError)):
            with pytest.raises(error, match="timeout"):
                await in_thread(future.result, wrong)
        assert await future == 1


@pytest.mark.parametrize("how", ["close", "fail"])
async def test_future_ends_when_its_node_stops(tmp_path: Path, how: str) -> None:
    """Those that wait on threads without a deadline, too."""
    async with cluster(tmp_path, "ab") as nodes:
        leader, other = await nodes.pair()
        await nodes.stop(other.config.name)  # without a quorum nothing is committed any more
        futures: list[ApplyFuture[Any]] = [leader.apply(b"x", timeout=LIMIT_S), leader.barrier(timeout=LIMIT_S)]
        read = leader.read_index(timeout=LIMIT_S)
        waits = [asyncio.ensure_future(in_thread(one.result)) for one in (*futures, read)]
        await asyncio.sleep(0)
        if how == "close":
            await leader.close()
        else:
            leader._driver.fail(RuntimeError("no"))
        for wait in waits:
            with pytest.raises(Closed if how == "close" else NodeFailed):
                await wait


def test_future_whose_loop_was_closed_ends_for_other_threads() -> None:
    """A program that forgets to close its node must not hang in its threads."""
    loop = asyncio.new_event_loop()
    future: ApplyFuture[int] = ApplyFuture(loop=loop)
    found: list[BaseException] = []

    def wait() -> None:
        try:
            future.result()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            found.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    loop.close()
    thread.join(LIMIT_S)
    assert len(found) == 1
    assert isinstance(found[0], Closed)
    assert found[0].outcome is Outcome.UNKNOWN
    assert "the event loop of this future was closed" in str(found[0])


def test_node_whose_loop_was_closed_is_refused() -> None:
    loop = asyncio.new_event_loop()

    async def begin() -> Running:
        return Running()

    running = loop.run_until_complete(begin())
    running.check()  # between two runs of its loop, as `loop.run_until_complete(raft.apply(...))` does
    loop.close()
    with pytest.raises(UsageError, match="the event loop of this node is closed"):
        running.check()
