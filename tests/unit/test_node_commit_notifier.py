"""When followers hear of a commit, in the time of a simulated cluster."""

from __future__ import annotations

import statistics

import pytest

from syncline.consensus.types import StateType
from syncline.node import commit_notifier
from syncline.node.runtime import Driver
from syncline.testing import RaftCluster
from syncline.testing.plugin import MakeCluster
from tests.helpers.node_cluster import Listing

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


def usual_wait_s(raft_cluster: MakeCluster) -> float:
    """How long it mostly takes."""
    cluster = raft_cluster(Listing)
    follower = cluster.followers[0]
    return statistics.median(hear_s(cluster, follower) for _ in range(20))


def test_followers_hear_of_a_commit_soon_although_nothing_follows(
    raft_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_notifier, "COMMIT_QUIET_S", 0.002)
    assert usual_wait_s(raft_cluster) < ROUND_TRIP_S


def test_without_the_timer_they_hear_of_it_with_a_heartbeat(
    raft_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_notifier, "COMMIT_QUIET_S", 60.0)
    assert ROUND_TRIP_S < usual_wait_s(raft_cluster) <= HEARTBEAT_S


@pytest.mark.parametrize("ask", ["apply", "read"])
def test_a_follower_that_waits_hears_of_it_at_once(
    raft_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """Neither its own writes nor its linearizable reads wait for a timer."""
    monkeypatch.setattr(commit_notifier, "COMMIT_QUIET_S", 60.0)
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
    assert statistics.median(waited_s) < ROUND_TRIP_S


def drivers(cluster: RaftCluster) -> dict[str, Driver]:
    found = {node: cluster._cluster.server(node).driver for node in cluster.nodes}
    return {node: driver for node, driver in found.items() if driver is not None}


def test_only_a_leader_sets_the_timer_and_acts_when_it_ends(
    raft_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower has nobody to tell: a turn for each commit that it hears of would be a turn for nothing."""
    monkeypatch.setattr(commit_notifier, "COMMIT_QUIET_S", 60.0)
    cluster = raft_cluster(Listing)
    cluster.apply(b"x")
    cluster.settle()
    leader = cluster.leader
    assert [node for node, driver in drivers(cluster).items() if driver.commit_notifier._timer is not None] == [leader]
    cluster.transfer_leadership()
    cluster.settle()
    driver = drivers(cluster)[leader]
    assert driver.core.state is StateType.FOLLOWER
    assert not driver._scheduled
    driver.commit_notifier._on_timer()
    assert not driver._scheduled


def test_a_new_leader_tells_what_the_one_before_had_not(
    raft_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_notifier, "COMMIT_QUIET_S", 0.002)
    cluster = raft_cluster(Listing)
    waited_s = []
    for _ in range(20):
        cluster.apply(b"x")
        leader = drivers(cluster)[cluster.transfer_leadership()]
        while leader.core.commit_index < leader.core.last_index:
            cluster.run(0.001)
        since_s = cluster.time_s
        while any(driver.core.commit_index < leader.core.commit_index for driver in drivers(cluster).values()):
            cluster.run(0.001)
        waited_s.append(cluster.time_s - since_s)
    assert statistics.median(waited_s) < ROUND_TRIP_S
