"""A user's state machine that fails: what is refused at the start, what stops a node, and the way out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from syncline import BytesSnapshot, Entry, FSMSnapshot, Raft, SnapshotTaken
from syncline.consensus.types import NodeId
from syncline.errors import ConfigError, DiskFull, NodeFailed, StorageError
from tests.helpers.node_cluster import Cluster, Listing, all_apply


class Corrected(Listing):
    """`Listing` after its bug was found: "break" is a command like any other."""

    def apply(self, entry: Entry) -> object:
        self.items.append(entry.data)
        return len(self.items)


async def test_apply_that_raises_is_overcome_by_corrected_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no tool that skips an entry: the same entry is applied by corrected code, on all nodes."""
    nodes = Cluster(tmp_path, "abc")
    try:
        await nodes.start_all()
        leader, _ = await nodes.pair()
        await leader.apply(b"before")
        with pytest.raises(NodeFailed, match="RuntimeError: the state machine is broken"):
            await leader.apply(b"break")
        for raft in nodes.rafts.values():
            failure = str(await raft.failed())
            assert "Listing.apply raised RuntimeError" in failure
            assert "b'break'" in failure
            assert "Correct the state machine" in failure
        critical = [record for record in caplog.records if record.levelno == logging.CRITICAL]
        assert sum(record.exc_info is not None for record in critical) == 3, "each with its traceback"
        await nodes.stop_all()
        nodes.make = Corrected
        await nodes.start_all()
        await all_apply(nodes, b"after")
        assert nodes.machines["a"].items == [b"before", b"break", b"after"]
    finally:
        await nodes.stop_all()


class Lambda(Listing):
    def apply(self, entry: Entry) -> object:
        return self._late(entry)

    async def _late(self, entry: Entry) -> object:
        return super().apply(entry)


async def test_apply_that_answers_a_coroutine_stops_the_node(tmp_path: Path) -> None:
    """It is no `async def`, so `open` can't see it; acknowledged, it would be the loss of a write."""
    nodes = Cluster(tmp_path, "a")
    nodes.make = Lambda
    try:
        raft = await nodes.start("a")
        with pytest.raises(NodeFailed, match="returned a coroutine for entry"):
            await raft.apply(b"x")
    finally:
        await nodes.stop_all()


class Async(Listing):
    async def apply(self, entry: Entry) -> object:
        return entry


class Ahead(Listing):
    applied_index = 1000


async def never_asked(node_id: NodeId) -> int:
    raise AssertionError(node_id)


async def test_open_refuses_a_machine_before_it_writes_anything(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "a")
    for make, error in ((Async, TypeError), (Ahead, ConfigError)):
        nodes.make = make
        with pytest.raises(error):
            await nodes.start("a")
        written = {path.name for path in (tmp_path / "a").glob("*")} if (tmp_path / "a").exists() else set()
        assert written <= {"LOCK"}
        with pytest.raises(error):
            await Raft.join(nodes.config("j", cluster_id=0), make(), never_asked)
        assert not (tmp_path / "j").exists() or {path.name for path in (tmp_path / "j").glob("*")} <= {"LOCK"}
    nodes.make = Listing
    raft = await nodes.start("a")
    await raft.apply(b"kept")
    await nodes.stop_all()
    nodes.make = Ahead
    with pytest.raises(ConfigError, match=r"applied entry 1000, and the log of node a \([0-9a-f]{16}\) in .* ends at"):
        await nodes.start("a")
    nodes.make = Listing
    await nodes.start("a")
    assert nodes.machines["a"].items == [b"kept"]
    await nodes.stop_all()


class NoView(Listing):
    """Its snapshots fail while `fails` is set, as with a full temporary directory."""

    fails: object = OSError(28, "No space left on device")

    def snapshot(self) -> FSMSnapshot:
        if isinstance(self.fails, Exception):
            raise self.fails
        if self.fails is None:
            return None  # type: ignore[return-value]
        return super().snapshot()


