"""`simulate`: run a state machine through crashes, partitions and slow disks, all from one seed.

    @pytest.mark.parametrize("seed", range(20))
    def test_the_bank_survives(seed: int) -> None:
        simulate(Bank, seed=seed, commands=bank_commands)

Several clients send commands to a cluster under faults. Then the faults end. At the end all nodes must hold the same
state: the result of the acknowledged commands, applied once each and in order.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias

import msgspec

from syncline.errors import NodeFailed, OperationError, Outcome, Rejected, UsageError
from syncline.node.fsm import FSM, BatchingFSM, DigestingFSM, Entry, FSMSnapshot
from syncline.testing.cluster import CLOCKS_OFF_S, LOOK_S, Settings, SimCluster, check_no_loop, check_nodes
from syncline.testing.faults.base import Claims, Trouble
from syncline.testing.faults.table import FAULTS
from syncline.testing.fsm.run import (
    MakeFSM,
    bytes_differ,
    check_command,
    check_commands,
    check_maker,
    made,
    plain,
    snapshot_bytes,
)
from syncline.testing.invariants.base import Facts
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.operations import Operator
from syncline.testing.sim.recovery import FinalRecovery
from syncline.testing.sim.server import Condition, SimServer

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    Commands: TypeAlias = SearchStrategy[bytes] | Iterable[bytes] | Callable[[random.Random], bytes]

__all__ = ["USUAL_FAULTS", "Simulated", "SimulationFailed", "simulate"]

USUAL_FAULTS: Final = (
    "kill", "power", "crash-in-write", "kill-all", "pause", "cut", "cut-one-way", "isolate-leader", "flap", "delay",
    "reset", "slow-disk", "slow-threads", "snapshot", "transfer",
)  # fmt: skip
"""Faults that a state machine can notice; the names are those of `python -m syncline.testing.simulate --faults`."""

SETTINGS: Final = Settings(snapshot_entries=10, trailing_entries=5)
"""A snapshot every few commands, and a short log behind it: most bugs of state machines are in restores."""

DIGEST_INTERVAL: Final = 5
"""Entries between two comparisons of the nodes' digests, if the state machine has one."""

CLIENTS: Final = 3
ANSWER_S: Final = 2.0
"""How long a client waits for an answer."""

CATCH_UP_S: Final = 60.0
"""After the faults: within this much simulated time every node has everything."""

DRAWN: Final = 200
"""Commands that are drawn from a strategy; clients start again with the first after the last."""


class SimulationFailed(AssertionError):
    """The failure and its seed. The same seed fails in the same way, in every process."""


class Simulated(msgspec.Struct, frozen=True):
    """The result of a simulation: numbers of commands that were acknowledged, of unknown outcomes, and of faults by
    name.
    """

    seed: int
    acknowledged: int
    unknown: int
    faults: tuple[str, ...]
    sim_s: float


