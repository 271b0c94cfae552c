"""`Session`: commands that take effect exactly once, whatever happens to their answers."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from syncline.errors import (
    AnswerNotKept,
    Closed,
    DeadlineExceeded,
    IdempotencyMismatch,
    LimitReached,
    NodeFailed,
    NoLeader,
    NotLeader,
    OperationError,
    Outcome,
    Rejected,
    SessionExpired,
    StorageError,
    Superseded,
    SynclineError,
)
from syncline.node.arguments import check_timeout
from syncline.node.futures import ApplyFuture
from syncline.node.session_calls import SessionFuture
from syncline.sessions.entries import OnceKey
from syncline.sessions.table import Limits

__all__ = ["MAX_UNDER_WAY", "Session", "until_known"]

MAX_UNDER_WAY: Final = Limits().window
"""Commands of one session under way: the table keeps so many sequences."""

Answer = TypeVar("Answer")
R_co = TypeVar("R_co", covariant=True)
"""What the state machine answers to a command."""

FINAL: Final = (Rejected, IdempotencyMismatch, AnswerNotKept)
"""Errors that say what became of the command, whatever was known before."""

TRIED_AGAIN: Final = (DeadlineExceeded, NoLeader, NotLeader, Superseded)
"""Errors of one attempt after which another one may succeed."""


class Session(Generic[R_co]):
    """A session of one caller, for commands that take effect exactly once. Made by `Raft.session`.

        async with raft.session() as session:
            answer = await session.apply(b"a command")

    Each command gets a sequence. If the outcome of an attempt is unknown, the same sequence is proposed again. A
    command that was applied before is not applied again: the recorded answer comes back.
    """

    def __init__(
        self,
        session_id: int,
        propose: Callable[[bytes, OnceKey, float, bytes, bool], SessionFuture[R_co]],
        end: Callable[[int], Callable[[float], ApplyFuture[object]]],
        *,
        clock: Callable[[], float],
        attempt_s: float,
    ) -> None:
        self._id = session_id
        self._propose = propose
        self._end = end
        self._clock = clock
        self._attempt_s = attempt_s
        self._next = 1
        self._under_way: dict[int, None] = {}
        """Sequences whose caller still waits, lowest first."""
        self._closed = False

    def __repr__(self) -> str:
        return f"<Session {self._id:016x}: {len(self._under_way)} commands under way>"

    @property
    def id(self) -> int:
        """The id of the session."""
        return self._id

    async def apply(
        self, data: bytes, *, timeout: float = 5.0, extensions: bytes = b"", frees_space: bool = False
    ) -> R_co:
        """Replicate a command, and have it applied exactly once. Returns the state machine's answer.

            answer = await session.apply(b"a command")

        `timeout` (seconds) bounds the whole operation, with all attempts. An answer is plain data, or what
        `AnswerKeepingFSM.load_answer` makes of it. The other arguments are those of `Raft.apply`.

        Raises:
            Rejected: the state machine refused the command (`not_applied`).
            AnswerNotKept: the command was applied once, and its answer is not kept.
            SessionExpired: the session has ended. `not_applied` unless an earlier attempt may have taken effect.
            LimitReached: 1,024 commands of this session are under way (`not_applied`).
            DeadlineExceeded: no attempt was answered in time (see `outcome`). It is not tried again.
            OperationError, TypeError, ConfigError: as `Raft.apply` does.
        """
        check_timeout(timeout)
        if self._closed:
            raise SessionExpired("the session was closed: open another one", outcome=Outcome.NOT_APPLIED)
        sequence = self._next
        if sequence - self._floor >= MAX_UNDER_WAY:
            raise LimitReached(f"{MAX_UNDER_WAY} commands of this session wait for their answer: try later")
        self._next = sequence + 1
        self._under_way[sequence] = None

        def attempt(timeout_s: float) -> SessionFuture[R_co]:
            key = OnceKey(self._id, sequence, self._floor)
            return self._propose(data, key, timeout_s, extensions, frees_space)

        try:
            return await until_known(attempt, timeout, clock=self._clock, attempt_s=self._attempt_s)
        finally:
            # Later commands have a floor above it: an attempt that is still on its way has no effect behind them.
            del self._under_way[sequence]

    @property
    def _floor(self) -> int:
        return next(iter(self._under_way), self._next)

    async def close(self, *, timeout: float = 5.0) -> None:
        """End the session: its recorded answers are dropped on all nodes. Idempotent.

            await session.close()

        If it can't be ended in time, it ends later by itself, because it is idle.
        """
        check_timeout(timeout)
        if self._closed:
            return
        self._closed = True
        try:
            await until_known(self._end(self._id), timeout, clock=self._clock, attempt_s=self._attempt_s)
        except (OperationError, NodeFailed, StorageError):
            return  # the leader ends it when it is idle

    async def __aenter__(self) -> Self:
        """For a session that was opened with `await`: it is closed at the end of the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def until_known(
    attempt: Callable[[float], asyncio.Future[Answer]],
    timeout_s: float,
    *,
    clock: Callable[[], float],
    attempt_s: float,
) -> Answer:
    """Call `attempt(timeout_s)` until an attempt is answered, or the time is over. Attempts must be repeatable.

    Once the outcome of an attempt was unknown, an error that says nothing of it does not undo the doubt.
    """
    deadline_s = clock() + timeout_s
    doubt: SynclineError | None = None
    left_s = timeout_s
    while True:
        try:
            return await _outcome(attempt(min(left_s, attempt_s)))
        except FINAL:
            raise
        except SynclineError as error:
            doubtful = doubt is not None and doubt.outcome is Outcome.UNKNOWN
            if isinstance(error, SessionExpired):
                error.outcome = Outcome.UNKNOWN if doubtful else Outcome.NOT_APPLIED
                raise
            left_s = deadline_s - clock()
            ended = not isinstance(error, OperationError) or isinstance(error, Closed)
            again = isinstance(error, TRIED_AGAIN) or error.outcome is Outcome.UNKNOWN
            if ended or not again or left_s <= 0:
                if not doubtful or error.outcome is Outcome.UNKNOWN:
                    raise
                doubted = copy.copy(error)  # the node may give this one to other callers, too
                doubted.outcome = Outcome.UNKNOWN
                raise doubted from error
            if not doubtful:
                doubt = error


async def _outcome(future: asyncio.Future[Answer]) -> Answer:
    return await future
