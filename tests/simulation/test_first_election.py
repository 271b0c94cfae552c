"""A sole voter and a fresh cluster have a leader at once, in virtual time; a cluster that has run waits as before."""

from __future__ import annotations

import pytest

from syncline.node.first_election import BOOTSTRAP_TERM
from syncline.testing.cluster import Settings, SimCluster
from syncline.testing.sim.loop import SimLoop, run_simulation

ELECTION_S = 1.0
HEARTBEAT_S = 0.1

SETTINGS = Settings(heartbeat_s=HEARTBEAT_S, election_s=ELECTION_S)


@pytest.mark.parametrize("seed", range(5))
def test_sole_voter_leads_at_once_at_each_start(seed: int) -> None:
    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=seed, settings=SETTINGS)
        await cluster.start(1)
        server = cluster.server("n1")
        for _ in range(2):
            opened_s = loop.true_time()
            await cluster.leader()
            assert loop.true_time() - opened_s <= 0.1
            server.crash()
            server.start()
            await cluster.until(lambda: server.running, timeout_s=10.0)

    run_simulation(main)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [2, 3, 5])
def test_fresh_cluster_is_led_by_the_lowest_id_at_once(seed: int, size: int) -> None:
    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=seed, settings=SETTINGS)
        await cluster.start(size)
        servers = cluster.running
        await cluster.until(lambda: all(_linked(cluster, name) for name in cluster.servers), timeout_s=10.0)
        connected_s = loop.true_time()
        leader = await cluster.leader()
        assert loop.true_time() - connected_s <= 0.5
        assert cluster.node_id(leader) == min(map(cluster.node_id, servers))
        assert leader.driver is not None
        assert leader.driver.core.term == BOOTSTRAP_TERM + 1

    run_simulation(main)


def test_restarted_follower_does_not_campaign_at_once() -> None:
    """Its leader lives: an election would be of no use, and pre-vote refuses it."""

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=1, settings=SETTINGS)
        await cluster.start(3)
        leader = await cluster.leader()
        driver = leader.driver
        assert driver is not None
        term = driver.core.term
        for server in cluster.running:
            if server is not leader:
                server.crash()
                server.start()
                await cluster.until(lambda server=server: server.running, timeout_s=10.0)  # type: ignore[misc]
                campaigned = server.driver
                assert campaigned is not None
                campaigned.first_election.look()
                assert campaigned.core.raft.tracker.votes == {}
                await cluster.leader()
        assert (leader.is_leader, driver.core.term) == (True, term)

    run_simulation(main)


def _linked(cluster: SimCluster, name: str) -> bool:
    """Whether this member is connected to all others."""
    driver = cluster.server(name).driver
    others = [cluster.node_id(server) for server in cluster.running if server.name != name]
    return driver is not None and all(driver.parts.transport.directory_of(other) is not None for other in others)
