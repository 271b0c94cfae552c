"""Backends that answer to some requests and refuse others, and what callers are told then. On memory."""

from __future__ import annotations

import asyncio
import random

import pytest

from syncline.engines import contact, leases, waiting
from syncline.engines.backend import BackendLost, LogReplaced, Mark, StoredSnapshot
from syncline.engines.contact import BackendDown, BackendUp
from syncline.engines.memory import MemoryBackend, MemoryLog
from syncline.engines.replica import LogReplica, open_log
from syncline.engines.waiting import PendingReads
from syncline.errors import Closed, ConfigError, DeadlineExceeded, NotLeader, Outcome, StorageError
from syncline.node.futures import settle_error
from tests.helpers.node_cluster import Listing


class RefusingBackend(MemoryBackend):
    """It can be read, and refuses what `refused` names."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.refused: dict[str, Exception] = {}

    def _ask(self, what: str) -> None:
        if (error := self.refused.get(what)) is not None:
            raise error

    async def append(self, writer: int, sequence: int, body: bytes, fence: int, mark: Mark) -> None:
        self._ask("append")
        await super().append(writer, sequence, body, fence, mark)

    async def confirm(self, mark: Mark) -> int:
        self._ask("confirm")
        return await super().confirm(mark)

    async def store_snapshot(self, snapshot: StoredSnapshot, mark: Mark) -> bool:
        self._ask("store")
        return await super().store_snapshot(snapshot, mark)

    async def acquire(self, holder: str, ttl_s: float) -> int:
        self._ask("acquire")
        return await super().acquire(holder, ttl_s)

    async def release(self, token: int) -> None:
        self._ask("release")
        await super().release(token)


async def _opened() -> tuple[LogReplica[object], RefusingBackend]:
    backend = RefusingBackend(MemoryLog(random.Random(1)))
    node = await open_log(backend, Listing())
    await node.apply(b"one")
    return node, backend


async def test_engine_tells_why_a_server_that_can_be_read_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL that was made read-only: the reads of the log go on, many times a second."""
    monkeypatch.setattr(contact, "FIRST_PAUSE_S", 0.01)
    node, backend = await _opened()
    events = node.events(BackendDown, BackendUp)
    backend.refused = dict.fromkeys(["append", "confirm"], BackendLost("it is read-only", sent=False))
    with pytest.raises(DeadlineExceeded, match="it is read-only") as raised:
        await node.apply(b"two", timeout=0.7)
    assert raised.value.outcome is Outcome.NOT_APPLIED
    with pytest.raises(DeadlineExceeded, match="it is read-only"):
        await node.read_index(timeout=0.7)
    waits = node.apply(b"three", timeout=20)
    while "it is read-only" not in node.stats().trouble:  # noqa: ASYNC110 - figures, without an event
        await asyncio.sleep(0)
    backend.refused = {}
    assert await waits == 2
    while node.stats().trouble:  # noqa: ASYNC110 - figures, without an event
        await asyncio.sleep(0)
    await node.close()
    kinds = [type(event) async for event in events]
    assert kinds == [BackendDown, BackendUp] * (len(kinds) // 2)
    assert len(kinds) <= 6, "a change, and not each request, is told"


async def test_open_tells_at_once_what_the_backend_refuses() -> None:
    """No privilege for one of the tables, say: it is the same at each attempt."""
    backend = RefusingBackend(MemoryLog(random.Random(1)))
    backend.refused = {"confirm": ConfigError("permission denied for table syncline_entries")}
    with pytest.raises(ConfigError, match="permission denied"):
        await asyncio.wait_for(open_log(backend, Listing()), 5)


@pytest.mark.parametrize("error", [ConfigError("permission denied"), LogReplaced("the log was made again")])
async def test_engine_snapshot_that_is_refused_is_a_storage_error(error: Exception) -> None:
    node, backend = await _opened()
    backend.refused = {"store": error}
    with pytest.raises(StorageError, match=str(error)):
        await node.snapshot()
    backend.refused = {}
    assert (await node.snapshot()).index == 1
    await node.close()


async def test_engine_leadership_ends_on_a_replaced_log_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task that reads the log stops the node for it. The end of a block, and `close`, have nothing to add."""
    monkeypatch.setattr(leases, "LEASE_S", 0.4)
    monkeypatch.setattr(leases, "RENEW_S", 0.1)
    node, backend = await _opened()
    async with node.leadership(timeout=5) as term:
        assert await term.apply(b"two") == 2
        backend.refused = {"release": LogReplaced("another cluster answers")}
    async with asyncio.timeout(10):
        while node.role == "leader":  # noqa: ASYNC110 - figures, without an event
            await asyncio.sleep(0)
    with pytest.raises(Closed):
        await _close_as_leader(node)
    await node.close()


async def _close_as_leader(node: LogReplica[object]) -> None:
    async with node.leadership(timeout=20):
        asyncio.ensure_future(node.close()).add_done_callback(lambda closing: closing.result())
        await asyncio.Event().wait()


async def test_engine_leadership_is_asked_for_again_after_a_replaced_log() -> None:
    """One answer of another cluster must not end the task that asks: the block would wait for good."""
    node, backend = await _opened()
    backend.refused = {"acquire": LogReplaced("another cluster answers")}
    asking = asyncio.ensure_future(node.leadership(timeout=20).__aenter__())
    while not node.stats().trouble:  # noqa: ASYNC110 - figures, without an event
        await asyncio.sleep(0)
    backend.refused = {}
    assert (await asking).number == 1
    await node.close()


async def test_engine_reads_that_were_given_up_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are confirmed, and the state machine hangs: their entries are never applied."""
    monkeypatch.setattr(waiting, "FEW_READS", 8)
    reads = PendingReads(asyncio.get_running_loop())
    for _ in range(100):
        read = reads.new(20)
        assert reads.next_round()
        reads.confirmed(5)
        settle_error(read, DeadlineExceeded("given up"))
        read.exception()
    assert len(reads) == 0
    assert sum(len(held) for _, held in reads._confirmed) <= 20
    last = reads.new(20)
    reads.next_round()
    reads.confirmed(6)
    reads.applied(5)
    assert len(reads) == 1
    reads.applied(6)
    await last
    assert (len(reads), reads._held) == (0, 0)


async def test_engine_commands_that_were_given_up_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command may wait for hours. Those behind it, whose callers have given up, would fill the memory."""
    monkeypatch.setattr(waiting, "FEW_COMMANDS", 8)
    node, backend = await _opened()
    backend.refused = {"append": BackendLost("cut off", sent=True)}
    long = node.apply(b"two", timeout=60)
    while not node.stats().trouble:  # noqa: ASYNC110 - figures, without an event
        await asyncio.sleep(0)
    for _ in range(100):
        with pytest.raises(DeadlineExceeded):
            await node.apply(b"given up", timeout=1e-6)
    assert len(node._driver.commands.queue) <= 20
    last = node.apply(b"three", timeout=60)
    backend.refused = {}
    assert [await long, await last] == [2, 3]
    await node.close()


async def test_engine_leadership_that_is_refused_says_why() -> None:
    node, backend = await _opened()
    backend.refused = {"acquire": ConfigError("the server has synchronous_commit=off")}
    with pytest.raises(NotLeader, match="before the deadline: the server has synchronous_commit=off"):
        async with node.leadership(timeout=0.2):
            pass
    await node.close()