def simulate(
    machine: MakeFSM,
    *,
    seed: int,
    commands: Commands,
    nodes: int = 3,
    sim_seconds: float = 5.0,
    faults: Sequence[str] | None = None,
) -> Simulated:
    """Run a cluster of `nodes` with this state machine for `sim_seconds` of its own time, under faults.

    `commands` are a hypothesis strategy of bytes, an iterable (repeated when it ends), or a function of a
    `random.Random`. `faults` are names from `USUAL_FAULTS`; None: the seed chooses some.

        simulate(Bank, seed=7, commands=[b"open alice", b"deposit alice 10"])

    All nodes live in this process, so they share one order of sets: what differs between processes is for `check_fsm`.

    Raises:
        SimulationFailed: two nodes answered one command differently, or a node stopped itself. Also if an acknowledged
            command is missing, doubled or out of order, or the cluster did not recover after the faults. At the end all
            nodes must have the state that their log leads to.
        UsageError: a fault has no such name, `commands` give none, `nodes` is less than 1, `sim_seconds` is not
            above 0, or the caller is a coroutine.
        TypeError: `machine` can't be called or makes no state machine, a command is no bytes, or an argument has
            another type.
    """
    check_maker(machine)
    check_nodes(nodes)
    check_no_loop("simulate")
    _check_seconds(sim_seconds)
    if isinstance(faults, str):
        raise TypeError(f"faults must be a collection of names, such as [{faults!r}], not a str")
    rng = random.Random(f"{seed} simulate")
    chosen = tuple(faults) if faults is not None else tuple(rng.sample(USUAL_FAULTS, rng.randint(1, 5)))
    unknown = [name for name in chosen if name not in FAULTS]
    if unknown:
        raise UsageError(f"there is no fault {unknown[0]!r}; there are: {', '.join(USUAL_FAULTS)}")
    check_commands(commands)
    source = _Checked(_source(commands, seed))

    async def run(loop: SimLoop) -> Simulated:
        return await _Simulation(loop, machine, seed, nodes, chosen, source).run(sim_seconds)

    try:
        return run_simulation(run)
    except SimulationFailed as failure:
        raise SimulationFailed(f"{failure}\n  seed={seed}, nodes={nodes}, faults={chosen}") from failure.__cause__


def _check_seconds(sim_seconds: object) -> None:
    if isinstance(sim_seconds, bool) or not isinstance(sim_seconds, int | float):
        raise TypeError(f"sim_seconds must be a number, not {type(sim_seconds).__name__}")
    if not 0 < sim_seconds < math.inf:
        raise UsageError(f"sim_seconds is {sim_seconds}: clients need some seconds, or the run proves nothing")


def _source(commands: Commands, seed: int) -> Iterator[bytes]:
    if callable(commands):
        rng = random.Random(f"{seed} commands")
        return iter(lambda: commands(rng), None)
    if isinstance(commands, Iterable):
        return cycle(commands)
    return cycle(_drawn(commands, seed))


class _Checked(Iterator[bytes]):
    """Commands without an end. A client that found none would end, and the run would pass without having tested."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source

    def __next__(self) -> bytes:
        for command in self._source:
            return check_command(command)
        raise UsageError("`commands` give no command: an empty iterable, or a function that returns None")


def _drawn(strategy: SearchStrategy[bytes], seed: int) -> list[bytes]:
    """Commands from a strategy, the same for the same seed."""
    import hypothesis
    from hypothesis.strategies import SearchStrategy

    given: object = strategy
    if not isinstance(given, SearchStrategy):
        text = f"not {type(given).__name__}: {given!r}"
        raise TypeError(f"commands must be an iterable of bytes, a function, or a strategy of hypothesis, {text}")
    drawn: list[bytes] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=DRAWN, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategy)
    def draw(command: bytes) -> None:
        drawn.append(command)

    draw()
    return drawn


class _Committed(msgspec.Struct, frozen=True):
    """One command as the first node applied it."""

    entry: Entry
    answer: str
    node: int


class _Journal:
    """The commands that all state machines applied, by log index: the first one sets the expected answer of the
    others.
    """

    def __init__(self) -> None:
        self.committed: dict[int, _Committed] = {}
        self.failure: str | None = None

    def applied(self, node: int, entry: Entry, answer: str) -> None:
        first = self.committed.setdefault(entry.index, _Committed(entry, answer, node))
        if first.entry != entry:
            self.fail(f"two nodes applied different entries at {entry.index}: {plain(first.entry)} and {plain(entry)}")
        if first.answer != answer:
            self.fail(
                f"not deterministic: two nodes answer command {entry.data!r} at log index {entry.index} differently\n"
                f"  one:   {first.answer}\n  other: {answer}"
            )

    def fail(self, text: str) -> None:
        """Record the first failure: later ones follow from it."""
        self.failure = self.failure or text


class _Watched:
    """Wraps a user's state machine and records its calls."""

    def __init__(self, fsm: FSM[object], journal: _Journal, number: int) -> None:
        self.fsm = fsm
        self.apply_on_loop = bool(getattr(fsm, "apply_on_loop", False))
        if isinstance(fsm, DigestingFSM):
            self.digest = fsm.digest
            self.digest_version = getattr(fsm, "digest_version", 1)
        self._journal = journal
        self._number = number

    def apply(self, entry: Entry) -> object:
        try:
            answer = self.fsm.apply(entry)
        except Rejected as refusal:
            self._journal.applied(self._number, entry, plain(refusal))
            raise
        except Exception as error:
            self._journal.fail(f"`apply` of {entry.data!r} at log index {entry.index} raised {error!r}")
            raise
        self._journal.applied(self._number, entry, plain(answer))
        return answer

    def snapshot(self) -> FSMSnapshot:
        return self.fsm.snapshot()

    def restore(self, source: BinaryIO) -> None:
        self.fsm.restore(source)


