"""Work of the node that leads: a block that is cancelled with the leadership, and jobs at their times."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Generic, TypeVar

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import StateType
from syncline.errors import (
    Closed,
    DeadlineExceeded,
    LeadershipLost,
    NodeFailed,
    NoLeader,
    NotLeader,
    Outcome,
    SynclineError,
)
from syncline.node.futures import ApplyFuture
from syncline.node.running import Running
from syncline.platform.loss import LossScope
from syncline.platform.repeated_job import RepeatedJob
from syncline.platform.user_calls import result_in

__all__ = ["CONFIRM_S", "LeaderSchedule", "LeaderTerm", "leadership"]

log: Final = logging.getLogger("syncline.node")

CONFIRM_S: Final = 5.0
"""One attempt of a node to have its leadership confirmed by a quorum: a node that is cut off soon leads no more."""

R_co = TypeVar("R_co", covariant=True)
"""What the state machine answers to a command."""


class LeaderTerm(Generic[R_co]):
    """One term in which this node leads. Made by `Raft.leadership`; it ends with the leadership.

    async with raft.leadership() as term:
        await term.apply(b"expire lease 7")  # in this term or not at all
    """

    def __init__(self, number: int, leads: Callable[[], bool], apply: Callable[..., ApplyFuture[R_co]]) -> None:
        self._number = number
        self._leads = leads
        self._apply = apply

    def __repr__(self) -> str:
        return f"<LeaderTerm {self._number}: {'lost' if self.lost else 'this node leads'}>"

    @property
    def number(self) -> int:
        """The term of the Raft log. It grows with each leader, so it is a fencing token for other systems."""
        return self._number

    @property
    def lost(self) -> bool:
        """Whether this node knows that it does not lead in this term any more."""
        return not self._leads()

    def check(self) -> None:
        """Make sure that this node leads, as far as it knows. Call it before each step that relies on it.

            term.check()

        Raises:
            LeadershipLost: it does not.
        """
        if self.lost:
            raise LeadershipLost(f"this node does not lead in term {self._number} any more")

    def apply(
        self, data: bytes, *, timeout: float = 5.0, extensions: bytes = b"", frees_space: bool = False
    ) -> ApplyFuture[R_co]:
        """`Raft.apply`, fenced: the command takes effect in this term or not at all.

            await term.apply(b"expire lease 7")

        Raises:
            TypeError, ConfigError: as `Raft.apply` does.

        The future fails as that of `Raft.apply` does; with `Superseded` or `NotLeader` once another term has begun.
        """
        return self._apply(data, timeout=timeout, extensions=extensions, term=self._number, frees_space=frees_space)


class _Watch:
    """Cancels the task of a block at the first change of the node after which it does not lead in the block's term."""

    def __init__(self, running: Running, leads: Callable[[], bool]) -> None:
        self._running = running
        self._leads = leads
        self._changed: asyncio.Future[None] | None = None
        self.scope: LossScope = LossScope()

    def begin(self) -> None:
        self.scope.enter()
        self._wait()

    def end(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.cancel()

    def _wait(self) -> None:
        self._changed = self._running.changed()
        self._changed.add_done_callback(self._look)

    def _look(self, _: asyncio.Future[None]) -> None:
        if self._changed is None:
            return  # the block has ended
        if self._leads():
            self._wait()
        else:
            self.scope.fire()


@contextlib.asynccontextmanager
async def leadership(
    core: RawNode,
    running: Running,
    confirm: Callable[[float], Awaitable[int]],
    apply: Callable[..., ApplyFuture[R_co]],
    timeout_s: float | None,
    pause_s: float,
) -> AsyncIterator[LeaderTerm[R_co]]:
    """See `Raft.leadership`. `confirm` has a quorum confirm that this node leads, and returns the term."""
    number = await _led_term(core, running, confirm, timeout_s, pause_s)

    def leads() -> bool:
        return core.state is StateType.LEADER and core.term == number and not running.stopped

    watch = _Watch(running, leads)
    watch.begin()
    raised: type[BaseException] | None = None
    try:
        yield LeaderTerm(number, leads, apply)
    except asyncio.CancelledError:
        raised = asyncio.CancelledError
        watch.end()
        if not watch.scope.leave(raised):
            raise
    except BaseException as error:
        raised = type(error)
        watch.end()
        watch.scope.leave(raised)
        raise
    else:
        watch.end()
        watch.scope.leave(None)
    if raised is not None or not leads():
        raise _lost(running, number)


async def _led_term(
    core: RawNode,
    running: Running,
    confirm: Callable[[float], Awaitable[int]],
    timeout_s: float | None,
    pause_s: float,
) -> int:
    """Wait until this node leads and a quorum has confirmed it; the term."""
    running.check()
    clock = running.loop.time
    deadline_s = None if timeout_s is None else clock() + timeout_s
    while True:
        left_s = CONFIRM_S if deadline_s is None else deadline_s - clock()
        if core.state is StateType.LEADER and left_s > 0:
            with contextlib.suppress(NotLeader, NoLeader, DeadlineExceeded):  # it waits for the next time that it leads
                number = await confirm(min(left_s, CONFIRM_S))
                # The node may have stopped between the answer and this turn of the loop. No later change would cancel
                # the block then.
                running.check()
                return number
        running.check()
        if deadline_s is not None and clock() >= deadline_s:
            raise NotLeader("this node did not lead before the deadline", leader=core.leader or None)
        await running.wait(clock() + pause_s if deadline_s is None else min(deadline_s, clock() + pause_s))


def _lost(running: Running, number: int) -> SynclineError:
    """Why a block ended that ran in this term."""
    stopped_by = running.stopped_by
    if stopped_by is None:
        return LeadershipLost(f"this node does not lead in term {number} any more: another node may")
    text = f"{stopped_by}, and with it its leadership of term {number} has ended"
    if isinstance(stopped_by, NodeFailed):
        return NodeFailed(text, outcome=Outcome.UNKNOWN)
    return Closed(text, outcome=Outcome.UNKNOWN)


class LeaderSchedule(RepeatedJob):
    """A job of the node that leads, and its times. `Raft.every` makes it; it ends by `stop`, or with its block.

    async with raft.every("5m", clean_up):
        await serve()
    """

    def __init__(
        self,
        next_s: Callable[[float], int],
        job: Callable[[], object],
        what: str,
        wall_time_s: Callable[[], float],
        lead: Callable[[], AbstractAsyncContextManager[LeaderTerm[object]]],
        confirm: Callable[[], Awaitable[int]],
    ) -> None:
        """`next_s` is the job's first time after another one, in seconds since 1970. See `Raft.every`.

        `confirm` has a quorum confirm that this node still leads.
        """
        self._lead = lead
        self._confirm = confirm
        super().__init__(next_s, job, what, wall_time_s, caller="raft.every")

    async def _run(self) -> None:
        while not self._stopping:
            try:
                async with self._lead() as term:
                    await self._while_leading(term)
            except LeadershipLost:
                continue
            except (Closed, NodeFailed):
                return  # the node has stopped, which its own program is told
            except Exception:
                log.exception("%s ends here", self._what)
                raise

    async def _while_leading(self, term: LeaderTerm[object]) -> None:
        after_s = self._wall_time_s()
        while not self._stopping and not term.lost:
            due_s = self._next_s(after_s)
            if await self._has_come(due_s, after_s) and await self._still_leads(term):
                await self._call(lambda: result_in(self._job))
            after_s = self._wall_time_s()

    async def _still_leads(self, term: LeaderTerm[object]) -> bool:
        """Whether a quorum confirms it: a node that is cut off leads for an election timeout longer than it should."""
        try:
            return await self._confirm() == term.number
        except (NotLeader, NoLeader, DeadlineExceeded):
            return False
