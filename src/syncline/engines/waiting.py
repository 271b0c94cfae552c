"""Commands and reads of one node that wait for their outcome."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from syncline.errors import DeadlineExceeded, Dropped, Outcome, SynclineError
from syncline.node.config import OVERHEAD_BYTES
from syncline.node.futures import ApplyFuture, ReadFuture, settle, settle_error

__all__ = ["PendingCommand", "PendingCommands", "PendingReads"]

MAX_PENDING_BYTES: Final = 64 << 20
"""As `Config.max_pending_bytes`: above it commands are refused."""

FEW_COMMANDS: Final = 1024
"""Commands on which their callers have given up that stay in the queue."""

FEW_READS: Final = 1024
"""Confirmed reads that are kept until their position is applied, whether or not their callers still wait."""

NONCE_BITS: Final = 30
COUNTER_BITS: Final = 32

AnyFuture: TypeAlias = ApplyFuture[object]


class PendingCommand:
    """One command: in the queue, or in a record that may have been appended."""

    __slots__ = ("data", "extensions", "fence", "future", "handle", "kind", "sent")

    def __init__(self, future: AnyFuture, kind: int, data: bytes, extensions: bytes, fence: int) -> None:
        self.future: AnyFuture = future
        self.kind: int = kind
        self.data: bytes = data
        self.extensions: bytes = extensions
        self.fence: int = fence
        self.handle: asyncio.TimerHandle | None = None
        self.sent: bool = False
        """Whether an attempt to append it may have succeeded: from then on silence means `unknown`."""

    @property
    def ended(self) -> bool:
        """Whether no caller waits for it any more."""
        return self.future.done()


class PendingCommands:
    """All commands of this node that wait for their answer, by number."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self._loop = loop
        self._next = (rng.getrandbits(NONCE_BITS) << COUNTER_BITS) + 1
        self._waiting: dict[int, PendingCommand] = {}
        self._bytes = 0
        self.queue: deque[PendingCommand] = deque()
        """Those that are in no record, oldest first."""
        self.failed: int = 0
        self.trouble: Callable[[], str] = lambda: ""
        """Why the backend is not reached now, for the text of errors."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, pending: PendingCommand, timeout_s: float) -> None:
        """Queue a command. Raises Dropped if too much is waiting."""
        size = len(pending.data) + len(pending.extensions) + OVERHEAD_BYTES
        if self._bytes + size > MAX_PENDING_BYTES:
            raise Dropped(f"{len(self._waiting)} commands ({self._bytes} bytes) wait for their answer: try later")
        future = pending.future
        future.number, future.size_bytes = self._next, size
        self._next += 1
        self._bytes += size
        self._waiting[future.number] = pending
        if len(self.queue) > 2 * len(self._waiting) + FEW_COMMANDS:
            # One record may be tried again for long. Meanwhile callers behind it give up, without an end.
            self.queue = deque(held for held in self.queue if not held.ended)
        pending.handle = self._loop.call_later(timeout_s, self._expire, future.number, timeout_s)
        self.queue.append(pending)

    def queue_again(self, commands: Iterable[PendingCommand]) -> None:
        """Put commands back whose record is known to have no effect."""
        again = [pending for pending in commands if not pending.ended]
        for pending in again:
            pending.sent = False
        held = [*self.queue, *again]
        held.sort(key=lambda pending: pending.future.number)
        self.queue = deque(held)

    def resolved(self, number: int, index: int, term: int, answer: object) -> None:
        """The command was applied here."""
        pending = self._remove(number)
        if pending is None:
            return
        future = pending.future
        future.index, future.term = index, term
        if isinstance(answer, SynclineError):
            future.failed(answer)
        else:
            future.answered(answer)

    def fail(self, commands: Iterable[PendingCommand], error: SynclineError) -> None:
        """These get no answer."""
        for pending in commands:
            if self._remove(pending.future.number) is not None:
                self.failed += 1
                pending.future.failed(error)

    def fail_all(self, sent: SynclineError, unsent: SynclineError) -> None:
        """The node stops."""
        for pending in list(self._waiting.values()):
            self.fail([pending], sent if pending.sent else unsent)
        self.queue.clear()

    def _expire(self, number: int, timeout_s: float) -> None:
        pending = self._remove(number)
        if pending is None:
            return
        self.failed += 1
        why = f": {trouble}" if (trouble := self.trouble()) else ""
        if pending.sent:
            error = DeadlineExceeded(f"no answer within {timeout_s:g} s{why}")
        else:
            error = DeadlineExceeded(f"not appended within {timeout_s:g} s{why}", outcome=Outcome.NOT_APPLIED)
        pending.future.failed(error)

    def _remove(self, number: int) -> PendingCommand | None:
        pending = self._waiting.pop(number, None)
        if pending is not None:
            self._bytes -= pending.future.size_bytes
            pending.data = pending.extensions = b""  # a record that was not read from the log yet keeps the rest
            if pending.handle is not None:
                pending.handle.cancel()
        return pending


class PendingReads:
    """Reads that wait: for a confirmation, then for the entries up to the confirmed position."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asking: list[ReadFuture] = []
        self._asked: list[ReadFuture] = []
        """Those for which a confirmation is asked now."""
        self._confirmed: list[tuple[int, list[ReadFuture]]] = []
        self._held = 0
        """Reads in `_confirmed`, with those on which the caller has given up."""
        self._most_held = FEW_READS
        self.trouble: Callable[[], str] = lambda: ""

    def __len__(self) -> int:
        held = (self._asking, self._asked, *(reads for _, reads in self._confirmed))
        return sum(not read.done() for reads in held for read in reads)

    def new(self, timeout_s: float) -> ReadFuture:
        """A read that waits for the next confirmation."""
        future = ReadFuture(loop=self._loop)
        handle = self._loop.call_later(timeout_s, self._expire, future, timeout_s)
        future.add_done_callback(lambda _: handle.cancel())
        self._asking.append(future)
        return future

    def next_round(self) -> bool:
        """Whether there are reads for which a confirmation is to be asked now. Later ones wait for another one."""
        self._asked, self._asking = [read for read in self._asking if not read.done()], []
        return bool(self._asked)

    def back(self) -> None:
        """The confirmation failed."""
        self._asking, self._asked = self._asked + self._asking, []

    def confirmed(self, position: int) -> None:
        """They may be answered when everything up to this position is applied."""
        self._confirmed.append((position, self._asked))
        self._held += len(self._asked)
        self._asked = []
        if self._held < self._most_held:
            return
        # Callers have given up on most of these, if the state machine hangs. Without this they would stay for good.
        waiting = [(at, [read for read in reads if not read.done()]) for at, reads in self._confirmed]
        self._confirmed = [held for held in waiting if held[1]]
        self._held = sum(len(reads) for _, reads in self._confirmed)
        self._most_held = 2 * self._held + FEW_READS

    def applied(self, position: int) -> None:
        """Everything up to this position is applied here."""
        waiting, self._confirmed = self._confirmed, []
        for held in waiting:
            if held[0] > position:
                self._confirmed.append(held)
                continue
            self._held -= len(held[1])
            for read in held[1]:
                settle(read, None)

    def fail_all(self, error: SynclineError) -> None:
        """The node stops."""
        waiting = (read for _, reads in self._confirmed for read in reads)
        for read in [*self._asking, *self._asked, *waiting]:
            settle_error(read, error)
        self._asking, self._asked, self._confirmed = [], [], []

    def _expire(self, future: ReadFuture, timeout_s: float) -> None:
        why = f": {trouble}" if (trouble := self.trouble()) else ""
        error = DeadlineExceeded(f"not confirmed within {timeout_s:g} s{why}", outcome=Outcome.NOT_APPLIED)
        settle_error(future, error)
