"""A cluster in memory, on virtual time, for plain synchronous tests: `RaftCluster`, and the `raft_cluster` fixture.

    def test_the_lock_survives_its_leader(raft_cluster):
        cluster = raft_cluster(Locks)
        cluster.apply(b"acquire printer")
        cluster.crash(cluster.leader)
        assert cluster.apply(b"owner printer") == "me"

The nodes are real: log, snapshots, transport and timers on a simulated disk, network and clock. Time passes only
inside calls, and costs nothing: an election takes a second of the cluster's time and milliseconds of yours. The seed
decides everything, so a test that fails once fails every time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar, cast

from syncline.errors import DeadlineExceeded, Outcome, UsageError
from syncline.node.entry_stamps import STAMP_LEVEL
from syncline.node.fsm import FSM
from syncline.node.raft import Raft
from syncline.testing.cluster import Settings, SimCluster, check_no_loop, check_nodes
from syncline.testing.fsm.run import check_maker, made, snapshot_bytes
from syncline.testing.sim.disk import Survival
from syncline.testing.sim.loop import SimLoop
from syncline.testing.sim.server import Condition, SimServer
from syncline.testing.sim.workers import Delay

if TYPE_CHECKING:
    import typing_extensions  # for type checkers alone, which have it: `default` is in `typing` from Python 3.13 on

    M_co = typing_extensions.TypeVar("M_co", bound=FSM[object], default=FSM[object], covariant=True)
else:
    M_co = TypeVar("M_co", covariant=True)

__all__ = ["RaftCluster"]

Result = TypeVar("Result")

PATIENCE_S: Final = 30.0
"""Limit for an election, a restart or catching up, in the cluster's time."""


