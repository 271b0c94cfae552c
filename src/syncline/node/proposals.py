"""Proposals made on this node that wait for their answer.

Each has a number that is unique on this node, restarts included, and travels with the entry. The answer comes when
this node applies the entry with that number. A proposal can also end by:

- its deadline (`unknown` once it was sent, `not_applied` while it was still in the queue),
- a refusal by the leader (`not_applied`),
- a snapshot that replaced the log in which it may stand (`unknown`).

A change of leader ends no command. An attempt has a term: only the leader of that term appends it, as an entry of
that term. Terms never decrease along a log. So once this node has applied an entry of a later term without having met
the number, no committed log holds it. Then it is proposed again, until its deadline. So is a proposal that a leader
refused because it stops leading. The order of this node's proposals stays: after a change of leader the queue waits
until the attempts of earlier terms are decided (`open`). Only commands and barriers are proposed again. Other
proposals end as `Superseded` (`not_applied`).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from syncline.errors import DeadlineExceeded, Dropped, NoLeader, Outcome, Superseded, SynclineError
from syncline.node.config import OVERHEAD_BYTES
from syncline.node.envelope import DATA
from syncline.node.futures import UNPLACED, ApplyFuture, Queued, Waiter

__all__ = ["NO_QUORUM", "Proposals", "fence_passed"]

COUNTER_BITS: Final = 32
"""Bits of a number that count; the rest is random for each start, so that runs don't share numbers."""

NONCE_BITS: Final = 31

LARGEST_INDEX: Final = 2**63 - 1
"""An answer that places a proposal above it, or in such a term, is no answer of a leader."""

NO_QUORUM: Final = "no quorum of the voters is reachable"

LOOK_EACH_S: Final = 2e-6
"""The time to the next look at all deadlines, for each proposal that waits: a look takes a tenth of it. A hundred
thousand that wait for a leader end up to 0.2 s late."""

IN_SNAPSHOT: Final = "a snapshot took the place of the log there: it may have been applied"

OVERTAKEN: Final = "it was not taken in its turn, and a later proposal of this node came first"

_deadline_s = attrgetter("deadline_s")


