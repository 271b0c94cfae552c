"""Nodes of two versions side by side: when the cluster's levels rise, and what becomes of an older node then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline import Raft
from syncline.errors import Closed, ConfigError, Dropped, NodeFailed
from syncline.node.envelope import Kind, LevelChange, encode
from tests.helpers.node_cluster import Cluster, Listing, until


class Versioned(Listing):
    machine_version = 2


class Fleet(Cluster):
    """A cluster in which each start says which feature level its version can do."""

    async def begin(self, level: int) -> None:
        await asyncio.gather(*(self.start(name, feature_level=level) for name in self.peers))
        await self.leader()

    async def restart(self, name: str, level: int) -> Raft[object]:
        await self.stop(name)
        return await self.start(name, feature_level=level)

    async def told(self, name: str, level: int) -> None:
        """Until all that run know that the member can do this level."""
        node_id = next(member.id for member in self.any.membership().members.values() if member.name == name)
        for raft in self.rafts.values():
            await until(raft, lambda: raft.membership().members[node_id].level == level)  # noqa: B023 - awaited at once

    async def everywhere(self, condition: Callable[[Raft[object]], bool]) -> None:
        for raft in self.rafts.values():
            await until(raft, lambda: condition(raft))  # noqa: B023 - awaited at once

    @property
    def any(self) -> Raft[object]:
        return next(iter(self.rafts.values()))


async def looked_at_again(fleet: Fleet) -> None:
    """Until the leader has had several occasions to propose a level: it looks at it every five ticks."""
    leader = await fleet.leader()
    ticks = leader._driver.reconfiguration._ticks + 20
    await until(leader, lambda: leader._driver.reconfiguration._ticks >= ticks or not leader.is_leader)


async def why_stopped(fleet: Fleet, name: str) -> str:
    """Why an older version stops: at its start if the directory knows that the level rose, else when it is told."""
    try:
        old = await fleet.start(name, feature_level=1)
    except NodeFailed as failure:
        return str(failure)
    return str(await old.failed())


async def scenario(path: Path, course: Callable[[Fleet], object], names: str = "abc") -> None:
    fleet = Fleet(path, names)
    try:
        work = course(fleet)
        assert asyncio.iscoroutine(work)
        await work
    finally:
        await fleet.stop_all()


@pytest.mark.deadline(60.0)
async def test_level_rises_with_the_last_upgraded_node(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        await fleet.begin(1)
        for name in "ab":
            await fleet.restart(name, 2)
            await fleet.leader()
            await fleet.told(name, 2)
            await looked_at_again(fleet)
            await fleet.everywhere(lambda raft: raft.level == 1)
        assert fleet.any.upgrade_status().possible_level == 1
        await fleet.restart("c", 2)
        await fleet.everywhere(lambda raft: raft.level == 2)
        await fleet.any.apply(b"x")
        await fleet.stop("b")
        assert "needs level 2" in await why_stopped(fleet, "b")

    await scenario(tmp_path, course)


@pytest.mark.deadline(60.0)
async def test_node_can_go_back_until_the_level_has_risen(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        await fleet.begin(1)
        await fleet.restart("a", 2)
        await fleet.told("a", 2)
        await fleet.restart("a", 1)
        await fleet.leader()
        await fleet.told("a", 1)
        for name in "bc":
            await fleet.restart(name, 2)
        await fleet.leader()
        await fleet.told("c", 2)
        await looked_at_again(fleet)
        await fleet.everywhere(lambda raft: raft.level == 1)
        await fleet.any.apply(b"x")

    await scenario(tmp_path, course)


@pytest.mark.deadline(60.0)
async def test_old_node_that_missed_the_rise_is_refused_by_the_others(tmp_path: Path) -> None:
    """Its own directory does not know of the rise: the greeting does."""

    async def course(fleet: Fleet) -> None:
        await fleet.begin(2)
        await fleet.everywhere(lambda raft: raft.level == 2)
        leader = await fleet.leader()
        added = await leader.add_learner("d", fleet.address("d"))
        old = await fleet.start("d", feature_level=1, cluster_id=leader.cluster_id, node_id=added.id)
        failure = await old.failed()
        assert "needs level 2" in str(failure)
        assert "upgrade this node first" in str(failure)
        assert leader.membership().members[added.id].level == 0
        await leader.apply(b"x")
        await fleet.stop("d")
        await fleet.start("d", feature_level=2, cluster_id=leader.cluster_id, node_id=added.id)
        await until(leader, lambda: leader.membership().members[added.id].voter)

    await scenario(tmp_path, course)


@pytest.mark.deadline(60.0)
async def test_dead_member_keeps_the_level_down(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        await fleet.begin(1)
        await fleet.stop("c")
        for name in "ab":
            await fleet.restart(name, 2)
            await fleet.leader()
        await fleet.told("b", 2)
        await looked_at_again(fleet)
        await fleet.everywhere(lambda raft: raft.level == 1)
        leader = await fleet.leader()
        gone = leader.membership().by_name("c")
        assert gone is not None
        await leader.remove(gone.id)
        await fleet.everywhere(lambda raft: raft.level == 2)

    await scenario(tmp_path, course)


@pytest.mark.deadline(60.0)
async def test_machine_version_rises_by_itself_and_alone(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        await fleet.begin(1)
        fleet.make = Versioned
        for name in "abc":
            assert {raft.machine_version for raft in fleet.rafts.values()} == {1}
            await fleet.restart(name, 1)
            await fleet.leader()
        await fleet.everywhere(lambda raft: raft.machine_version == 2)
        assert {raft.level for raft in fleet.rafts.values()} == {1}
        fleet.make = Listing
        await fleet.stop("a")
        assert "needs machine version 2" in await why_stopped(fleet, "a")

    await scenario(tmp_path, course)


@pytest.mark.deadline(60.0)
async def test_hold_lasts_over_a_new_leader_until_finalize(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        await fleet.begin(1)
        follower = next(raft for raft in fleet.rafts.values() if not raft.is_leader)
        status = await follower.hold_upgrade()
        assert status.held
        for name in "abc":
            await fleet.restart(name, 2)
            await fleet.leader()
        await fleet.everywhere(lambda raft: raft.upgrade_status().possible_level == 2)
        await looked_at_again(fleet)
        leader = await fleet.leader()
        await fleet.stop(leader.config.name)
        await fleet.leader()
        await looked_at_again(fleet)
        await fleet.everywhere(lambda raft: (raft.level, raft.upgrade_status().held) == (1, True))
        status = await fleet.any.finalize_upgrade()
        assert (status.level, status.held) == (2, False)
        await fleet.everywhere(lambda raft: raft.level == 2)

    await scenario(tmp_path, course)


@pytest.mark.deadline(60.0)
async def test_hold_level_of_the_leader_holds_until_finalize(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        fleet.settings["hold_level"] = 1
        await fleet.begin(2)
        await fleet.everywhere(lambda raft: raft.upgrade_status().possible_level == 2)
        await looked_at_again(fleet)
        await fleet.everywhere(lambda raft: raft.level == 1)
        assert fleet.any.upgrade_status().hold_level == 1
        await fleet.any.finalize_upgrade()
        await fleet.everywhere(lambda raft: raft.level == 2)

    await scenario(tmp_path, course)


@pytest.mark.deadline(60.0)
async def test_snapshot_brings_the_levels_to_a_node_without_the_log(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        fleet.settings |= {"trailing_entries": 0, "snapshots_retained": 1}
        await fleet.begin(2)
        await fleet.everywhere(lambda raft: raft.level == 2)
        leader = await fleet.leader()
        await leader.apply(b"x")
        await leader.snapshot()
        added = await leader.add_learner("d", fleet.address("d"))
        new = await fleet.start("d", feature_level=2, cluster_id=leader.cluster_id, node_id=added.id)
        await until(new, lambda: new.level == 2)
        assert new.stats().snapshots_installed == 1
        await new.close()
        del fleet.rafts["d"]
        with pytest.raises(NodeFailed, match="needs level 2"):
            await fleet.start("d", feature_level=1, cluster_id=leader.cluster_id, node_id=added.id)

    await scenario(tmp_path, course)


@pytest.mark.deadline(60.0)
async def test_level_rises_when_the_leader_dies_meanwhile(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        await fleet.begin(1)
        for name in "ab":
            await fleet.restart(name, 2)
            await fleet.leader()
        await fleet.restart("c", 2)
        leader = await fleet.leader()
        await fleet.restart(leader.config.name, 2)  # perhaps before it could propose, perhaps after
        await fleet.everywhere(lambda raft: raft.level == 2)

    await scenario(tmp_path, course)


@pytest.mark.deadline(60.0)
async def test_forged_entries_of_levels_change_nothing(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        await fleet.begin(2)
        await fleet.everywhere(lambda raft: raft.level == 2)
        for content in (b"", b"\xc1", encode([-1, 2]), encode(["x"])):
            with pytest.raises(Dropped, match="can't be read"):
                await fleet.any._apply(Kind.LEVEL, content, 5.0, b"")
        await fleet.any._apply(Kind.LEVEL, encode(LevelChange(9, 9)), 5.0, b"")
        await fleet.any.apply(b"x")
        await fleet.everywhere(lambda raft: (raft.level, raft.machine_version) == (2, 1))

    await scenario(tmp_path, course)


@pytest.mark.deadline(60.0)
async def test_level_rises_in_a_cluster_of_one(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        await fleet.begin(1)
        await fleet.restart("a", 2)
        await fleet.everywhere(lambda raft: raft.level == 2)
        await fleet.stop("a")
        assert "under Syncline" in await why_stopped(fleet, "a")

    await scenario(tmp_path, course, names="a")


@pytest.mark.deadline(60.0)
async def test_hold_and_finalize_on_a_closed_node_fail(tmp_path: Path) -> None:
    async def course(fleet: Fleet) -> None:
        await fleet.begin(1)
        raft = fleet.any
        for timeout in (0.0, -1.0, 1e9):
            with pytest.raises(ConfigError):
                await raft.hold_upgrade(timeout=timeout)
        await raft.close()
        for call in (raft.hold_upgrade, raft.finalize_upgrade):
            with pytest.raises(Closed):
                await call()
        assert raft.upgrade_status().level == raft.level == 1

    await scenario(tmp_path, course, names="a")


@pytest.mark.deadline(60.0)
async def test_state_machine_of_a_wrong_version_is_refused_at_open(tmp_path: Path) -> None:
    class Wrong(Listing):
        machine_version = "2"

    async def course(fleet: Fleet) -> None:
        fleet.make = Wrong
        with pytest.raises(ConfigError, match="machine_version of Wrong"):
            await fleet.start("a")

    await scenario(tmp_path, course, names="a")
