"""Rot, seen by whole nodes: who starts on what, with what state, and what is said where nobody can."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from syncline import Raft
from syncline.errors import CorruptionError
from syncline.platform.disk import OsDisk
from syncline.storage.inspect import FrameView, read_log
from tests.helpers.node_cluster import Cluster, until


async def run(path: Path, check: Callable[[Cluster], Awaitable[None]], **settings: object) -> None:
    """Check something of a cluster that one founder, `a`, begins; what still runs at the end is stopped."""
    nodes = Cluster(path, "a", trailing_entries=0, **settings)
    try:
        await check(nodes)
    finally:
        await nodes.stop_all()


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)


def spoil(snapshot: Path) -> None:
    flip(snapshot, snapshot.stat().st_size - 1)


def snapshots(nodes: Cluster, name: str) -> list[Path]:
    return sorted((nodes.path / name / "snapshots").glob("*.snap"))


async def applied(raft: Raft[object], count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        await raft.apply(b"%d" % number)


async def in_turns(raft: Raft[object], turns: int, count: int) -> None:
    """Apply `count` commands and take a snapshot, so many times. The log is given up behind the older of two."""
    for turn in range(turns):
        await applied(raft, count, count * turn)
        await raft.snapshot()


def items(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


@pytest.mark.deadline(60)
async def test_corrupt_log_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    async def check(nodes: Cluster) -> None:
        await applied(await nodes.start("a"), 20)
        await nodes.stop("a")
        (segment,) = (tmp_path / "a" / "wal").glob("*.wal")
        frames = [part for part in read_log(OsDisk(), str(segment.parent)) if isinstance(part, FrameView)]
        victim = next(frame for frame in frames if (frame.first_index or 0) > 5)
        flip(segment, victim.offset + 40)
        before = segment.read_bytes()
        for _ in range(2):
            with pytest.raises(CorruptionError) as caught:
                await nodes.start("a")
            error = caught.value
            assert (error.file, error.offset, error.first_index) == (str(segment), victim.offset, victim.first_index)
            assert f"syncline repair --data-dir {tmp_path}/a" in str(error)
        assert segment.read_bytes() == before

    await run(tmp_path, check)


@pytest.mark.deadline(60)
async def test_corrupt_newest_snapshot_gives_way_to_the_older_and_the_log(tmp_path: Path) -> None:
    async def check(nodes: Cluster) -> None:
        raft = await nodes.start("a")
        await in_turns(raft, 3, 10)
        await applied(raft, 5, 30)
        term = raft.stats().term
        await nodes.stop("a")
        _, newest = snapshots(nodes, "a")
        spoil(newest)
        raft = await nodes.start("a")
        assert nodes.machines["a"].items == items(35)
        assert raft.stats().term >= term
        assert newest.with_name(newest.name + ".broken").exists()

    await run(tmp_path, check)


@pytest.mark.deadline(60)
async def test_the_only_snapshot_may_rot_where_the_log_reaches_back(tmp_path: Path) -> None:
    async def check(nodes: Cluster) -> None:
        raft = await nodes.start("a")
        await applied(raft, 10)
        await raft.snapshot()
        await applied(raft, 5, 10)
        await nodes.stop("a")
        (only,) = snapshots(nodes, "a")
        spoil(only)
        await nodes.start("a")
        assert nodes.machines["a"].items == items(15)
        assert nodes.machines["a"].restored == 0

    await run(tmp_path, check)


async def with_installed_snapshot(nodes: Cluster) -> Raft[object]:
    """Beside a leader, a learner that got its state as a snapshot, and so has no log before it."""
    leader = await nodes.start("a")
    await in_turns(leader, 2, 15)
    _, learner = await nodes.join(leader, "b", promote=False)
    await until(learner, lambda: nodes.machines["b"].items == items(30))
    assert nodes.machines["b"].restored == 1
    return leader


@pytest.mark.deadline(60)
async def test_node_without_an_intact_snapshot_names_the_loss_and_the_repair(tmp_path: Path) -> None:
    """It knows neither the membership nor the state at the beginning of its log, so it can't take part in anything."""

    async def check(nodes: Cluster) -> None:
        leader = await with_installed_snapshot(nodes)
        await applied(leader, 5, 30)
        await until(nodes.rafts["b"], lambda: nodes.machines["b"].items == items(35))
        await nodes.stop("b")
        for path in snapshots(nodes, "b"):
            spoil(path)
        with pytest.raises(CorruptionError, match="newest intact snapshot is missing") as caught:
            await nodes.start("b")
        assert f"syncline repair --data-dir {tmp_path}/b" in str(caught.value)
        assert caught.value.first_index == 1

    await run(tmp_path, check, segment_bytes=64 << 10)


