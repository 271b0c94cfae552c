"""Linearizable reads: one confirmation by a quorum for all reads that gathered (thesis, 6.4).

While one batch is being confirmed the next one gathers. Each attempt has an identifier of its own, so that an answer to
an earlier attempt can never confirm a later one. A batch is resolved once the confirmed index is applied here.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from operator import attrgetter

from syncline.consensus.types import ReadState
from syncline.errors import DeadlineExceeded, NoLeader, Outcome, SynclineError
from syncline.node.futures import ReadFuture, settle, settle_error
from syncline.node.proposals import NO_QUORUM
from syncline.platform.distribution import Distribution

__all__ = ["ReadBatches"]


_deadline_s = attrgetter("deadline_s")


class _Batch:
    __slots__ = ("asked_s", "asleep_s", "confirmed_s", "context", "futures", "index", "started_s")

    def __init__(self) -> None:
        self.futures: list[ReadFuture] = []
        self.context = b""
        self.index = 0
        self.started_s = 0.0
        self.asked_s = self.confirmed_s = 0.0
        """By the fine clock: of the first attempt, and of its confirmation."""
        self.asleep_s = 0.0
        """Seconds that the machine had been suspended by then."""


class ReadBatches:
    """Reads of this node: gathering, being confirmed (one batch at a time), confirmed and waiting to be applied."""

    def __init__(
        self,
        rng: random.Random,
        *,
        retry_s: float,
        ask: Callable[[bytes], object],
        asleep_s: Callable[[], float] = float,
        fine_s: Callable[[], float] = float,
    ) -> None:
        self._fine_s = fine_s
        self.waits: Distribution = Distribution()
        """Of each batch, from its first attempt until it could be answered."""
        self.last: tuple[float, float, float] = (0.0, 0.0, 0.0)
        """The batch that was answered last: asked, confirmed, applied, by the fine clock."""
        self._asleep_s = asleep_s
        self._prefix = rng.getrandbits(64).to_bytes(8, "big")
        self._attempt = 0
        self.retry_s: float = retry_s
        self._ask = ask
        """The core answers by a `ReadState`, or not at all: then the read is asked again."""
        self._gathering: dict[float, ReadFuture] = {}
        self._asked: _Batch | None = None
        self._confirmed: deque[_Batch] = deque()
        self.current_as_of_s: float = -math.inf
        """The state has everything that was committed when the loop's clock showed this,"""
        self.asleep_then_s: float = 0.0
        """and the machine had been suspended for this long."""

    def __len__(self) -> int:
        asked = len(self._asked.futures) if self._asked else 0
        return len(self._gathering) + asked + sum(len(batch.futures) for batch in self._confirmed)

    @property
    def to_ask(self) -> bool:
        """Whether there is something to `ask`: for now, or again if an answer is overdue."""
        return bool(self._gathering) or self._asked is not None

    @property
    def gathering(self) -> bool:
        return bool(self._gathering)

    def new(self, loop: asyncio.AbstractEventLoop, deadline_s: float, step_s: float) -> ReadFuture:
        """A future that this batch's readers with the same deadline (to one step) share."""
        slot = deadline_s // step_s
        future = self._gathering.get(slot)
        if future is None or future.done():
            future = self._gathering[slot] = ReadFuture(loop=loop)
            future.joined_before_s = future.deadline_s = (slot + 1) * step_s
        return future

    def _close_gathering(self) -> list[ReadFuture]:
        """Close the gathered batch: no caller joins it any more."""
        futures = list(self._gathering.values())
        self._gathering = {}
        for future in futures:
            future.joined_before_s = -math.inf
        return futures

    def ask(self, now_s: float) -> None:
        """Ask for a confirmation of the gathered reads, or again if an answer is overdue."""
        batch = self._asked
        if batch is None:
            if not self._gathering:
                return
            batch = self._asked = _Batch()
            batch.futures = self._close_gathering()
            batch.asked_s = self._fine_s()
        elif now_s - batch.started_s < self.retry_s:
            return
        self._attempt += 1
        batch.context = self._prefix + self._attempt.to_bytes(8, "big")
        batch.started_s, batch.asleep_s = now_s, self._asleep_s()
        self._ask(batch.context)

    def confirmed(self, state: ReadState) -> None:
        """Handle the core's answer. An answer to an earlier attempt is ignored."""
        batch = self._asked
        if batch is None or state.context != batch.context:
            return
        batch.index = state.index
        batch.confirmed_s = self._fine_s()
        self._confirmed.append(batch)
        self._asked = None

    def leader_changed(self) -> None:
        """Ask again at once: the request, or its answer, may be lost with the old leader."""
        if self._asked is not None:
            self._asked.started_s = -math.inf

    def applied(self, index: int) -> None:
        """The state machine has reached `index`: resolve the reads that waited for it."""
        if not self._confirmed:
            return
        waiting: deque[_Batch] = deque()
        for batch in self._confirmed:
            if batch.index > index:  # it may never come: those behind it need not wait for it
                waiting.append(batch)
                continue
            if batch.started_s >= self.current_as_of_s:
                self.current_as_of_s, self.asleep_then_s = batch.started_s, batch.asleep_s
            self.last = batch.asked_s, batch.confirmed_s, self._fine_s()
            self.waits.observe(self.last[2] - batch.asked_s)
            for future in batch.futures:
                settle(future, index)
        self._confirmed = waiting

    def expire(self, now_s: float, leader: int, why_no_leader: str = NO_QUORUM) -> None:
        overdue = [future for future in self._waiting() if future.deadline_s <= now_s]
        confirmed = {future for batch in self._confirmed for future in batch.futures} if overdue else set()
        for future in sorted(overdue, key=_deadline_s):
            if future in confirmed:
                message = "the read is confirmed, but the state machine had not applied all before it at the deadline"
                settle_error(future, DeadlineExceeded(message, outcome=Outcome.NOT_APPLIED, leader=leader or None))
            elif leader:
                message = "the leader did not confirm the read before the deadline"
                settle_error(future, DeadlineExceeded(message, outcome=Outcome.NOT_APPLIED, leader=leader))
            else:
                settle_error(future, NoLeader(f"no leader confirmed the read before the deadline: {why_no_leader}"))
        if self._asked is not None and all(future.done() for future in self._asked.futures):
            self._asked = None
        self._gathering = {slot: future for slot, future in self._gathering.items() if not future.done()}
        if self._confirmed:
            waits = (batch for batch in self._confirmed if not all(future.done() for future in batch.futures))
            self._confirmed = deque(waits)

    def _waiting(self) -> list[ReadFuture]:
        """All futures that have no answer yet, and perhaps some that have."""
        batches = [*self._confirmed, self._asked] if self._asked is not None else self._confirmed
        return [*self._gathering.values(), *(future for batch in batches for future in batch.futures)]

    def age_s(self, now_s: float) -> float | None:
        """How long ago the state had everything that was committed; None if that was never known.

        The loop's clock may stand still while the machine sleeps. What it slept counts as well.
        """
        if self.current_as_of_s == -math.inf:
            return None
        return now_s - self.current_as_of_s + self._asleep_s() - self.asleep_then_s

    def fail_all(self, error: SynclineError) -> None:
        for future in self._waiting():
            settle_error(future, error)
        self._close_gathering()
        self._asked = None
        self._confirmed.clear()
