"""`Raft`: one node of a replicated state machine, the main class of the library."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, Self, TypeVar, cast, overload

import msgspec

from syncline.consensus.types import NONE, StateType
from syncline.errors import (
    Closed,
    DeadlineExceeded,
    NodeFailed,
    Outcome,
    UsageError,
)
from syncline.node.arguments import (
    check_config,
    check_timeout,
    check_world,
    checked_flag,
    checked_kinds,
    checked_paths,
)
from syncline.node.changes import Changes
from syncline.node.config import Config
from syncline.node.connect import membership_operations
from syncline.node.events import AnyEvent, Event
from syncline.node.exposure import check_exposure
from syncline.node.fsm import FSM
from syncline.node.ids import NodeId
from syncline.node.joining import Ask, finish_joining, joining_config
from syncline.node.leader_operations import LeaderOperations
from syncline.node.machine import check_applied_index, check_machine
from syncline.node.member_registry import Membership
from syncline.node.quorum_loss.recover import recover_quorum
from syncline.node.quorum_loss.report import RecoveryReport
from syncline.node.reload import apply_settings, changed_settings
from syncline.node.restoring import Restoring
from syncline.node.role import Role, role_of
from syncline.node.runtime import Driver
from syncline.node.session_operations import SessionOperations
from syncline.node.startup import assemble
from syncline.node.startups import Startup
from syncline.node.stats import SnapshotInfo, Stats, Timings, collect, timings
from syncline.node.used_machines import check_unused, claim
from syncline.platform.disk import Disk, OsDisk
from syncline.platform.waiting import result_of
from syncline.platform.world import World
from syncline.storage.snapshots.store import SnapshotManifest
from syncline.transport.messages import PeerStats

__all__ = ["Raft"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
"""What the state machine answers to a command."""

log: logging.Logger = logging.getLogger("syncline.node")

CLOSE_S: Final = 10.0
"""How long `close` waits for code of the program: an apply, or a snapshot that is being written."""

HANDOVER_S = 2.0
"""How long `close` waits for another node to take over the leadership."""


class Raft(Restoring[R_co], LeaderOperations[R_co], SessionOperations[R_co]):
    """A running node. Make one with `Raft.open`; use it on the event loop where it was opened.

        async with Raft.open(config, Counter()) as raft:
            print(await raft.apply(b"1"))

    `Raft[int]` is a node whose state machine answers with integers, as `FSM[int]` does. A program that runs a node and
    little else calls `platform.interpreter.prepare` before and `freeze` after it, and runs on uvloop if it is
    installed: a write then waits less for the other threads of the process.

    Every operation has one deadline (`timeout`, in seconds), fails with an `errors.OperationError` whose `outcome` says
    whether it can still take effect, and may be called on any node: what only the leader can do is passed on to it.
    """

    def __init__(self) -> None:
        self._driver: Driver
        self._changes: Changes
        self._failure: asyncio.Future[NodeFailed]
        self._world: World
        self._closing: asyncio.Task[None] | None = None
        raise UsageError("use `await Raft.open(config, fsm)`")

    def __repr__(self) -> str:
        core = self._driver.core
        name, role = self._driver.config.name, self.role
        return f"<Raft {name!r} ({self.node_id}): {role}, term {core.term}, commit index {core.commit_index}>"

    @classmethod
    def open(cls, config: Config, fsm: FSM[R], *, world: World | None = None) -> Startup[Raft[R]]:
        """Start a node from its data directory, or a new one.

        On return the state machine has everything that this node durably knew to be committed; there need not be a
        leader yet. After a crash that may be a little less than it showed before: see `catching_up`. `world` replaces
        what is outside the node, for tests.

            raft = await Raft.open(config, fsm)          # the caller calls `close`
            async with Raft.open(config, fsm) as raft:   # closed at the end of the block
                ...

        Raises:
            TypeError: `fsm` is no state machine, or `config` no `Config`.
            UsageError: `fsm` was given to a node before: each start needs a new object (a `DurableFSM` does not).
            ConfigError: the settings do not fit each other, or the data directory.
            StorageError: `DirectoryLocked`, `WrongDirectory`, `CorruptionError` and their like.
            NodeFailed: the state machine can't load its snapshot, or apply an entry.
            OSError: the peer address can't be bound.
        """
        return Startup(cls._open(config, fsm, world or World()), Raft.close)

    @classmethod
    async def _open(cls, config: Config, fsm: FSM[R], world: World) -> Raft[R]:
        check_config(config)
        check_world(world)
        await check_exposure(config)
        config = _absolute(config, world.disk)
        raft = cast("Raft[R]", cls.__new__(cls))
        loop = asyncio.get_running_loop()
        raft._failure = loop.create_future()
        raft._closing = None
        raft._world = world
        raft._driver = driver = await assemble(config, fsm, world, raft._failed)
        raft._changes = membership_operations(driver)
        try:
            driver.reconfiguration.sync_peers()
            await driver.parts.transport.start()
            known = driver.core.commit_index
            claim(fsm)
            driver.start()
            while driver.applied < known:
                await raft._wait_for_progress()
            driver.opened()
        except BaseException:
            await raft._shut_down(Closed("the node could not be opened"))
            raise
        return raft

    @classmethod
    def join(cls, config: Config, fsm: FSM[R], ask: Ask, *, world: World | None = None) -> Startup[Raft[R]]:
        """`open` for a node that joins a running cluster: `config` has neither `peers` nor ids.

        At its first start the node chooses its id and writes it down. Then `ask(node_id)` has any member call
        `add_learner(config.name, config.address, node_id=node_id)`, and returns that member's `cluster_id`; how the
        question gets there is the caller's business. A start that fails is made again under the same id, and later
        starts don't ask.

            async def ask(node_id: int) -> int:
                answer = await post("http://10.0.0.1:8080/add", {"name": "d", "address": address, "id": node_id})
                return answer["cluster_id"]

            raft = await Raft.join(config, fsm, ask)

        Raises:
            OSError, SynclineError: as `open` does.
            Exception: whatever `ask` raises.
        """
        return Startup(cls._join(config, fsm, ask, world or World()), Raft.close)

    @classmethod
    async def _join(cls, config: Config, fsm: FSM[R], ask: Ask, world: World) -> Raft[R]:
        check_config(config)
        check_world(world)
        check_machine(fsm)  # as `open` does; but here before a member is asked
        check_unused(fsm)
        config = _absolute(config, world.disk)

        def check_new() -> None:
            check_applied_index(fsm, 0, node=config.name, path=config.data_dir)

        config = await joining_config(config, ask, disk=world.disk, rng=world.rng, check_new=check_new)
        raft = await cls._open(config, fsm, world)
        try:
            finish_joining(world.disk, config.data_dir)
        except BaseException:
            await raft.close()
            raise
        return raft

    @classmethod
    async def recover(
        cls,
        config: Config,
        fsm: FSM[R],
        *,
        compare: Sequence[str] = (),
        dry_run: bool = False,
        accept_loss: bool = False,
        world: World | None = None,
    ) -> RecoveryReport:
        """After the loss of a quorum for good: make a stopped node's state the first member of a new cluster. Offline.

        The state is that of the whole log in `config.data_dir`, also of entries that were not known to be committed.
        The new cluster has this one voter, a new id, and revisions far above the old ones. The other nodes join it
        with empty directories. The old files are moved to a folder within the directory. `fsm` is an empty state
        machine, which must be thrown away afterwards.

            report = await Raft.recover(config, Counter(), compare=["data/b"], dry_run=True)
            if not report.may_lose:
                await Raft.recover(config, Counter(), compare=["data/b"])

        `compare` names copies of other nodes' directories: with a quorum of them nothing that was acknowledged can be
        lost, if the newest is recovered. `dry_run` changes nothing. Without `accept_loss` a recovery that may lose
        acknowledged writes is refused. After an interruption the same call completes it (docs/recovery.md).

        Raises:
            UsageError: there is no such directory, it is another node's, or acknowledged writes may be lost.
            DirectoryLocked: a node runs on the directory.
            RepairNeeded: the directory is in the middle of a repair.
            WrongDirectory: a directory in `compare` is of another cluster.
            StorageError: a directory in `compare` has a newer log; or a directory is damaged, or the disk refused.
            NodeFailed: the state machine can't load its snapshot, or apply an entry.
        """
        check_config(config)
        world = world or World()
        return await recover_quorum(
            _absolute(config, world.disk),
            fsm,
            compare=checked_paths(compare),
            dry_run=checked_flag(dry_run, "dry_run"),
            accept_loss=checked_flag(accept_loss, "accept_loss"),
            world=world,
        )

    # -- settings -----------------------------------------------------------------------------------------------------

    def reload(self, config: Config) -> tuple[str, ...]:
        """Take other timers and limits while the node runs. Returns the names of the settings that have changed.

            changed = raft.reload(msgspec.structs.replace(raft.config, snapshot_entries=50_000))

        All of it is taken, or nothing. Timers (`heartbeat_s`, `election_s`, `session_idle_s`), sizes and limits,
        `hold_level` and `http` can change. All other settings must be those of before. What is under way keeps the
        limits under which it began, and deadlines keep their resolution, the first `heartbeat_s`. With another election
        timeout the node waits for all of it, so an election may come that much later. Give all nodes the same timers,
        one after the other. The level of the log is Python's: `logging.getLogger("syncline").setLevel(logging.DEBUG)`.

        Raises:
            ConfigError: another setting differs: the text names each. Nothing is changed.
            TypeError: `config` is no `Config`.
            Closed, NodeFailed: the node has stopped.
        """
        check_config(config)
        driver = self._driver
        driver.running.check()
        changed = changed_settings(driver.config, _absolute(config, self._world.disk))
        if changed:
            settings = {field: getattr(config, field) for field in changed}
            apply_settings(msgspec.structs.replace(driver.config, **settings), driver, self._changes)
            log.info("node %s: other settings: %s", driver.config.name, ", ".join(changed))
        return changed

    # -- snapshots ----------------------------------------------------------------------------------------------------

    async def snapshot(self, *, timeout: float = 600.0) -> SnapshotInfo:
        """Take a snapshot of the state now, and drop the log before it. After `timeout` it goes on unwatched.

            print((await raft.snapshot()).index)

        Raises:
            DeadlineExceeded: it is not finished (`unknown`).
            NothingToSnapshot: nothing was applied since the newest snapshot.
            StorageError: the state machine can't be read, or the snapshot not written.
            Closed, NodeFailed: the node has stopped.
        """
        check_timeout(timeout)
        self._driver.running.check()
        taking = self._driver.snapshotter.take()
        await asyncio.wait([taking], timeout=timeout)
        if not taking.done():
            raise DeadlineExceeded(f"the snapshot is not finished after {timeout:g} s; it goes on")
        manifest = taking.result()
        assert isinstance(manifest, SnapshotManifest)
        return SnapshotInfo(manifest.index, manifest.term, manifest.size_bytes)

    # -- what there is to know ----------------------------------------------------------------------------------------

    @property
    def node_id(self) -> NodeId:
        """The id of this node."""
        return NodeId(self._driver.parts.identity.node_id)

    @property
    def cluster_id(self) -> int:
        """The id of the cluster that it belongs to."""
        return self._driver.parts.identity.cluster_id

    @property
    def config(self) -> Config:
        """Its settings. The data directory has an absolute path."""
        return self._driver.config

    @property
    def no_leader(self) -> str:
        """Why there is none, for people; empty while a leader is known."""
        if self._driver.running.stopped:
            return f"this node has stopped: {self._driver.running.stopped_by}"
        return "" if self._driver.core.leader else self._driver.why_no_leader()

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows. False after it has stopped."""
        return self._driver.core.state is StateType.LEADER and not self._driver.running.stopped

    @property
    def term(self) -> int:
        """The present term of this node. It never falls, restarts included."""
        return self._driver.core.term

    @property
    def role(self) -> Role:
        """`leader`, `follower`, `candidate`, `learner`, or `stopped`."""
        return role_of(self._driver.core, stopped=self._driver.running.stopped)

    @property
    def address(self) -> str:
        """Where peers are listened for, with the real port."""
        return self._driver.parts.transport.address

    @property
    def advertised(self) -> str:
        """Where peers reach this node, as it announces it."""
        return self._driver.parts.transport.advertised

    @property
    def catching_up(self) -> bool:
        """Whether the local state may still be older than what this node showed before it was restarted.

        Only after a crash, and until the node has applied all that its log held, or a leader has confirmed what is
        committed. Reads behind `read_index` are never affected; a reader of the local state that must not see it go
        back waits until this is False.
        """
        return not self._driver.recovery_barrier.reached

    @property
    def state_age_s(self) -> float | None:
        """How old the local state may be: it has all that was committed so many seconds ago. None: it is not known.

        Counted from the last confirmed read of this node (`read_index`), from the moment at which it was asked for: so
        no message's time on the way, and no other clock, is part of it. Also on the leader, which may have been
        replaced without knowing it.
        """
        return self._driver.reads.age_s(self._driver.loop.time())

    @property
    def state_alarm(self) -> str:
        """Why the state of this node can't be relied on; empty if nothing is known against it.

        Set while the voters' digests differ without a majority (docs/digest.md). Writes go on.
        """
        return self._driver.digests.alarm

    @property
    def last_contact_s(self) -> float | None:
        """The age of the last word from the leader; 0 on the leader, None before the first."""
        if self.is_leader:
            return 0.0
        since = self._driver.leader_contact_s
        return None if since is None else self._driver.loop.time() - since

    def membership(self) -> Membership:
        """The membership in force here, with the index of its last change.

            names = [member.name for member in raft.membership().members.values()]

        It is as this node has applied it: a follower may be behind.
        """
        driver = self._driver
        return driver.parts.book.membership(driver.core.membership)

    def stats(self) -> Stats:
        """The node's figures at this moment.

            print(raft.stats().applied)

        Never waits on anything.
        """
        return collect(self._driver)

    def timings(self) -> Timings:
        """How long syncs, commits, applies and reads took since the start.

            syncs = raft.timings().log_syncs
            mean_s = syncs.sum / max(1, sum(syncs.counts))

        Never waits on anything. The distributions are live: they go on counting.
        """
        return timings(self._driver)

    def peers(self) -> dict[int, PeerStats]:
        """The links to the peers, by id (`NodeId`).

            reached = [peer for peer, link in raft.peers().items() if link.connected]

        Never waits on anything.
        """
        return {NodeId(peer): link for peer, link in self._driver.parts.transport.stats().items()}

    @overload
    def events(self) -> AsyncIterator[Event]: ...

    @overload
    def events(self, *kinds: type[AnyEvent]) -> AsyncIterator[AnyEvent]: ...

    def events(self, *kinds: type[Event]) -> AsyncIterator[Event]:
        """What happens from now on, until the node closes: all events, or those of some classes.

            async for event in raft.events(LeaderChanged):
                print(event.leader)

        A watcher that is too slow loses the oldest events; the next one that it gets counts them (`missed`).

        Raises:
            TypeError: one of `kinds` is no class of events.
            UsageError: it is called on another thread or loop than the node's.
        """
        self._driver.running.check_place()
        return self._driver.events.watch(*checked_kinds(kinds))

    # -- the end ------------------------------------------------------------------------------------------------------

    async def failed(self) -> NodeFailed:
        """Wait until the node has stopped by itself (fail-stop), and return why.

            watching = asyncio.create_task(raft.failed())

        Raises:
            Closed: the node was closed.
        """
        self._driver.running.check_place()
        return await result_of(self._failure)

    async def until_stopped(self) -> None:
        """Wait for SIGTERM or Ctrl-C, and then return; `close` is left to the caller. For the main thread's loop.

            async with Raft.open(config, fsm) as raft:
                await raft.until_stopped()

        Raises:
            NodeFailed: the node has stopped by itself.
            Closed: the node was closed.
            UsageError: it is called beside the main thread, or on another loop than the node's.
        """
        self._driver.running.check_place()
        if threading.current_thread() is not threading.main_thread():
            raise UsageError(
                "until_stopped waits for signals, which reach the main thread alone: await `failed` on this thread, and"
                " have the main thread end it"
            )
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
        """Stop the node: transfer its leadership if another voter is alive, end what waits, and close the files.

            await raft.close()

        Idempotent. Operations under way end with `Closed`.

        Raises:
            UsageError: it is called on another thread or loop than the node's, or in a forked child.
        """
        self._driver.running.check_place()
        if self._closing is None:
            self._closing = self._driver.loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _close(self) -> None:
        try:
            await self._transfer_before_close()
        finally:
            await self._shut_down(Closed("the node was closed"))

    async def _transfer_before_close(self) -> None:
        """Transfer the leadership while a voter can take it over. Without a new leader in time, the others elect one.

        The voter may be closing as well, as in a program that closes all its nodes. Its link is lost then: another one
        is chosen, unless those that are left can elect no leader.
        """
        driver = self._driver
        core, voters, clock = driver.core, driver.reconfiguration, driver.loop.time
        deadline_s = clock() + min(HANDOVER_S, 2 * driver.config.election_s)
        if not self.is_leader:
            return
        while not driver.running.stopped and core.leader in (NONE, core.id) and clock() < deadline_s:
            if not voters.has_live_quorum():
                return
            if core.state is StateType.LEADER and (core.transferee == NONE or not voters.is_alive(core.transferee)):
                target = voters.best_successor()
                if target == NONE:
                    return
                core.transfer_leadership(target)
                driver.schedule()
            # A node that has stepped down stays until another one leads: its vote may be needed.
            await driver.running.wait(min(deadline_s, clock() + driver.config.election_s))

    async def _shut_down(self, reason: Closed) -> None:
        driver = self._driver
        try:
            if not driver.running.stopped:
                driver.stop(reason, Closed(str(reason), outcome=Outcome.NOT_APPLIED))
        finally:  # a logging handler of the program may raise: the files are closed all the same
            if not self._failure.done():
                self._failure.set_exception(reason)
                self._failure.exception()  # mark it as retrieved
            await self._close_parts()

    async def _close_parts(self) -> None:
        driver = self._driver
        parts = driver.parts
        async with contextlib.AsyncExitStack() as closing:  # each is closed, in this order turned round, whatever fails
            busy: list[str] = []

            def release() -> None:
                if not busy:  # else its code may still write there: the lock goes with the process
                    parts.directory.release()

            closing.callback(release)
            closing.callback(parts.wal.close)
            closing.callback(parts.entry_reader.close)
            for worker in (parts.writer, parts.noter, parts.receiver, parts.reader):
                closing.push_async_callback(worker.close)
            closing.push_async_callback(_close_in_time, "the writer of snapshots", parts.persister.close, busy)
            closing.push_async_callback(_close_in_time, "the state machine", parts.machine.close, busy)
            closing.push_async_callback(driver.snapshotter.close)
            closing.push_async_callback(parts.transport.close)

    def _failed(self, failure: NodeFailed) -> None:
        if not self._failure.done():
            self._failure.set_result(failure)

    async def _wait_for_progress(self) -> None:
        self._driver.running.check(begun=True)
        await self._driver.running.wait(self._driver.loop.time() + self._driver.config.heartbeat_s)


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
