"""The log's writer: what is synced, what only travels along, and when each promise is kept."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from syncline.consensus.types import LOCAL_APPEND, HardState, LogEntry, Message, MessageType, SnapshotMeta
from syncline.node import log_writer
from syncline.node.log_writer import COMMIT_SETTLE_S, LogWriter
from syncline.platform.disk import File, OsDisk
from syncline.platform.worker import Flusher, ThreadWorkers
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.writer import Wal
from tests.helpers.storage import held, open_wal, row

NODE, PEER = 1, 2


class WithoutFlusher(ThreadWorkers):
    """As on a system that has none: the thread does it all."""

    def flusher(self, file: File, done: Callable[[BaseException | None], None]) -> Flusher | None:
        return None


class HeldFlusher:
    """Syncs end when they are told to. `files` are those whose sync has begun."""

    def __init__(self, done: Callable[[BaseException | None], None]) -> None:
        self.done = done
        self.files: list[File] = []
        self._changed = asyncio.Event()

    def flush(self, file: File) -> None:
        self.files.append(file)
        self._changed.set()

    async def begun(self, count: int) -> None:
        """Wait until so many syncs have begun."""
        async with asyncio.timeout(10):
            while len(self.files) < count:
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        pass


class HeldWorkers(ThreadWorkers):
    held: HeldFlusher

    def flusher(self, file: File, done: Callable[[BaseException | None], None]) -> Flusher | None:
        self.held = HeldFlusher(done)
        return self.held


@pytest.fixture(params=[ThreadWorkers, WithoutFlusher], autouse=True)
def workers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test with either way to write."""
    World.workers = request.param
    yield
    World.workers = ThreadWorkers


class World:
    """A writer on a real log, and the responses that it has delivered."""

    workers: type[ThreadWorkers] = ThreadWorkers

    def __init__(self, path: Path, workers: ThreadWorkers | None = None) -> None:
        self.path = path
        self.wal = open_wal(str(path), disk=OsDisk())
        self.log = StoredLog.open(self.wal, None)
        self.delivered: list[int] = []
        self.failures: list[BaseException] = []
        self.group_done = asyncio.Event()
        self.writer = LogWriter(self.wal, self.log, workers or self.workers(), self._durable, self.failures.append)

    def _durable(self, responses: list[Message]) -> None:
        self.delivered += [response.index for response in responses]
        self.group_done.set()

    def append(self, entries: list[LogEntry], state: HardState | None = None, *, answer: int = 0) -> None:
        """What the core asks for: `state` where it has changed, and an answer to a peer once all is durable."""
        responses = [Message(MessageType.APP_RESP, to=PEER, index=answer)] if answer else []
        term, vote, commit = (state.term, state.vote, state.commit) if state is not None else (0, 0, 0)
        work = Message(MessageType.STORAGE_APPEND, to=LOCAL_APPEND, sender=NODE, term=term, vote=vote, commit=commit)
        work.entries, work.responses = entries, responses
        self.writer.append(work)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self.group_done.clear()
                await self.group_done.wait()
        assert not self.failures

    async def close(self) -> HardState:
        """End it all; the hard state that a restart finds."""
        await self.writer.close()
        self.wal.close()
        wal = open_wal(str(self.path))
        state = wal.recovery.hard_state
        wal.close()
        return state


async def run(path: Path, scenario: Callable[[World], Awaitable[None]]) -> HardState:
    world = World(path)
    await scenario(world)
    return await world.close()


async def run_held(path: Path, scenario: Callable[[World, HeldFlusher], Awaitable[None]]) -> None:
    """With syncs that end when they are told to."""
    workers = HeldWorkers()
    await scenario(World(path, workers), workers.held)


async def sync_one_and_gather_one(world: World, flusher: HeldFlusher) -> None:
    world.append(row(1, 1), HardState(1), answer=1)
    await flusher.begun(1)
    world.append(row(2, 2), answer=2)


