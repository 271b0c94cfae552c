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
from syncline.node.futures import ApplyFuture, settle, settle_error

__all__ = ["NO_QUORUM", "Deadlines", "Proposals"]

COUNTER_BITS: Final = 32
"""Of a number; the rest is drawn at start, so that numbers of an earlier run are not met again."""

NONCE_BITS: Final = 31

NO_QUORUM: Final = "no quorum of the voters is reachable"

IN_SNAPSHOT: Final = "a snapshot took the place of the log there: it may have been applied"


Waiting = TypeVar("Waiting", bound="asyncio.Future[object]")


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
        self._buckets.setdefault(bucket, {})[future] = None
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
        self._waiting: dict[int, ApplyFuture] = {}
        self._placed: dict[int, list[ApplyFuture]] = {}
        self._deadlines: Deadlines[ApplyFuture] = Deadlines(step_s)
        self._jumped = 0
        """Up to here a snapshot took the place of the log: which proposals are in it can't be told."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self.failed = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def new(self, loop: asyncio.AbstractEventLoop, size_bytes: int, deadline_s: float) -> ApplyFuture:
        """A future for a proposal of this size. Raises `Dropped` where too much is waiting already."""
        cost = size_bytes + OVERHEAD_BYTES
        if self._bytes + cost > self._max_bytes:
            raise Dropped(
                f"{len(self._waiting)} proposals ({self._bytes} bytes) wait for their answer on this node: try later"
            )
        future = ApplyFuture(number=self._next, size_bytes=cost, loop=loop)
        self._next += 1
        self._bytes += cost
        self._waiting[future.number] = future
        future.bucket = self._deadlines.add(future, deadline_s)
        return future

    def placed(self, number: int, index: int, term: int) -> None:
        """The leader gave it this position. It may have been applied already: the two words race."""
        future = self._waiting.get(number)
        if future is None:
            return
        if index <= self._jumped:
            self._fail(future, DeadlineExceeded(IN_SNAPSHOT))
            return
        future.index, future.term = index, term
        self._placed.setdefault(index, []).append(future)

    def resolved(self, number: int, index: int, term: int, answer: object) -> None:
        """The entry was applied here."""
        future = self._waiting.get(number)
        if future is None:
            return
        future.index, future.term = index, term
        self._forget(future)
        if isinstance(answer, SynclineError):
            settle_error(future, answer)
        else:
            settle(future, answer)

    def turned_back(self, number: int) -> tuple[ApplyFuture, int, bytes] | None:
        """The leader did not take it: what to send again, if it still waits. Another leader may take it."""
        future = self._waiting.get(number)
        if future is None or future.forwarded is None or future.done():
            return None
        (kind, payload), future.forwarded, future.sent = future.forwarded, None, False
        return future, kind, payload

    def refused(self, number: int, error: SynclineError) -> None:
        future = self._waiting.get(number)
        if future is not None:
            self._fail(future, error)

    def passed(self, indexes: Iterable[int]) -> None:
        """Entries at these positions were applied: whatever still waits there was replaced by another."""
        placed = self._placed
        if not placed:
            return
        for index in indexes:
            for future in placed.pop(index, ()):
                if future.number in self._waiting:
                    message = f"another leader's entry was committed at index {index}, in place of this one"
                    self._fail(future, Superseded(message))

    def jumped(self, index: int) -> None:
        """A snapshot was installed up to `index`: what waited there may be in it, nobody here can tell."""
        self._jumped = index
        for position in [position for position in self._placed if position <= index]:
            for future in self._placed.pop(position):
                if future.number in self._waiting:
                    self._fail(future, DeadlineExceeded(IN_SNAPSHOT))

    def expire(self, now_s: float, leader: int, why_no_leader: str = NO_QUORUM) -> None:
        """End what is overdue."""
        for future in self._deadlines.expired(now_s):
            if future.number not in self._waiting:
                continue
            if future.done():
                self._forget(future)  # its caller gave up waiting; no answer came either
            elif future.sent:
                self._fail(future, DeadlineExceeded("no answer before the deadline: it may take effect, now or later"))
            elif leader:
                message = "the deadline passed before the leader could be reached"
                self._fail(future, DeadlineExceeded(message, outcome=Outcome.NOT_APPLIED, leader=leader))
            else:
                self._fail(future, NoLeader(f"no leader before the deadline: {why_no_leader}"))

    def fail_all(self, sent: SynclineError, unsent: SynclineError) -> None:
        for future in list(self._waiting.values()):
            self._fail(future, sent if future.sent else unsent)

    def _fail(self, future: ApplyFuture, error: SynclineError) -> None:
        self.failed += 1
        self._forget(future)
        settle_error(future, error)

    def _forget(self, future: ApplyFuture) -> None:
        del self._waiting[future.number]
        future.forwarded = None
        self._deadlines.discard(future, future.bucket)
        self._bytes -= future.size_bytes
        if future.index:
            here = self._placed.get(future.index)
            if here is not None and future in here:
                here.remove(future)
                if not here:
                    del self._placed[future.index]
