"""Directories that run twice or go back: what the faults do, and that the run ends whenever it is cut short."""

from __future__ import annotations

import asyncio

from syncline.testing.cluster import SimCluster
from syncline.testing.sim.disk import Survival
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.server import Condition


def test_twin_of_a_server_is_no_server_of_the_cluster() -> None:
    """Clients, operators and the recovery go by the servers of the cluster: the twin is its adversary."""

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=1)
        await cluster.start(3)
        server = cluster.server("n1")
        server.crash()
        twin = cluster.twin(server)
        twin.start()
        server.start()
        await cluster.until(lambda: twin.condition is not Condition.STARTING, timeout_s=5.0)
        assert twin not in cluster.servers.values()
        assert twin.config.name == server.config.name
        assert not twin.sound
        assert server.lost
        if twin.up:
            twin.crash()

    run_simulation(main)


def test_roll_back_puts_the_older_disk_in_place() -> None:
    """The node finds what it had then, and nothing of what came after."""

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=1)
        await cluster.start(3)
        await cluster.leader()
        server = cluster.server("n1")
        server.crash()
        old = server.disk.crashed(Survival.EVERYTHING)
        before = old.fingerprint()
        server.start()
        await cluster.until(lambda: server.running, timeout_s=5.0)
        await asyncio.sleep(1.0)
        server.crash()
        server.roll_back(old)
        assert server.lost
        assert server.disk.fingerprint() == before

    run_simulation(main)


def test_run_that_is_cut_short_ends_though_its_clean_up_kills_a_process() -> None:
    """The tasks of a process that is killed then never end: the loop waited for them until for ever."""

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=1)
        await cluster.start(3)
        await cluster.leader()

        async def fault() -> None:
            try:
                await asyncio.sleep(1000.0)
            finally:
                cluster.server("n1").crash()

        tasks.append(loop.create_task(fault()))
        await asyncio.sleep(0.1)

    tasks: list[asyncio.Task[None]] = []
    run_simulation(main)
    assert tasks[0].cancelled()


def test_moved_server_listens_at_its_new_address() -> None:
    """It knows from its directory what it is, and from hints where the others are."""

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=1)
        await cluster.start(3)
        server = cluster.server("n1")
        before, node_id = server.config.address, cluster.node_id(server)
        server.crash()
        server.move()
        addresses = {other.name: other.config.address for other in cluster.servers.values()}
        server.hint(addresses)
        server.start()
        await cluster.until(lambda: server.running, timeout_s=5.0)
        assert server.config.address != before
        assert server.config.peers == addresses
        assert server.host.listeners.keys() == {int(server.config.address.rpartition(":")[2])}
        assert cluster.node_id(server) == node_id

    run_simulation(main)