async def test_a_promise_is_delivered_after_its_entries_are_durable(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.append(row(1, 3), HardState(2), answer=3)
        assert world.delivered == []
        await world.until(lambda: world.delivered == [3])
        assert world.log.last_index() == 3

    assert await run(tmp_path, scenario) == HardState(2)


async def test_commit_index_alone_causes_no_sync(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.append(row(1, 3), HardState(1, 1), answer=3)
        await world.until(lambda: world.delivered == [3])
        world.append([], HardState(1, 1, 3))
        world.append(row(4, 4), answer=4)
        await world.until(lambda: world.delivered == [3, 4])
        assert world.writer.syncs == 2
        assert world.log.hard_state == HardState(1, 1, 3)

    assert await run(tmp_path, scenario) == HardState(1, 1, 3)


async def test_a_commit_index_that_nothing_takes_along_is_written_by_itself(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.append(row(1, 3), HardState(1), answer=3)
        await world.until(lambda: world.delivered == [3])
        began_s = world.writer._loop.time()
        world.append([], HardState(1, 0, 2))
        world.append([], HardState(1, 0, 3))
        await world.until(lambda: world.log.hard_state == HardState(1, 0, 3))
        assert world.writer._loop.time() - began_s > COMMIT_SETTLE_S / 2
        assert world.writer.syncs == 2

    await run(tmp_path, scenario)


async def test_commit_index_that_is_settled_now_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of the membership relies on it: it must not wait for an append to travel with."""
    monkeypatch.setattr(log_writer, "COMMIT_SETTLE_S", 60.0)

    async def scenario(world: World) -> None:
        world.append(row(1, 3), HardState(1, 0, 1), answer=3)
        await world.until(lambda: world.delivered == [3])
        assert world.writer.durable_commit == 1
        world.append([], HardState(1, 0, 2))
        assert world.writer.durable_commit == 1
        world.writer.settle_now()
        assert world.writer.durable_commit == 1, "it is on its way"
        await world.until(lambda: world.writer.durable_commit == 2)
        assert world.writer.syncs == 2
        world.writer.settle_now()
        assert world.writer.syncs == 2, "there is nothing to write"

    assert await run(tmp_path, scenario) == HardState(1, 0, 2)


async def test_durable_commit_index_is_known_after_a_restart(tmp_path: Path) -> None:
    async def before(world: World) -> None:
        world.append(row(1, 3), HardState(1, 0, 2), answer=3)
        await world.until(lambda: world.delivered == [3])

    async def after(world: World) -> None:
        assert world.writer.durable_commit == 2

    await run(tmp_path, before)
    await run(tmp_path, after)


async def test_a_promise_of_nothing_new_waits_for_earlier_ones_only(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.append([], answer=7)
        assert world.delivered == [7], "nothing was on its way to the disk"
        world.append(row(1, 3), HardState(1), answer=3)
        world.append([], HardState(1, 0, 1), answer=2)
        assert world.delivered == [7], "what it speaks of may not be durable yet"
        await world.until(lambda: world.delivered == [7, 3, 2])
        assert world.writer.syncs == 1

    await run(tmp_path, scenario)


async def test_a_vote_is_never_held_back(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.append([], HardState(5, PEER), answer=1)
        assert world.delivered == []
        await world.until(lambda: world.delivered == [1])
        assert world.log.hard_state == HardState(5, PEER)

    assert await run(tmp_path, scenario) == HardState(5, PEER)


async def test_closing_and_compacting_write_what_is_known_to_be_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "COMMIT_SETTLE_S", 60.0)  # nobody else does it meanwhile

    async def scenario(world: World) -> None:
        world.append(row(1, 9), HardState(1), answer=9)
        await world.until(lambda: world.delivered == [9])
        world.append([], HardState(1, 0, 5))
        world.log.installed(SnapshotMeta(4, 1))
        world.writer.compact(4)
        await world.until(lambda: world.log.hard_state.commit == 5)
        world.append([], HardState(1, 0, 9))

    assert await run(tmp_path, scenario) == HardState(1, 0, 9)


def test_groups_are_timed_more_finely_than_a_loop_counts(tmp_path: Path) -> None:
    """uvloop's clock counts whole milliseconds: by that clock most groups would take no time at all."""
    uvloop = pytest.importorskip("uvloop")
    times: list[float] = []

    async def scenario() -> None:
        world = World(tmp_path)
        for index in range(1, 21):
            world.append(row(index, index), HardState(2), answer=index)
            await world.until(lambda index=index: world.delivered[-1:] == [index])  # type: ignore[misc]
            times.append(world.writer.last_sync_s)
        assert world.writer.syncs == sum(world.writer.group_times.counts) == sum(world.writer.sync_times.counts) == 20
        assert 0 < world.writer.sync_times.sum <= world.writer.group_times.sum
        assert world.writer.durable_index == 20
        assert world.writer.written_bytes > 0
        assert abs(world.writer.sync_s - sum(times)) < 1e-9
        await world.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
    assert all(elapsed > 0 for elapsed in times)
    assert len({round(elapsed * 1000, 6) % 1 for elapsed in times}) > 5, "not all of them whole milliseconds"


async def test_what_comes_during_a_sync_is_written_together(tmp_path: Path) -> None:
    async def scenario(world: World, flusher: HeldFlusher) -> None:
        world.append(row(1, 2), HardState(1), answer=2)
        assert len(flusher.files) == 1, "the first one waits for nothing"
        assert world.writer.oldest_s() > 0, "a sync that hangs must be seen, also where nothing waits behind it"
        for index in range(3, 8):
            world.append(row(index, index), answer=index)
            await asyncio.sleep(0)
        world.append([], HardState(1, 0, 1), answer=99)
        assert (world.delivered, world.log.last_index(), len(flusher.files)) == ([], 0, 1)
        flusher.done(None)
        assert world.delivered == [2]
        assert world.log.last_index() == 2
        assert len(flusher.files) == 2, "the next one has begun before the promises of this one were delivered"
        flusher.done(None)
        assert world.delivered == [2, 3, 4, 5, 6, 7, 99]
        assert world.writer.oldest_s() == 0
        assert world.writer.syncs == 2
        closing = asyncio.ensure_future(world.close())
        await flusher.begun(3)
        flusher.done(None)
        assert await closing == HardState(1, 0, 1)

    await run_held(tmp_path, scenario)


async def test_a_sync_that_fails_is_the_last_one(tmp_path: Path) -> None:
    async def scenario(world: World, flusher: HeldFlusher) -> None:
        await sync_one_and_gather_one(world, flusher)
        flusher.done(OSError(errno.EIO, "as told"))
        [failure] = world.failures
        assert "as told" in str(failure)
        world.append(row(3, 3), answer=3)
        world.writer.compact(0)
        await asyncio.sleep(0)
        await world.writer.close()
        assert world.failures == [failure], "told once"
        assert (world.delivered, world.log.last_index(), len(flusher.files)) == ([], 0, 1)
        assert world.wal.failure is not None
        world.wal.close()

    await run_held(tmp_path, scenario)


async def test_nothing_is_promised_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one group can't be delivered the next one is under way already."""

    async def scenario(world: World, flusher: HeldFlusher) -> None:
        await sync_one_and_gather_one(world, flusher)
        monkeypatch.setattr(world.log, "appended", broken)
        flusher.done(None)
        [failure] = world.failures
        monkeypatch.undo()
        flusher.done(None)
        world.append([], answer=3)
        assert (world.failures, world.delivered) == ([failure], [])
        await world.writer.close()
        world.wal.close()

    def broken(*_: object) -> None:
        raise AssertionError("as told")

    await run_held(tmp_path, scenario)


async def test_a_close_waits_for_the_sync_under_way_and_writes_what_has_gathered(tmp_path: Path) -> None:
    async def scenario(world: World, flusher: HeldFlusher) -> None:
        await sync_one_and_gather_one(world, flusher)
        closing = asyncio.ensure_future(world.writer.close())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not closing.done()
        flusher.done(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not closing.done()
        flusher.done(None)
        await closing
        assert world.delivered == [1, 2]
        world.wal.close()

    await run_held(tmp_path, scenario)


async def test_old_segments_are_dropped_after_the_sync_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    monkeypatch.setattr(Wal, "compact", lambda _, index: dropped.append(index))

    async def scenario(world: World, flusher: HeldFlusher) -> None:
        world.append(row(1, 1), HardState(1, 0, 0), answer=1)
        await flusher.begun(1)
        flusher.done(None)
        world.append(row(2, 2), HardState(1, 0, 1), answer=2)
        await flusher.begun(2)
        world.log.installed(SnapshotMeta(1, 1))
        world.writer.compact(1)
        await asyncio.sleep(0)
        assert dropped == []
        flusher.done(None)
        await world.writer.close()
        assert dropped == [1]
        world.wal.close()

    await run_held(tmp_path, scenario)


async def test_segments_are_begun_and_dropped_while_nothing_is_being_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def note(name: str) -> None:
        plain = getattr(Wal, name)

        def noted(*arguments: object) -> object:
            calls.append(name)
            result = plain(*arguments)
            if result is None and name == "begin":
                calls[-1] = "not begun"
            return result

        monkeypatch.setattr(Wal, name, noted)

    for name in ("begin", "finish", "write", "_rotate", "compact"):
        note(name)
    last = 600

    async def scenario(world: World) -> None:
        for index in range(1, last + 1):
            world.append(row(index, index, size=400), HardState(1, 0, index - 1), answer=index)
            if index % 8 == 0:
                await world.until(lambda index=index: index in world.delivered)  # type: ignore[misc]
            if index % 200 == 0:
                world.log.installed(SnapshotMeta(index - 50, 1))
                world.writer.compact(index - 50)
        await world.until(lambda: world.delivered[-1:] == [last])
        assert world.delivered == list(range(1, last + 1))

    await run(tmp_path, scenario)
    text = " ".join(calls)
    if World.workers is ThreadWorkers:
        assert "not begun write _rotate finish" in text, "a group that has no room goes to the thread"
        assert "begin finish" in text
    assert text.count("compact") >= 3
    assert "begin write" not in text, "after `begin` comes `finish`"
    wal = open_wal(str(tmp_path))
    assert wal.recovery.first_index > 1
    assert [entry.index for entry in held(wal)] == list(range(wal.recovery.first_index, last + 1))
    wal.close()