class Proposals:
    """The futures of this node's own proposals, by number and, once placed, by position."""

    def __init__(self, rng: random.Random, *, max_bytes: int) -> None:
        self._next = (rng.getrandbits(NONCE_BITS) << COUNTER_BITS) + 1
        self._waiting: dict[int, Waiter] = {}
        self._placed: dict[int, list[Waiter]] = {}
        """By index: proposals with a position that are never proposed again."""
        self._soonest_s = math.inf
        """No proposal ends by its deadline before this time."""
        self._newest = self._next - 1
        """The highest number of this life that was applied, or whose fate is unknown: no lower one comes after it."""
        self.applied_term: int = 0
        """The term of the last entry that was applied here: attempts of earlier terms are decided."""
        self.open_term: int = 0
        """The term whose leader may be sent proposals: all attempts of earlier terms are decided. See `open`."""
        self._returned = 0
        """The lowest number that a leader refused in `open_term` because it stops leading; 0: none."""
        self.fenced: bool = False
        """Whether a proposal in the queue may be fenced."""
        self.max_bytes: int = max_bytes
        self._bytes = 0
        self.failed: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def size_bytes(self) -> int:
        """What they count for towards `max_bytes`."""
        return self._bytes

    def new(self, loop: asyncio.AbstractEventLoop, size_bytes: int, deadline_s: float) -> ApplyFuture[object]:
        """A future for a proposal of this size. Raises as `add` does."""
        future: ApplyFuture[object] = ApplyFuture(loop=loop)
        self.add(future, size_bytes, deadline_s)
        return future

    def add(self, waiter: Waiter, size_bytes: int, deadline_s: float) -> int:
        """Give a proposal of this size its number. Raises `Dropped` if too much is waiting already."""
        cost = size_bytes + OVERHEAD_BYTES
        if self._bytes + cost > self.max_bytes:
            raise Dropped(
                f"{len(self._waiting)} proposals ({self._bytes} bytes) wait for their answer on this node: try later"
            )
        number = self._next
        self._next = number + 1
        self._bytes += cost
        waiter.number = number
        waiter.size_bytes = cost
        self._waiting[number] = waiter
        waiter.deadline_s = deadline_s
        if deadline_s < self._soonest_s:
            self._soonest_s = deadline_s
        return number

    # -- attempts -----------------------------------------------------------------------------------------------------

    def open(self, term: int) -> bool:
        """Whether proposals may go to the leader of `term`, the current one: else one could overtake an earlier one.

        They may when each attempt of an earlier term is decided. After a refusal by a leader that stops leading,
        proposals sent to it behind the refused one must be decided too: it may have gone on leading, and appended
        them.
        """
        for waiter in self._waiting.values():
            attempt = waiter.attempt
            if attempt and ((waiter.payload and attempt != term) or waiter.number > self._returned > 0):
                return False
        for waiter in [held for held in self._waiting.values() if not held.attempt and held.number < self._newest]:
            if waiter.payload:
                self._fail(waiter, Superseded(OVERTAKEN))
        self.open_term, self._returned = term, 0
        return True

    def within_fence(self, queue: list[Queued], term: int) -> list[Queued]:
        """The proposals that may be appended in `term`; the others end."""
        self.fenced = False
        for waiter, _, _ in queue:
            if waiter.fence not in (0, term):
                self.refused(waiter.number, fence_passed(waiter.fence, term))
        return [item for item in queue if item[0].fence in (0, term)]

    def awaiting(self, number: int, attempt: int) -> Waiter | None:
        """The proposal, if it waits for an answer to its attempt of this term; else None.

        An answer to an earlier attempt says nothing about the present one.
        """
        waiter = self._waiting.get(number)
        return waiter if waiter is not None and 0 < attempt == waiter.attempt else None

    def placed(self, number: int, index: int, attempt: int) -> None:
        """The leader appended it at this position. It may have been applied already: the two messages race."""
        waiter = self.awaiting(number, attempt)
        if waiter is None or not (0 < index <= LARGEST_INDEX and attempt <= LARGEST_INDEX):
            return
        waiter.index, waiter.term = index, attempt
        if not waiter.payload:
            self._placed.setdefault(index, []).append(waiter)

    def appended(self, waiters: Iterable[Waiter], first: int, term: int) -> None:
        """This node leads, and has just appended them to its log, one after the other from `first` on."""
        for index, waiter in enumerate(waiters, first):
            waiter.index = index
            waiter.attempt = waiter.term = term
            if not waiter.payload:
                self._placed.setdefault(index, []).append(waiter)

    def resolved(self, number: int, index: int, term: int, answer: object) -> None:
        """The entry was applied here."""
        if self._newest < number < self._next:  # else it is from an earlier start
            self._newest = number
        waiter = self._waiting.pop(number, None)
        if waiter is None:
            return
        # On the way of each write: `_release`, spelled out.
        waiter.payload = b""
        self._bytes -= waiter.size_bytes
        if self._placed:
            self._displace(waiter)
        waiter.index, waiter.term = index, term
        if isinstance(answer, SynclineError):
            waiter.failed(answer)
        else:
            waiter.answered(answer)

    def returned(self, number: int, attempt: int) -> Queued | None:
        """A leader that stops leading refused it: return the data to propose again, if it still waits for this
        answer.
        """
        waiter = self.awaiting(number, attempt)
        if waiter is None or not waiter.payload or waiter.done():
            return None
        self._returned = min(number, self._returned or number)
        self.open_term = 0
        return self._again(waiter)

    def refused(self, number: int, error: SynclineError) -> None:
        """End it: it does not enter the log."""
        waiter = self._waiting.get(number)
        if waiter is not None:
            self._fail(waiter, error)

    def passed(self, indexes: Iterable[int]) -> None:
        """Entries at these positions were applied: end waiting proposals there that are not proposed again as
        superseded.
        """
        placed = self._placed
        if not placed:
            return
        for index in indexes:
            for waiter in placed.pop(index, ()):
                if waiter.number in self._waiting:
                    message = f"another leader's entry was committed at index {index}, in place of this one"
                    self._fail(waiter, Superseded(message))

    def term_applied(self, term: int) -> list[Queued]:
        """An entry of `term` was applied, after all entries before it: decide the attempts of earlier terms.

        Returns the proposals to propose again, in their order. The answers of the entries must be resolved before.
        """
        if term <= self.applied_term:
            return []
        # Terms never decrease along the log, so no entry behind this one is of an earlier term: an attempt that was not
        # met by now is in no committed log, and to propose it again can't apply it twice.
        self.applied_term = term
        again: list[Queued] = []
        for waiter in [held for held in self._waiting.values() if 0 < held.attempt < term]:
            if waiter.done():
                self._forget(waiter)  # its caller gave up waiting
            elif waiter.payload:
                again.append(self._again(waiter))
            else:
                message = (
                    f"it was proposed to the leader of term {waiter.attempt}, and an entry of term {term} came first"
                )
                self._fail(waiter, Superseded(message))
        return again

    def jumped(self, index: int) -> None:
        """A snapshot was installed up to `index`: it is not known which attempts are in it.

        An attempt with a position above it is not: an attempt has one position only.
        """
        for waiter in [held for held in self._waiting.values() if held.attempt and held.index <= index]:
            self._leave_unknown(waiter)
            self._fail(waiter, DeadlineExceeded(IN_SNAPSHOT))

    def _again(self, waiter: Waiter) -> Queued:
        self._displace(waiter)
        waiter.attempt, waiter.index, waiter.term = 0, UNPLACED, 0
        return waiter, DATA, waiter.payload

    def expire(self, now_s: float, leader: int, why_no_leader: str = NO_QUORUM) -> None:
        """End overdue proposals, earliest first."""
        if now_s < self._soonest_s:
            return
        # Most proposals end long before their deadline. So each costs nothing here but this look at all that wait,
        # once in a time-out.
        waiting = self._waiting.values()
        overdue = [waiter for waiter in waiting if waiter.deadline_s <= now_s]
        soonest_s = min((waiter.deadline_s for waiter in waiting if waiter.deadline_s > now_s), default=math.inf)
        self._soonest_s = max(soonest_s, now_s + len(waiting) * LOOK_EACH_S)
        for waiter in sorted(overdue, key=_deadline_s):
            if waiter.number not in self._waiting:
                continue  # the callback of one before it has ended it
            if waiter.attempt:
                self._leave_unknown(waiter)
            if waiter.done():
                self._forget(waiter)  # its caller gave up waiting; no answer came either
            elif waiter.attempt:
                self._fail(waiter, DeadlineExceeded("no answer before the deadline: it may take effect, now or later"))
            elif leader:
                message = "the deadline passed before the leader could take it"
                self._fail(waiter, DeadlineExceeded(message, outcome=Outcome.NOT_APPLIED, leader=leader))
            else:
                self._fail(waiter, NoLeader(f"no leader before the deadline: {why_no_leader}"))

    def _leave_unknown(self, waiter: Waiter) -> None:
        """Nothing waits for this attempt any more, and its entry may still come: an earlier proposal that the leader
        refused would stand behind it, so that one ends (`open`).
        """
        self._newest = max(self._newest, waiter.number)

    def fail_all(self, sent: SynclineError, unsent: SynclineError) -> None:
        for waiter in list(self._waiting.values()):
            self._fail(waiter, sent if waiter.attempt else unsent)

    def _fail(self, waiter: Waiter, error: SynclineError) -> None:
        self.failed += 1
        self._forget(waiter)
        waiter.failed(error)

    def _forget(self, waiter: Waiter) -> None:
        del self._waiting[waiter.number]
        self._release(waiter)

    def _release(self, waiter: Waiter) -> None:
        """It does not wait any more."""
        waiter.payload = b""
        self._bytes -= waiter.size_bytes
        if self._placed:
            self._displace(waiter)

    def _displace(self, waiter: Waiter) -> None:
        here = self._placed.get(waiter.index)
        if here is not None and waiter in here:
            here.remove(waiter)
            if not here:
                del self._placed[waiter.index]


def fence_passed(fence: int, term: int) -> Superseded:
    """The error of a proposal that could be appended in one term alone, and was not."""
    return Superseded(f"it may be appended in term {fence} alone, and this node is in term {term}")
