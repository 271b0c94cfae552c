"""The clockwork of the leases on a log without a leader: on an engine such as etcd or PostgreSQL (docs/engines.md).

There are no messages between the nodes, so a keep-alive is a command. All nodes see each grant, each keep-alive and
each end in the log, and all nodes count. The first one for which the time of a lease is over proposes its end.

No leader decides, so none can be deposed in the middle of a decision. What makes an end safe:

- The end of a lease names the entry that gave it its full time last (`LeaseEnd.renewed`). Apply passes over a lease
  that got its time again since then. So the order of the log decides between a keep-alive and an end.
- A node counts from the moment at which it has applied that entry. The holder counts from before it sent it. So the
  holder's time is over first, as long as no clock runs faster than the others.
- Once such an end is right, it stays right. So it may be late, repeated, or proposed by several nodes.

A node that was opened later, or has loaded a snapshot, counts from then on: its ends come later, never earlier. The
rest of a long lease is recorded as with a leader (`CHECKPOINT_S`). The nodes take the shortest rest that they know of.

Without leases it does nothing: no command, no timer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import Final, Protocol

import msgspec

from syncline.errors import NodeFailed, OperationError, StorageError
from syncline.kv.commands import Command, LeaseCheckpoint, LeaseEnd, authorised, encode_command
from syncline.kv.lease_calls import KeepAlive, LeaseTime, decode_call
from syncline.kv.lease_clock import CHECKPOINT_S, LeaseClock
from syncline.kv.leases import LeaseBook, LeaseEvent
from syncline.kv.lessor import DECISIONS_PER_S, KEYS_PER_S, MAX_DECISIONS, PROPOSAL_S, RETRY_S, LeaseCounts
from syncline.kv.limits import MAX_TTL_MS
from syncline.kv.machine import KvMachine
from syncline.kv.observers import on_loop
from syncline.kv.records import LeaseCheckpointAnswer, LeaseEndAnswer, LeaseRecord

__all__ = ["LogHandle", "LogLessor", "member_command"]

SPREAD_S: Final = 0.25
"""Each node waits up to so long before it proposes an end. So one of them comes first, and most others see its end."""

NO_TERM: Final = 0
"""The term of all entries of such a log."""


class LogHandle(Protocol):
    """The methods of `LogReplica` that the clockwork uses."""

    def apply(self, data: bytes, *, timeout: float, frees_space: bool = False) -> Awaitable[object]: ...

    def read_index(self, *, timeout: float) -> Awaitable[object]: ...


def member_command(machine: KvMachine, command: bytes) -> bytes:
    """An encoded command as one of a program that is a node itself: it needs no credential. Raises `TooLarge`."""
    return authorised(command, "", b"", machine.store.auth.revision)


class LogLessor:
    """The clockwork of one node. Made on the event loop; `start` it when the node is open, `close` it before the node.

    `checkpoint_s`: after so many seconds without a keep-alive the rest of a lease is recorded.
    """

    def __init__(
        self, log: LogHandle, machine: KvMachine, *, rng: random.Random, checkpoint_s: float = CHECKPOINT_S
    ) -> None:
        self._log = log
        self._machine = machine
        self._rng = rng
        self._checkpoint_s = checkpoint_s
        self._loop = asyncio.get_running_loop()
        self._book: LeaseBook = LeaseBook()
        """The observed book: a restored store has another one, with times that `_clock` does not know yet."""
        self._clock = LeaseClock((), 0.0, checkpoint_s=checkpoint_s)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._free_s = 0.0
        """When the next proposal may be made."""
        self._work: asyncio.Task[None] | None = None
        """The proposals of one tick: one at a time."""
        self._over = False
        self.counts: LeaseCounts = LeaseCounts()

    def start(self) -> None:
        """Take up the work."""
        self._machine.observe(on_loop(self._observe_book))
        self._observe_book()

    async def close(self) -> None:
        """End the work. What was proposed goes on."""
        self._end()
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    def _end(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- what the log says ---------------------------------------------------------------------------------------------

    def _observe_book(self) -> None:
        book = self._machine.store.leases
        if book is self._book or self._over:
            return
        self._book = book
        # A snapshot has no times: from now on each lease has its full time, or the rest that was recorded.
        self._clock = LeaseClock(book.records(), self._loop.time(), checkpoint_s=self._checkpoint_s)
        book.observe(self._on_lease)
        self._arm()

    def _on_lease(self, event: LeaseEvent, record: LeaseRecord) -> None:
        """In the middle of an apply: it must not raise."""
        if self._over:
            return
        now_s = self._loop.time()
        if event is LeaseEvent.ENDED:
            self._clock.ended(record.id)
        elif event is LeaseEvent.CHECKPOINTED:
            self._clock.recorded(record.id, record.rest_ms, now_s)
        else:
            self._clock.set(record, record.ttl_ms, now_s)
        self._arm()

    # -- the time is over ----------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the timer for the next lease, if it is not set for an earlier moment."""
        next_s = self._clock.next_s()
        if next_s is None or self._work is not None or self._over:
            return
        when_s = max(next_s, self._free_s)
        if self._timer is not None:
            if self._timer_s <= when_s:
                return
            self._timer.cancel()
        self._timer_s = when_s
        self._timer = self._loop.call_at(when_s + SPREAD_S * self._rng.random(), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._machine.store.leases is not self._book:
            return  # it was restored on another thread: `_observe_book` follows, and arms again
        now_s = self._loop.time()
        ends = self._overdue(now_s)
        if not ends and not self._clock.has_to_record(now_s):
            self._arm()
            return
        keys = sum(self._book.key_count(record.id) for record in ends)
        self._free_s = now_s + max(len(ends) / DECISIONS_PER_S, keys / KEYS_PER_S)
        self._work = self._loop.create_task(self._carry_out(ends))
        self._work.add_done_callback(self._done)

    def _overdue(self, now_s: float) -> list[LeaseRecord]:
        """Leases to end now. One command may not end them all: it has a limit of keys. Then the rest are still due."""
        found: list[LeaseRecord] = []
        for lease in self._clock.expired(now_s):
            if (record := self._book.get(lease)) is not None:
                found.append(record)
            if len(found) == MAX_DECISIONS:
                break
        return found

    async def _carry_out(self, ends: list[LeaseRecord]) -> None:
        try:
            if ends:
                renewed = tuple(record.renewed for record in ends)
                answer = await self._apply(LeaseEnd(tuple(record.id for record in ends), NO_TERM, renewed))
                if isinstance(answer, LeaseEndAnswer):
                    self.counts.ended += answer.ended
            await self._record_rests()
        except NodeFailed:
            self._end()  # it has stopped
        except (OperationError, StorageError):
            self._free_s = self._loop.time() + RETRY_S  # the leases are still due
        for record in ends:
            self._clock.again(record.id, self._free_s)

    async def _record_rests(self) -> None:
        book, now_s = self._book, self._loop.time()
        records = [
            (record, rest_ms)
            for lease, rest_ms in self._clock.to_record(now_s, MAX_DECISIONS)
            if (record := book.get(lease)) is not None
        ]
        if records:
            self._free_s += len(records) / DECISIONS_PER_S
            rests = tuple((record.id, rest_ms) for record, rest_ms in records)
            renewed = tuple(record.renewed for record, _ in records)
            answer = await self._apply(LeaseCheckpoint(rests, NO_TERM, renewed))
            if isinstance(answer, LeaseCheckpointAnswer):
                self.counts.recorded += answer.recorded

    def _apply(self, command: Command) -> Awaitable[object]:
        data = member_command(self._machine, encode_command(command))
        return self._log.apply(data, timeout=PROPOSAL_S, frees_space=True)

    def _done(self, work: asyncio.Task[None]) -> None:
        self._work = None
        if not work.cancelled() and (error := work.exception()) is not None:
            self._loop.call_exception_handler({"message": "the clockwork of the leases failed", "exception": error})
        self._arm()

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def ask_leader(self, data: bytes, *, timeout: float) -> bytes:
        """Answer a call about leases, on this node: for `LeaseCaller`. Raises what the log's `apply` raises."""
        call = decode_call(data)
        answer = self._kept_alive if isinstance(call, KeepAlive) else self._times_left
        return msgspec.msgpack.encode(await answer(call.leases, timeout))

    async def _kept_alive(self, leases: Sequence[int], timeout_s: float) -> list[LeaseTime]:
        # A rest above the TTL is the full time. An entry of before that ends one of them can't do so any more.
        command = LeaseCheckpoint(tuple((lease, MAX_TTL_MS) for lease in leases), NO_TERM)
        await self._log.apply(member_command(self._machine, encode_command(command)), timeout=timeout_s)
        records = [self._machine.store.leases.get(lease) for lease in leases]
        self.counts.kept_alive += sum(record is not None for record in records)
        return [LeaseTime(record.ttl_ms, record.ttl_ms) if record else LeaseTime(0, 0) for record in records]

    async def _times_left(self, leases: Sequence[int], timeout_s: float) -> list[LeaseTime]:
        await self._log.read_index(timeout=timeout_s)
        now_s = self._loop.time()
        records = [self._machine.store.leases.get(lease) for lease in leases]
        return [
            LeaseTime(record.ttl_ms, min(record.ttl_ms, self._clock.rest_ms(record.id, now_s)))
            if record
            else LeaseTime(0, 0)
            for record in records
        ]
