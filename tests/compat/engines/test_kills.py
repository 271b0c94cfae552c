"""kill -9 of a node, of the backend's leader, and of everything: nothing acknowledged is lost, nothing is repeated."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import syncline
from tests.compat.engines.servers import EtcdServers, PostgresServer
from tests.compat.waiting import until
from tests.helpers.node_cluster import Listing

ROUNDS = [pytest.param(2, id="twice"), pytest.param(20, id="twenty-times", marks=pytest.mark.slow)]
pytestmark = [pytest.mark.parametrize("rounds", ROUNDS), pytest.mark.timeout(580), pytest.mark.deadline(560.0)]


class Workers:
    """Processes with a node each (`worker.py`)."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url = url
        self._file = directory / "acknowledged"
        self._numbers = itertools.count(1)
        self._running: list[subprocess.Popen[bytes]] = []
        self._log = directory / "workers.log"

    def start(self) -> None:
        program = [sys.executable, "-m", "tests.compat.engines.worker", self._url, f"w{next(self._numbers)}"]
        with open(self._log, "ab") as log:
            self._running.append(subprocess.Popen([*program, str(self._file)], stdout=log, stderr=log))

    def kill_one(self) -> None:
        process = self._running.pop(0)
        process.kill()
        process.wait()

    def kill_all(self) -> None:
        while self._running:
            self.kill_one()

    def acknowledged(self) -> list[bytes]:
        return self._file.read_bytes().splitlines() if self._file.exists() else []

    def go_on(self, more: int) -> None:
        """Wait until so many more commands were acknowledged, and all processes run."""
        count = len(self.acknowledged()) + more
        until("the workers go on", lambda: len(self.acknowledged()) >= count, deadline_s=60)
        assert all(process.poll() is None for process in self._running), self._log.read_text()


@contextlib.contextmanager
def working(url: str, directory: Path) -> Iterator[Workers]:
    workers = Workers(url, directory)
    workers.start()
    workers.start()
    try:
        workers.go_on(8)
        yield workers
    finally:
        workers.kill_all()


async def judge(url: str, workers: Workers) -> None:
    machine = Listing()
    async with syncline.open(url, machine) as node:
        await node.read_index(timeout=60)
    counts = Counter(machine.items)
    assert [data for data, count in counts.items() if count > 1] == [], "applied twice"
    assert [data for data in workers.acknowledged() if data not in counts] == [], "lost"
    numbers = {name: [] for name in {data.split(b"-")[0] for data in counts}}  # type: ignore[var-annotated]
    for data in machine.items:
        name, _, number = data.partition(b"-")
        numbers[name].append(int(number))
    assert all(found == list(range(len(found))) for found in numbers.values()), "one caller's order has a gap"


def disturb(
    workers: Workers, kind: str, rounds: int, kill_backend: Callable[[], None], heal: Callable[[], None]
) -> None:
    rng = random.Random(kind)
    for _ in range(rounds):
        workers.go_on(rng.randrange(8, 40))
        if kind == "node":
            workers.kill_one()
            workers.start()
            continue
        kill_backend()
        if kind == "all":
            workers.kill_all()
        heal()
        if kind == "all":
            workers.start()
            workers.start()
    workers.go_on(20)


@pytest.mark.parametrize("kind", ["node", "leader", "all"])
async def test_engine_etcd_survives_kills(kind: str, rounds: int, etcd_three: EtcdServers, tmp_path: Path) -> None:
    """Three etcd nodes. "leader": their leader is killed. "all": all of them, and all nodes of the machine."""

    killed: list[int] = []

    def kill_backend() -> None:
        killed[:] = [etcd_three.leader()] if kind == "leader" else range(3)
        for number in killed:
            etcd_three.kill(number)

    def heal() -> None:
        if kind == "leader":
            workers.go_on(20)  # on the two that are left
        for number in killed:
            etcd_three.start_node(number)
        etcd_three.ready()

    url = f"etcd://{etcd_three.hosts}/kills"
    with working(url, tmp_path) as workers:
        await asyncio.to_thread(disturb, workers, kind, rounds, kill_backend, heal)
    await judge(url, workers)


@pytest.mark.parametrize("kind", ["node", "leader", "all"])
async def test_engine_postgres_survives_kills(kind: str, rounds: int, postgres: PostgresServer, tmp_path: Path) -> None:
    """One server: "leader" is its kill and restart."""
    url = postgres.url(f"kills-{kind}-{rounds}")
    with working(url, tmp_path) as workers:
        await asyncio.to_thread(disturb, workers, kind, rounds, postgres.stop, postgres.start)
    await judge(url, workers)
