"""One run: start a cluster, let clients work under faults, end the faults, and check that it recovers.

Swarm style: each seed chooses the faults, their frequency, and the settings of the cluster. So some runs have one kind
of fault often and others a little of everything.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from functools import partial
from typing import Final

import msgspec

from syncline.kv.compactor import DEFAULT_HISTORY_REVISIONS
from syncline.node.state_digest import DIGEST_INTERVAL
from syncline.testing.cluster import CLOCKS_OFF_S, Observer, Settings, SimCluster
from syncline.testing.faults.base import Claims, Trouble
from syncline.testing.faults.table import APART, FAULTS, LATER, PENDING
from syncline.testing.invariants.base import Facts, Verdict
from syncline.testing.invariants.outcomes import check_outcomes
from syncline.testing.invariants.proposals import check_proposed
from syncline.testing.linearizability.history import Operation, Seen
from syncline.testing.linearizability.verdict import judge
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.loop import SimLoop
from syncline.testing.sim.machine import SimMachine, ThreadedSimMachine
from syncline.testing.sim.operations import Operator
from syncline.testing.sim.recovery import FinalRecovery
from syncline.testing.sim.workload import Workload

__all__ = ["Scenario"]

DIGEST_INTERVALS: Final = (3, 8, 32, DIGEST_INTERVAL)
"""So that a short run compares states often. With the last one hardly ever, as in production."""


LEASE_CHECKPOINTS_S: Final = (0.2, 0.5, 5.0)
"""With the last one no lease of a run is long enough for its rest to be recorded."""


UNREAD_BYTES: Final = (200, 2000, 1024 * 1024)
"""With the first two a watcher that reads slowly is cut off within a run."""


class Scenario:
    """The course of one run. `faults` is what `--faults` says: None lets the seed choose."""

    def __init__(
        self,
        loop: SimLoop,
        seed: int,
        *,
        nodes: int,
        sim_seconds: float,
        faults: tuple[str, ...] | None,
        without: tuple[str, ...] = (),
        chosen_clients: tuple[int, ...] | None = None,
        facts: Facts,
        verdict: Verdict,
        observer: Observer,
    ) -> None:
        self._loop = loop
        self._seed = seed
        self._rng = rng = random.Random(f"{seed} scenario")
        self._nodes = nodes
        self._sim_seconds = sim_seconds
        self._drawn = faults if faults is not None else _swarm(rng, seed)
        self.faults: tuple[str, ...] = tuple(name for name in self._drawn if name not in without)
        self._facts = facts
        self._verdict = verdict
        self._changes = ChangeRecord(verdict.broken)
        self._claims = Claims()
        self._claims.changes = self._changes
        self.cluster: SimCluster = SimCluster(
            loop,
            seed=seed,
            machine=partial(_machine, SimMachine if rng.random() < 0.7 else ThreadedSimMachine, self._changes),
            settings=_settings(rng) if "sessions" not in self._drawn else _with_short_sessions(_settings(rng), seed),
            observer=observer,
            digest_interval=random.Random(f"{seed} digests").choice(DIGEST_INTERVALS),
            lease_checkpoint_s=random.Random(f"{seed} leases").choice(LEASE_CHECKPOINTS_S),
            unread_bytes=random.Random(f"{seed} unread").choice(UNREAD_BYTES),
            serves_http="coordination" in self._drawn or "http-clients" in self.faults,
            clocks_off_s=CLOCKS_OFF_S,
            history_revisions=_history_revisions(seed) if "history" in self._drawn else DEFAULT_HISTORY_REVISIONS,
        )
        self.workload: Workload = Workload(self.cluster, random.Random(f"{seed} workload"), clients=rng.randint(1, 4))
        self.workload.choose(chosen_clients)
        self._claims.workload = self.workload

    def disk_errors(self) -> dict[str, tuple[int, int]]:
        """By operation and kind of file: how many errors were ordered, and how many of these orders were met."""
        counts: dict[str, tuple[int, int]] = {}
        for order in self._claims.orders:
            kind = f"{order.operation} *{order.suffix}"
            ordered, met = counts.get(kind, (0, 0))
            counts[kind] = (ordered + 1, met + (order.happened > 0))
        return counts

    def history(self) -> list[Operation]:
        return self.workload.recorder.history()

    def told(self) -> int:
        """How many revisions watchers were told of."""
        return sum(watcher.told for watcher in self._claims.watchers)

    async def run(self) -> None:
        """Run everything. Failures are reported to the verdict."""
        cluster = self.cluster
        cluster.note("run", f"faults: {', '.join(self.faults) or 'none'}; {cluster.settings}")
        await cluster.start(self._nodes)
        clients = self.workload.start()
        troubles = [task for name in self._drawn if (task := self._trouble(name)) is not None]
        await asyncio.sleep(self._sim_seconds)
        await _end(troubles)
        recovery = FinalRecovery(cluster, Operator(cluster, self._rng), self._facts, self._verdict)
        recovery.calm()
        await recovery.leader()
        await recovery.members()
        self.workload.stopping = True
        if clients:
            await asyncio.wait(clients)
        await recovery.catch_up()
        for crew in self._claims.crews:
            await crew.finish()
        await recovery.leases()
        for watcher in self._claims.watchers:
            await watcher.finish()
        for client in self._claims.http_clients:
            await client.finish(recovery)
        await recovery.answers(self.workload.unanswered, self.workload.timeout_s)
        history = self.history()
        check_outcomes(self._facts, history, self._verdict)
        check_proposed(self._facts, self._claims.proposed, self._verdict)
        for anomaly in judge(history, final=self._final_state()):
            self._verdict.broken("linearizable histories", str(anomaly))

    def _final_state(self) -> dict[bytes, Seen]:
        """A member's data at the end, as by a read of each key."""
        machine = next(server.machine for server in self.cluster.running if not server.retired)
        assert isinstance(machine, SimMachine)
        store = machine.store
        found = {key: store.get(key) for key in self.workload.keys}
        return {
            key: Seen(record.value, record.mod_revision, store.revision) if record else Seen(None, 0, store.revision)
            for key, record in found.items()
        }

    def _trouble(self, name: str) -> asyncio.Task[None] | None:
        """Start a fault. One that is left out takes its part of the chance, so that the others stay as they are."""
        rng = random.Random(f"{self._seed} {name}'s" if name in APART else self._rng.getrandbits(64))
        trouble = Trouble(self.cluster, rng, rng.choice([1.0, 4.0, 4.0, 10.0]), self._claims, self._verdict)
        return asyncio.ensure_future(self._run_fault(name, trouble)) if name in self.faults else None

    async def _run_fault(self, name: str, trouble: Trouble) -> None:
        try:
            await FAULTS[name](trouble)
        except Exception:  # noqa: BLE001 - a mistake in a fault, or what it found: the run is over
            self._verdict.broken(f"the fault {name} goes on", traceback.format_exc())


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _machine(kind: type[SimMachine], changes: ChangeRecord) -> SimMachine:
    machine = kind()
    machine.changes = changes
    return machine


