"""How a node on a log backend ends: by itself, by its program, with a backend that is silent. On memory."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

import syncline
from syncline import Entry, FSMSnapshot
from syncline.engines import contact, driver, snapshots
from syncline.engines.backend import BackendFull, BackendLost, LogPage, Mark, StoredSnapshot
from syncline.engines.memory import MemoryBackend, MemoryLog
from syncline.engines.replica import open_log
from syncline.errors import BacklogFull, ConfigError, NodeFailed, Outcome, StorageError, Unreachable
from syncline.platform.world import World
from tests.helpers.engine_faults import FaultyBackend
from tests.helpers.node_cluster import Listing, LoopListing


async def test_engine_close_ends_after_a_machine_on_the_loop_failed() -> None:
    """It fails in the task that reads the log, and that task has to end as well."""
    node = await open_log(MemoryBackend(MemoryLog(random.Random(1))), LoopListing())
    with pytest.raises(NodeFailed):
        await node.apply(b"break")
    await asyncio.wait_for(node.close(), 10)


async def test_engine_leadership_of_a_next_block_survives_the_end_of_the_last() -> None:
    """A block begins while the one before it ends: it has the same leadership, and that is not given back."""
    async with open_log(MemoryBackend(MemoryLog(random.Random(1))), LoopListing()) as node:

        async def next_block() -> object:
            async with node.leadership() as term:
                for _ in range(20):
                    await asyncio.sleep(0)
                return await term.apply(b"two")

        async with node.leadership() as term:
            await term.apply(b"one")
            ending = asyncio.get_running_loop().create_task(next_block())
        assert await ending == 2


class OnePage(MemoryBackend):
    """It confirms, and its log can be read once."""

    reads = 0

    async def read(self, mark: Mark, seen: int, limit_bytes: int) -> LogPage:
        self.reads += 1
        if self.reads > 1:
            raise BackendLost("cut off", sent=False)
        return await super().read(mark, seen, 1)


async def test_engine_open_ends_if_the_backend_goes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "OPEN_S", 0.2)
    monkeypatch.setattr(contact, "LONGEST_PAUSE_S", 0.02)
    log = MemoryLog(random.Random(1))
    async with open_log(MemoryBackend(log), Listing()) as node:
        await node.apply(b"one")
        await node.apply(b"two")
    with pytest.raises(Unreachable, match="cut off") as raised:
        await asyncio.wait_for(open_log(OnePage(log), Listing()), 20)
    assert raised.value.outcome is Outcome.NOT_APPLIED


class SlowView(Listing):
    """Its view is made when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_view = threading.Event()

    def snapshot(self) -> FSMSnapshot:
        view = super().snapshot()
        self.may_view.wait(20)
        return view


async def test_engine_loads_a_snapshot_while_it_takes_one() -> None:
    """The view comes when no snapshot waits for it any more."""
    log = MemoryLog(random.Random(1))
    slow = SlowView()
    faulty = FaultyBackend(MemoryBackend(log), random.Random(2))
    async with open_log(MemoryBackend(log), Listing()) as node, open_log(faulty, slow) as behind:
        await node.apply(b"one")
        await behind.read_index()
        taking = asyncio.create_task(behind.snapshot())
        while not slow.views:  # noqa: ASYNC110 - it is made on a thread
            await asyncio.sleep(0.001)
        faulty.held = asyncio.Event()
        await faulty.holding.wait()
        await node.apply(b"two")
        await node.snapshot()
        await MemoryBackend(log).trim(node.stats().position)
        faulty.held.set()
        with pytest.raises(StorageError, match="in place of the state"):
            await taking
        slow.may_view.set()
        await behind.read_index()
        assert (slow.items, slow.restored, slow.released) == ([b"one", b"two"], 1, 1)


class HangingListing(Listing):
    def __init__(self) -> None:
        super().__init__()
        self.may_apply = threading.Event()

    def apply(self, entry: Entry) -> object:
        self.may_apply.wait(20)
        return super().apply(entry)


async def test_engine_refuses_commands_while_its_machine_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose callers have given up are still in the log, and in memory."""
    monkeypatch.setattr(driver, "UNAPPLIED_ENTRIES", 5)
    machine = HangingListing()
    async with open_log(MemoryBackend(MemoryLog(random.Random(1))), machine) as node:
        futures = node.apply_many([b"%d" % number for number in range(10)], timeout=20)
        while node.stats().lag < 10:  # noqa: ASYNC110 - the state machine hangs, so nothing else tells
            await asyncio.sleep(0.001)
        with pytest.raises(BacklogFull, match="slower than the log") as raised:
            await node.apply(b"more")
        assert raised.value.outcome is Outcome.NOT_APPLIED
        machine.may_apply.set()
        assert await asyncio.gather(*futures) == list(range(1, 11))
        assert await node.apply(b"more") == 11


async def test_engine_stops_if_another_process_writes_under_its_number() -> None:
    """As after a snapshot of a virtual machine: both draw the same numbers, and would take each other's answers."""
    log = MemoryLog(random.Random(1))
    machine = Listing()
    async with (
        open_log(MemoryBackend(log), machine, world=World(rng=random.Random(7))) as first,
        open_log(MemoryBackend(log), Listing(), world=World(rng=random.Random(7))) as second,
    ):
        assert await first.apply(b"one") == 1
        answers = await asyncio.gather(*second.apply_many([b"two", b"three"]), return_exceptions=True)
        assert [type(answer) for answer in answers] == [NodeFailed] * 2
        assert "its process was copied" in str(answers[0])
        assert await first.apply(b"four") == 2
        assert machine.items == [b"one", b"four"]


class NoRoom(MemoryBackend):
    """No snapshot fits in."""

    tried = 0

    async def store_snapshot(self, snapshot: StoredSnapshot, mark: Mark) -> bool:
        self.tried += 1
        raise BackendFull("no room")


async def test_engine_takes_few_snapshots_while_none_can_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads the whole state. So not every entry begins one."""
    monkeypatch.setattr(snapshots, "RECORDS", 20)
    monkeypatch.setattr(snapshots, "MOST_RECORDS", 20)
    backend = NoRoom(MemoryLog(random.Random(1)))
    async with open_log(backend, Listing()) as node:
        for number in range(200):
            await node.apply(b"%d" % number)
    assert 1 < backend.tried <= 20


async def test_engine_memory_is_on_one_loop() -> None:
    """Another thread would change the log beside this one."""

    async def elsewhere() -> None:
        async with syncline.open("memory:one-loop", Listing()):
            raise AssertionError("it must not open")

    async with syncline.open("memory:one-loop", Listing()) as node:
        with pytest.raises(ConfigError, match="event loop of another thread"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert await node.apply(b"one") == 1
