"""Consistency of reads: `linearizable`, `leader` and `stale`.

- `linearizable` (default): the node confirms with the leader, and the leader with a quorum, that no newer write was
  acknowledged; then it reads its own state. Works on any node; all reads of one moment share the round.
- `leader`: on the leader the state is read at once, without asking a quorum: a leader that has been replaced and does
  not know it yet may answer with old data for about an election timeout. On other nodes the same as `linearizable`.
- `stale`: this node's own state, at once, without other nodes. `max_stale` bounds its age, counted from the last
  confirmed read of this node. If that is too long ago the read is confirmed as a linearizable one (as Consul does),
  and
  refused if no leader can confirm it.
  A node never shows an older state than before, restarts included. A node that was killed just after it applied an
  entry refuses such reads after its restart until its state is as new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from syncline.errors import DeadlineExceeded, NoLeader
from syncline.node.futures import ReadFuture
from syncline.server.api.backend import Backend
from syncline.server.api.errors import RequestError, internal_error
from syncline.server.http.request import Parameters
from syncline.server.http.response import Respond

__all__ = ["DEFAULT_TIMEOUT_S", "MAX_TIMEOUT_S", "READ_PARAMETERS", "ReadPlan", "ConfirmedReads"]

DEFAULT_TIMEOUT_S: Final = 5.0
"""Two elections of the default length fit into it."""
MAX_TIMEOUT_S: Final = 60.0
READ_PARAMETERS: Final = frozenset({"consistency", "max_stale", "timeout"})
MAX_STALE_S: Final = 86_400.0

Context = TypeVar("Context")

Read = Callable[[Context, Respond, BaseException | None], None]
"""Reads and answers, called once: with None the store may be read, at once; else with the error. `Context` is the data
of the request that it needs."""


_Waiting: TypeAlias = tuple[Read[Any], Any, Respond]


class ReadPlan(msgspec.Struct, frozen=True, gc=False):
    """The consistency that a request's parameters ask for."""

    level: str = "linearizable"
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_stale_s: float | None = None

    @classmethod
    def of(cls, parameters: Parameters) -> ReadPlan:
        """Raises `RequestError`."""
        level = parameters.choice("consistency", ("linearizable", "leader", "stale"))
        timeout_s = parameters.duration_s("timeout", DEFAULT_TIMEOUT_S, high=MAX_TIMEOUT_S)
        if "max_stale" not in parameters:
            return cls(level, timeout_s)
        if level != "stale":
            raise RequestError("max_stale is for consistency=stale")
        return cls(level, timeout_s, parameters.duration_s("max_stale", 0.0, high=MAX_STALE_S))


class ConfirmedReads:
    """Waits for confirmed reads: one callback per shared confirmation rather than one per request."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._shared: ReadFuture | None = None
        self._timeout_s = 0.0
        """The arguments of `_shared`."""
        self._now_s: Callable[[], float] = float
        """The clock of its deadline."""
        self._waiting: list[_Waiting] = []
        self._caught_up = False
        """Whether the store is known to be as new as before the node's restart: once it is, it stays so."""

    def confirm(self, plan: ReadPlan, read: Read[Context], context: Context, respond: Respond) -> None:
        """Call `read` when it is as fresh as the plan asks. Raises `RequestError` if it can't be."""
        level = plan.level
        if level == "linearizable" or (level == "leader" and not self._backend.is_leader):
            self.within(plan.timeout_s, read, context, respond)
            return
        if not self._caught_up and self._backend.catching_up:
            raise RequestError(
                "this node was restarted after a crash, and what it would show may be older than what it showed before:"
                " it catches up as soon as there is a leader",
                status=503,
                code="too_stale",
            )
        self._caught_up = True
        if plan.max_stale_s is None or _within(plan.max_stale_s, self._backend.state_age_s):
            read(context, respond, None)
        elif self._backend.leader() is None:
            read(context, respond, _too_stale(plan.max_stale_s, "knows of no leader"))
        else:
            self.within(plan.timeout_s, partial(_bounded, read, plan.max_stale_s), context, respond)

    def within(self, timeout_s: float, read: Read[Context], context: Context, respond: Respond) -> None:
        """Call `read` when a linearizable read is possible, or after `timeout_s` with the error."""
        shared = self._shared
        if shared is not None and timeout_s == self._timeout_s and self._now_s() + timeout_s < shared.joined_before_s:
            self._waiting.append((read, context, respond))
            return
        future = self._backend.read_index(timeout_s)
        if future.done():
            read(context, respond, future.exception())
        elif future is shared:
            self._waiting.append((read, context, respond))
        else:
            self._shared, self._timeout_s, self._waiting = future, timeout_s, [(read, context, respond)]
            self._now_s = future.get_loop().time
            future.add_done_callback(partial(_confirmed, self._waiting))


def _within(most_s: float, age_s: float | None) -> bool:
    return age_s is not None and age_s <= most_s


def _bounded(
    read: Read[Context], most_s: float, context: Context, respond: Respond, error: BaseException | None
) -> None:
    if isinstance(error, DeadlineExceeded | NoLeader):
        error = _too_stale(most_s, str(error))
    read(context, respond, error)


def _too_stale(most_s: float, why: str) -> RequestError:
    message = f"the state of this node may be older than the {most_s:g} s that the read asks for: {why}"
    return RequestError(message, status=503, code="too_stale")


def _confirmed(waiting: list[_Waiting], future: asyncio.Future[object]) -> None:
    error = future.exception()  # it can't be cancelled
    for read, context, respond in waiting:
        try:
            read(context, respond, error)
        except Exception as fault:  # noqa: BLE001 - one read's fault must not leave the others without an answer
            respond(internal_error(fault, read=True))
