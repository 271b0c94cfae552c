"""Proposals made on this node that wait for their answer.

Each has a number that is unique on this node, restarts included, and travels with the entry. The answer comes when
this node applies the entry with that number. What ends a proposal otherwise:

- its deadline (`unknown` once it was sent, `not_applied` while it was still in the queue),
- a refusal by the leader (`not_applied`; where it only means that leadership is on the move it waits for the next one),
- another entry applied at the position that it was given (`not_applied`: a proposal stands at one position only).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from syncline.errors import DeadlineExceeded, Dropped, NoLeader, Outcome, Superseded, SynclineError
from syncline.node.config import OVERHEAD_BYTES
from syncline.node.futures import ApplyFuture, Waiter

__all__ = ["NO_QUORUM", "Deadlines", "Proposals"]

COUNTER_BITS: Final = 32
"""Of a number; the rest is drawn at start, so that numbers of an earlier run are not met again."""

NONCE_BITS: Final = 31

LARGEST_INDEX: Final = 2**63 - 1
"""An answer that places a proposal above it, or in such a term, is no answer of a leader."""

NO_QUORUM: Final = "no quorum of the voters is reachable"

IN_SNAPSHOT: Final = "a snapshot took the place of the log there: it may have been applied"


Waiting = TypeVar("Waiting")


class Deadlines(Generic[Waiting]):
    """Futures by the time at which they end, in steps: one check per tick instead of one timer per operation."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._buckets: dict[int, dict[Waiting, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, future: Waiting, deadline_s: float) -> int:
        """Returns where it is kept, for `discard`."""
        bucket = int(deadline_s / self._step_s) + 1
        held = self._buckets.get(bucket)
        if held is None:
            held = self._buckets[bucket] = {}
        held[future] = None
        return bucket

    def discard(self, future: Waiting, bucket: int) -> None:
        """It has ended: a long deadline must not keep it, and its answer, in memory until then."""
        held = self._buckets.get(bucket)
        if held is not None:
            held.pop(future, None)
            if not held:
                del self._buckets[bucket]

    def expired(self, now_s: float) -> list[Waiting]:
        """Those whose time has come, removed from here, earliest first. A caller may have cancelled some."""
        current = int(now_s / self._step_s)
        due = [bucket for bucket in self._buckets if bucket <= current]
        return [future for bucket in sorted(due) for future in self._buckets.pop(bucket)]


