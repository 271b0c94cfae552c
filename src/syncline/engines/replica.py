"""`LogReplica`: one node of a replicated state machine on a log backend: etcd, PostgreSQL, or memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Self, TypeVar, cast, overload

import msgspec

from syncline.engines.backend import LogBackend
from syncline.engines.driver import EngineDriver
from syncline.engines.sessions import ReplicaSessions
from syncline.engines.snapshots import EngineSnapshots
from syncline.errors import (
    ConfigError,
    DeadlineExceeded,
    NodeFailed,
    Outcome,
    UsageError,
)
from syncline.node.arguments import (
    check_term,
    check_timeout,
    checked_commands,
    checked_flag,
    checked_kinds,
    checked_version,
)
from syncline.node.envelope import Kind
from syncline.node.events import AnyEvent, Event
from syncline.node.fsm import FSM, DurableFSM
from syncline.node.futures import ApplyFuture, ReadFuture, settle_error
from syncline.node.leadership import LeaderTerm
from syncline.node.looks import LookWork, check_look
from syncline.node.machine import check_machine
from syncline.node.role import Role
from syncline.node.startups import Startup
from syncline.node.stats import SnapshotInfo
from syncline.node.used_machines import check_unused
from syncline.platform.waiting import result_of
from syncline.platform.world import World

__all__ = ["EngineStats", "LogReplica", "open_log"]

Answer = TypeVar("Answer")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
"""What the state machine answers to a command."""

_COMMAND: Final = int(Kind.COMMAND)


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """One node on a log backend at one moment."""

    engine: str
    """The URL, without a password."""
    role: Role
    """`leader` while this node holds the leadership, which is free until a program asks for it."""
    term: int
    """The newest fencing token of this node."""
    applied: int
    position: int
    """Where that is in the backend: a revision of etcd, a number of PostgreSQL's table."""
    lag: int
    """Entries that were read from the log and are not applied yet."""
    proposals_pending: int
    proposals_failed: int
    reads_pending: int
    snapshot_index: int
    snapshots_taken: int
    snapshots_installed: int
    sessions: int
    trouble: str
    """Why the backend is not reached; empty while it is."""


