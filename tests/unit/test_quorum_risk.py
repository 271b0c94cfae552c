"""Which changes of the membership would leave no quorum alive."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from syncline.consensus.types import ChangeType, MembershipState
from syncline.errors import QuorumAtRisk
from syncline.node.membership import CAUGHT_UP_ENTRIES
from syncline.node.quorum_risk import CommitHistory, absent_voters
from syncline.testing.sim.server import SimServer
from tests.helpers.leading import Leading, leading, raft_of

Result = TypeVar("Result")


def absent(before: str, after: str, alive: str, *, outgoing: str = "", caught_up: str = "") -> str:
    """Voters as digits."""
    found = absent_voters(
        MembershipState(voters=tuple(map(int, before))),
        MembershipState(voters=tuple(map(int, after)), voters_outgoing=tuple(map(int, outgoing))),
        alive=lambda voter: str(voter) in alive,
        caught_up=lambda voter: str(voter) in caught_up,
    )
    return "".join(map(str, found))


@pytest.mark.parametrize(
    ("before", "after", "alive", "expected"),
    [
        ("123", "12", "12", ""),  # the dead one is removed
        ("123", "12", "123", ""),
        ("123", "12", "13", "2"),  # a live one is removed while another is down
        ("123", "13", "12", "3"),
        ("12345", "1234", "123", ""),
        ("12345", "123", "345", "12"),
        ("12", "1", "1", ""),
        ("12", "1", "12", ""),
        ("12", "1", "2", "1"),
        ("1234", "123", "123", ""),
        ("123", "123", "1", ""),  # no voter changes
    ],
)
def test_removal_is_at_risk_when_live_voters_are_no_quorum(before: str, after: str, alive: str, expected: str) -> None:
    assert absent(before, after, alive) == expected


@pytest.mark.parametrize(
    ("before", "after", "alive", "caught_up", "expected"),
    [
        ("1", "12", "12", "2", ""),
        ("1", "12", "1", "2", "2"),  # dead
        ("1", "12", "12", "", "2"),  # alive, and without the log
        ("12", "123", "12", "", ""),  # two of three are enough
        ("123", "1234", "123", "", ""),
        ("123", "1234", "124", "4", ""),
        ("123", "1234", "124", "", "34"),
    ],
)
def test_new_voter_counts_when_alive_and_caught_up(
    before: str, after: str, alive: str, caught_up: str, expected: str
) -> None:
    assert absent(before, after, alive, caught_up=caught_up) == expected


def test_joint_change_needs_a_quorum_of_both_halves() -> None:
    assert absent("12345", "145", "1245", outgoing="12345") == ""
    assert absent("12345", "145", "123", outgoing="12345") == "45"
    assert absent("123", "145", "145", outgoing="123", caught_up="45") == "23"


def test_removal_of_dead_voters_always_passes() -> None:
    """For each membership of up to five and each quorum alive in it."""
    for size in range(2, 6):
        voters = "12345"[:size]
        for count in range(size // 2 + 1, size):
            for alive in itertools.combinations(voters, count):
                for dead in set(voters) - set(alive):
                    assert absent(voters, voters.replace(dead, ""), "".join(alive)) == ""


def test_commit_history_is_known_after_one_election_timeout() -> None:
    history = CommitHistory(3)
    for commit in (5, 6, 7):
        history.tick(commit)
        assert history.index is None
    history.tick(8)
    assert history.index == 5
    history.tick(9)
    assert history.index == 6
    history.clear()
    assert history.index is None


async def done(at: Leading, server: SimServer, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Its result, from inside of the process of this node."""
    task = await at.start(server, work)
    await asyncio.wait([task], timeout=60)
    return task.result()


def test_learner_that_never_started_is_promoted_by_force_alone() -> None:
    """A quorum of four is three: with a voter that does not run, one more loss would stop all writes."""

    async def scenario(at: Leading) -> None:
        leader, follower = await at.leader(), await at.follower()
        raft = raft_of(leader)
        added = (await done(at, leader, lambda: raft.add_learner("d", "d:7000", promote=False))).id
        text = r"node d \(.*\) is a learner that is not connected, and is known to have 0 of \d+ entries"
        for server in (leader, follower):
            with pytest.raises(QuorumAtRisk, match=text):
                await done(at, server, lambda: raft_of(server).promote("d"))  # noqa: B023 - awaited at once
        with pytest.raises(QuorumAtRisk, match=text):
            await done(at, leader, lambda: raft.change_membership([(ChangeType.ADD_NODE, "d")]))
        assert not raft.membership().members[added].voter
        assert (await done(at, leader, lambda: raft.promote("d", force=True))).members[added].voter

    leading(scenario)


def test_learner_that_is_behind_is_promoted_once_it_has_caught_up() -> None:
    async def scenario(at: Leading) -> None:
        leader, learner = await at.leader(), await at.follower()
        raft = raft_of(leader)
        await done(at, leader, lambda: raft.demote(learner.name))
        learner.pause()
        commands = [b"x"] * (CAUGHT_UP_ENTRIES + 1)
        await done(at, leader, lambda: asyncio.wait_for(asyncio.gather(*raft.apply_many(commands)), 30))
        await asyncio.sleep(1.5 * raft.config.election_s)  # before that it counts as caught up
        promoted = await at.start(leader, lambda: raft.promote(learner.name))
        before = raft.stats().applied
        await asyncio.sleep(raft.config.election_s / 2)
        assert (promoted.done(), raft.stats().applied) == (False, before)
        learner.resume()
        await asyncio.wait([promoted], timeout=30)
        assert promoted.result().members[raft_of(learner).node_id].voter

    leading(scenario)
