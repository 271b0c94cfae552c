"""The driver of one node on a log backend: reads the log, applies it, confirms reads, takes snapshots.

Tasks: one reads the log and hands its entries to the `Applier`, one appends (`outbox`), one confirms reads. The applier
is that of Raft's nodes: it has the sessions, and the thread of the state machine.

Fail-stop: these stop the node: an exception of the state machine, a record that can't be read, and a log that is not
the one of before (`LogReplaced`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar

import msgspec

from syncline.consensus.types import NodeId
from syncline.engines.backend import BackendLost, LogBackend, LogPage, LogReplaced
from syncline.engines.contact import Contact
from syncline.engines.leases import LeaseHolder
from syncline.engines.outbox import CommandOutbox
from syncline.engines.stored import load_snapshot
from syncline.engines.taking import TERM, LogTaker
from syncline.engines.waiting import PendingCommands, PendingReads
from syncline.errors import BacklogFull, Closed, Dropped, NodeFailed, Outcome, StorageError, SynclineError, Unreachable
from syncline.node.applier import Applied, Applier, ApplyWork, NotViewed, Viewed
from syncline.node.applier import Outcome as WorkOutcome
from syncline.node.events import Event, Events, NodeStopped, RoleChanged, SnapshotInstalled
from syncline.node.fsm import FSM, CheckingFSM
from syncline.node.looks import LookWork
from syncline.node.machine import CommandCheck, check_log_machine, machine_name, release
from syncline.node.running import Running
from syncline.node.used_machines import claim
from syncline.platform.once import start_once
from syncline.platform.texts import named_error
from syncline.platform.world import World
from syncline.sessions.table import SessionTable

__all__ = ["EngineDriver", "ViewAt"]

Answer = TypeVar("Answer")

OPEN_S: Final = 15.0
"""How long `open` waits for the backend."""

SNAPSHOT_S: Final = 120.0
"""How long a snapshot may take to be read."""

PAGE_BYTES: Final = 8 << 20
UNAPPLIED_ENTRIES: Final = 10_000
UNAPPLIED_BYTES: Final = 32 << 20
"""Above it no more of the log is read until some of it is applied. Commands are refused above either of these."""

WAIT_S: Final = 0.25
"""How long the backend is trusted to tell of new records by itself."""

ORIGIN_BITS: Final = 62
CLOSE_S: Final = 10.0
"""How long `close` waits for code of the program."""

log: Final = logging.getLogger("syncline.engines")


class ViewAt(msgspec.Struct, frozen=True):
    """A view of the state machine, or none, and the time of the last entry in it."""

    outcome: Viewed | NotViewed
    time_s: float


class EngineDriver:
    """One node. `name` is shown to other nodes, as the holder of the leadership."""

    def __init__(self, backend: LogBackend, fsm: FSM[object], world: World, name: str) -> None:
        self.backend: LogBackend = backend
        self.fsm: FSM[object] = fsm
        self._machine = machine_name(fsm)
        self.world: World = world
        self.running: Running = Running()
        self.loop: asyncio.AbstractEventLoop = self.running.loop
        self.events: Events = Events()
        self.origin: int = world.rng.getrandbits(ORIGIN_BITS) + 1
        self.contact: Contact = Contact(backend.name, world.rng, self._told)
        self.commands: PendingCommands = PendingCommands(self.loop, world.rng)
        self.reads: PendingReads = PendingReads(self.loop)
        self.commands.trouble = self.reads.trouble = lambda: self.contact.trouble
        self.check: CommandCheck | None = CommandCheck(fsm, self.loop.time) if isinstance(fsm, CheckingFSM) else None
        self.taker: LogTaker = LogTaker(0, backend.name)
        self.outbox: CommandOutbox = CommandOutbox(
            backend,
            self.contact,
            self.commands,
            lambda: self.taker,
            self._reach_head,
            self._claim,
            origin=self.origin,
            rng=world.rng,
            wall_time_s=world.wall_time_s,
        )
        self.leases: LeaseHolder = LeaseHolder(
            backend, self.contact, self.running, name, lambda role: self._told(RoleChanged(role=role))
        )
        self.applied: int = 0
        """The index of the last entry that was applied here."""
        self.applied_position: int = 0
        """Everything up to this position is applied here."""
        self.time_s: float = 0.0
        self.snapshot_index: int = 0
        self.installed: int = 0
        self.records_since: int = 0
        """Records that were taken since the newest snapshot that this node knows."""
        self.bytes_since: int = 0
        self.views: deque[asyncio.Future[ViewAt]] = deque()
        self.entries_applied: Callable[[], None] = lambda: None
        """Called after entries were applied."""
        self.failure: asyncio.Future[NodeFailed] = self.loop.create_future()
        self._applier: Applier | None = None
        self._steps: deque[tuple[int, int]] = deque()
        """(index, position): once the index is applied, everything up to the position is."""
        self._unapplied_bytes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._asked = asyncio.Event()

    # -- start and end ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, load the newest snapshot, and apply what the log has now.

        Raises:
            Unreachable: the backend did not answer in time (`not_applied`).
            ConfigError: it can't be used.
            NodeFailed: the state machine can't load the snapshot, or apply an entry.
            UsageError: another node has its state machine.
        """
        self.contact.is_opening = True
        await self._in_time(OPEN_S, self._connect())
        await self._in_time(SNAPSHOT_S, self._begin())
        head = await self._in_time(OPEN_S, self._head())
        self.contact.is_opening = False
        if not head:  # no program has appended to it yet
            with contextlib.suppress(BackendLost):  # the first append claims it
                await self._in_time(OPEN_S, self.contact.attempt(self._claim()))
        claim(self.fsm)
        for work in (self._read_log, self.outbox.run, self._confirm_reads):
            self._tasks.append(self.loop.create_task(self._guarded(work)))
        seen, silent_s = -1, self.loop.time()
        while self.applied_position < head:
            self.running.check(begun=True)
            now_s = self.loop.time()
            if not self.contact.trouble or self.taker.seen != seen:
                seen, silent_s = self.taker.seen, now_s
            elif now_s - silent_s >= OPEN_S:
                raise self._unreachable(OPEN_S)
            await self.running.wait(now_s + WAIT_S)

    async def _in_time(self, limit_s: float, work: Coroutine[object, object, Answer]) -> Answer:
        try:
            async with asyncio.timeout(limit_s):
                return await work
        except TimeoutError:
            raise self._unreachable(limit_s) from None
        except LogReplaced as error:
            raise self._replaced(error) from error

    def _unreachable(self, limit_s: float) -> Unreachable:
        why = f": {self.contact.trouble}" if self.contact.trouble else ""
        return Unreachable(f"{self.backend.name} did not answer within {limit_s:g} s{why}")

    async def _connect(self) -> None:
        while True:
            try:
                self.taker = LogTaker(await self.backend.start(), self.backend.name)
                check_log_machine(self.fsm, await self.backend.claim(""))
            except BackendLost as error:
                await self.contact.pause(error)
            else:
                return

    async def _begin(self) -> None:
        while self._applier is None:
            try:
                await self._load_snapshot()
            except BackendLost as error:
                await self.contact.pause(error)

    async def _head(self) -> int:
        while True:
            try:
                return await self.contact.attempt(self.backend.confirm(self.taker.mark))
            except BackendLost as error:
                await self.contact.pause(error)

    async def _claim(self) -> None:
        """Note whose log it is. Raises NodeFailed if it is another machine's, which could not apply our entries."""
        check_log_machine(self.fsm, await self.backend.claim(self._machine))

    async def _guarded(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        try:
            await work()
        except LogReplaced as error:
            self.fail(self._replaced(error))
        except NodeFailed as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - it stops the node
            failure = NodeFailed(f"an unexpected error stops this node: {named_error(error)}")
            failure.__cause__ = error
            try:
                self.fail(failure)
            finally:  # as in `fail`
                log.critical("an unexpected error stops this node", exc_info=error)

    def _replaced(self, error: LogReplaced) -> NodeFailed:
        return NodeFailed(
            f"{error}. The backend was restored from an older backup, or has lost acknowledged data. This node has"
            " stopped, because its state is not that of the log. Start it again to go on with the log as it is now"
            " (docs/engines.md)"
        )

    def fail(self, failure: NodeFailed) -> None:
        """Stop: going on would risk the data."""
        if self.running.stopped:
            return
        self.stop(failure, NodeFailed(str(failure), outcome=Outcome.NOT_APPLIED))
        if not self.failure.done():
            self.failure.set_result(failure)
        log.critical("%s", failure)  # last: a logging handler of the program may raise

    def stop(self, sent: SynclineError, unsent: SynclineError) -> None:
        """End all that waits. `sent` is the error of what may have taken effect."""
        self.running.end(sent, unsent)
        self.commands.fail_all(sent, unsent)
        self.reads.fail_all(unsent)
        self._no_views(sent)
        self.events.emit(NodeStopped(reason=str(sent)), term=self.leases.token, index=self.applied)
        self.events.close()
        self.running.wake()
        for task in self._tasks:
            task.cancel()  # the current one too: a state machine on the loop may fail in the task that reads the log

    def stop_by_caller(self) -> None:
        """Stop, because the program closes the node."""
        if not self.running.stopped:
            self.stop(Closed("the node was closed"), Closed("the node was closed", outcome=Outcome.NOT_APPLIED))

    async def close(self) -> None:
        """Close what a stopped node has open."""
        if not self.failure.done():
            self.failure.set_exception(Closed("the node was closed"))
            self.failure.exception()  # mark it as retrieved
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.leases.close()
        await self._close_applier()
        await self.backend.close()

    async def _close_applier(self) -> bool:
        """Close it. Returns whether its code has ended."""
        applier, self._applier = self._applier, None
        if applier is None:
            return True
        try:
            async with asyncio.timeout(CLOSE_S):
                await applier.close()
        except TimeoutError:
            log.warning("the state machine did not end within %g s: the node goes on without it", CLOSE_S)
            return False
        return True

    # -- the log ------------------------------------------------------------------------------------------------------

    async def _read_log(self) -> None:
        while True:
            try:
                page = await self.contact.attempt(self.backend.read(self.taker.mark, self.taker.seen, PAGE_BYTES))
                if page.trimmed > self.taker.seen:
                    await self._load_snapshot()
                    continue
                self._take(page)
                if page.records:
                    await self._wait_for_room()
                else:
                    await self.backend.wait(self.taker.seen, WAIT_S)
            except BackendLost as error:
                await self.contact.pause(error)

    def _take(self, page: LogPage) -> None:
        taker, applier = self.taker, self._applier
        assert applier is not None, "it is made with the first snapshot, or without one"
        for record in page.records:
            self.outbox.check(record)
            entries = taker.take(record)
            self.records_since += 1
            self.bytes_since += len(record.body)
            if entries:
                self._unapplied_bytes += sum(len(entry.data) for entry in entries)
                self._steps.append((taker.index, record.position))
                applier.put(ApplyWork(entries, ()))
            self.outbox.taken(record.writer, record.sequence, effective=entries is not None)
        taker.seen = max(taker.seen, page.seen)
        if self._steps and self._steps[-1][0] == taker.index:
            self._steps.pop()  # a state machine that hangs must not let this grow with each poll
        self._steps.append((taker.index, taker.seen))
        self._progressed()

    async def _wait_for_room(self) -> None:
        while self._unapplied_bytes > UNAPPLIED_BYTES and not self.running.stopped:
            await self.running.wait(self.loop.time() + WAIT_S)

    def _progressed(self) -> None:
        steps = self._steps
        while steps and steps[0][0] <= self.applied:
            self.applied_position = max(self.applied_position, steps.popleft()[1])
        self.reads.applied(self.applied_position)
        self.running.wake()

    async def _load_snapshot(self) -> None:
        """Load the newest stored snapshot in place of the state, if it is newer than that."""
        where = f"the snapshot of {self.backend.name}"
        stored = await self.contact.attempt(self.backend.snapshot(), SNAPSHOT_S)
        if self._applier is not None:
            if stored is None or stored.position <= self.taker.seen:
                raise LogReplaced(f"records behind position {self.taker.seen} are gone, and no snapshot has them")
            self._no_views(StorageError("a snapshot is loaded in place of the state"))
            if not await self._close_applier():
                raise NodeFailed("the state machine does not end, so that no snapshot can be loaded into it")
        elif stored is None:
            self._applier = self._new_applier(SessionTable(), 0.0)
            return
        assert stored is not None, "checked above"
        body = stored.body
        loaded = await asyncio.wrap_future(start_once("syncline-restore", lambda: load_snapshot(self.fsm, body, where)))
        state = loaded.state
        if state.log_id != self.taker.log_id:
            raise NodeFailed(f"{where} is of another log: restore the backend from a backup (docs/engines.md)")
        again = self.taker.seen > 0
        self.taker = LogTaker.of(state, self.backend.name)
        self.applied, self.time_s, self.snapshot_index = state.index, state.time_s, state.index
        self._steps.clear()
        self._unapplied_bytes = self.records_since = self.bytes_since = 0
        self._applier = self._new_applier(loaded.sessions, state.time_s)
        self.commands.fail(self.outbox.missed(), _missed())
        self._steps.append((state.index, state.seen))
        self._progressed()
        if again:
            self.installed += 1
            self._told(SnapshotInstalled(snapshot_index=state.index))

    # -- the state machine --------------------------------------------------------------------------------------------

    def _new_applier(self, sessions: SessionTable, time_s: float) -> Applier:
        return Applier(
            self.fsm,
            NodeId(self.origin),
            self.world.workers,
            self._deliver,
            self._apply_failed,
            sessions=sessions,
            time_s=time_s,
        )

    @property
    def sessions(self) -> int:
        """Open sessions."""
        return 0 if self._applier is None else len(self._applier.sessions.table)

    def look(self, work: LookWork[object]) -> None:
        """Run a look between two applies. Without a state machine, while a snapshot is loaded, it waits in vain."""
        if self._applier is not None:
            self._applier.put(work)

    @property
    def applier(self) -> Applier | None:
        """The applier; None while a snapshot is loaded."""
        return self._applier

    def _deliver(self, outcome: WorkOutcome) -> None:
        if self.running.stopped:
            if isinstance(outcome, Viewed):
                release(outcome.view)
            return
        if isinstance(outcome, Applied):
            self._on_applied(outcome)
        elif isinstance(outcome, LookWork):
            outcome.deliver()
        elif isinstance(outcome, Viewed | NotViewed):
            self._viewed(outcome)

    def _viewed(self, outcome: Viewed | NotViewed) -> None:
        view = self.views.popleft() if self.views else None  # none: a snapshot is being loaded in place of the state
        if view is not None and not view.done():
            view.set_result(ViewAt(outcome, self.time_s))
        elif isinstance(outcome, Viewed):
            release(outcome.view)

    def _no_views(self, error: Exception) -> None:
        """The views that were asked for do not come."""
        while self.views:
            self._viewed(NotViewed(error))

    def _on_applied(self, done: Applied) -> None:
        self.applied = done.last_index
        self.time_s = max(self.time_s, done.time_s)
        self._unapplied_bytes = max(0, self._unapplied_bytes - done.size_bytes)
        for number, index, _, answer in done.answers:
            self.commands.resolved(number, index, TERM, answer)
        self._progressed()
        self.entries_applied()

    def _apply_failed(self, error: BaseException) -> None:
        failure = error if isinstance(error, NodeFailed) else NodeFailed(named_error(error))
        self.fail(failure)

    def check_backlog(self) -> None:
        """Raise BacklogFull if the state machine is slower than the log: a new command would wait, and take memory."""
        waiting = self.taker.index - self.applied
        if waiting > UNAPPLIED_ENTRIES or self._unapplied_bytes > UNAPPLIED_BYTES:
            raise BacklogFull(
                f"{waiting} entries wait to be applied on this node, whose state machine is slower than the log:"
                " nothing was proposed. Propose less at a time, or try again later"
            )

    # -- reads --------------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """A read waits for a confirmation."""
        self._asked.set()

    async def _confirm_reads(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            while self.reads.next_round():
                try:
                    position = await self.contact.attempt(self.backend.confirm(self.taker.mark))
                except BackendLost as error:
                    self.reads.back()
                    await self.contact.pause(error)
                    continue
                self.reads.confirmed(position)
                self.reads.applied(self.applied_position)
                if position > self.taker.seen:
                    self.backend.kick()
            self.contact.idle()

    async def _reach_head(self) -> None:
        """Wait until everything that is in the log now was taken."""
        position = await self._head()
        self.backend.kick()
        while self.taker.seen < position:
            await self.running.wait(self.loop.time() + WAIT_S)

    def _told(self, event: Event) -> None:
        self.events.emit(event, term=self.leases.token, index=self.applied)


def _missed() -> Dropped:
    return Dropped(
        "this node was too slow for the log, and has loaded a snapshot that has this command: it was applied, and its"
        " answer is not known here",
        outcome=Outcome.UNKNOWN,
    )
