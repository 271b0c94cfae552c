"""A process that was killed does nothing, also after a fault that outlasts it; and if it does, that is found."""

from __future__ import annotations

import asyncio
import random

from syncline.kv.commands import Put, encode_command
from syncline.testing.cluster import Settings, SimCluster
from syncline.testing.faults.base import Claims, Trouble
from syncline.testing.faults.snapshots import fall_behind
from syncline.testing.invariants.base import Facts
from syncline.testing.sim.disk import Survival
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.watch import Watch


class Findings:
    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def broken(self, invariant: str, text: str) -> None:
        self.found.append((invariant, text))


def ignore(_subject: str, _text: str) -> None:
    """Notes of the cluster."""


def test_snapshot_fault_over_a_restart_calls_no_killed_process() -> None:
    """It called the killed process within the new one. The old log was written, and taken for what the disk held."""

    async def main(loop: SimLoop) -> None:
        findings = Findings()
        settings = Settings(snapshot_entries=1000)  # none is taken before it is asked for
        cluster = SimCluster(loop, seed=1, settings=settings, observer=Watch(Facts(), findings, [], ignore))
        await cluster.start(3)
        leader = await cluster.leader()
        behind = next(server for server in cluster.running if server is not leader)
        trouble = Trouble(cluster, random.Random(1), 1.0, Claims(), findings)
        filling = asyncio.ensure_future(fall_behind(trouble, leader, behind))
        await asyncio.sleep(0.05)  # the entries are applied, and the snapshot is not asked for yet
        assert not filling.done()
        old = leader.disk
        leader.crash(Survival.EVERYTHING)
        operations = old.serial
        leader.start()
        await cluster.until(lambda: leader.running, timeout_s=1.0)
        await filling
        await asyncio.sleep(0.5)
        assert old.serial == operations, "the disk of the killed process is left as it was"
        assert findings.found == []

    run_simulation(main)


def test_call_into_a_killed_process_is_found() -> None:
    """Without this it looked as if the living process had forgotten what it wrote."""

    async def main(loop: SimLoop) -> None:
        findings = Findings()
        cluster = SimCluster(loop, seed=1, observer=Watch(Facts(), findings, [], ignore))
        await cluster.start(1)
        server = await cluster.leader()
        killed = server.raft
        assert killed is not None
        server.crash(Survival.EVERYTHING)
        server.start()
        await cluster.until(lambda: server.running, timeout_s=1.0)
        assert findings.found == []
        server.call(lambda: killed.apply(encode_command(Put(b"k", b"v"))))
        await asyncio.sleep(0.1)
        assert ("a killed process does nothing", "a killed process of n1 writes to its log") in findings.found

    run_simulation(main)