class _WatchedInBatches(_Watched):
    def apply_batch(self, entries: Sequence[Entry]) -> Sequence[object]:
        assert isinstance(self.fsm, BatchingFSM)
        answers = self.fsm.apply_batch(entries)
        for entry, answer in zip(entries, answers, strict=True):
            self._journal.applied(self._number, entry, plain(answer))
        return answers


def _raise_errors(clients: Sequence[asyncio.Future[None]]) -> None:
    """Raise the error of a client that has ended by one: without clients a run proves nothing."""
    for client in clients:
        if client.done():
            client.result()


class _Simulation:
    """One run."""

    def __init__(
        self, loop: SimLoop, machine: MakeFSM, seed: int, nodes: int, faults: Sequence[str], source: Iterator[bytes]
    ) -> None:
        self._loop = loop
        self._machine = machine
        self._seed = seed
        self._nodes = nodes
        self._faults = tuple(faults)
        self._source = source
        self._journal = _Journal()
        self._lives = 0
        self._acknowledged: list[tuple[int, bytes, str]] = []  # log index, command, answer
        self._unknown = 0
        self._stopping = False
        self._claims = Claims()
        self._cluster = SimCluster(
            loop,
            seed=seed,
            machine=self._watched,
            settings=SETTINGS,
            digest_interval=DIGEST_INTERVAL,
            clocks_off_s=CLOCKS_OFF_S,
        )
        loop.set_exception_handler(self._unhandled)

    def _watched(self) -> FSM[object]:
        self._lives += 1
        fsm = made(self._machine)
        base = _WatchedInBatches if isinstance(fsm, BatchingFSM) else _Watched
        # The errors of a node name the class of the machine.
        kind: type[_Watched] = type(type(fsm).__name__, (base,), {})
        return kind(fsm, self._journal, self._lives)

    async def run(self, sim_seconds: float) -> Simulated:
        await self._cluster.start(self._nodes)
        clients = [asyncio.ensure_future(self._client(number)) for number in range(CLIENTS)]
        troubles = [asyncio.ensure_future(FAULTS[name](self._trouble(name))) for name in self._faults]
        await self._pass_time(sim_seconds, clients)
        for task in troubles:
            task.cancel()
        await asyncio.gather(*troubles, return_exceptions=True)
        self._stopping = True
        await asyncio.wait(clients)
        _raise_errors(clients)
        await self._recover()
        self._check_acknowledged()
        self._check_states()
        return Simulated(self._seed, len(self._acknowledged), self._unknown, self._faults, self._loop.true_time())

    async def _pass_time(self, seconds: float, clients: Sequence[asyncio.Future[None]] = ()) -> None:
        end_s = self._loop.true_time() + seconds
        while self._loop.true_time() < end_s:
            await asyncio.sleep(LOOK_S)
            _raise_errors(clients)
            self._raise_failure()

    def _raise_failure(self) -> None:
        for server in self._cluster.servers.values():
            if server.condition is Condition.FAILED:
                self._journal.fail(f"{server.name} has stopped itself: {server.error}")
        if self._journal.failure is not None:
            raise SimulationFailed(self._journal.failure)

    def broken(self, invariant: str, text: str) -> None:
        """Record a failure that a fault or the recovery reports."""
        self._journal.fail(f"{invariant}: {text}")

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            self._journal.fail(f"an exception escaped: {error!r}")

    def _trouble(self, name: str) -> Trouble:
        rng = random.Random(f"{self._seed} {name}")
        return Trouble(self._cluster, rng, rng.choice([1.0, 3.0]), self._claims, self)

    async def _client(self, number: int) -> None:
        rng = random.Random(f"{self._seed} client {number}")
        while not self._stopping:
            servers = [server for server in self._cluster.running if server.raft is not None and not server.paused]
            if servers:
                await self._command(rng.choice(servers), next(self._source))
            await asyncio.sleep(rng.expovariate(20.0))

    async def _command(self, server: SimServer, command: bytes) -> None:
        raft = server.raft
        assert raft is not None
        called = server.call(lambda: raft.apply(command, timeout=ANSWER_S))
        await asyncio.wait([called], timeout=ANSWER_S + 1.0)
        if not called.done():
            self._unknown += 1
            return
        future = called.result()
        await asyncio.wait([future], timeout=ANSWER_S + 1.0)
        if not future.done():
            self._unknown += 1
            return
        try:
            answer = plain(future.result())
        except Rejected as refusal:
            answer = plain(refusal)
        except OperationError as error:
            self._unknown += error.outcome is Outcome.UNKNOWN
            return
        except NodeFailed:
            self._unknown += 1
            return
        self._acknowledged.append((future.index, command, answer))

    # -- at the end

    async def _recover(self) -> None:
        recovery = FinalRecovery(self._cluster, Operator(self._cluster, random.Random(self._seed)), Facts(), self)
        recovery.calm()
        await recovery.leader()
        self._raise_failure()
        try:
            await self._cluster.until(self._all_equal, timeout_s=CATCH_UP_S)
        except TimeoutError as error:
            raise SimulationFailed(f"the nodes do not catch up: {error}") from error
        self._raise_failure()

    def _all_equal(self) -> bool:
        self._raise_failure()
        leader = self._cluster.current_leader()
        if leader is None or leader.driver is None or len(self._cluster.running) < self._nodes:
            return False
        last = leader.driver.core.last_index
        return all(server.driver is not None and server.driver.applied == last for server in self._cluster.running)

    def _check_acknowledged(self) -> None:
        committed = self._journal.committed
        seen: set[int] = set()
        for index, command, answer in self._acknowledged:
            there = committed.get(index)
            if there is None or there.entry.data != command:
                raise SimulationFailed(f"{command!r} was acknowledged at log index {index}, and is not there")
            if there.answer != answer:
                raise SimulationFailed(
                    f"the client that sent {command!r} got another answer than `apply` returned at log index {index}\n"
                    f"  `apply`:    {there.answer}\n  the client: {answer}\n"
                    "  (an answer must not share objects with the state, which later commands change: return a copy)"
                )
            if index in seen:
                raise SimulationFailed(f"two acknowledged commands are at log index {index}: {command!r}")
            seen.add(index)

    def _check_states(self) -> None:
        """Compare every node with a machine that applies the whole log, and never restores a snapshot."""
        model = made(self._machine)
        for index in sorted(self._journal.committed):
            with suppress(Rejected):
                # A copy: the source of random numbers of an entry that was applied has moved on.
                model.apply(msgspec.structs.replace(self._journal.committed[index].entry, _random=None))
        wanted = snapshot_bytes(model)
        for server in self._cluster.running:
            machine = server.machine
            assert isinstance(machine, _Watched)
            state = snapshot_bytes(machine.fsm)
            if state != wanted:
                raise SimulationFailed(
                    f"{server.name} does not hold what the log leads to:\n{bytes_differ(wanted, state)}\n"
                    "  (it restored a snapshot, or did not do the same again; `check_fsm` tells more)"
                )
