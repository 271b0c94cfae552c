"""Members come, are promoted, demoted and removed, and the log is given up behind snapshots meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline import MembershipChanged, Raft, SnapshotTaken
from syncline.consensus.types import ChangeType
from syncline.errors import (
    Closed,
    DeadlineExceeded,
    MembershipError,
    NodeFailed,
    NoLeader,
    NothingToSnapshot,
    OperationError,
    Outcome,
    StorageError,
)
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import DataDir, Identity
from tests.helpers.node_cluster import Cluster, LoopListing, cluster, until


async def fill(raft: Raft[object], count: int) -> None:
    await asyncio.gather(*raft.apply_many([b"%d" % number for number in range(count)]))


async def test_a_learner_becomes_a_voter_by_itself(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        _, follower = await nodes.pair()
        await fill(follower, 20)
        info, joined = await nodes.join(follower, "d")
        assert not info.voter
        await until(joined, lambda: joined.membership().members.get(info.id, info).voter)
        assert joined.role == "follower"
        assert nodes.machine(joined).items == [b"%d" % number for number in range(20)]
        assert await joined.apply(b"from the new one") == 21
        assert await follower.add_learner("d", nodes.address("d")) == joined.membership().members[info.id]


async def test_demoted_promoted_and_removed(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        gone = next(raft for raft in nodes.rafts.values() if raft not in (leader, follower))
        membership = await leader.demote(gone.node_id)
        assert not membership.members[gone.node_id].voter
        await until(gone, lambda: gone.role == "learner")
        assert await gone.apply(b"a learner may write") == 1
        assert await leader.demote(gone.node_id) == membership, "it is one already"
        assert (await leader.promote(gone.node_id)).members[gone.node_id].voter
        after = await follower.remove(gone.node_id)
        assert gone.node_id not in after.members
        assert await follower.remove(gone.node_id) == after, "it is gone already"
        failure = await asyncio.wait_for(gone.failed(), 15)
        assert "was removed from the cluster" in str(failure)
        with pytest.raises(NodeFailed, match="removed"):
            await gone.apply(b"x")
        with pytest.raises(MembershipError, match="was removed"):
            await leader.add_voter(gone.config.name, gone.config.address, node_id=gone.node_id)
        with pytest.raises(MembershipError, match="no member"):
            await leader.promote(gone.node_id)
        await until(follower, lambda: follower.membership() == leader.membership())


async def test_a_removed_node_that_was_away_is_told(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        name = follower.config.name
        await nodes.stop(name)
        await leader.remove(follower.node_id)
        back = await nodes.start(name)
        assert "was removed" in str(await asyncio.wait_for(back.failed(), 15))


async def test_a_removed_node_that_missed_it_is_told_although_its_links_were_up(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, gone = await nodes.pair()
        gone._driver.on_messages = lambda *_: None  # type: ignore[method-assign]
        await leader.remove(gone.node_id)
        assert "was removed" in str(await asyncio.wait_for(gone.failed(), 15))


async def test_leader_transfers_before_it_is_removed(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, _ = await nodes.pair()
        membership = await leader.remove(leader.node_id)
        assert leader.node_id not in membership.members
        assert "was removed" in str(await asyncio.wait_for(leader.failed(), 15))
        assert (await nodes.leader()).stats().leader_changes >= 1
        assert await (await nodes.leader()).apply(b"x") == 1


async def test_leader_transfers_before_it_is_demoted(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, _ = await nodes.pair()
        handed_over: list[bool] = []
        for raft in nodes.rafts.values():
            kept = raft._driver.reconfiguration.append

            def noted(
                payload: bytes,
                sender: int,
                number: int,
                kept: Callable[[bytes, int, int], tuple[int, int]] = kept,
                raft: Raft[object] = raft,
            ) -> tuple[int, int]:
                placed = kept(payload, sender, number)
                handed_over.append(raft is not leader)
                return placed

            raft._driver.reconfiguration.append = noted  # type: ignore[method-assign]
        membership = await leader.demote(leader.node_id)
        assert not membership.members[leader.node_id].voter
        assert handed_over == [True], "the change was appended by another leader"
        assert await leader.apply(b"x") == 1


async def test_names_addresses_and_conditions(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        with pytest.raises(MembershipError, match="already the name"):
            await follower.add_learner(leader.config.name, "127.0.0.1:9")
        with pytest.raises(MembershipError, match="already the address"):
            await follower.add_learner("new", leader.config.address)
        index = follower.membership().index
        with pytest.raises(MembershipError, match="has changed"):
            await follower.add_learner("x", "127.0.0.1:9", expected_index=index - 1)
        with pytest.raises(MembershipError, match="no members"):
            await leader.change_membership([(ChangeType.ADD_NODE, 12345)])
        one, other = await asyncio.gather(
            leader.add_learner("x", "127.0.0.1:9", promote=False, expected_index=index),
            follower.add_learner("y", "127.0.0.1:10", promote=False, expected_index=index),
            return_exceptions=True,
        )
        results = sorted((one, other), key=lambda result: isinstance(result, MembershipError))
        assert not isinstance(results[0], BaseException)
        assert isinstance(results[1], MembershipError), "only one of two with the same condition"


async def test_two_at_once_add_the_same_member_once(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        await nodes.leader()
        infos = await asyncio.gather(
            *(raft.add_learner("x", "127.0.0.1:9", promote=False) for raft in nodes.rafts.values())
        )
        assert len({info.id for info in infos}) == 1
        leader = await nodes.leader()
        assert [member.name for member in leader.membership().members.values()].count("x") == 1


async def test_several_members_change_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path, "abcde") as nodes:
        leader, _ = await nodes.pair()
        others = [raft.node_id for raft in nodes.rafts.values() if raft is not leader]
        await leader.change_membership([(ChangeType.ADD_LEARNER_NODE, others[0]), (ChangeType.REMOVE_NODE, others[1])])
        await until(leader, lambda: not leader.membership().joint)
        members = leader.membership().members
        assert not members[others[0]].voter
        assert others[1] not in members
        assert await leader.apply(b"x") == 1


async def test_the_last_voter_stays(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        for call in (raft.remove(raft.node_id), raft.demote(raft.node_id)):
            with pytest.raises(MembershipError):
                await call


@pytest.mark.deadline(60)
@pytest.mark.parametrize("on_loop", [False, True])
async def test_member_away_or_new_catches_up_by_snapshot(tmp_path: Path, on_loop: bool) -> None:
    nodes = Cluster(tmp_path, "abc", snapshot_entries=200, trailing_entries=10)
    if on_loop:
        nodes.make = LoopListing
    try:
        await nodes.start_all()
        leader, follower = await nodes.pair()
        name = follower.config.name
        await nodes.stop(name)
        for _ in range(8):
            await fill(leader, 100)
        await until(leader, lambda: leader.stats().first_index > 400)
        expected = list(nodes.machine(leader).items)
        back = await nodes.start(name)
        await until(back, lambda: back.stats().applied >= leader.stats().commit)
        assert back.stats().snapshots_installed == 1
        assert nodes.machine(back).items == expected
        assert back.membership() == leader.membership()
        info, joined = await nodes.join(back, "d")
        await until(joined, lambda: joined.role == "follower")
        await joined.read_index()
        assert nodes.machine(joined).items[:800] == expected
        assert joined.stats().snapshots_installed == 1
        assert info.id in joined.membership().members
        await nodes.stop("d")
        again = await nodes.start("d")
        assert nodes.machine(again).items[:800] == expected
        for machine in nodes.machines.values():
            assert machine.views == machine.released
    finally:
        await nodes.stop_all()


class Gate:
    """Holds the thread that comes to it until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(10)


