"""The clients that watch in a simulation: how they read, and how soon they are told what is left after the faults."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Final

import pytest

from syncline.kv.commands import Put, encode_command
from syncline.testing.cluster import SimCluster
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.etcd_watcher import EtcdWatcher, _EtcdWatch
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.machine import SimMachine
from syncline.testing.sim.server import SimServer
from syncline.testing.sim.watcher import Watcher

PAUSE_S: Final = 0.05
WRITES: Final = 240
"""A client that pauses after each message reads so many in 12 s."""
SOON_S: Final = 1.0


class Findings:
    """A verdict that keeps what is reported to it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def broken(self, invariant: str, text: str) -> None:
        self.found.append(f"{invariant}: {text}")


Make = Callable[[SimCluster, ChangeRecord, Findings], Watcher | EtcdWatcher]


def watcher_of_all(cluster: SimCluster, record: ChangeRecord, findings: Findings) -> Watcher:
    watcher = Watcher(cluster, record, random.Random(1), findings)
    watcher._start, watcher._end, watcher._scope, watcher._events = b"", None, b"prefix=", b"put"
    watcher._next = 1
    return watcher


def etcd_watcher_of_all(cluster: SimCluster, record: ChangeRecord, findings: Findings) -> EtcdWatcher:
    watcher = EtcdWatcher(cluster, record, random.Random(1), findings)
    watch = _EtcdWatch(record, random.Random(1))
    watch._start, watch._range_end, watch._filters, watch.next = b"\0", b"\0", (), 1
    watcher._watches[1] = watch
    return watcher


async def put(server: SimServer, key: bytes) -> None:
    raft = server.raft
    assert raft is not None
    await (await server.call(lambda: raft.apply(encode_command(Put(key, b"v")))))


@pytest.mark.parametrize("make", [watcher_of_all, etcd_watcher_of_all])
def test_watcher_that_reads_slowly_reads_at_once_after_the_faults(make: Make) -> None:
    """Its own pauses counted as silence of the server: 400 messages behind, it reported a sound one."""

    def machine(record: ChangeRecord) -> SimMachine:
        made = SimMachine()
        made.changes = record
        return made

    async def main(loop: SimLoop) -> None:
        findings = Findings()
        record = ChangeRecord(findings.broken)
        cluster = SimCluster(loop, seed=1, machine=partial(machine, record))
        await cluster.start(1)
        leader = await cluster.leader()
        await put(leader, b"k0")  # etcd's gateway would give an empty store revisions of its own
        watcher = make(cluster, record, findings)
        await watcher._connect(PAUSE_S)
        for number in range(1, WRITES):
            await put(leader, b"k%d" % number)
        assert record.revision == WRITES
        assert watcher.told < WRITES / 2, "it is far behind"
        connection = watcher._connection
        assert connection is not None
        begun_s = loop.true_time()
        await watcher.finish()
        assert loop.true_time() - begun_s < SOON_S
        assert watcher.told == WRITES
        assert not connection.is_up, "it was told on the connection that it had, and has left it"
        assert findings.found == []

    run_simulation(main)
