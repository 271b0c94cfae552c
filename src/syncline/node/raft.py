"""`Raft`: one node of a replicated state machine, the library's public face."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from threading import get_ident
from typing import Final, Self, TypeVar, cast

import msgspec

from syncline.consensus.types import NONE, ChangeType, NodeId, StateType
from syncline.errors import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    NodeFailed,
    NotLeader,
    OperationError,
    Outcome,
    StorageError,
    SynclineError,
    TooLarge,
    TransferFailed,
    UsageError,
)
from syncline.node.assembly import World, assemble
from syncline.node.changes import Changes
from syncline.node.config import Config
from syncline.node.driver import Driver
from syncline.node.envelope import Kind, Proposal, encode
from syncline.node.events import Event, EventKind
from syncline.node.fsm import FSM
from syncline.node.futures import ApplyCall, ApplyFuture, ReadFuture, Then, Waiter, settle_error
from syncline.node.joining import Ask, finish_joining, joining_config
from syncline.node.looks import LookWork
from syncline.node.members import MemberInfo, Membership
from syncline.node.reconfiguration import DATA
from syncline.node.stats import Stats, collect
from syncline.platform.disk import Disk, OsDisk
from syncline.platform.network import Network, TcpNetwork
from syncline.platform.waiting import result_of
from syncline.platform.worker import ThreadWorkers, Workers
from syncline.storage.snapshots import SnapshotManifest
from syncline.transport.messages import PeerStats

__all__ = ["Raft"]

log = logging.getLogger("syncline.node")

Answer = TypeVar("Answer")

MAX_TIMEOUT_S = 3600.0
"""A longer wait is a mistake of units."""

CLOSE_S = 10.0
"""How long `close` waits for code of the program: an apply, or a snapshot that is being written."""

HANDOVER_S = 2.0
"""How long `close` waits for another node to take over the leadership."""

ENDED_AT_ONCE: Final = (OperationError, NodeFailed, StorageError)
"""Why a proposal may fail before it is one. It is told as any failure is; wrong arguments raise."""


class Raft:
    """A running node. Make one with `Raft.open`; use it on the event loop where it was opened.

    A program that runs a node and little else calls `platform.interpreter.prepare` before and `freeze` after it, and
    runs on uvloop where that is to be had: a write then waits less for the other threads of the process.

    Every operation has one deadline, fails with an `errors.OperationError` whose `outcome` says whether it can still
    take effect, and may be called on any node: what only the leader can do is passed on to it.
    """

    def __init__(self) -> None:
        self._driver: Driver
        self._changes: Changes
        self._failure: asyncio.Future[NodeFailed]
        self._closing: asyncio.Task[None] | None = None
        raise UsageError("use `await Raft.open(config, fsm)`")

    @classmethod
    async def open(
        cls,
        config: Config,
        fsm: FSM,
        *,
        disk: Disk | None = None,
        network: Network | None = None,
        workers: Workers | None = None,
        rng: random.Random | None = None,
    ) -> Raft:
        """Start a node from its data directory, or a new one.

        On return the state machine has everything that this node durably knew to be committed; there need not be a
        leader yet. After a crash that may be a little less than it showed before: see `catching_up`. The keyword
        arguments replace the real world, for tests.

        Raises ConfigError, StorageError (`DirectoryLocked`, `WrongDirectory`, `CorruptionError` ...), NodeFailed, and
        OSError where the peer address can't be bound.
        """
        disk = disk or OsDisk()
        config = _absolute(config, disk)
        raft = cls.__new__(cls)
        loop = asyncio.get_running_loop()
        raft._failure = loop.create_future()
        raft._closing = None
        world = World(disk, network or TcpNetwork(), workers or ThreadWorkers(), rng or random.Random())
        raft._driver = driver = await assemble(config, fsm, world, raft._failed)
        raft._changes = Changes(driver)
        try:
            driver.reconfiguration.sync_peers()
            await driver.parts.transport.start()
            known = driver.core.commit
            driver.start()
            while driver.applied < known:
                await raft._wait_for_progress()
        except BaseException:
            await raft._shut_down(Closed("the node could not be opened"))
            raise
        return raft

    @classmethod
    async def join(
        cls,
        config: Config,
        fsm: FSM,
        ask: Ask,
        *,
        disk: Disk | None = None,
        network: Network | None = None,
        workers: Workers | None = None,
        rng: random.Random | None = None,
    ) -> Raft:
        """`open` for a node that joins a running cluster: `config` has neither `peers` nor ids.

        At its first start the node chooses its id and writes it down. Then `ask(node_id)` has any member call
        `add_learner(config.name, config.address, node_id=node_id)`, and returns that member's `cluster_id`; how the
        question gets there is the caller's business. A start that fails is made again under the same id, and later
        starts don't ask. Raises what `open` does, and whatever `ask` raises.
        """
        disk, rng = disk or OsDisk(), rng or random.Random()
        config = _absolute(config, disk)
        config = await joining_config(config, ask, disk=disk, rng=rng)
        raft = await cls.open(config, fsm, disk=disk, network=network, workers=workers, rng=rng)
        finish_joining(disk, config.data_dir)
        return raft

    # -- commands and reads -------------------------------------------------------------------------------------------

    def apply(self, data: bytes, *, timeout: float = 5.0, extensions: bytes = b"") -> ApplyFuture:
        """Replicate a command and apply it to the state machine. Await the future for the state machine's answer.

        `timeout` (seconds) bounds the whole operation. Failures: `Rejected` (the state machine refused), `TooLarge`,
        `Dropped`, `NoLeader`, `NotLeader`, `Superseded` (all `not_applied`), `DeadlineExceeded`, `Closed` (see their
        `outcome`), `DiskFull`, `NodeFailed`.
        """
        return self._apply(Kind.COMMAND, data, timeout, extensions)

    def apply_many(self, commands: Sequence[bytes], *, timeout: float = 5.0) -> list[ApplyFuture]:
        """`apply` for each, in this order, in one batch. They are not atomic together."""
        return [self._apply(Kind.COMMAND, data, timeout, b"") for data in commands]

    def apply_then(self, data: bytes, then: Then, *, timeout: float = 5.0) -> None:
        """`apply` for those who go on in a callback: `then(answer, None)`, or `then(None, error)`.

        It is called exactly once, on the event loop: at once where the proposal fails at once, else in the very turn of
        the loop in which the answer is known, so it must be short and must not block. What it raises goes to the loop's
        exception handler.
        """
        call = ApplyCall(then)
        try:
            self._propose(call, Kind.COMMAND, data, timeout, b"")
        except ENDED_AT_ONCE as error:
            call.failed(error)

    def barrier(self, *, timeout: float = 5.0) -> ApplyFuture:
        """Done when everything committed before it has been applied here."""
        return self._apply(Kind.BARRIER, b"", timeout, b"")

    def read_index(self, *, timeout: float = 5.0) -> ReadFuture:
        """When the future is done, a read of the local state machine is linearizable; on any node.

        A quorum has confirmed the leader after this call, and this node has applied what was committed then (thesis,
        6.4). Calls that come close together share one future and one confirmation, so it can't be cancelled; a task
        that awaits it can.
        """
        driver, loop = self._driver, self._driver.loop
        if driver.thread != get_ident():
            driver.check_running()
        if driver.stopped_by is not None:
            future = ReadFuture(loop=loop)
            settle_error(future, driver.stopped_by)
            return future
        driver.schedule()
        return driver.reads.new(loop, loop.time() + _timeout(timeout), driver.config.heartbeat_s)

    async def read(self, look: Callable[[], Answer], *, timeout: float = 5.0) -> Answer:  # noqa: ASYNC109
        """Call `look()` linearizably, and return its answer; on any node.

        It runs on the state machine's thread, between two applies: it sees everything that was committed before this
        call, and nothing half applied. It must be short and must not change the state. What it raises is raised here.

            count = await raft.read(lambda: machine.count)

        Raises:
            DeadlineExceeded, NoLeader: no quorum confirmed it, or its turn did not come, before the deadline.
            Closed, NodeFailed: the node has stopped.
        """
        driver = self._driver
        deadline_s = driver.loop.time() + _timeout(timeout)
        await self.read_index(timeout=timeout)
        driver.check_running()
        future: asyncio.Future[Answer] = driver.loop.create_future()
        driver.parts.machine.put(cast("LookWork[object]", LookWork(look, future)))
        left_s = max(0.0, deadline_s - driver.loop.time())
        try:
            ends = [cast("asyncio.Future[object]", future), cast("asyncio.Future[object]", self._failure)]
            await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return future.result()
            driver.check_running()
            message = "the state machine was busy until the deadline"
            raise DeadlineExceeded(message, outcome=Outcome.NOT_APPLIED, leader=self.leader)
        finally:
            future.cancel()

    async def verify_leader(self, *, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Return if this node leads, as confirmed by a quorum after the call; else raise NotLeader."""
        term = self._driver.core.term
        self._check_leads()
        await self.read_index(timeout=timeout)
        self._check_leads()
        if self._driver.core.term != term:
            raise NotLeader("the leadership changed meanwhile", leader=self.leader)

    def _check_leads(self) -> None:
        if self._driver.core.state is not StateType.LEADER:
            raise NotLeader("this node does not lead", leader=self.leader)

    def _apply(self, kind: Kind, data: bytes, timeout_s: float, extensions: bytes) -> ApplyFuture:
        future = ApplyFuture(loop=self._driver.loop)
        try:
            self._propose(future, kind, data, timeout_s, extensions)
        except ENDED_AT_ONCE as error:
            future.failed(error)
        return future

    def _propose(self, waiter: Waiter, kind: Kind, data: bytes, timeout_s: float, extensions: bytes) -> None:
        driver = self._driver
        driver.check_running()
        size = len(data) + len(extensions)
        if size > driver.config.max_entry_bytes:
            raise TooLarge(f"a command of {size} bytes; the limit is {driver.config.max_entry_bytes}")
        driver.parts.wal.check_space(size)
        driver.proposals.add(waiter, size, driver.loop.time() + _timeout(timeout_s))
        driver.propose(waiter, DATA, encode(Proposal(kind, driver.core.raft.id, waiter.number, data, extensions)))

    # -- membership ---------------------------------------------------------------------------------------------------

    async def add_learner(
        self,
        name: str,
        address: str,
        *,
        http: str = "",
        node_id: NodeId = NONE,
        promote: bool = True,
        expected_index: int | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> MemberInfo:
        """Add a member that learns before it counts; it becomes a voter by itself once caught up, if `promote`.

        Idempotent: the same name and address again gives the member that there is. `node_id` is the new node's own
        choice (a fresh random number), or 0 to be given one; open the node with it and with `cluster_id`.
        `expected_index`: only if the membership's index is still this one. Raises MembershipError.
        """
        return await self._changes.add(
            name, address, http=http, node_id=node_id, voter=False, promote=promote, expected=expected_index,
            timeout_s=_timeout(timeout),
        )  # fmt: skip

    async def add_voter(
        self,
        name: str,
        address: str,
        *,
        http: str = "",
        node_id: NodeId = NONE,
        expected_index: int | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> MemberInfo:
        """Add a member that votes at once. `add_learner` is the safer way: this one counts before it has the log."""
        return await self._changes.add(
            name, address, http=http, node_id=node_id, voter=True, promote=False, expected=expected_index,
            timeout_s=_timeout(timeout),
        )  # fmt: skip

    async def promote(self, node_id: NodeId, *, expected_index: int | None = None, timeout: float = 30.0) -> Membership:  # noqa: ASYNC109
        """Make a learner a voter now."""
        return await self._changes.single(ChangeType.ADD_NODE, node_id, expected_index, _timeout(timeout))

    async def demote(self, node_id: NodeId, *, expected_index: int | None = None, timeout: float = 30.0) -> Membership:  # noqa: ASYNC109
        """Make a voter a learner, which stays one."""
        return await self._changes.single(ChangeType.ADD_LEARNER_NODE, node_id, expected_index, _timeout(timeout))

    async def remove(self, node_id: NodeId, *, expected_index: int | None = None, timeout: float = 30.0) -> Membership:  # noqa: ASYNC109
        """Remove a member; the leader hands over first. Done when the change is committed. Idempotent."""
        return await self._changes.single(ChangeType.REMOVE_NODE, node_id, expected_index, _timeout(timeout))

    async def change_membership(
        self,
        changes: Sequence[tuple[ChangeType, NodeId]],
        *,
        expected_index: int | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> Membership:
        """Any change of known members at once, through a joint membership where more than one voter changes."""
        return await self._changes.known(changes, expected_index, _timeout(timeout))

    async def transfer_leadership(self, to: NodeId = NONE, *, timeout: float = 10.0) -> NodeId:  # noqa: ASYNC109
        """Hand leadership over, to the most up-to-date voter or to `to`. Returns the new leader once it leads.

        Raises TransferFailed at the deadline, MembershipError where `to` is no voter. The old leader goes on then.
        """
        driver = self._driver
        driver.check_running()
        deadline_s = driver.loop.time() + _timeout(timeout)
        before = driver.core.leader
        target = self._changes.successor(to)
        if target == before:
            return target
        while driver.loop.time() < deadline_s and not driver.stopped:
            if driver.core.leader not in (NONE, before) and to in (NONE, driver.core.leader):
                return driver.core.leader
            before = driver.core.leader or before  # a third one may have come in between
            if driver.core.leader == before and driver.core.raft.transferee == NONE:
                driver.core.transfer_leadership(target)
                driver.schedule()
            await self._changes.wait(min(deadline_s, driver.loop.time() + driver.config.election_s))
        driver.check_running()
        raise TransferFailed(f"node {target:016x} did not take over before the deadline", leader=self.leader)

    # -- snapshots ----------------------------------------------------------------------------------------------------

    async def snapshot(self) -> SnapshotManifest:
        """Take a snapshot now. Raises NothingToSnapshot, StorageError."""
        manifest = await self._driver.snapshotter.take()
        assert isinstance(manifest, SnapshotManifest)
        return manifest

    # -- what there is to know ----------------------------------------------------------------------------------------

    @property
    def node_id(self) -> NodeId:
        return self._driver.parts.identity.node_id

    @property
    def cluster_id(self) -> int:
        return self._driver.parts.identity.cluster_id

    @property
    def config(self) -> Config:
        return self._driver.config

    @property
    def leader(self) -> NodeId | None:
        """The leader, as far as this node knows; None after the node has stopped."""
        return None if self._driver.stopped else self._driver.core.leader or None

    @property
    def no_leader(self) -> str:
        """Why there is none, for people; empty while a leader is known."""
        if self._driver.stopped:
            return f"this node has stopped: {self._driver.stopped_by}"
        return "" if self._driver.core.leader else self._driver.founding.why_no_leader()

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows. False after it has stopped."""
        return self._driver.core.state is StateType.LEADER and not self._driver.stopped

    @property
    def role(self) -> str:
        """`leader`, `follower`, `candidate`, `learner`, or `stopped`."""
        return self.stats().role

    @property
    def address(self) -> str:
        """Where peers are listened for, with the real port."""
        return self._driver.parts.transport.address

    @property
    def catching_up(self) -> bool:
        """Whether the local state may still be older than what this node showed before it was restarted.

        Only after a crash, and until the node has applied all that its log held, or a leader has confirmed what is
        committed. Reads behind `read_index` are never affected; a reader of the local state who must not see it go
        back waits until this is False.
        """
        return not self._driver.horizon.reached

    @property
    def state_age_s(self) -> float | None:
        """How old the local state may be: it has all that was committed so many seconds ago. None: nobody can tell.

        Counted from the last confirmed read of this node (`read_index`), from the moment at which it was asked for: so
        no message's time on the way, and nobody else's clock, is part of it. Also on the leader, which may have been
        replaced without knowing it.
        """
        return self._driver.reads.age_s(self._driver.loop.time())

    @property
    def last_contact_s(self) -> float | None:
        """The age of the last word from the leader; 0 on the leader, None before the first."""
        if self.is_leader:
            return 0.0
        since = self._driver.leader_contact_s
        return None if since is None else self._driver.loop.time() - since

    def membership(self) -> Membership:
        """The membership in force here, with the index of its last change."""
        driver = self._driver
        return driver.parts.book.membership(driver.core.raft.tracker.configuration.state())

    def stats(self) -> Stats:
        """The node at this moment. Never waits on anything."""
        return collect(self._driver)

    def peers(self) -> dict[NodeId, PeerStats]:
        """The links to the peers."""
        return self._driver.parts.transport.stats()

    def events(self, kinds: Collection[EventKind] | None = None) -> AsyncIterator[Event]:
        """What happens from now on, until the node closes; all kinds, or some."""
        return self._driver.events.watch(kinds)

    # -- the end ------------------------------------------------------------------------------------------------------

    async def failed(self) -> NodeFailed:
        """Wait until the node has stopped by itself (fail-stop), and return why. Raises Closed where it is closed."""
        return await result_of(self._failure)

    async def until_stopped(self) -> None:
        """Wait for SIGTERM or Ctrl-C, and then return; `close` is left to the caller. For the main thread's loop.

        Raises NodeFailed where the node stops by itself, Closed where it is closed.
        """
        told = self._driver.loop.create_task(self.failed())
        for number in (signal.SIGTERM, signal.SIGINT):
            self._driver.loop.add_signal_handler(number, told.cancel)
        try:
            await asyncio.wait([told])
        finally:
            told.cancel()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._driver.loop.remove_signal_handler(number)
        if not told.cancelled():
            raise told.result()

    async def close(self) -> None:
        """Stop: hand leadership over where somebody can take it, end what waits, make everything durable, let go.

        Idempotent. Operations under way end with `Closed`.
        """
        if self._closing is None:
            self._closing = self._driver.loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _close(self) -> None:
        driver = self._driver
        try:
            if not driver.stopped and self.is_leader and driver.reconfiguration.best_successor() != NONE:
                with contextlib.suppress(SynclineError):  # where nobody takes over in time, the others elect a leader
                    await self.transfer_leadership(timeout=min(HANDOVER_S, 2 * driver.config.election_s))
        finally:
            await self._shut_down(Closed("the node was closed"))

    async def _shut_down(self, reason: Closed) -> None:
        driver = self._driver
        if not driver.stopped:
            driver.stop(reason, Closed(str(reason), outcome=Outcome.NOT_APPLIED))
        parts = driver.parts
        if not self._failure.done():
            self._failure.set_exception(reason)
            self._failure.exception()  # nobody need look
        async with contextlib.AsyncExitStack() as doors:  # each is closed, in this order turned round, whatever fails
            busy: list[str] = []

            def release() -> None:
                if not busy:  # else its code may still write there: the lock goes with the process
                    parts.directory.release()

            doors.callback(release)
            doors.callback(parts.wal.close)
            for worker in (parts.writer, parts.receiver):
                doors.push_async_callback(worker.close)
            doors.push_async_callback(_close_in_time, "the writer of snapshots", parts.persister.close, busy)
            doors.push_async_callback(_close_in_time, "the state machine", parts.machine.close, busy)
            doors.push_async_callback(driver.snapshotter.close)
            doors.push_async_callback(parts.transport.close)

    def _failed(self, failure: NodeFailed) -> None:
        if not self._failure.done():
            self._failure.set_result(failure)

    async def _wait_for_progress(self) -> None:
        self._driver.check_running()
        await self._changes.wait(self._driver.loop.time() + self._driver.config.heartbeat_s)


async def _close_in_time(what: str, close: Callable[[], Awaitable[None]], busy: list[str]) -> None:
    """Close what runs the program's own code, which may hang. Its thread is a daemon, and ends with the process."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await close()
    except TimeoutError:
        busy.append(what)
        log.warning("%s did not end within %g s: the node closes without it and keeps its lock", what, CLOSE_S)


def _absolute(config: Config, disk: Disk) -> Config:
    """The same settings, whose data directory stays what it is if the program changes its working directory."""
    if os.path.isabs(config.data_dir) or not isinstance(disk, OsDisk):
        return config
    return msgspec.structs.replace(config, data_dir=os.path.join(os.getcwd(), config.data_dir))


def _timeout(timeout_s: float) -> float:
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise ConfigError(f"timeout is {timeout_s}: it must be positive and at most {MAX_TIMEOUT_S:.0f} seconds")
    return timeout_s
