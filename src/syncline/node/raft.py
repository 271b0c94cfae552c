"""`Raft`: one node of a replicated state machine, the library's public face."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import ClassVar, Final, Self

import msgspec

from syncline.consensus.types import NONE, NodeId, StateType
from syncline.errors import (
    Closed,
    NodeFailed,
    Outcome,
    SynclineError,
    UsageError,
)
from syncline.node.administration import Administration
from syncline.node.arguments import check_config, checked_kinds
from syncline.node.changes import Changes
from syncline.node.config import Config
from syncline.node.events import Event, EventKind
from syncline.node.exposure import check_exposure
from syncline.node.fsm import FSM
from syncline.node.joining import Ask, finish_joining, joining_config
from syncline.node.machine import check_applied_index, check_machine
from syncline.node.member_registry import Membership
from syncline.node.runtime import Driver
from syncline.node.startup import World, assemble
from syncline.node.state_digest import DIGEST_INTERVAL
from syncline.node.stats import Stats, collect
from syncline.platform.disk import Disk, OsDisk
from syncline.platform.entropy import Entropy, system_entropy
from syncline.platform.network import Network, TcpNetwork
from syncline.platform.waiting import result_of
from syncline.platform.worker import ThreadWorkers, Workers
from syncline.storage.snapshots.store import SnapshotManifest
from syncline.transport.messages import PeerStats
from syncline.version import FEATURE_LEVEL

__all__ = ["Raft"]

log = logging.getLogger("syncline.node")

CLOSE_S: Final = 10.0
"""How long `close` waits for code of the program: an apply, or a snapshot that is being written."""

HANDOVER_S = 2.0
"""How long `close` waits for another node to take over the leadership."""


class Raft(Administration):
    """A running node. Make one with `Raft.open`; use it on the event loop where it was opened.

    A program that runs a node and little else calls `platform.interpreter.prepare` before and `freeze` after it, and
    runs on uvloop where that is to be had: a write then waits less for the other threads of the process.

    Every operation has one deadline, fails with an `errors.OperationError` whose `outcome` says whether it can still
    take effect, and may be called on any node: what only the leader can do is passed on to it.
    """

    _digest_interval: ClassVar[int] = DIGEST_INTERVAL

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
        entropy: Entropy = system_entropy,
        feature_level: int = FEATURE_LEVEL,
    ) -> Raft:
        """Start a node from its data directory, or a new one.

        On return the state machine has everything that this node durably knew to be committed; there need not be a
        leader yet. After a crash that may be a little less than it showed before: see `catching_up`. The keyword
        arguments replace the real world, for tests.

        Raises TypeError (no state machine), ConfigError, StorageError (`DirectoryLocked`, `WrongDirectory`,
        `CorruptionError` ...), NodeFailed (also if the state machine can't load its snapshot, or apply an entry), and
        OSError if the peer address can't be bound.
        """
        check_config(config)
        await check_exposure(config)
        disk = disk or OsDisk()
        config = _absolute(config, disk)
        raft = cls.__new__(cls)
        loop = asyncio.get_running_loop()
        raft._failure = loop.create_future()
        raft._closing = None
        world = World(
            disk,
            network or TcpNetwork(),
            workers or ThreadWorkers(),
            rng or random.Random(),
            entropy,
            cls._digest_interval,
            feature_level,
        )
        raft._driver = driver = await assemble(config, fsm, world, raft._failed)
        raft._changes = Changes(driver)
        try:
            driver.reconfiguration.sync_peers()
            await driver.parts.transport.start()
            known = driver.core.commit_index
            driver.start()
            while driver.applied < known:
                await raft._wait_for_progress()
            driver.opened()
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
        entropy: Entropy = system_entropy,
        feature_level: int = FEATURE_LEVEL,
    ) -> Raft:
        """`open` for a node that joins a running cluster: `config` has neither `peers` nor ids.

        At its first start the node chooses its id and writes it down. Then `ask(node_id)` has any member call
        `add_learner(config.name, config.address, node_id=node_id)`, and returns that member's `cluster_id`; how the
        question gets there is the caller's business. A start that fails is made again under the same id, and later
        starts don't ask. Raises what `open` does, and whatever `ask` raises.
        """
        disk, rng = disk or OsDisk(), rng or random.Random()
        check_config(config)
        check_machine(fsm)  # both also in `open`; but here before a member is asked
        config = _absolute(config, disk)

        def check_new() -> None:
            check_applied_index(fsm, 0, node=config.name, path=config.data_dir)

        config = await joining_config(config, ask, disk=disk, rng=rng, check_new=check_new)
        raft = await cls.open(
            config,
            fsm,
            disk=disk,
            network=network,
            workers=workers,
            rng=rng,
            entropy=entropy,
            feature_level=feature_level,
        )
        finish_joining(disk, config.data_dir)
        return raft

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
    def no_leader(self) -> str:
        """Why there is none, for people; empty while a leader is known."""
        if self._driver.stopped:
            return f"this node has stopped: {self._driver.stopped_by}"
        return "" if self._driver.core.leader else self._driver.why_no_leader()

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
    def advertised(self) -> str:
        """Where peers reach this node, as it announces it."""
        return self._driver.parts.transport.advertised

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
        """What happens from now on, until the node closes; all kinds, or some.

        Raises TypeError if `kinds` is no collection of `EventKind`.
        """
        return self._driver.events.watch(checked_kinds(kinds))

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
            doors.callback(parts.entry_reader.close)
            for worker in (parts.writer, parts.noter, parts.receiver, parts.reader):
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
