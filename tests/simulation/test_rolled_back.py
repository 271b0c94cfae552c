"""A voter with an older copy of its data directory is found, where it can be proved, and stops."""

from __future__ import annotations

import pytest

from syncline.node.starts import guard as start_guard
from syncline.node.starts.incarnations import Origin
from syncline.testing.cluster import SimCluster
from syncline.testing.sim.disk import SimDisk, Survival
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.server import Condition, SimServer
from tests.simulation.test_removal import write


def copy_of(server: SimServer) -> SimDisk:
    """What a copy of the machine's disk holds at this moment."""
    return server.disk.crashed(Survival.EVERYTHING)


async def voter_rolled_back(loop: SimLoop) -> None:
    """A follower forgets entries that it acknowledged to the leader of the term."""
    cluster = SimCluster(loop, seed="rolled back")
    await cluster.start(3)
    leader = await cluster.leader()
    await write(leader)
    victim = next(server for server in cluster.running if server is not leader)
    older = copy_of(victim)
    for _ in range(20):
        await write(leader)
    await cluster.until(lambda: victim.raft is not None and victim.raft.stats().lag == 0, timeout_s=5.0)
    victim.crash()
    victim.disk = older
    victim.start()
    await cluster.until(lambda: victim.condition is Condition.FAILED, timeout_s=5.0)
    text = str(victim.error)
    assert "has lost a part of its log" in text
    assert "syncline repair --replace" in text
    await write(leader)


async def committed_entry_replaced(loop: SimLoop) -> None:
    """The only other copy of an acknowledged write is rolled back, and a leader without that write is elected."""
    cluster = SimCluster(loop, seed="replaced")
    await cluster.start(3)
    leader = await cluster.leader()
    await write(leader)
    older_one, away = (server for server in cluster.running if server is not leader)
    older = copy_of(older_one)  # of its present start: the history of its next start can't tell that it is older
    away.crash()
    for _ in range(3):
        await write(leader)
    leader.crash()
    older_one.crash()
    older_one.disk = older
    older_one.start()
    away.start()
    await cluster.until(lambda: cluster.current_leader() is not None, timeout_s=20.0)
    other = cluster.current_leader()
    assert other is not None
    await write(other)
    leader.start()
    await cluster.until(lambda: leader.condition is Condition.FAILED, timeout_s=20.0)
    text = str(leader.error)
    assert "to be committed with term" in text
    assert "only copy of an acknowledged write" in text
    assert "syncline wal dump" in text
    assert "--replace" not in text


def forget_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no member notice an older directory by its starts: else that node gets no vote, and nothing is replaced."""
    monkeypatch.setattr(start_guard, "judge", lambda *_: Origin.LEGITIMATE)


def test_voter_with_an_older_directory_stops_and_names_the_repair() -> None:
    run_simulation(voter_rolled_back)


def test_node_that_knows_a_replaced_entry_stops_and_keeps_its_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold the only copy, so it must not be told to discard that."""
    forget_starts(monkeypatch)
    run_simulation(committed_entry_replaced)
