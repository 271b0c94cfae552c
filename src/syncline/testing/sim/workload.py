"""The clients of a simulation: a few, each with its own random numbers, on a handful of keys, so that they conflict."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from typing import Final

from syncline.testing.cluster import SimCluster
from syncline.testing.linearizability.history import (
    ABSENT,
    Call,
    CallCompare,
    DeleteCall,
    NotApplied,
    PutCall,
    ReadCall,
    Recorder,
    Refused,
    Seen,
    Step,
    TxnCall,
    Written,
)
from syncline.testing.sim.client import SimClient
from syncline.testing.sim.server import SimServer

__all__ = ["Chooser", "Workload"]

PAUSE_S: Final = 0.5
"""After a request that failed: a client that is refused does not hammer."""

WEIGHTS: Final = (4, 4, 2, 1, 3, 2)
"""Of puts, reads, stale reads, deletes, swaps and transactions."""


class Workload:
    """Clients that go on until they are stopped."""

    def __init__(self, cluster: SimCluster, rng: random.Random, *, clients: int) -> None:
        self.recorder: Recorder = Recorder(cluster.loop.true_time)
        self.stopping = False
        self._cluster = cluster
        self._keys = [b"k%d" % number for number in range(rng.randint(1, 6))]
        self._think_s = rng.choice([0.005, 0.02, 0.05, 0.2])
        self._bound = rng.random() < 0.5
        timeout_s: float = rng.choice([0.2, 0.5, 2.0])
        self.timeout_s: float = timeout_s
        self.clients: list[Chooser] = [
            Chooser(self, f"c{number}", rng.getrandbits(64), timeout_s) for number in range(1, clients + 1)
        ]
        self.working: list[Chooser] = self.clients

    def choose(self, numbers: Collection[int] | None) -> None:
        """Have only these clients work, from 1 on. None: all of them."""
        if numbers is not None:
            self.working = [chooser for number, chooser in enumerate(self.clients, 1) if number in numbers]

    def start(self) -> list[asyncio.Task[None]]:
        return [self._cluster.loop.create_task(chooser.run(), name=chooser.client.name) for chooser in self.working]

    def unanswered(self) -> list[str]:
        """Requests that a process which still lives has never answered."""
        return [
            text
            for chooser in self.clients
            for server, answer, text in chooser.client.unanswered
            if not answer.done() and server.running and f"life {server.lives} " in text
        ]

    def server_for(self, rng: random.Random, home: int) -> SimServer | None:
        """One of the servers that can be connected to: each client's own, or any."""
        running = [server for server in self._cluster.running if not server.retired]
        if not running:
            return None
        return running[home % len(running)] if self._bound else rng.choice(running)

    @property
    def keys(self) -> list[bytes]:
        return self._keys

    @property
    def think_s(self) -> float:
        return self._think_s


class Chooser:
    """One client's choices."""

    def __init__(
        self, workload: Workload, name: str, seed: int, timeout_s: float, *, weights: Sequence[int] = WEIGHTS
    ) -> None:
        self.client: SimClient = SimClient(name, workload.recorder, timeout_s=timeout_s)
        self._workload = workload
        self._rng = random.Random(seed)
        self._home = self._rng.randrange(1 << 16)
        self._count = 0
        self._revisions: dict[bytes, int] = {}
        self._values: dict[bytes, bytes] = {}
        kinds = [self._put, self._read, self._stale, self._delete, self._swap, self._txn]
        self._kinds = self._rng.choices(kinds, weights=weights, k=40)

    async def run(self) -> None:
        workload, rng = self._workload, self._rng
        while not workload.stopping:
            await asyncio.sleep(rng.expovariate(1.0 / workload.think_s))
            server = workload.server_for(rng, self._home)
            if server is None:
                await asyncio.sleep(PAUSE_S)
                continue
            request = self.call()
            result = await self.client.ask(server, request)
            if result is None or isinstance(result, NotApplied):
                await asyncio.sleep(rng.uniform(0.0, PAUSE_S))
            else:
                self.learn(request, result)

    def call(self) -> Call:
        """The next request of this client."""
        return self._rng.choice(self._kinds)(self._rng.choice(self._workload.keys))

    def learn(self, request: Call, result: object) -> None:
        """Take note of what the key of a read or a put holds."""
        if not isinstance(request, ReadCall | PutCall):
            return
        if isinstance(result, Seen):
            self._revisions[request.key] = result.mod_revision
            if result.value is not None:
                self._values[request.key] = result.value
        elif isinstance(result, Refused) and result.mod_revision is not None:
            self._revisions[request.key] = result.mod_revision
        elif isinstance(result, Written) and isinstance(request, PutCall):
            self._revisions[request.key] = result.revision
            self._values[request.key] = request.value

    def read(self) -> Call:
        """A linearizable read."""
        return self._read(self._rng.choice(self._workload.keys))

    def write(self) -> Call:
        """A put, a swap, a delete or a transaction."""
        kind = self._rng.choice([self._put, self._put, self._swap, self._delete, self._txn])
        return kind(self._rng.choice(self._workload.keys))

    def _value(self) -> bytes:
        """A value that no client has written before; sometimes a large one."""
        self._count += 1
        value = b"%s-%d" % (self.client.name.encode(), self._count)
        return value if self._rng.random() < 0.95 else value.ljust(self._rng.choice([300, 1500]), b".")

    def _put(self, key: bytes) -> Call:
        return PutCall(key, self._value())

    def _read(self, key: bytes) -> Call:
        return ReadCall(key)

    def _stale(self, key: bytes) -> Call:
        return ReadCall(key, stale=True, max_stale_s=self._rng.choice([None, 1.0, 5.0]))

    def _delete(self, key: bytes) -> Call:
        expect = self._revisions.get(key) or None
        return DeleteCall(key, expect if self._rng.random() < 0.3 else None)

    def _swap(self, key: bytes) -> Call:
        return PutCall(key, self._value(), self._revisions.get(key, ABSENT))

    def _txn(self, key: bytes) -> Call:
        other = self._rng.choice(self._workload.keys)
        compare: list[CallCompare] = []
        if self._rng.random() < 0.8:
            equal = self._rng.random() < 0.8
            known = self._values.get(key)
            if known is not None and self._rng.random() < 0.5:
                compare.append(CallCompare(key, known, equal))
            else:
                compare.append(CallCompare(key, self._revisions.get(key, ABSENT), equal))
        then: list[Step] = [PutCall(key, self._value())]
        if other != key:
            others: list[Step] = [PutCall(other, self._value()), DeleteCall(other), ReadCall(other)]
            then.append(self._rng.choice(others))
        return TxnCall(tuple(compare), tuple(then), (ReadCall(key),))