@pytest.mark.deadline(60)
@pytest.mark.parametrize("beyond_its_log", [False, True])
async def test_snapshot_of_another_member_replaces_a_corrupt_one(tmp_path: Path, beyond_its_log: bool) -> None:
    """The node keeps its id and, where the snapshot is within its log, all of that."""

    async def check(nodes: Cluster) -> None:
        leader = await with_installed_snapshot(nodes)
        await applied(leader, 3, 30)
        await leader.snapshot()
        await applied(leader, 2, 33)
        learner = nodes.rafts["b"]
        await until(learner, lambda: nodes.machines["b"].items == items(35))
        node_id, last_index = learner.node_id, learner.stats().last_index
        await nodes.stop("b")
        for path in snapshots(nodes, "b"):
            spoil(path)
        if beyond_its_log:
            await applied(leader, 5, 35)
            await leader.snapshot()
        newest = snapshots(nodes, "a")[-1]
        assert (int(newest.name[:16], 16) > last_index) == beyond_its_log
        shutil.copy(newest, tmp_path / "b" / "snapshots")
        learner = await nodes.start("b")
        assert learner.node_id == node_id
        assert learner.stats().last_index >= last_index
        assert nodes.machines["b"].restored == 1
        await applied(leader, 1, 40)
        held = [*items(40 if beyond_its_log else 35), b"40"]
        await until(learner, lambda: nodes.machines["b"].items == held)
        assert nodes.machines["a"].items == held

    await run(tmp_path, check, segment_bytes=64 << 10)


@pytest.mark.deadline(60)
async def test_leader_with_a_corrupt_snapshot_takes_another_for_a_follower(tmp_path: Path) -> None:
    async def check(nodes: Cluster) -> None:
        leader = await nodes.start("a")
        await in_turns(leader, 2, 15)
        info = await leader.add_learner("b", nodes.address("b"), promote=False)
        await leader.snapshot()  # one that has the learner in it, so that it is what the learner is sent
        newest = snapshots(nodes, "a")[-1]
        spoil(newest)
        await nodes.start("b", cluster_id=leader.cluster_id, node_id=info.id)
        await until(nodes.rafts["b"], lambda: nodes.machines["b"].items == items(30))
        assert newest.with_name(newest.name + ".broken").exists()
        assert not leader._driver.running.stopped

    await run(tmp_path, check)


@pytest.mark.deadline(60)
@pytest.mark.parametrize("which", [0, 1])
async def test_rot_is_found_while_the_state_in_memory_can_replace_it(tmp_path: Path, which: int) -> None:
    """A start reads only the newest snapshot; the scrub reads both. Then there are two again, and the log fits."""

    async def check(nodes: Cluster) -> None:
        raft = await nodes.start("a")
        await in_turns(raft, 2, 10)
        await applied(raft, 5, 20)
        victim = snapshots(nodes, "a")[which]
        spoil(victim)
        raft._driver.snapshotter._scrub_ticks = 1
        await until(raft, lambda: victim.with_name(victim.name + ".broken").exists())
        await until(raft, lambda: len(snapshots(nodes, "a")) == 2)
        await nodes.stop("a")
        newest = snapshots(nodes, "a")[-1]
        spoil(newest)
        await nodes.start("a")
        assert nodes.machines["a"].items == items(25), "the older one and the log stand in for the new one"

    await run(tmp_path, check)


@pytest.mark.deadline(60)
async def test_a_scrub_of_sound_snapshots_changes_nothing(tmp_path: Path) -> None:
    async def check(nodes: Cluster) -> None:
        raft = await nodes.start("a")
        await applied(raft, 10)
        await raft.snapshot()
        before = snapshots(nodes, "a")
        snapshotter = raft._driver.snapshotter
        await snapshotter._scrub_all()
        assert snapshots(nodes, "a") == before
        assert (snapshotter.taken, raft._driver.running.stopped) == (1, False)
        await nodes.stop("a")
        await snapshotter._scrub_all()

    await run(tmp_path, check)
