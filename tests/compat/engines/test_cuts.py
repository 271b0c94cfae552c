"""Lines cut in the middle of a message, held for longer than each attempt, and servers killed and paused.

Meanwhile three nodes, each behind a line of its own, apply commands with and without a session, and take turns in the
lead. A command that was acknowledged is there once, one without an answer at most once, one that failed with
`not_applied` never. All states are equal, and tokens grow.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import pytest

import syncline
from syncline import Engine, OnceKey
from syncline.engines import contact, driver, leases
from syncline.engines.replica import LogReplica
from syncline.errors import LeadershipLost, OperationError, Outcome
from tests.compat.engines.servers import EtcdServers, PostgresServer
from tests.helpers.node_cluster import Listing
from tests.helpers.tcp_line import Line, line_to

ATTEMPT_S: Final = 0.4
APPLY_S: Final = 0.8
LEASE_S: Final = 2.0
WAIT_S: Final = 60.0
ROUNDS = [pytest.param(1, id="once"), pytest.param(12, id="twelve-times", marks=pytest.mark.slow)]
Pause = Callable[[signal.Signals], None]
pytestmark = [
    pytest.mark.parametrize("rounds", ROUNDS),
    pytest.mark.timeout(580),
    pytest.mark.deadline(560.0),
    pytest.mark.usefixtures("quick"),
]


class Writers:
    """The commands of three nodes, and what their callers were told."""

    def __init__(self, nodes: list[Engine[object]]) -> None:
        self.nodes = nodes
        self.told: dict[bytes, Outcome | None] = {}
        """None: it was acknowledged."""
        self.ends = [0] * len(nodes)
        """Calls of each node that have ended, of those without a session."""
        self._granted = [0] * len(nodes)
        self._plain_turns = [asyncio.Semaphore(0) for _ in nodes]
        self._once_turns = [asyncio.Semaphore(0) for _ in nodes]
        self._lead_turns = asyncio.Semaphore(0)
        self.tokens: list[int] = []
        self.stopping = False
        self.apply_s = APPLY_S
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        for at, node in enumerate(self.nodes):
            assert isinstance(node, LogReplica)
            session = await node.open_session(timeout=WAIT_S)
            self._tasks += [asyncio.ensure_future(work) for work in (self._plain(at), self._once(at, session))]
        self._tasks.append(asyncio.ensure_future(self._lead()))

    async def _plain(self, at: int) -> None:
        for number in itertools.count():
            await self._plain_turns[at].acquire()
            if self.stopping:
                return
            data = b"%d-plain-%d" % (at, number)
            self.told[data] = Outcome.UNKNOWN
            try:
                await self.nodes[at].apply(data, timeout=self.apply_s)
                self.told[data] = None
            except OperationError as error:
                self.told[data] = error.outcome
            self.ends[at] += 1

    async def _once(self, at: int, session: int) -> None:
        """Repeat each command under its key until it is acknowledged."""
        for number in itertools.count(1):
            await self._once_turns[at].acquire()
            if self.stopping:
                return
            data = b"%d-once-%d" % (at, number)
            while self.told.get(data, Outcome.UNKNOWN) is not None:
                self.told[data] = Outcome.UNKNOWN
                try:
                    node = self.nodes[(at + self.ends[at]) % len(self.nodes)]
                    assert isinstance(node, LogReplica)
                    await node.apply_once(data, OnceKey(session, number), timeout=APPLY_S)
                    self.told[data] = None
                except OperationError:
                    continue

    async def _lead(self) -> None:
        for number in itertools.count():
            await self._lead_turns.acquire()
            if self.stopping:
                return
            try:
                async with self.nodes[number % len(self.nodes)].leadership(timeout=APPLY_S) as term:
                    self.tokens.append(term.number)
                    await term.apply(b"led-%d" % number, timeout=APPLY_S)
            except (OperationError, LeadershipLost):
                continue

    async def go_on(self, more: int = 3, *, at: int | None = None) -> None:
        """Let each node, or one, make so many more calls of each kind. Wait for the end of those without a session."""
        which = list(range(len(self.nodes))) if at is None else [at]
        self.grant(which, more)
        await self.ended(which)

    def grant(self, which: list[int], more: int) -> None:
        for _ in range(more):
            for place in which:
                self._granted[place] += 1
                self._plain_turns[place].release()
                self._once_turns[place].release()
        self._lead_turns.release()

    def newest(self, at: int) -> bytes:
        """The last command without a session that a node may make."""
        return b"%d-plain-%d" % (at, self._granted[at] - 1)

    async def ended(self, which: list[int]) -> None:
        async with asyncio.timeout(WAIT_S):
            while any(self.ends[place] < self._granted[place] for place in which):
                assert not any(task.done() for task in self._tasks), self._tasks
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self.stopping = True
        for turns in (*self._plain_turns, *self._once_turns, self._lead_turns):
            turns.release()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*self._tasks)


async def _lose_an_answer(writers: Writers, line: Line, at: int, other: Listing) -> None:
    """The record is in the log, as another node sees. Its answer is lost, and the caller still waits."""
    line.hold("to client")
    writers.apply_s = WAIT_S
    writers.grant([at], 1)
    async with asyncio.timeout(WAIT_S):
        while writers.newest(at) not in other.items:  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.01)
    line.cut()
    line.release()
    await writers.ended([at])
    writers.apply_s = APPLY_S


async def _disturb(
    writers: Writers,
    lines: list[Line],
    machines: list[Listing],
    rounds: int,
    servers: tuple[Callable[[], None], Callable[[], None], Pause],
) -> None:
    rng = random.Random(rounds)
    kill, heal, pause = servers
    for _ in range(rounds):
        for way in ("to server", "to client"):
            at = rng.randrange(len(lines))
            lines[at].cut_after(way, rng.randrange(1, 400))
            cuts = lines[at].cuts
            while lines[at].cuts == cuts:
                await writers.go_on(1, at=at)
            await writers.go_on()
            lines[at].hold(way)
            await writers.go_on(at=at)  # each waits for longer than an attempt
            lines[at].release()
            await writers.go_on()
        at = rng.randrange(len(lines))
        await _lose_an_answer(writers, lines[at], at, machines[at - 1])
        await asyncio.to_thread(kill)
        await writers.go_on(1)
        await asyncio.to_thread(heal)
        await writers.go_on()
        pause(signal.SIGSTOP)
        try:
            await writers.go_on(2)
        finally:
            pause(signal.SIGCONT)
        await writers.go_on()


async def _run(
    url: str,
    port: int,
    rounds: int,
    servers: tuple[Callable[[], None], Callable[[], None], Pause],
    patch: pytest.MonkeyPatch,
) -> None:
    patch.setattr(contact, "ATTEMPT_S", ATTEMPT_S)
    patch.setattr(contact, "LONGEST_PAUSE_S", 0.2)
    patch.setattr(driver, "OPEN_S", WAIT_S)
    patch.setattr(leases, "LEASE_S", LEASE_S)
    patch.setattr(leases, "RENEW_S", LEASE_S / 4)
    machines = [Listing() for _ in range(3)]
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(line_to(port)) for _ in machines]
        nodes = [
            await stack.enter_async_context(syncline.open(url.format(line.port), machine))
            for line, machine in zip(lines, machines, strict=True)
        ]
        writers = Writers(nodes)
        await writers.start()
        await writers.go_on()
        await _disturb(writers, lines, machines, rounds, servers)
        await writers.stop()
        for node in nodes:
            await node.read_index(timeout=WAIT_S)
        fresh = Listing()
        async with syncline.open(url.format(port), fresh):
            assert [machine.items for machine in machines] == [fresh.items] * 3
    counts = Counter(fresh.items)
    assert [data for data, count in counts.items() if count > 1] == [], "applied twice"
    assert None in writers.told.values()
    assert [data for data, told in writers.told.items() if told is None and not counts[data]] == [], "lost"
    refused = [data for data, told in writers.told.items() if told is Outcome.NOT_APPLIED]
    assert [data for data in refused if counts[data]] == [], "`not_applied`, and applied"
    assert writers.tokens == sorted(set(writers.tokens)), "a token for each leadership, and they grow"
    assert writers.tokens


async def test_engine_etcd_survives_cut_lines(
    rounds: int, etcd_alone: EtcdServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def heal() -> None:
        etcd_alone.start_node(0)
        etcd_alone.ready()

    servers = (lambda: etcd_alone.kill(0)), heal, (lambda what: etcd_alone.signal(0, what))
    await _run(f"etcd://127.0.0.1:{{}}/cuts-{rounds}", etcd_alone.clients[0], rounds, servers, monkeypatch)


async def test_engine_postgres_survives_cut_lines(
    rounds: int, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url(f"cuts-{rounds}").replace(str(postgres.port), "{}")
    await _run(url, postgres.port, rounds, (postgres.stop, postgres.start, postgres.signal), monkeypatch)
