"""The conformance suite of engines, on memory and on Raft. `make compat` runs it on etcd and on PostgreSQL."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from syncline import FSM, Engine, Raft
from syncline.engines import contact, snapshots
from syncline.engines.memory import MemoryBackend, MemoryLog
from syncline.engines.replica import LogReplica, open_log
from syncline.platform.world import World
from tests.helpers.engine_checks import EVERY, ON_LOGS, Check, LogCheck
from tests.helpers.engine_faults import FaultyBackend
from tests.helpers.engine_machine_checks import MACHINES
from tests.helpers.engine_replaced_checks import REPLACED
from tests.helpers.node_cluster import Cluster


class MemorySite:
    """Nodes on one log in memory."""

    def __init__(self) -> None:
        self.rng = random.Random(1)
        self.log = MemoryLog(self.rng)
        self._saved = copy.deepcopy((self.log.head, self.log.records, self.log.by_key))
        self.nodes: list[LogReplica[object]] = []
        self.faulty: list[FaultyBackend] = []

    async def open(self, fsm: FSM[object]) -> Engine[object]:
        return (await self.open_faulty(fsm))[0]

    async def open_faulty(self, fsm: FSM[object], rate: float = 0.0) -> tuple[LogReplica[object], FaultyBackend]:
        backend = FaultyBackend(MemoryBackend(self.log), self.rng, rate)
        node = await open_log(backend, fsm, world=World(rng=random.Random(self.rng.random())))
        self.nodes.append(node)
        self.faulty.append(backend)
        return node, backend

    async def restart(self) -> None:
        for backend in self.faulty:
            backend.cut = True
        await asyncio.sleep(0.05)
        for backend in self.faulty:
            backend.cut = False

    async def forget_machine(self) -> None:
        self.log.machine = ""

    async def save(self) -> None:
        self._saved = copy.deepcopy((self.log.head, self.log.records, self.log.by_key))

    async def restore(self) -> None:
        self.log.head, self.log.records, self.log.by_key = copy.deepcopy(self._saved)

    async def close(self) -> None:
        for node in self.nodes:
            await node.close()


@asynccontextmanager
async def memory_site() -> AsyncIterator[MemorySite]:
    site = MemorySite()
    try:
        yield site
    finally:
        await site.close()


class RaftSite:
    """Three nodes of one cluster."""

    def __init__(self, path: Path) -> None:
        self.cluster = Cluster(path, "abc")

    async def open(self, fsm: FSM[object]) -> Engine[object]:
        name = "abc"[len(self.cluster.rafts)]
        raft = await Raft.open(self.cluster.config(name), fsm)
        self.cluster.rafts[name] = raft
        return raft

    async def close(self) -> None:
        for raft in self.cluster.rafts.values():
            await raft.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and snapshots after few records."""
    monkeypatch.setattr(contact, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(contact, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(snapshots, "RECORDS", 40)
    monkeypatch.setattr(snapshots, "MOST_RECORDS", 40)
    monkeypatch.setattr(snapshots, "KEPT_RECORDS", 4)


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.__name__)
@pytest.mark.usefixtures("quick")
async def test_engine_memory_conforms(check: Check) -> None:
    async with memory_site() as site:
        await check(site)


@pytest.mark.parametrize("check", [*ON_LOGS, *REPLACED, *MACHINES], ids=lambda check: check.__name__)
@pytest.mark.usefixtures("quick")
async def test_engine_memory_log_conforms(check: LogCheck) -> None:
    async with memory_site() as site:
        await check(site)


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.__name__)
@pytest.mark.usefixtures("quick")
async def test_engine_raft_conforms(check: Check, tmp_path: Path) -> None:
    site = RaftSite(tmp_path)
    try:
        await check(site)
    finally:
        await site.close()