async def test_snapshots_that_overlap_are_all_answered(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        await nodes.announced()
        raft = await nodes.leader()
        machine = nodes.machines["a"]
        await raft.apply(b"1")
        machine.gate = gate = Gate()
        first = asyncio.ensure_future(raft.snapshot())
        await asyncio.to_thread(gate.reached.wait, 10)
        same = asyncio.ensure_future(raft.snapshot())
        later = raft.apply(b"2")
        await later
        second = asyncio.ensure_future(raft.snapshot())
        await asyncio.sleep(0)
        gate.open.set()
        manifests = await asyncio.wait_for(asyncio.gather(first, same, second), 10)
        assert manifests[0].index < manifests[2].index
        assert manifests[2].index == later.index
        with pytest.raises(NothingToSnapshot):
            await raft.snapshot()
        assert machine.views == machine.released


async def test_a_snapshot_that_is_cancelled_is_reported_and_released(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        machine = nodes.machines["a"]
        await raft.apply(b"1")

        def gate() -> None:
            raise ValueError("no room")

        machine.gate = gate
        with pytest.raises(StorageError, match="no room"):
            await raft.snapshot()
        machine.gate = None
        watch = raft.events(SnapshotTaken)
        manifest = await raft.snapshot()
        assert (await anext(watch)).snapshot_index == manifest.index
        assert (machine.views, machine.released) == (2, 2)


async def test_close_gives_a_snapshot_up_and_releases_its_view(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        await nodes.announced()
        raft = await nodes.leader()
        machine = nodes.machines["a"]
        await raft.apply(b"1")
        machine.gate = gate = Gate()
        taking = asyncio.ensure_future(raft.snapshot())
        await asyncio.to_thread(gate.reached.wait, 10)
        closing = asyncio.ensure_future(raft.close())
        with pytest.raises(Closed):
            await taking
        gate.open.set()
        await closing
        assert machine.views == machine.released == 1


async def test_change_once_of_unknown_outcome_stays_unknown(tmp_path: Path) -> None:
    """The attempt that was not heard of again may be in the log, whatever became of the ones after it."""
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        attempts = 0

        async def propose(*_: object, **__: object) -> None:
            nonlocal attempts
            attempts += 1
            raise DeadlineExceeded("no answer") if attempts == 1 else NoLeader("an election is under way")

        leader._changes._propose = propose  # type: ignore[method-assign, assignment]
        with pytest.raises(OperationError, match="an election is under way") as caught:
            await leader.remove(follower.node_id, timeout=0.3)
        assert caught.value.outcome is Outcome.UNKNOWN
        assert attempts > 2
        attempts = 1
        with pytest.raises(NoLeader) as certain:
            await leader.remove(follower.node_id, timeout=0.1)
        assert certain.value.outcome is Outcome.NOT_APPLIED


async def test_successor_of_an_initial_member_starts_from_nothing(tmp_path: Path) -> None:
    """A repaired node keeps its settings, the first members among them; the first entries are not its to write."""
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        await fill(leader, 20)
        name, address = follower.config.name, follower.config.address
        await nodes.stop(name)
        await leader.remove(follower.node_id)
        (tmp_path / name).rename(tmp_path / "old")
        directory = DataDir.open(OsDisk(), str(tmp_path / name))
        directory.write_identity(Identity(leader.cluster_id, 12345, name))
        directory.release()
        back = await nodes.start(name)
        assert (back.node_id, back.stats().last_index, back.membership().members) == (12345, 0, {})
        await leader.add_learner(name, address, node_id=12345)
        await until(back, lambda: back.role == "follower")
        assert nodes.machine(back).items[:20] == nodes.machine(leader).items[:20]


async def test_a_voter_that_is_about_to_be_demoted_is_promoted_again(tmp_path: Path) -> None:
    """In the joint membership it still votes, so that it looks as if there were nothing to do."""
    async with cluster(tmp_path, "abcde") as nodes:
        leader, _ = await nodes.pair()
        await nodes.announced()
        one, two = [raft.node_id for raft in nodes.rafts.values() if raft is not leader][:2]
        watch = leader.events(MembershipChanged)
        demoted = asyncio.ensure_future(
            leader.change_membership([(ChangeType.ADD_LEARNER_NODE, one), (ChangeType.ADD_LEARNER_NODE, two)])
        )
        async with asyncio.timeout(20):
            assert (await anext(watch)).membership.joint
        assert leader.membership().joint
        assert (await leader.promote(one)).members[one].voter
        await demoted
        assert leader.membership().members[one].voter
        assert not leader.membership().members[two].voter
