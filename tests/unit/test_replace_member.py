"""`Raft.replace_member`: a new node takes the place of a dead one, in one change."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from syncline import ChangeType, Member, MembershipChanged, Raft
from syncline.errors import ConfigError, DeadlineExceeded, MembershipError, NoLeader, Outcome
from tests.helpers.node_cluster import Cluster, all_apply, cluster, until

LIMIT_S = 20.0


async def without_one(nodes: Cluster) -> tuple[Raft[object], Member]:
    """The leader, and a member that is dead, as the leader knows."""
    await nodes.announced()
    leader, other = await nodes.pair()
    dead = leader.membership().members[other.node_id]
    await nodes.stop(dead.name)
    del nodes.machines[dead.name]
    await until(leader, lambda: not leader.peers()[dead.id].connected)
    return leader, dead


async def test_replace_member_takes_the_place_and_votes_once_caught_up(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, dead = await without_one(nodes)
        watch = leader.events(MembershipChanged)
        through = next(raft for raft in nodes.rafts.values() if raft is not leader)  # on any node
        new = await through.replace_member(dead.id, "g", nodes.address("g"), timeout=LIMIT_S)
        assert (new.name, new.voter, new.promote) == ("g", False, True)
        assert dead.id not in leader.membership().members
        assert len(leader.membership().members) == 3
        await nodes.start("g", cluster_id=leader.cluster_id, node_id=new.id)
        await until(leader, lambda: leader.membership().members[new.id].voter)
        await all_apply(nodes, b"after")
        assert (
            await through.replace_member(dead.id, "g", nodes.address("g"), timeout=LIMIT_S)
            == (through.membership().members[new.id])
        ), "a repeated call finds it done"
        assert (await anext(watch)).missed == 0


async def test_replace_member_may_take_over_name_and_address(tmp_path: Path) -> None:
    """As a machine that was set up again under its old name."""
    async with cluster(tmp_path) as nodes:
        leader, dead = await without_one(nodes)
        with pytest.raises(ConfigError, match=f"dead and name are both '{dead.name}'"):
            await leader.replace_member(dead.name, dead.name, dead.address, timeout=LIMIT_S)
        new = await leader.replace_member(dead.id, dead.name, dead.address, node_id=4711, timeout=LIMIT_S)
        assert (new.name, new.address, new.id) == (dead.name, dead.address, 4711)
        again = await leader.replace_member(dead.name, dead.name, dead.address, node_id=4711, timeout=LIMIT_S)
        assert again.id == 4711
        nodes.path = tmp_path / "new"
        nodes.peers.pop(dead.name)
        await nodes.start(dead.name, cluster_id=leader.cluster_id, node_id=4711)
        await until(leader, lambda: leader.membership().members[new.id].voter)
        await all_apply(nodes, b"after")


async def test_replace_member_that_is_alive_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        await nodes.announced()
        leader, other = await nodes.pair()
        index = leader.membership().index
        for through, member in ((leader, other), (other, leader), (leader, leader)):
            with pytest.raises(MembershipError, match="alive") as refused:
                await through.replace_member(member.config.name, "g", nodes.address("g"), timeout=LIMIT_S)
            assert refused.value.outcome is Outcome.NOT_APPLIED
        assert leader.membership().index == index


async def test_replace_member_is_conditional_and_checks_names(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, dead = await without_one(nodes)
        index = leader.membership().index
        living = next(member for member in leader.membership().members.values() if member.id != dead.id)
        for name, address, how, text in (
            ("g", nodes.address("g"), {"expected_index": index - 1}, f"it is at index {index}, not {index - 1}"),
            (living.name, nodes.address("g"), {}, "is already the name of member"),
            ("g", living.address, {}, "is already the address of member"),
            (living.name, living.address, {}, "is a member already, and so is"),
        ):
            with pytest.raises(MembershipError, match=text):
                await leader.replace_member(dead.name, name, address, timeout=LIMIT_S, **how)  # type: ignore[arg-type]
        with pytest.raises(MembershipError, match="there is no member 'nobody' to replace"):
            await leader.replace_member("nobody", "g", nodes.address("g"), timeout=LIMIT_S)
        assert leader.membership().index == index
        new = await leader.replace_member(dead.name, "g", nodes.address("g"), expected_index=index, timeout=LIMIT_S)
        assert new.promote


async def test_replace_member_without_a_quorum_ends_at_its_deadline(tmp_path: Path) -> None:
    async with cluster(tmp_path, "ab") as nodes:
        leader, dead = await without_one(nodes)
        with pytest.raises((DeadlineExceeded, NoLeader)) as refused:
            await leader.replace_member(dead.id, "g", nodes.address("g"), timeout=0.5)
        assert refused.value.outcome is Outcome.NOT_APPLIED
        assert dead.id in leader.membership().members


CONDITIONAL: dict[str, Callable[[Raft[object], Cluster, str, int], Coroutine[Any, Any, object]]] = {
    "add_learner": lambda raft, nodes, _, index: raft.add_learner("g", nodes.address("g"), expected_index=index),
    "add_voter": lambda raft, nodes, _, index: raft.add_voter(
        "g", nodes.address("g"), expected_index=index, force=True
    ),
    "promote": lambda raft, nodes, learner, index: raft.promote(learner, expected_index=index, force=True),
    "demote": lambda raft, nodes, learner, index: raft.demote("a", expected_index=index, force=True),
    "remove": lambda raft, nodes, learner, index: raft.remove(learner, expected_index=index),
    "update_member": lambda raft, nodes, learner, index: raft.update_member(
        learner, address=nodes.address("h"), expected_index=index
    ),
    "change_membership": lambda raft, nodes, learner, index: raft.change_membership(
        [(ChangeType.REMOVE_NODE, learner)], expected_index=index
    ),
    "replace_member": lambda raft, nodes, learner, index: raft.replace_member(
        learner, "g", nodes.address("g"), expected_index=index
    ),
}
"""Each change of the membership that can be conditional."""


async def test_membership_changes_are_all_conditional(tmp_path: Path) -> None:
    """hashicorp/raft reports no index that its own `prevIndex` could be given."""
    async with cluster(tmp_path, "ab") as nodes:
        await nodes.announced()
        raft = await nodes.leader()
        await raft.add_learner("k", nodes.address("k"), promote=False, timeout=LIMIT_S)  # never started
        index, before = raft.membership().index, raft.membership()
        for name, change in CONDITIONAL.items():
            with pytest.raises(MembershipError, match=f"at index {index}, not {index - 1}") as refused:
                await change(raft, nodes, "k", index - 1)
            assert refused.value.outcome is Outcome.NOT_APPLIED, name
        assert raft.membership() == before
        changed = await raft.remove("k", expected_index=index, timeout=LIMIT_S)
        assert changed.index > index


def test_membership_changes_with_a_condition_are_all_tested() -> None:
    conditional = {
        name
        for name, method in inspect.getmembers(Raft, inspect.isfunction)
        if "expected_index" in inspect.signature(method).parameters and not name.startswith("_")
    }
    assert conditional == set(CONDITIONAL)
