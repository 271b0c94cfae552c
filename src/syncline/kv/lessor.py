"""The clockwork of the leases: the leader ends them, and answers keep-alives without an entry of the log.

It uses the public handle of a node alone. The rules (docs/leases.md):

- A leader ends no lease and answers no call before it has applied the first entry of its term. From then on each lease
  has its full time, or the rest that the log has recorded.
- What a leader decides names its term, and takes effect in an entry of that term alone.
- A keep-alive is answered after a quorum has confirmed the leader since it came in. A leader that is cut off would
  promise time that the next leader does not know of.
- While an entry about a lease is under way, keep-alives of that lease wait until it is applied, or certainly is not.
- If the log has recorded less than the full time, a keep-alive is answered after the log has the full time again.

Without leases it does nothing: no message, no entry, no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from syncline.errors import (
    DeadlineExceeded,
    NodeFailed,
    NotLeader,
    OperationError,
    Outcome,
    StorageError,
    SynclineError,
)
from syncline.kv.commands import Command, LeaseCheckpoint, LeaseEnd, encode_command
from syncline.kv.lease_calls import KeepAlive, LeaseCall, LeaseTime, decode_call, encode_times
from syncline.kv.lease_clock import CHECKPOINT_S, LeaseClock
from syncline.kv.lease_rounds import AskedCall, LeaseRounds, WaitingCall
from syncline.kv.leases import LeaseBook, LeaseEvent
from syncline.kv.limits import MAX_DELETED_KEYS, MAX_LEASES_AT_ONCE
from syncline.kv.machine import KvMachine
from syncline.kv.observers import on_loop
from syncline.kv.records import LeaseEndAnswer, LeaseRecord
from syncline.node.asking import AskHandler
from syncline.node.events import AnyEvent, RoleChanged

__all__ = ["LeaderHandle", "LeaseCounts", "Lessor"]

DECISIONS_PER_S: Final = 1000
"""Leases that are ended, or whose rest is recorded, in a second: thousands that end at one moment leave room for the
writes of clients."""

KEYS_PER_S: Final = 100_000
"""Keys that are deleted in a second, with leases that end: about a fifth of the time of a core."""

MAX_DECISIONS: Final = 500
"""Leases in one command."""

RETRY_S: Final = 1.0
"""After a proposal that was refused, for instance for lack of space on the disk."""

PROPOSAL_S: Final = 5.0
CALL_S: Final = 10.0
"""Limits of one proposal, and of one call to the leader with all that it waits for."""


class LeaderHandle(Protocol):
    """The methods of `Raft` that the clockwork uses."""

    @property
    def is_leader(self) -> bool: ...

    def apply(
        self, data: bytes, *, timeout: float, term: int | None = None, frees_space: bool = False
    ) -> Awaitable[object]: ...

    def barrier(self, *, timeout: float) -> Awaitable[object]: ...

    async def verify_leader(self, *, timeout: float) -> int: ...

    def answer_asks(self, handler: AskHandler | None) -> None: ...

    def events(self, *kinds: type[AnyEvent]) -> AsyncIterator[AnyEvent]: ...


class LeaseCounts(msgspec.Struct, kw_only=True):
    """What this node has done as the leader since its start."""

    kept_alive: int = 0
    """Keep-alives that were answered, one for each lease."""
    ended: int = 0
    """Leases that ended because their time was over."""
    recorded: int = 0
    """Leases whose rest was recorded in the log."""


class _Lead:
    """The work of one term."""

    def __init__(self, term: int, clock: LeaseClock) -> None:
        self.term = term
        self.clock = clock
        self.over = False
        self.busy = False
        """Whether a proposal of `_tick` is under way: one at a time."""
        self.free_s = 0.0
        """When the next one may be made."""
        self.deciding: dict[int, asyncio.Future[None]] = {}
        """By lease, an entry about it that is under way: done when it is applied, or certainly never will be."""
        self.timer: asyncio.TimerHandle | None = None
        self.timer_s = 0.0
        self.rounds: LeaseRounds
        """Keep-alives that wait for a quorum."""

    def end(self) -> None:
        """This node leads no longer, or in another term."""
        self.over = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.rounds.end(_leadership_changed())
        for future in self.deciding.values():
            _settle(future)
        self.deciding.clear()


class Lessor:
    """The clockwork of one node. Made on the event loop; `start` it when the node is open, `close` it before the node.

    `checkpoint_s`: after so many seconds without a keep-alive the rest of a lease is recorded.
    """

    def __init__(self, raft: LeaderHandle, machine: KvMachine, *, checkpoint_s: float = CHECKPOINT_S) -> None:
        self._raft = raft
        self._machine = machine
        self._checkpoint_s = checkpoint_s
        self._loop = asyncio.get_running_loop()
        self._book: LeaseBook | None = None
        """The observed book: a restored store has another one."""
        self._lead: _Lead | None = None
        self._starting = False
        self._undecided = False
        """Whether something was decided by the times of another book, and its fate is not known yet."""
        self._closed = False
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._join: Callable[[], None] | None = None
        self.counts: LeaseCounts = LeaseCounts()

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up the work, now and at each later election."""
        self._raft.answer_asks(self._answer)
        self._machine.observe(on_loop(self._observe_book))
        self._observe_book()
        self._spawn(self._watch_role(self._raft.events(RoleChanged)))  # none is missed from now on
        self._look()

    async def close(self) -> None:
        """End the work. What was proposed goes on."""
        self._closed = True
        self._give_up()
        self._raft.answer_asks(None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "the clockwork of the leases failed", "exception": error})

    async def _watch_role(self, changes: AsyncIterator[RoleChanged]) -> None:
        async for event in changes:
            lead = self._lead
            if lead is not None and (not self._raft.is_leader or event.term > lead.term):
                self._give_up()
            self._look()
        self._give_up()  # the node has stopped

    def _observe_book(self) -> None:
        book = self._machine.store.leases
        if book is not self._book:
            self._book = book
            book.observe(self._on_lease)
            # A snapshot was loaded: its leases have other times. If this node leads, that was by an entry of the log
            # (`Raft.restore`), and decisions of the same term may stand behind it.
            self._undecided = self._undecided or self._lead is not None
            self._give_up()
            self._look()

    def _on_lease(self, event: LeaseEvent, record: LeaseRecord) -> None:
        """In the middle of an apply: it must not raise."""
        lead = self._lead
        if lead is None:
            self._look()
        elif event is LeaseEvent.ENDED:
            lead.clock.ended(record.id)
        elif event is not LeaseEvent.CHECKPOINTED:
            lead.clock.set(record, record.ttl_ms, self._loop.time())
            self._arm(lead)

    # -- the term ------------------------------------------------------------------------------------------------------

    def _look(self, *, asked: bool = False) -> None:
        """Take up the work of this term, if this node leads and there is any."""
        if self._lead is not None or self._starting or self._closed or not self._raft.is_leader:
            return
        if asked or len(self._machine.store.leases):
            self._starting = True
            self._spawn(self._take_up())

    async def _take_up(self) -> None:
        """Wait until this node has applied the first entry of its term: confirmed reads wait for it, too."""
        try:
            while self._raft.is_leader:
                if self._undecided and not await self._has_decided():
                    continue
                try:
                    term = await self._raft.verify_leader(timeout=PROPOSAL_S)
                except OperationError:
                    continue  # while it leads; else the next leader takes up the work
                records, now_s = self._machine.store.leases.records(), self._loop.time()
                self._lead = lead = _Lead(term, LeaseClock(records, now_s, checkpoint_s=self._checkpoint_s))
                confirm, confirmed = partial(self._confirm, lead), partial(self._confirmed, lead)
                lead.rounds = LeaseRounds(self._loop, self._spawn, confirm, confirmed)
                lead.rounds.join = self._join
                self._arm(lead)
                return
        except NodeFailed:
            return  # it has stopped
        finally:
            self._starting = False

    async def _has_decided(self) -> bool:
        """Wait for all that this node has proposed before."""
        try:
            await self._raft.barrier(timeout=PROPOSAL_S)
        except (OperationError, StorageError):
            await asyncio.sleep(RETRY_S)  # it may have been refused at once
            return False
        self._undecided = False
        return True

    def _give_up(self) -> None:
        lead, self._lead = self._lead, None
        if lead is not None:
            lead.end()

    def _leading(self) -> _Lead:
        if self._lead is None or not self._raft.is_leader:
            self._look(asked=True)
            raise NotLeader("this node does not lead, or has not applied the first entry of its term yet")
        return self._lead

    async def _confirm(self, lead: _Lead) -> None:
        """Have a quorum confirm that this node still leads in the same term, since this call was made."""
        term = await self._raft.verify_leader(timeout=CALL_S)
        if term != lead.term and self._lead is lead:
            self._give_up()
            self._look()
        self._check(lead)

    @staticmethod
    def _check(lead: _Lead) -> None:
        if lead.over:
            raise _leadership_changed()

    # -- the time is over ----------------------------------------------------------------------------------------------

    def _arm(self, lead: _Lead) -> None:
        """Set the timer for the next lease, if it is not set for an earlier moment."""
        next_s = lead.clock.next_s()
        if next_s is None or lead.busy:
            return
        when_s = max(next_s, lead.free_s)
        if lead.timer is not None:
            if lead.timer_s <= when_s:
                return
            lead.timer.cancel()
        lead.timer_s = when_s
        lead.timer = self._loop.call_at(when_s, self._tick, lead)

    def _tick(self, lead: _Lead) -> None:
        lead.timer = None
        if lead.over or lead.busy:
            return
        if not self._raft.is_leader:
            self._give_up()
            return
        now_s = self._loop.time()
        ends = self._overdue(lead, now_s)
        if not ends and not lead.clock.has_to_record(now_s):
            self._arm(lead)
            return
        lead.busy = True
        keys = sum(self._machine.store.leases.key_count(record.id) for record in ends)
        lead.free_s = now_s + max(len(ends) / DECISIONS_PER_S, keys / KEYS_PER_S)
        self._spawn(self._carry_out(lead, ends))

    def _undisturbed(self, lead: _Lead, now_s: float) -> list[tuple[LeaseRecord, int]]:
        """Leases whose rest is to be recorded at once, with that rest: a keep-alive makes it wrong."""
        book = self._machine.store.leases
        return [
            (record, rest_ms)
            for lease, rest_ms in lead.clock.to_record(now_s, MAX_DECISIONS)
            if lease not in lead.deciding and (record := book.get(lease)) is not None
        ]

    def _overdue(self, lead: _Lead, now_s: float) -> list[LeaseRecord]:
        """Leases to end now. Their keys are no more than one command deletes."""
        book, clock = self._machine.store.leases, lead.clock
        found: list[LeaseRecord] = []
        keys = 0
        for lease in clock.expired(now_s):
            record = book.get(lease)
            if record is None:
                continue
            if lease in lead.deciding:  # its rest is being recorded
                clock.again(lease, now_s + RETRY_S)
                continue
            keys += book.key_count(lease)
            if found and keys > MAX_DELETED_KEYS:
                clock.again(lease, now_s)
                break
            found.append(record)
            if len(found) == MAX_DECISIONS:
                break
        return found

    async def _carry_out(self, lead: _Lead, ends: list[LeaseRecord]) -> None:
        # Nothing is awaited between a look at the clock and `_decide`: a keep-alive in between would be undone.
        try:
            now_s = self._loop.time()
            if due := [record for record in ends if not lead.clock.rest_ms(record.id, now_s)]:
                ids = tuple(record.id for record in due)
                command = LeaseEnd(ids, lead.term, tuple(record.renewed for record in due))
                answer = await self._decide(lead, ids, command, frees_space=True)
                if isinstance(answer, LeaseEndAnswer):
                    self.counts.ended += answer.ended
            rests = [] if lead.over else self._undisturbed(lead, self._loop.time())
            if rests:
                lead.free_s += len(rests) / DECISIONS_PER_S
                # Only while it is the same: a touch since then has given a lease its full time.
                renewed = [record.renewed for record, _ in rests]
                await self._record(lead, [(record.id, rest_ms) for record, rest_ms in rests], renewed)
        except (OperationError, StorageError, NodeFailed):
            lead.free_s = self._loop.time() + RETRY_S  # refused: the leases are still due
        finally:
            lead.busy = False
            if not lead.over:
                for record in ends:
                    lead.clock.again(record.id, lead.free_s)
                self._arm(lead)

    async def _record(self, lead: _Lead, rests: Sequence[tuple[int, int]], renewed: Sequence[int] = ()) -> None:
        for start in range(0, len(rests), MAX_LEASES_AT_ONCE):
            some = slice(start, start + MAX_LEASES_AT_ONCE)
            part = tuple(rests[some])
            command = LeaseCheckpoint(part, lead.term, tuple(renewed[some]))
            await self._decide(lead, [lease for lease, _ in part], command)
            self.counts.recorded += len(part)

    async def _decide(
        self, lead: _Lead, leases: Iterable[int], command: Command, *, frees_space: bool = False
    ) -> object:
        """Propose a decision of this term, and wait for its fate. Raises if it certainly has no effect.

        Returns None if its fate is that it may have been applied, and will not be from now on.
        """
        self._check(lead)
        future: asyncio.Future[None] = self._loop.create_future()
        lead.deciding.update((lease, future) for lease in leases)
        try:
            return await self._raft.apply(
                encode_command(command), timeout=PROPOSAL_S, term=lead.term, frees_space=frees_space
            )
        except OperationError as error:
            if error.outcome is Outcome.NOT_APPLIED:
                raise
            await self._until_decided(lead)
            return None
        finally:
            for lease in [lease for lease in leases if lead.deciding.get(lease) is future]:
                del lead.deciding[lease]
            _settle(future)

    async def _until_decided(self, lead: _Lead) -> None:
        """Wait until all that was proposed in this term is applied here, or the term is over."""
        while not lead.over and self._raft.is_leader:
            try:
                await self._raft.barrier(timeout=PROPOSAL_S)
            except (OperationError, StorageError):
                await asyncio.sleep(RETRY_S)  # it may have been refused at once
                continue
            return

    # -- calls ---------------------------------------------------------------------------------------------------------

    def keep_alive_here(self, call: WaitingCall) -> bool:
        """Keep leases alive for a caller on this node, without a message. False: it is to ask the leader."""
        lead = self._lead
        if lead is None or not self._raft.is_leader:
            return False
        return self._add(lead, call)

    def join(self, gathered: Callable[[], None] | None) -> None:
        """Call `gathered` before each confirmation: what this node has gathered by then can share it."""
        self._join = gathered
        if self._lead is not None:
            self._lead.rounds.join = gathered

    def _answer(self, data: bytes) -> asyncio.Future[bytes]:
        """Answer a call of a node to this leader: in a task only if it has more to wait for than a confirmation."""
        call = decode_call(data)
        deadline_s = self._loop.time() + CALL_S
        if isinstance(call, KeepAlive):
            lead = self._leading()
            future: asyncio.Future[bytes] = self._loop.create_future()
            if self._add(lead, AskedCall(call.leases, deadline_s, future)):
                return future
        return self._loop.create_task(self._answer_later(call, deadline_s))

    def _add(self, lead: _Lead, call: WaitingCall) -> bool:
        """Have a quorum confirm the leader for a call. False: it has to wait for an entry of the log before."""
        # The clocks are set before the confirmation, too: otherwise a lease could end while this waits. It does no harm
        # without a quorum.
        if self._is_being_decided(lead, call.leases) or self._renew(lead, call.leases):
            return False
        lead.rounds.add(call)
        return True

    async def _answer_later(self, call: LeaseCall, deadline_s: float) -> bytes:
        return encode_times(await self._times_later(call, deadline_s))

    async def _times_later(self, call: LeaseCall, deadline_s: float) -> list[LeaseTime]:
        try:
            async with asyncio.timeout_at(deadline_s):
                return await (self._kept_alive if isinstance(call, KeepAlive) else self._times_left)(call.leases)
        except SynclineError:  # `DeadlineExceeded` is a `TimeoutError`
            raise
        except TimeoutError as error:
            raise DeadlineExceeded("the leader could not answer in time") from error

    def _confirmed(self, lead: _Lead, call: WaitingCall) -> None:
        """Answer keep-alives: a quorum has confirmed the leader since they came in."""
        if self._is_being_decided(lead, call.leases) or self._renew(lead, call.leases):
            self._spawn(self._settle_later(call))  # something was decided about them meanwhile
        else:
            call.answered(self._full_times(call.leases))

    async def _settle_later(self, call: WaitingCall) -> None:
        """Answer keep-alives that wait for more than a confirmation."""
        try:
            call.answered(await self._times_later(KeepAlive(call.leases), call.deadline_s))
        except SynclineError as error:
            call.failed(error)
        finally:
            call.cancel()  # if this was cancelled

    @staticmethod
    def _is_being_decided(lead: _Lead, leases: Iterable[int]) -> bool:
        """Whether an entry about one of these leases is under way."""
        deciding = lead.deciding
        return bool(deciding) and any(lease in deciding for lease in leases)

    async def _kept_alive(self, leases: Sequence[int]) -> list[LeaseTime]:
        lead = self._leading()
        while True:
            if deciding := {lead.deciding[lease] for lease in leases if lease in lead.deciding}:
                await asyncio.wait(deciding)
                self._check(lead)
                continue
            worn = self._renew(lead, leases)
            if worn:
                await self._record(lead, [(record.id, record.ttl_ms) for record in worn])
                self._check(lead)
                continue
            await self._confirm(lead)
            if not self._is_being_decided(lead, leases) and not self._renew(lead, leases):
                return self._full_times(leases)

    def _full_times(self, leases: Sequence[int]) -> list[LeaseTime]:
        """The answer for leases that have their full time again."""
        book = self._machine.store.leases
        records = [book.get(lease) for lease in leases]
        self.counts.kept_alive += sum(record is not None for record in records)
        return [LeaseTime(record.ttl_ms, record.ttl_ms) if record else LeaseTime(0, 0) for record in records]

    def _renew(self, lead: _Lead, leases: Sequence[int]) -> list[LeaseRecord]:
        """Give leases their full time; return those of which the log has recorded less."""
        book, clock, now_s = self._machine.store.leases, lead.clock, self._loop.time()
        worn: list[LeaseRecord] = []
        for lease in leases:
            record = book.get(lease)
            if record is not None:
                clock.set(record, record.ttl_ms, now_s)
                if record.rest_ms < record.ttl_ms:
                    worn.append(record)
        return worn

    async def _times_left(self, leases: Sequence[int]) -> list[LeaseTime]:
        lead = self._leading()
        await self._confirm(lead)
        book, now_s = self._machine.store.leases, self._loop.time()
        records = [book.get(lease) for lease in leases]
        return [
            LeaseTime(record.ttl_ms, lead.clock.rest_ms(record.id, now_s)) if record else LeaseTime(0, 0)
            for record in records
        ]


def _leadership_changed() -> NotLeader:
    return NotLeader("the leadership changed meanwhile")


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