class Proposals:
    """The futures of this node's own proposals, by number and, once placed, by position."""

    def __init__(self, rng: random.Random, *, step_s: float, max_bytes: int) -> None:
        self._next = (rng.getrandbits(NONCE_BITS) << COUNTER_BITS) + 1
        self._waiting: dict[int, Waiter] = {}
        self._placed: dict[int, list[Waiter]] = {}
        self._deadlines: Deadlines[Waiter] = Deadlines(step_s)
        self._jumped = 0
        """Up to here a snapshot took the place of the log: which proposals are in it can't be told."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self.failed = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def new(self, loop: asyncio.AbstractEventLoop, size_bytes: int, deadline_s: float) -> ApplyFuture:
        """A future for a proposal of this size. Raises as `add` does."""
        future = ApplyFuture(loop=loop)
        self.add(future, size_bytes, deadline_s)
        return future

    def add(self, waiter: Waiter, size_bytes: int, deadline_s: float) -> None:
        """Give a proposal of this size its number. Raises `Dropped` where too much is waiting already."""
        cost = size_bytes + OVERHEAD_BYTES
        if self._bytes + cost > self._max_bytes:
            raise Dropped(
                f"{len(self._waiting)} proposals ({self._bytes} bytes) wait for their answer on this node: try later"
            )
        number = self._next
        self._next = number + 1
        self._bytes += cost
        waiter.number = number
        waiter.size_bytes = cost
        self._waiting[number] = waiter
        waiter.bucket = self._deadlines.add(waiter, deadline_s)

    def placed(self, number: int, index: int, term: int) -> None:
        """The leader gave it this position. It may have been applied already: the two words race."""
        waiter = self._waiting.get(number)
        if waiter is None or not (0 < index <= LARGEST_INDEX and 0 < term <= LARGEST_INDEX):
            return
        if index <= self._jumped:
            self._fail(waiter, DeadlineExceeded(IN_SNAPSHOT))
            return
        waiter.index, waiter.term = index, term
        self._placed.setdefault(index, []).append(waiter)

    def appended(self, waiters: Iterable[Waiter], first: int, term: int) -> None:
        """This node leads, and has appended them to its log just now, one after the other from `first` on."""
        assert first > self._jumped, (first, self._jumped)
        placed = self._placed
        for index, waiter in enumerate(waiters, first):
            waiter.sent = True
            waiter.index = index
            waiter.term = term
            here = placed.get(index)
            if here is None:
                placed[index] = [waiter]
            else:  # placed there by another leader, whose entry this one takes the place of
                here.append(waiter)

    def resolved(self, number: int, index: int, term: int, answer: object) -> None:
        """The entry was applied here."""
        waiter = self._waiting.get(number)
        if waiter is None:
            return
        self._forget(waiter)
        waiter.index, waiter.term = index, term
        if isinstance(answer, SynclineError):
            waiter.failed(answer)
        else:
            waiter.answered(answer)

    def turned_back(self, number: int) -> tuple[Waiter, int, bytes] | None:
        """The leader did not take it: what to send again, if it still waits. Another leader may take it."""
        waiter = self._waiting.get(number)
        if waiter is None or waiter.forwarded is None or waiter.done():
            return None
        (kind, payload), waiter.forwarded, waiter.sent = waiter.forwarded, None, False
        return waiter, kind, payload

    def refused(self, number: int, error: SynclineError) -> None:
        waiter = self._waiting.get(number)
        if waiter is not None:
            self._fail(waiter, error)

    def passed(self, indexes: Iterable[int]) -> None:
        """Entries at these positions were applied: whatever still waits there was replaced by another."""
        placed = self._placed
        if not placed:
            return
        for index in indexes:
            for waiter in placed.pop(index, ()):
                if waiter.number in self._waiting:
                    message = f"another leader's entry was committed at index {index}, in place of this one"
                    self._fail(waiter, Superseded(message))

    def jumped(self, index: int) -> None:
        """A snapshot was installed up to `index`: what waited there may be in it, nobody here can tell."""
        self._jumped = index
        for position in [position for position in self._placed if position <= index]:
            for waiter in self._placed.pop(position):
                if waiter.number in self._waiting:
                    self._fail(waiter, DeadlineExceeded(IN_SNAPSHOT))

    def expire(self, now_s: float, leader: int, why_no_leader: str = NO_QUORUM) -> None:
        """End what is overdue."""
        for waiter in self._deadlines.expired(now_s):
            if waiter.number not in self._waiting:
                continue
            if waiter.done():
                self._forget(waiter)  # its caller gave up waiting; no answer came either
            elif waiter.sent:
                self._fail(waiter, DeadlineExceeded("no answer before the deadline: it may take effect, now or later"))
            elif leader:
                message = "the deadline passed before the leader could take it"
                self._fail(waiter, DeadlineExceeded(message, outcome=Outcome.NOT_APPLIED, leader=leader))
            else:
                self._fail(waiter, NoLeader(f"no leader before the deadline: {why_no_leader}"))

    def fail_all(self, sent: SynclineError, unsent: SynclineError) -> None:
        for waiter in list(self._waiting.values()):
            self._fail(waiter, sent if waiter.sent else unsent)

    def _fail(self, waiter: Waiter, error: SynclineError) -> None:
        self.failed += 1
        self._forget(waiter)
        waiter.failed(error)

    def _forget(self, waiter: Waiter) -> None:
        del self._waiting[waiter.number]
        waiter.forwarded = None
        self._deadlines.discard(waiter, waiter.bucket)
        self._bytes -= waiter.size_bytes
        if waiter.index:
            here = self._placed.pop(waiter.index, None)
            if here is not None and (len(here) > 1 or here[0] is not waiter):
                self._placed[waiter.index] = [other for other in here if other is not waiter]