class LogReplica(ReplicaSessions[R_co]):
    """A running node on a log backend. Made by `syncline.open`; used on the event loop where it was opened.

        async with syncline.open("etcd://10.0.0.1:2379/jobs", Counter()) as replica:
            print(await replica.apply(b"1"))

    It has no peers and no data directory: all nodes append to the same log, and read it (docs/engines.md).
    """

    def __init__(self) -> None:
        self._snapshots: EngineSnapshots
        self._closing: asyncio.Task[None] | None = None
        raise UsageError("use `await syncline.open(url, fsm)`")

    def __repr__(self) -> str:
        return f"<LogReplica on {self._driver.backend.name}: {self.role}, applied index {self._driver.applied}>"

    @classmethod
    async def _open(cls, backend: LogBackend, fsm: FSM[R], world: World, name: str) -> LogReplica[R]:
        _check_fsm(fsm, backend.name)
        replica = cast("LogReplica[R]", cls.__new__(cls))
        replica._driver = driver = EngineDriver(backend, fsm, world, name)
        replica._snapshots = EngineSnapshots(driver)
        replica._closing = None
        try:
            await driver.open()
        except BaseException:
            await replica.close()
            raise
        return replica

    # -- commands -----------------------------------------------------------------------------------------------------

    def apply(
        self,
        data: bytes,
        *,
        timeout: float = 5.0,
        extensions: bytes = b"",
        term: int | None = None,
        frees_space: bool = False,
    ) -> ApplyFuture[R_co]:
        """Replicate a command and apply it to the state machine. Await the future for the state machine's answer.

            answer = await replica.apply(b"a command")

        The arguments are those of `Raft.apply`. `term` is the number of a `LeaderTerm`: the command takes effect while
        that leadership lasts, or not at all.

        Raises:
            TypeError: `data` or `extensions` are not bytes.
            ConfigError: `timeout` is out of range, or `term` is no term.

        The future fails with:
            Rejected: the state machine refused the command (`not_applied`).
            Dropped, TooLarge, NoSpace, Superseded: it did not enter the log (`not_applied`).
            DeadlineExceeded, Closed, NodeFailed: see their `outcome`.
        """
        fence = check_term(term)
        checked_flag(frees_space, "frees_space")
        future: ApplyFuture[R_co] = ApplyFuture(loop=self._driver.loop)
        future.fence, future.frees_space = fence, frees_space
        self._queue(future, _COMMAND, data, timeout, extensions)
        return future

    def apply_many(self, commands: Sequence[bytes], *, timeout: float = 5.0) -> list[ApplyFuture[R_co]]:
        """Replicate several commands in this order. They are not atomic together.

            answers = await asyncio.gather(*replica.apply_many([b"one", b"two"]))

        Raises:
            TypeError: a command is not bytes; none is proposed.
            ConfigError: `timeout` is out of range.

        Each future fails as that of `apply` does.
        """
        check_timeout(timeout)
        return [self.apply(data, timeout=timeout) for data in checked_commands(commands)]

    # -- reads --------------------------------------------------------------------------------------------------------

    def read_index(self, *, timeout: float = 5.0) -> ReadFuture:
        """Confirm the local state. When it is done, a read of the local state machine is linearizable.

            await replica.read_index()
            print(machine.items)

        The backend has told its newest record after this call, and everything up to it is applied here.

        Raises:
            ConfigError: `timeout` is out of range.

        The future fails with:
            DeadlineExceeded: the backend did not confirm it before the deadline (`not_applied`).
            Closed, NodeFailed: the node has stopped.
        """
        check_timeout(timeout)
        driver = self._driver
        driver.running.check_place()
        if driver.running.stopped_by is not None:
            future = ReadFuture(loop=driver.loop)
            settle_error(future, driver.running.stopped_by)
            return future
        future = driver.reads.new(timeout)
        future._running = driver.running
        driver.ask()
        return future

    async def read(self, look: Callable[[], Answer], *, timeout: float = 5.0, stale: bool = False) -> Answer:
        """Call `look()` linearizably, and return its answer: see `Raft.read`.

            count = await replica.read(lambda: len(machine.items))

        `stale`: look at the state of this node without a confirmation. It needs no backend.

        Raises:
            TypeError: `look` can't be called, or is `async def`.
            DeadlineExceeded: the backend did not confirm it, or its turn did not come, before the deadline.
            Closed, NodeFailed: the node has stopped.
        """
        check_look(look)
        driver = self._driver
        check_timeout(timeout)
        checked_flag(stale, "stale")
        driver.running.check()
        deadline_s = driver.loop.time() + timeout
        if not stale:
            await self.read_index(timeout=timeout)
        driver.running.check()
        future: asyncio.Future[Answer] = driver.loop.create_future()
        driver.look(cast("LookWork[object]", LookWork(look, future)))
        ends = [cast("asyncio.Future[object]", future), cast("asyncio.Future[object]", driver.failure)]
        try:
            left_s = max(0.0, deadline_s - driver.loop.time())
            await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return future.result()
            driver.running.check()
            raise DeadlineExceeded("the state machine was busy until the deadline", outcome=Outcome.NOT_APPLIED)
        finally:
            future.cancel()

    # -- the rest -----------------------------------------------------------------------------------------------------

    def leadership(self, *, timeout: float | None = None) -> AbstractAsyncContextManager[LeaderTerm[R_co]]:
        """A block that runs while this node holds the leadership: see `Raft.leadership`.

            async with replica.leadership() as term:
                await term.apply(b"expire lease 7")

        The leadership is a lease in the backend. It is asked for by the first block of a node, and given back at the
        end of the last one.

        Raises:
            LeadershipLost: it was lost while the block ran (`unknown`).
            NotLeader: another node had it until the deadline (`not_applied`).
            ConfigError, TypeError: `timeout` can't be used.
            Closed, NodeFailed: the node has stopped.
        """
        self._driver.running.check_place()
        return self._driver.leases.leadership(self.apply, None if timeout is None else check_timeout(timeout))

    async def snapshot(self, *, timeout: float = 600.0) -> SnapshotInfo:
        """Take a snapshot of the state now, store it in the backend, and trim the log before it.

            print((await replica.snapshot()).index)

        Raises:
            DeadlineExceeded: it is not finished (`unknown`).
            NothingToSnapshot: nothing was applied since the newest snapshot.
            StorageError: the state machine can't be read, or the snapshot not stored.
            Closed, NodeFailed: the node has stopped.
        """
        check_timeout(timeout)
        self._driver.running.check()
        taking = self._snapshots.take()
        await asyncio.wait([taking], timeout=timeout)
        if not taking.done():
            raise DeadlineExceeded(f"the snapshot is not finished after {timeout:g} s; it goes on")
        if taking.cancelled():
            self._driver.running.check(begun=True)  # the node was closed
        return taking.result()

    @overload
    def events(self) -> AsyncIterator[Event]: ...

    @overload
    def events(self, *kinds: type[AnyEvent]) -> AsyncIterator[AnyEvent]: ...

    def events(self, *kinds: type[Event]) -> AsyncIterator[Event]:
        """What happens from now on, until the node closes: `BackendDown`, `BackendUp`, `RoleChanged`, `SnapshotTaken`,
        `SnapshotInstalled`, `NodeStopped`.

            async for event in replica.events(BackendDown):
                print(event.reason)

        Raises:
            TypeError: one of `kinds` is no class of events.
            UsageError: it is called on another thread or loop than the node's.
        """
        self._driver.running.check_place()
        return self._driver.events.watch(*checked_kinds(kinds))

    @property
    def role(self) -> Role:
        """`leader` while this node holds the leadership, else `follower`; `stopped` after its end."""
        if self._driver.running.stopped:
            return "stopped"
        return "leader" if self._driver.leases.leads else "follower"

    def stats(self) -> EngineStats:
        """The node's figures at this moment.

            print(replica.stats().applied)

        Never waits on anything.
        """
        driver = self._driver
        return EngineStats(
            engine=driver.backend.name,
            role=self.role,
            term=driver.leases.token,
            applied=driver.applied,
            position=driver.applied_position,
            lag=driver.taker.index - driver.applied,
            proposals_pending=len(driver.commands),
            proposals_failed=driver.commands.failed,
            reads_pending=len(driver.reads),
            snapshot_index=driver.snapshot_index,
            snapshots_taken=self._snapshots.taken,
            snapshots_installed=driver.installed,
            sessions=driver.sessions,
            trouble=driver.contact.trouble,
        )

    @property
    def machine_version(self) -> int:
        """That of this node's state machine: nodes do not know of each other (docs/engines.md)."""
        return int(getattr(self._driver.fsm, "machine_version", 1))

    async def reach_machine_version(self, version: int, *, timeout: float = 5.0) -> bool:
        """Whether `machine_version` is at least this.

            print(await replica.reach_machine_version(2))

        All versions that this node can do are in force: there is no gate on this engine.

        Raises:
            TypeError: `version` is no whole number.
        """
        check_timeout(timeout)
        return self.machine_version >= checked_version(version, "version")

    async def reach_level(self, level: int, *, timeout: float = 5.0) -> bool:
        """Return True: entries have a time and random numbers from the first one on.

            print(await replica.reach_level(2))

        So nothing is waited for.

        Raises:
            TypeError: `level` is no whole number.
        """
        checked_version(level, "level")
        check_timeout(timeout)
        return True

    async def failed(self) -> NodeFailed:
        """Wait until the node has stopped by itself (fail-stop), and return why.

            watching = asyncio.create_task(replica.failed())

        Raises:
            Closed: the node was closed.
        """
        self._driver.running.check_place()
        return await result_of(self._driver.failure)

    async def close(self) -> None:
        """Leave the log. Operations under way end with `Closed`. Idempotent.

            await replica.close()

        An applied command stays in the log.
        """
        self._driver.running.check_place()
        if self._closing is None:
            self._closing = self._driver.loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._driver.stop_by_caller()
        await self._snapshots.close()
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def open_log(backend: LogBackend, fsm: FSM[R], *, world: World | None = None, name: str = "") -> Startup[LogReplica[R]]:
    """Open a node on a backend. See `syncline.open`."""
    return Startup(LogReplica._open(backend, fsm, world or World(), name), LogReplica.close)


def _check_fsm(fsm: FSM[object], engine: str) -> None:
    check_machine(fsm)
    check_unused(fsm)
    if isinstance(fsm, DurableFSM):
        raise ConfigError(
            f"{type(fsm).__name__} keeps its own state on disk (`applied_index`), which {engine} does not support: use"
            " the engine `raft:`, or a state machine without `applied_index`"
        )