@pytest.mark.parametrize(
    "fails", [OSError(28, "No space left on device"), DiskFull("the snapshot does not fit."), MemoryError("x"), None]
)
async def test_snapshot_that_fails_is_tried_again_and_no_node_stops(
    tmp_path: Path, fails: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All nodes take theirs at the same entry: one failure would be the end of all of them."""
    monkeypatch.setattr("syncline.node.snapshots.RETRY_TICKS", 2)
    nodes = Cluster(tmp_path, "abc", snapshot_entries=10)
    nodes.make = NoView
    try:
        await nodes.start_all()
        for machine in nodes.machines.values():
            assert isinstance(machine, NoView)
            machine.fails = fails
        leader, _ = await nodes.pair()
        for _ in range(30):
            await leader.apply(b"x")
        with pytest.raises(StorageError, match="snapshot"):
            await leader.snapshot()
        assert leader.stats().snapshots_taken == 0
        tracebacks = [record.exc_info for record in caplog.records if "was not made" in record.getMessage()]
        assert tracebacks
        assert not [line for line in caplog.messages if ".. The state is untouched" in line]
        of_the_machine = isinstance(fails, MemoryError)  # a full disk, or no view, has no line in the program's code
        assert all((shown is not None) is of_the_machine for shown in tracebacks)
        await all_apply(nodes, b"alive")
        for machine in nodes.machines.values():
            assert isinstance(machine, NoView)
            machine.fails = False
        watch = leader.events(SnapshotTaken)
        asking = asyncio.create_task(_asked_until_taken(leader))
        async with asyncio.timeout(20):
            assert (await anext(watch)).snapshot_index > 0
        await asking
    finally:
        await nodes.stop_all()


async def _asked_until_taken(raft: Raft[object]) -> None:
    while not raft.stats().snapshots_taken:
        await raft.apply(b"more")


class LateBatch(Listing):
    short = 1

    def apply_batch(self, entries: Sequence[Entry]) -> Sequence[object]:
        self.items += [entry.data for entry in entries]
        return [None] * (len(entries) - self.short)


async def test_apply_batch_with_too_few_answers_stops_the_node_by_name(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "a")
    nodes.make = LateBatch
    try:
        raft = await nodes.start("a")
        with pytest.raises(NodeFailed, match=r"LateBatch\.apply_batch returned 0 answers for 1 entries"):
            await raft.apply(b"x")
    finally:
        await nodes.stop_all()


class Cancelled(Listing):
    def apply(self, entry: Entry) -> object:
        raise asyncio.CancelledError(entry.index)


class CancelledOnLoop(Cancelled):
    apply_on_loop = True


@pytest.mark.parametrize("make", [Cancelled, CancelledOnLoop])
async def test_apply_that_raises_a_cancellation_stops_the_node_by_name(tmp_path: Path, make: type[Listing]) -> None:
    """It is no `Exception`. On the loop it passed by, and the node stopped at a later entry for another reason."""
    nodes = Cluster(tmp_path, "a")
    nodes.make = make
    try:
        raft = await nodes.start("a")
        with pytest.raises(NodeFailed, match=rf"{make.__name__}\.apply raised CancelledError"):
            await raft.apply(b"x")
    finally:
        await nodes.stop_all()


class Unloading(Listing):
    """Its snapshots can be written and not be loaded."""

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(b"not what restore reads")


async def test_restore_that_raises_names_the_file_and_the_entry(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "a")
    nodes.make = Unloading
    raft = await nodes.start("a")
    await raft.apply(b"x")
    index = (await raft.snapshot()).index
    await nodes.stop_all()
    with pytest.raises(NodeFailed, match=rf"Unloading\.restore failed on the snapshot at entry {index} \(.*\.snap\)"):
        await nodes.start("a")
    assert not list((tmp_path / "a").rglob("*broken*")), "the file is intact, and stays"