class RaftCluster(Generic[M_co]):
    """A cluster of `nodes` voters, `n1`, `n2`, …, each with a state machine made by `machine`. It starts at once.

    `RaftCluster[Bank]` is one of machines of the class `Bank`.

    Its methods are for tests without a loop: in an `async def` they raise UsageError.

    Close it at the end, or use it as a context manager; the fixture does that by itself. `settings` are the nodes':
    by default small ones, so that few commands already make snapshots.
    """

    def __init__(
        self, machine: Callable[[], M_co], *, nodes: int = 3, seed: int = 0, settings: Settings | None = None
    ) -> None:
        check_maker(machine)
        check_nodes(nodes)
        check_no_loop("RaftCluster")
        self._loop = SimLoop()
        self._errors: list[BaseException] = []
        self._loop.set_exception_handler(self._unhandled)
        try:
            self._cluster = self._run(self._made(machine, nodes, seed, settings))
        except BaseException:
            self.close()
            raise

    async def _made(
        self, machine: Callable[[], FSM[object]], nodes: int, seed: int, settings: Settings | None
    ) -> SimCluster:
        cluster = SimCluster(self._loop, seed=seed, machine=lambda: made(machine), settings=settings)
        await cluster.start(nodes)
        await cluster.leader()
        # Else the first entries would have no time: a new cluster does not know yet what its members can do.
        await cluster.until(
            lambda: all(_raft(server).level >= STAMP_LEVEL for server in cluster.running), timeout_s=PATIENCE_S
        )
        return cluster

    def close(self) -> None:
        """End all nodes.

            cluster.close()

        What was closed before stays closed.
        """
        if not self._loop.is_closed():
            self._loop.set_exception_handler(lambda *_: None)  # errors of work that is cut short now prove nothing
            self._loop.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the nodes ----------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[str]:
        """All names, in order."""
        return list(self._cluster.servers)

    @property
    def leader(self) -> str:
        """The name of the leader that a majority follows. Waits for one; raises TimeoutError if none can be elected."""
        return self._run(self._cluster.leader(PATIENCE_S)).name

    @property
    def followers(self) -> list[str]:
        """Every node that runs and does not lead."""
        leader = self.leader
        return [server.name for server in self._cluster.running if server.name != leader]

    def machine(self, node: str) -> M_co:
        """The state machine of a node: of its latest process, if it has crashed.

            print(cluster.machine("n1"))

        Raises:
            UsageError: there is no such node; so do all methods that take a node.
        """
        machine = self._cluster.server(node).machine
        assert machine is not None
        return cast("M_co", machine)  # `machine` of the constructor has made it

    def error(self, node: str) -> BaseException | None:
        """Why a node has stopped itself, or refused to start.

            assert cluster.error("n1") is None

        Raises:
            UsageError: there is no such node.
        """
        return self._cluster.server(node).error

    @property
    def time_s(self) -> float:
        """The cluster's time, in seconds since it was made."""
        return self._loop.true_time()

    # -- work ---------------------------------------------------------------------------------------------------------

    def apply(self, command: bytes, *, node: str | None = None, timeout: float = 5.0) -> object:
        """Replicate a command through a node, by default the leader, and return the state machine's answer.

            answer = cluster.apply(b"1", node="n2")

        Raises:
            OperationError: as the future of `Raft.apply` does; its `outcome` says whether it can still take effect.
            UsageError: the node is down.
        """
        return self._run(self._apply(command, node, timeout))

    async def _apply(self, command: bytes, node: str | None, timeout_s: float) -> object:
        server = self._cluster.server(node) if node else await self._cluster.leader(timeout_s)
        raft = _raft(server)
        future = await self._answered(server.call(lambda: raft.apply(command, timeout=timeout_s)), server, timeout_s)
        return await self._answered(future, server, timeout_s)

    async def _answered(self, future: asyncio.Future[Result], server: SimServer, timeout_s: float) -> Result:
        """Wait a little longer than the node itself does: it may be dead, or paused."""
        await asyncio.wait([future], timeout=timeout_s + 1.0)
        if not future.done():
            raise DeadlineExceeded(f"{server.name} does not answer", outcome=Outcome.UNKNOWN)
        return future.result()

    def read(self, look: Callable[[M_co], Result], *, node: str | None = None, timeout: float = 5.0) -> Result:
        """Call `look` linearizably with the state machine of a node, by default the leader's, and return its answer.

            state = cluster.read(lambda machine: repr(machine))

        Raises:
            OperationError: no quorum confirmed the read before the deadline.
            UsageError: the node is down.
        """
        return self._run(self._read(look, node, timeout))

    async def _read(self, look: Callable[[M_co], Result], node: str | None, timeout_s: float) -> Result:
        server = self._cluster.server(node) if node else await self._cluster.leader(timeout_s)
        raft = _raft(server)
        confirmed = await self._answered(server.call(lambda: raft.read_index(timeout=timeout_s)), server, timeout_s)
        await self._answered(confirmed, server, timeout_s)
        return look(self.machine(server.name))

    def run(self, seconds: float) -> None:
        """Let so much of the cluster's time pass.

            cluster.run(2.5)

        Raises:
            Exception: what a callback on the cluster's loop has raised meanwhile.
        """
        self._run(asyncio.sleep(seconds))

    def settle(self) -> None:
        """Wait until every node that runs has applied the whole log of the leader.

            cluster.settle()

        Raises:
            TimeoutError: they have not within 30 s of the cluster's time.
        """
        self._run(self._cluster.until(self._is_settled, timeout_s=PATIENCE_S))

    def _is_settled(self) -> bool:
        rafts = [server.raft for server in self._cluster.running if server.raft is not None]
        leader = self._cluster.current_leader()
        if leader is None or leader.driver is None:
            return False
        return {raft.stats().applied for raft in rafts} == {leader.driver.core.last_index}

    def assert_same_state(self) -> None:
        """Settle, and assert that all running nodes hold the same: their snapshots are equal, byte for byte.

            cluster.assert_same_state()

        Raises:
            AssertionError: two nodes differ.
            TimeoutError: they do not settle.
        """
        self.settle()
        states = {server.name: snapshot_bytes(self.machine(server.name)) for server in self._cluster.running}
        first = next(iter(states))
        for name, state in states.items():
            assert state == states[first], f"{name} holds {state[:200]!r}, {first} holds {states[first][:200]!r}"

    # -- faults -------------------------------------------------------------------------------------------------------

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut the network between groups of nodes. It replaces the partition before.

            cluster.partition([cluster.leader], cluster.followers)

        Raises:
            UsageError: there is no such node.
        """
        self._check_open()
        unknown = {name for group in groups for name in group} - set(self.nodes)
        if unknown:
            raise UsageError(f"there is no node {min(unknown)!r} among {', '.join(self.nodes)}")
        self._cluster.partition(*groups)

    def isolate(self, node: str) -> None:
        """Cut a node off from all others.

            cluster.isolate(cluster.leader)

        Raises:
            UsageError: there is no such node.
        """
        self.partition([node], [name for name in self.nodes if name != node])

    def crash(self, node: str, *, power_loss: bool = False) -> None:
        """Kill a node at this moment.

            cluster.crash("n3", power_loss=True)

        With `power_loss` its disk forgets what was not synced, and tears what was being written.

        Raises:
            UsageError: it is down already, or there is no such node.
        """
        self._check_open()
        server = self._cluster.server(node)
        if not server.up:
            raise UsageError(f"{node} {server.condition.value}: it can't be killed")
        server.crash(Survival.TORN if power_loss else None)

    def restart(self, node: str) -> None:
        """Start a crashed node on its disk, and wait until it is open. It has a new state machine.

            cluster.restart("n3")

        Raises:
            SynclineError: why the node refused to start.
            UsageError: it runs, or there is no such node.
        """
        self._check_usable()
        server = self._cluster.server(node)
        if server.up:
            raise UsageError(f"{node} {server.condition.value}: crash it first")
        server.start()
        self._run(self._cluster.until(lambda: server.condition is not Condition.STARTING, timeout_s=PATIENCE_S))
        if server.error is not None:
            raise server.error

    def pause(self, node: str) -> None:
        """Stop a node in its tracks until `heal`, as SIGSTOP or a long garbage collection does.

            cluster.pause("n1")

        Raises:
            UsageError: it is down, or there is no such node.
        """
        self._check_open()
        server = self._cluster.server(node)
        if not server.up:
            raise UsageError(f"{node} {server.condition.value}: it can't be paused")
        server.pause()

    def slow_disk(self, node: str, sync_s: float) -> None:
        """Let every write of a node take `sync_s` seconds, until `heal`.

            cluster.slow_disk("n2", 0.3)

        The other work of its threads takes as long.

        Raises:
            UsageError: there is no such node.
        """
        self._check_open()
        self._cluster.server(node)
        self._cluster.delays[node] = _constant(sync_s)

    def heal(self) -> None:
        """Make the network whole and the disks fast, and let what was paused go on.

            cluster.heal()

        A node that has crashed stays down.

        Raises:
            UsageError: the cluster was closed.
        """
        self._check_open()
        self._cluster.heal()
        self._cluster.delays.clear()
        for server in self._cluster.servers.values():
            if server.paused:
                server.resume()

    def snapshot(self, node: str) -> None:
        """Have a node take a snapshot now.

            cluster.snapshot("n1")

        Raises:
            NothingToSnapshot: nothing was applied since the newest one.
            UsageError: the node is down.
        """
        server = self._cluster.server(node)
        raft = _raft(server)
        self._run(self._done(server, lambda: asyncio.ensure_future(raft.snapshot())))

    def transfer_leadership(self) -> str:
        """Have the leader transfer its leadership to the most up-to-date voter, and return the new leader's name.

            leader = cluster.transfer_leadership()

        Raises:
            TransferFailed: the voter does not lead in time.
        """
        server = self._cluster.server(self.leader)
        raft = _raft(server)
        self._run(self._done(server, lambda: asyncio.ensure_future(raft.transfer_leadership())))
        return self.leader

    async def _done(self, server: SimServer, start: Callable[[], asyncio.Future[object]]) -> object:
        return await self._answered(await self._answered(server.call(start), server, PATIENCE_S), server, PATIENCE_S)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[object, object, Result]) -> Result:
        try:
            self._check_usable()
        except UsageError:
            work.close()  # nothing will await it
            raise
        result = self._loop.run_until_complete(work)
        if self._errors:
            raise self._errors.pop()
        return result

    def _check_open(self) -> None:
        if self._loop.is_closed():
            raise UsageError("this cluster was closed: make another one")

    def _check_usable(self) -> None:
        self._check_open()
        if self._loop.is_running():
            raise UsageError("a function that the cluster calls can't call the cluster: do that before or after it")
        check_no_loop("RaftCluster")

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            self._errors.append(error)


def _raft(server: SimServer) -> Raft[object]:
    if server.raft is None:
        raise UsageError(f"{server.name} {server.condition.value}: it can't be asked") from server.error
    return server.raft


def _constant(delay_s: float) -> Delay:
    def delay(worker: str, rng: random.Random) -> float:  # noqa: ARG001 - the same for all
        return delay_s

    return delay
