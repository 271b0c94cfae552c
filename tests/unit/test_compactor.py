"""Automatic compaction on a node that is a double, in virtual time: when, how far, and by which leader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from syncline import Entry
from syncline.errors import Dropped, NotLeader, SynclineError
from syncline.kv.commands import Command, Compact, Delete, Put, decode_command, encode_command
from syncline.kv.compactor import SWEEP_CHANGES, Compactor
from syncline.kv.history import History
from syncline.kv.machine import KvMachine
from syncline.testing.cluster import SimCluster
from syncline.testing.sim.loop import SimLoop, run_simulation

TERM = 7
MIB = 1 << 20


class Node:
    """A double of `Raft` with one state machine."""

    def __init__(self, machine: KvMachine) -> None:
        self.machine = machine
        self.is_leader = True
        self.term = TERM
        self.index = 0
        self.error: SynclineError | None = None
        self.proposed: list[Command] = []
        self.frees_space: list[bool] = []
        self.shortage = 0
        self.snapshots = 0

    def stats(self) -> Any:
        return SimpleNamespace(disk_shortage=self.shortage)

    async def verify_leader(self, *, timeout: float) -> int:
        if not self.is_leader:
            raise NotLeader("no")
        return self.term

    async def apply(self, data: bytes, *, timeout: float, term: int | None = None, frees_space: bool = False) -> object:
        assert term == self.term, "what a leader decides is fenced"
        self.proposed.append(decode_command(data))
        self.frees_space.append(frees_space)
        if self.error is not None:
            raise self.error
        return self.commit(decode_command(data))

    async def snapshot(self, *, timeout: float) -> object:
        self.snapshots += 1
        return None

    def commit(self, command: Command) -> object:
        self.index += 1
        return self.machine.apply(Entry(self.index, self.term, encode_command(command)))

    def put(self, count: int, *, value: bytes = b"v", keys: int = 10) -> None:
        for _ in range(count):
            self.commit(Put(b"%d" % (self.index % keys), value))


def bench(
    scenario: Callable[[Node, Compactor], Coroutine[Any, Any, None]],
    *,
    revisions: int = 100,
    size_bytes: int = 64 * MIB,
) -> None:
    async def main(_: SimLoop) -> None:
        machine = KvMachine()
        node = Node(machine)
        compactor = Compactor(node, machine, history_revisions=revisions, history_bytes=size_bytes)
        compactor.start()
        await scenario(node, compactor)
        machine.store.check()
        await compactor.close()

    run_simulation(main)


def test_history_above_the_revisions_is_compacted_to_them() -> None:
    async def scenario(node: Node, compactor: Compactor) -> None:
        node.put(110)
        await asyncio.sleep(5.0)
        assert node.proposed == [], "a tenth above is kept"
        node.put(1)
        await asyncio.sleep(0.01)
        assert node.proposed == [Compact(12, TERM)]
        assert node.frees_space == [True]
        assert (node.machine.store.oldest, node.machine.store.history_revisions) == (12, 100)
        assert compactor.compactions == 1

    bench(scenario)


def test_history_above_the_bytes_is_compacted_to_them() -> None:
    async def scenario(node: Node, compactor: Compactor) -> None:
        node.put(40, value=bytes(100_000))
        await asyncio.sleep(5.0)
        assert node.proposed == []
        node.put(60, value=bytes(100_000))
        await asyncio.sleep(2.0)
        store = node.machine.store
        assert len(node.proposed) == 1
        assert 55 <= store.oldest <= 65
        assert store.history_bytes <= 6 * MIB, "the last segments are freed as a whole"
        assert not store.sweep(0)

    bench(scenario, revisions=100_000, size_bytes=4 * MIB)


def test_follower_compacts_nothing_and_a_new_leader_does() -> None:
    async def scenario(node: Node, compactor: Compactor) -> None:
        node.is_leader = False
        node.put(500)
        await asyncio.sleep(10.0)
        assert node.proposed == []
        node.is_leader, node.term = True, 9
        await asyncio.sleep(1.1)
        assert node.proposed == [Compact(401, 9)]

    bench(scenario)


def test_compaction_that_is_refused_is_proposed_again_after_a_while() -> None:
    async def scenario(node: Node, compactor: Compactor) -> None:
        node.error = Dropped("too much")
        node.put(200)
        await asyncio.sleep(5.0)
        assert 2 <= len(node.proposed) <= 6
        node.error = None
        await asyncio.sleep(2.0)
        assert node.machine.store.oldest == 101
        assert compactor.compactions == 1

    bench(scenario)


def test_idle_store_is_swept_in_small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower's, too: what is freed is no part of the replicated state."""
    slices: list[int] = []
    original = History.sweep

    def sweep(history: History, limit: int) -> bool:
        slices.append(limit)
        return original(history, limit)

    monkeypatch.setattr(History, "sweep", sweep)

    async def scenario(node: Node, compactor: Compactor) -> None:
        node.is_leader = False
        node.put(5 * SWEEP_CHANGES)
        store = node.machine.store
        node.commit(Compact(store.revision))
        digest = store.digest
        assert store.sweep(0)
        await asyncio.sleep(1.5)
        assert not store.sweep(0)
        assert max(slices) <= SWEEP_CHANGES
        assert store.digest == digest

    bench(scenario)


def test_shortage_of_disk_space_compacts_more_and_takes_a_snapshot() -> None:
    async def scenario(node: Node, compactor: Compactor) -> None:
        node.put(5000)
        for key in range(5):
            node.commit(Delete(b"%d" % key))
        await asyncio.sleep(3.0)
        assert node.proposed == []
        node.shortage = 1
        await asyncio.sleep(1.1)
        assert node.proposed == [Compact(5005 - 100 + 1, TERM)]
        assert node.snapshots == 1
        await asyncio.sleep(10.0)
        assert len(node.proposed) == 1, "nothing more to give up"

    bench(scenario, revisions=10_000)


def test_cluster_compacts_by_its_leader_and_all_nodes_agree() -> None:
    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=11, machine=KvMachine, history_revisions=50)
        await cluster.start(3)
        for round_ in range(3):
            leader = await cluster.leader()
            raft = leader.raft
            assert raft is not None
            for number in range(60):
                data = encode_command(Put(b"k%d" % (number % 7), b"%d" % number))
                task = await leader.call(lambda raft=raft, data=data: asyncio.ensure_future(raft.apply(data)))  # type: ignore[misc]
                await asyncio.wait([task])
                task.result()
            if round_ == 1:
                leader.crash()
                leader.start()
        await asyncio.sleep(2.0)
        stores = [server.machine.store for server in cluster.running if isinstance(server.machine, KvMachine)]
        assert len(stores) == 3
        assert {store.digest for store in stores} == {stores[0].digest}
        assert 50 <= stores[0].history_revisions <= 56
        assert stores[0].oldest > 100

    run_simulation(main)