def _swarm(rng: random.Random, seed: int) -> tuple[str, ...]:
    """Any subset of the faults, small ones more often."""
    drawn = sorted(FAULTS.keys() - LATER.keys())
    count = min(len(drawn), rng.choice([0, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12, len(drawn)]))
    later = [name for name, share in sorted(LATER.items()) if random.Random(f"{seed} {name}").random() < share]
    return tuple(sorted(name for name in [*rng.sample(drawn, count), *later] if name not in PENDING))


def _with_short_sessions(settings: Settings, seed: int) -> Settings:
    """Idle sessions end within a run, with most seeds."""
    idle_s = random.Random(f"{seed} idle").choice([1.0, 1.0, 2.0, 3600.0])
    return msgspec.structs.replace(settings, session_idle_s=idle_s)


def _history_revisions(seed: int) -> int:
    """The leader compacts within a run, with most seeds."""
    return random.Random(f"{seed} history").choice([1, 5, 20, 100, DEFAULT_HISTORY_REVISIONS])


def _settings(rng: random.Random) -> Settings:
    heartbeat_s = rng.choice([0.02, 0.02, 0.05])
    entries = rng.choice([5, 10, 20, 50])
    return Settings(
        heartbeat_s=heartbeat_s,
        election_s=heartbeat_s * rng.choice([5, 10, 10]),
        segment_bytes=rng.choice([4096, 8192, 65536]),
        snapshot_entries=entries,
        snapshots_retained=rng.choice([1, 2, 3]),
        trailing_entries=rng.choice([0, entries // 2, entries]),
        max_inflight_messages=rng.choice([1, 4, 128]),
    )
