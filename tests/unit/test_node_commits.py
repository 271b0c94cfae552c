"""When followers hear of a commit, in the time of a simulated cluster."""

from __future__ import annotations

import pytest

from syncline.node import commits
from syncline.testing import RaftCluster
from syncline.testing.plugin import MakeCluster
from tests.node_cluster import Listing

HEARTBEAT_S = 0.05
"""Of the simulated nodes: the latest moment at which they hear of a commit."""

ROUND_TRIP_S = 0.01
"""More than two messages and two writes take there, but for a rare slow one."""


def how_many(cluster: RaftCluster, node: str) -> int:
    machine = cluster.machine(node)
    assert isinstance(machine, Listing)
    return len(machine.items)


def hear_s(cluster: RaftCluster, node: str) -> float:
    """How long after the answer to a write a follower has it, too."""
    held = how_many(cluster, cluster.leader)
    cluster.apply(b"x")
    since_s = cluster.time_s
    while how_many(cluster, node) <= held:
        cluster.run(0.001)
    return cluster.time_s - since_s


def test_followers_hear_of_a_commit_soon_although_nothing_follows(
    raft_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "COMMIT_QUIET_S", 0.002)
    cluster = raft_cluster(Listing)
    follower = cluster.followers[0]
    waited_s = sorted(hear_s(cluster, follower) for _ in range(20))
    assert waited_s[len(waited_s) // 2] < ROUND_TRIP_S


def test_without_the_timer_they_hear_of_it_with_a_heartbeat(
    raft_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "COMMIT_QUIET_S", 60.0)
    cluster = raft_cluster(Listing)
    follower = cluster.followers[0]
    waited_s = sorted(hear_s(cluster, follower) for _ in range(20))
    assert ROUND_TRIP_S < waited_s[len(waited_s) // 2] <= HEARTBEAT_S


@pytest.mark.parametrize("ask", ["apply", "read"])
def test_a_follower_that_waits_hears_of_it_at_once(
    raft_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """Neither its own writes nor its linearizable reads wait for a timer."""
    monkeypatch.setattr(commits, "COMMIT_QUIET_S", 60.0)
    cluster = raft_cluster(Listing)
    follower = cluster.followers[0]
    waited_s = []
    for _ in range(20):
        cluster.apply(b"x")
        since_s = cluster.time_s
        if ask == "apply":
            cluster.apply(b"y", node=follower)
        else:
            cluster.read(lambda _: None, node=follower)
        waited_s.append(cluster.time_s - since_s)
    assert sorted(waited_s)[len(waited_s) // 2] < ROUND_TRIP_S
