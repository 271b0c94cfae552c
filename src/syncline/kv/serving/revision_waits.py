"""Reads that wait until this node has reached their revision."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, Final, Generic, TypeAlias, TypeVar

from syncline.errors import DeadlineExceeded, LimitReached, Outcome
from syncline.kv.serving.node import ReadingNode

__all__ = ["MAX_WAITING", "Faulted", "Read", "RevisionWaits"]

MAX_WAITING: Final = 10_000
"""Reads that wait at one time: each holds its request and a timer."""

Context = TypeVar("Context")
Answer = TypeVar("Answer")

Read: TypeAlias = Callable[[Context, Answer, BaseException | None], None]
"""Reads and answers, called once: with None the store may be read, at once; else with the error. `Context` is the data
of the request that it needs, `Answer` what it answers by."""

Faulted: TypeAlias = Callable[[Answer, Exception], None]
"""Answers a read that has raised an error."""


class _Wait(Generic[Answer]):
    __slots__ = ("answer", "context", "read", "timer")

    def __init__(self, read: Read[Any, Answer], context: object, answer: Answer) -> None:
        self.read: Read[Any, Answer] = read
        self.context = context
        self.answer = answer
        self.timer: asyncio.TimerHandle | None = None


class RevisionWaits(Generic[Answer]):
    """The reads that wait, by revision. Each is called when the store has reached it, or at its deadline."""

    def __init__(self, node: ReadingNode, *, faulted: Faulted[Answer]) -> None:
        self._node = node
        self._faulted = faulted
        self._heap: list[tuple[int, int, _Wait[Answer]]] = []
        self._order = count()
        self._waiting: set[_Wait[Answer]] = set()
        """Those in the heap that have not ended."""
        self._observing = False
        self._closed_by: BaseException | None = None

    def reached(
        self,
        revision: int,
        deadline_s: float,
        read: Read[Context, Answer],
        context: Context,
        answer: Answer,
        error: BaseException | None,
    ) -> None:
        """Call `read` when the store is at `revision`, or with an error. `error` is that of its confirmation."""
        store_revision = self._node.store.revision
        if error is not None or store_revision >= revision:
            read(context, answer, error)
            return
        if self._closed_by is not None:  # it was confirmed meanwhile
            read(context, answer, self._closed_by)
            return
        if len(self._waiting) >= MAX_WAITING:
            message = f"{MAX_WAITING} reads wait for later revisions on this node: that is its limit"
            read(context, answer, LimitReached(message))
            return
        if not self._observing:
            self._observing = True
            self._node.observe(self._changed)
        wait = _Wait(read, context, answer)
        self._waiting.add(wait)
        heapq.heappush(self._heap, (revision, next(self._order), wait))
        loop = asyncio.get_running_loop()
        wait.timer = loop.call_at(deadline_s, self._expired, wait, revision)

    def close(self, error: BaseException) -> None:
        """End all with an error, and those that come later."""
        self._closed_by = error
        waiting, self._waiting, self._heap = self._waiting, set(), []
        for wait in waiting:
            self._end(wait, error)

    def _changed(self) -> None:
        """The store has changed: release the reads whose revision it has reached, at the end of the turn."""
        if self._heap and self._heap[0][0] <= self._node.store.revision:
            asyncio.get_running_loop().call_soon(self._release)

    def _release(self) -> None:
        heap = self._heap
        while heap and heap[0][0] <= self._node.store.revision:
            wait = heapq.heappop(heap)[2]
            if wait in self._waiting:
                self._waiting.remove(wait)
                self._end(wait, None)

    def _expired(self, wait: _Wait[Answer], revision: int) -> None:
        self._waiting.discard(wait)
        if len(self._heap) > 2 * len(self._waiting) + 16:  # drop those that have ended, so that they take no memory
            self._heap = [entry for entry in self._heap if entry[2] in self._waiting]
            heapq.heapify(self._heap)
        message = f"the store is at revision {self._node.store.revision}; revision {revision} was not reached in time"
        self._end(wait, DeadlineExceeded(message, outcome=Outcome.NOT_APPLIED))

    def _end(self, wait: _Wait[Answer], error: BaseException | None) -> None:
        """Call the read once, with the error if there is one."""
        if wait.timer is not None:
            wait.timer.cancel()
        try:
            wait.read(wait.context, wait.answer, error)
        except Exception as fault:  # noqa: BLE001 - one read's fault must not leave the others without an answer
            self._faulted(wait.answer, fault)
