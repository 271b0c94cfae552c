"""Wrong use of a node: after its end, on another thread or loop, in a fork, with wrong arguments.

Each public method of `Raft` refuses it with a clear error, and nothing is replicated.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from syncline import Raft
from syncline.errors import Closed, Outcome, UsageError
from tests.helpers.node_cluster import Cluster, cluster
from tests.helpers.raft_calls import AFTER_END, CALLS, VIEWS, WRONG, begin

LIMIT_S = 20.0


@asynccontextmanager
async def untouched(path: Path) -> AsyncIterator[Raft[Any]]:
    """A node, into whose log nothing may come in this block."""
    async with cluster(path, "a") as nodes:
        raft = nodes.rafts["a"]
        await raft.apply(b"first", timeout=LIMIT_S)
        await nodes.announced()
        before = seen(nodes)
        yield raft
        if not raft._driver.running.stopped:
            await raft.barrier(timeout=LIMIT_S)
            assert seen(nodes) == before, "nothing was replicated"


def seen(nodes: Cluster) -> object:
    raft = nodes.rafts["a"]
    sessions = raft._driver.parts.machine.sessions.table
    return nodes.machines["a"].items[:], raft.membership(), raft.config, len(sessions), raft.upgrade_status().held


async def settled(answer: Any) -> object:
    """The end of what a call has returned."""
    if isinstance(answer, list):
        return await asyncio.gather(*answer)
    if hasattr(answer, "__aenter__") and not inspect.isawaitable(answer):
        return await answer.__aenter__()
    return await answer if inspect.isawaitable(answer) else answer


def test_wrong_use_tables_name_each_public_method() -> None:
    public = {name for name, member in inspect.getmembers(Raft) if callable(member) and not name.startswith("_")}
    assert public == {*CALLS, *VIEWS, "open", "join", "recover"}
    alone = {"close", "failed", "until_stopped", *VIEWS}  # without arguments
    assert set(WRONG) == public - alone


async def test_wrong_use_with_wrong_arguments_is_named_and_replicates_nothing(tmp_path: Path) -> None:
    async with untouched(tmp_path) as raft:
        for name, wrong in WRONG.items():
            for place, (call, error) in enumerate(wrong):
                with pytest.raises(error) as refused:
                    await settled(call(raft))
                assert len(str(refused.value)) > 10, (name, place)
                if error is TypeError:
                    assert re.search("must be|is no state machine", str(refused.value)), (name, place, refused.value)


async def test_wrong_use_after_close_is_closed_and_not_applied(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft: Raft[Any] = nodes.rafts["a"]
        await raft.apply(b"first", timeout=LIMIT_S)
        await raft.close()
        for name in VIEWS:
            assert getattr(raft, name)() is not None, name
        for name, call in CALLS.items():
            if name in AFTER_END:
                await settled(call(raft))
                continue
            with pytest.raises(Closed, match="the node was closed") as refused:
                await settled(call(raft))
            assert name == "failed" or name == "until_stopped" or refused.value.outcome is Outcome.NOT_APPLIED, name
        assert [event async for event in raft.events()] == []


async def test_wrong_use_on_another_thread_is_refused(tmp_path: Path) -> None:
    async with untouched(tmp_path) as raft:
        for name, call in CALLS.items():
            with pytest.raises(UsageError, match=r"loop of another thread: use loop\.call_soon_threadsafe"):
                await asyncio.to_thread(lambda call=call: begin(call(raft)))  # type: ignore[misc]
            assert not raft._driver.running.stopped, name

        async def on_another_loop(name: str) -> None:
            with pytest.raises(UsageError, match="loop of another thread"):
                await settled(CALLS[name](raft))

        for name in ("apply", "read", "leadership", "close"):
            await asyncio.to_thread(asyncio.run, on_another_loop(name))
        for name in VIEWS:
            assert await asyncio.to_thread(getattr(raft, name)) is not None


def test_wrong_use_on_another_loop_of_the_thread_is_refused(tmp_path: Path) -> None:
    """As after a first `asyncio.run` that has left its node open."""
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    nodes = Cluster(tmp_path, "a")
    first.run_until_complete(nodes.start_all())
    raft: Raft[Any] = nodes.rafts["a"]
    first.run_until_complete(raft.barrier(timeout=LIMIT_S))

    async def use(name: str) -> None:
        with pytest.raises(UsageError, match="this node belongs to another event loop of this thread"):
            await settled(CALLS[name](raft))

    for name in CALLS:
        second.run_until_complete(use(name))
    second.close()
    assert first.run_until_complete(raft.barrier(timeout=LIMIT_S)) is None, "on its own loop it goes on"
    assert nodes.machines["a"].items == []
    first.run_until_complete(nodes.stop_all())
    first.run_until_complete(first.shutdown_default_executor())
    first.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
async def test_wrong_use_in_a_forked_child_is_refused(tmp_path: Path) -> None:
    async with untouched(tmp_path) as raft:
        future = raft.read_index(timeout=LIMIT_S)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:  # the child answers with the methods that have not refused
            taken = ""
            try:
                for name, call in (*CALLS.items(), ("result", lambda _: future.result(1.0))):
                    try:
                        begin(call(raft))
                        taken += f"{name} "
                    except UsageError as error:
                        if "fork" not in str(error):
                            taken += f"{name}: {error} "
                    except BaseException as error:  # noqa: BLE001 - told to the parent
                        taken += f"{name}: {error!r} "
                os.write(writing, (taken or "all refused").encode())
            finally:
                os._exit(0)
        os.close(writing)
        answer = await asyncio.to_thread(os.read, reading, 1 << 16)
        os.close(reading)
        await asyncio.to_thread(os.waitpid, pid, 0)
        assert answer.decode() == "all refused"
        await future
