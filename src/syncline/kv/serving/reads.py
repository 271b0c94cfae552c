"""Consistency of reads: `linearizable`, `leader` and `stale`.

- `linearizable` (default): the node confirms with the leader, and the leader with a quorum, that no newer write was
  acknowledged; then it reads its own state. Works on any node; all reads of one moment share the round.
- `leader`: on the leader the state is read at once, without asking a quorum: a leader that has been replaced and does
  not know it yet may answer with old data for about an election timeout. On other nodes the same as `linearizable`.
- `stale`: this node's own state, at once, without other nodes. `max_stale` bounds its age, counted from the last
  confirmed read of this node. If that is too long ago the read is confirmed as a linearizable one (as Consul does),
  and refused if no leader can confirm it.
  A node never shows an older state than before, restarts included. A node that was killed just after it applied an
  entry refuses such reads after its restart until its state is as new.

`revision=N` reads the state as it was at revision N. A read of a revision that this node has not reached waits for it,
after its confirmation and up to its deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, TypeAlias

import msgspec

from syncline.errors import DeadlineExceeded, NoLeader, RequestFailed
from syncline.kv.serving.node import ReadingNode
from syncline.kv.serving.revision_waits import Answer, Context, Faulted, Read, RevisionWaits
from syncline.node.futures import ReadFuture

__all__ = ["DEFAULT_TIMEOUT_S", "MAX_REVISION", "MAX_STALE_S", "ConfirmedReads", "Read", "ReadPlan"]

DEFAULT_TIMEOUT_S: Final = 5.0
"""Two elections of the default length fit into it."""
MAX_REVISION: Final = 2**63 - 1
MAX_STALE_S: Final = 86_400.0

_Waiting: TypeAlias = tuple[Read[Any, Answer], Any, Answer]


class ReadPlan(msgspec.Struct, frozen=True, gc=False):
    """The consistency that a caller asks for."""

    level: str = "linearizable"
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_stale_s: float | None = None
    revision: int = 0
    """The past revision to read; 0: the present."""


class ConfirmedReads(Generic[Answer]):
    """Waits for confirmed reads: one callback per shared confirmation rather than one per request."""

    def __init__(self, node: ReadingNode, *, faulted: Faulted[Answer]) -> None:
        """`faulted` answers a read that has raised an error."""
        self._node = node
        self._faulted = faulted
        self._waits = RevisionWaits(node, faulted=faulted)
        self._shared: ReadFuture | None = None
        self._timeout_s = 0.0
        """The arguments of `_shared`."""
        self._now_s: Callable[[], float] = float
        """The clock of its deadline."""
        self._waiting: list[_Waiting[Answer]] = []
        self._caught_up = False
        """Whether the store is known to be as new as before the node's restart: once it is, it stays so."""

    def confirm(self, plan: ReadPlan, read: Read[Context, Answer], context: Context, answer: Answer) -> None:
        """Call `read` when it is as fresh as the plan asks. Raises `RequestFailed` if it can't be."""
        level = plan.level
        if plan.revision > self._node.store.revision:
            read = partial(self._waits.reached, plan.revision, plan.timeout_s + asyncio.get_running_loop().time(), read)
        if level == "linearizable" or (level == "leader" and not self._node.is_leader):
            self.within(plan.timeout_s, read, context, answer)
            return
        if not self._caught_up and self._node.catching_up:
            raise RequestFailed(
                "this node was restarted after a crash, and what it would show may be older than what it showed before:"
                " it catches up as soon as there is a leader",
                status=503,
                code="too_stale",
            )
        self._caught_up = True
        if plan.max_stale_s is None or _within(plan.max_stale_s, self._node.state_age_s):
            read(context, answer, None)
        elif self._node.leader() is None:
            read(context, answer, _too_stale(plan.max_stale_s, "knows of no leader"))
        else:
            self.within(plan.timeout_s, partial(_bounded, read, plan.max_stale_s), context, answer)

    def close(self, error: BaseException) -> None:
        """End the reads that wait for later revisions. The node ends the others."""
        self._waits.close(error)

    def within(self, timeout_s: float, read: Read[Context, Answer], context: Context, answer: Answer) -> None:
        """Call `read` when a linearizable read is possible, or after `timeout_s` with the error."""
        shared = self._shared
        if shared is not None and timeout_s == self._timeout_s and self._now_s() + timeout_s < shared.joined_before_s:
            self._waiting.append((read, context, answer))
            return
        future = self._node.read_index(timeout_s)
        if future.done():
            read(context, answer, future.exception())
        elif future is shared:
            self._waiting.append((read, context, answer))
        else:
            self._shared, self._timeout_s, self._waiting = future, timeout_s, [(read, context, answer)]
            self._now_s = future.get_loop().time
            future.add_done_callback(partial(self._confirmed, self._waiting))

    def _confirmed(self, waiting: list[_Waiting[Answer]], future: asyncio.Future[object]) -> None:
        error = future.exception()  # it can't be cancelled
        for read, context, answer in waiting:
            try:
                read(context, answer, error)
            except Exception as fault:  # noqa: BLE001 - one read's fault must not leave the others without an answer
                self._faulted(answer, fault)


def _within(most_s: float, age_s: float | None) -> bool:
    return age_s is not None and age_s <= most_s


def _bounded(
    read: Read[Context, Answer], most_s: float, context: Context, answer: Answer, error: BaseException | None
) -> None:
    if isinstance(error, DeadlineExceeded | NoLeader):
        error = _too_stale(most_s, str(error))
    read(context, answer, error)


def _too_stale(most_s: float, why: str) -> RequestFailed:
    message = f"the state of this node may be older than the {most_s:g} s that the read asks for: {why}"
    return RequestFailed(message, status=503, code="too_stale")
