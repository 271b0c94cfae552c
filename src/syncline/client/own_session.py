"""The session that a client opens by itself: its writes are sent again after a lost answer, and take effect once.

It is opened before the first write, once for all writes that wait for it. If the cluster has ended it, another one is
opened, and a write whose first attempt found that out is sent in the new one. If no session can be had (there are too
many, or the server knows none) writes are sent without a key for a while, as with `retry_writes=False`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from copy import copy
from typing import Final, TypeVar

import msgspec

from syncline.client.caller import READS, Caller, ClientRequest
from syncline.client.connection import ClientResponse
from syncline.client.session_schemas import SessionReply
from syncline.client.wire import decode, error_from
from syncline.errors import (
    DeadlineExceeded,
    LimitReached,
    OperationError,
    Outcome,
    RequestFailed,
    SessionExpired,
    Unreachable,
)
from syncline.sessions.table import Limits

__all__ = ["OwnSession"]

T = TypeVar("T")

STRIDE: Final = 8
"""From one sequence to the next. The server keeps the answers of the highest 1,024 sequences of a session: so it keeps
128 answers of a client instead, and those to large batches fit."""

MAX_UNDER_WAY: Final = Limits().window // STRIDE
"""Requests with a key at once. Another one waits until there is room."""

WITHOUT_S: Final = 10.0
"""For so long writes have no key after no session could be had."""

END_S: Final = 1.0
"""Time limit of the end of the session when the client is closed. Otherwise it ends because it is idle."""

SPARE_S: Final = 0.1
"""With so much more time than a failed opening had a write tries another one. And so much longer than its deadline a
write waits for the opening to say why it has failed."""

UNKNOWN_ROUTE: Final = frozenset({404, 405})

OPEN: Final = ClientRequest(method="POST", target="/session", idempotent=True)
"""Sent again if its outcome is unknown: a session that is never used ends because it is idle."""


class _Open:
    """An open session, and the keys under way in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._next = 1
        self._under_way: dict[int, None] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> int | None:
        """The next sequence; None if there is no room for it in the window."""
        if self._is_full():
            return None
        sequence = self._next
        self._next += STRIDE
        self._under_way[sequence] = None
        return sequence

    async def take_later(self) -> int:
        """The next sequence, as soon as there is room for it."""
        while (sequence := self.take()) is None:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()  # the turn may have been given to this call
                raise
        self._wake()
        return sequence

    def give_back(self, sequence: int) -> None:
        """The write with this sequence has its answer, or is given up."""
        del self._under_way[sequence]
        self._wake()

    def _is_full(self) -> bool:
        oldest = next(iter(self._under_way), self._next)
        return self._next - oldest >= MAX_UNDER_WAY * STRIDE

    def _wake(self) -> None:
        while self._waiting and not self._is_full():
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class OwnSession:
    """Sends writes with keys of a session that it opens when it is needed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: _Open | None = None
        self._opening: asyncio.Task[_Open | None] | None = None
        self._opening_until_s = 0.0
        self._without_until_s = 0.0

    async def call(self, caller: Caller, request: ClientRequest, timeout_s: float) -> ClientResponse:
        """Send a request; if it is one that takes a key, with the next one. Raises as `Caller.call` does."""
        if not request.keyed or request.method in READS:
            return await caller.call(request, timeout_s)
        loop = self._bound_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            session = self._open
            if session is None:
                session = await self._opened(caller, deadline_s)
            if session is None:
                return await caller.call(request, deadline_s - loop.time())
            sequence = session.take()
            if sequence is None:
                sequence = await _in_time(session.take_later(), deadline_s)
            try:
                field = ("Idempotency-Key", f"{session.name}/{sequence}")
                keyed = msgspec.structs.replace(request, headers=(*request.headers, field), idempotent=True, once=True)
                return await caller.call(keyed, deadline_s - loop.time())
            except SessionExpired as error:
                if self._open is session:
                    self._open = None
                if error.outcome is Outcome.UNKNOWN or loop.time() >= deadline_s:
                    raise
            finally:
                session.give_back(sequence)

    async def end(self, caller: Caller) -> None:
        """End the session, if one is open and a server answers in time."""
        session, opening = self._open, self._opening
        self._open = self._opening = None
        if self._loop is not asyncio.get_running_loop():
            return
        if opening is not None:
            opening.cancel()
        if session is not None:
            try:
                await caller.call(
                    ClientRequest(method="DELETE", target=f"/session/{session.name}", idempotent=True), END_S
                )
            except OperationError:
                return  # it ends because it is idle

    def _bound_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and self._loop.is_closed():
                self._open = self._opening = None  # what waited there has ended with the loop
            self._loop = loop
        return loop

    async def _opened(self, caller: Caller, deadline_s: float) -> _Open | None:
        """The open session; None if there is none to be had for a while. Raises the errors of the opening."""
        loop = asyncio.get_running_loop()
        while True:
            if self._open is not None:
                return self._open
            if loop.time() < self._without_until_s:
                return None
            if self._opening is None or self._opening.done():
                self._opening_until_s = deadline_s
                self._opening = loop.create_task(self._begin(caller, deadline_s))
                self._opening.add_done_callback(_retrieve)
            opening = self._opening
            try:
                # Shielded: a caller that is cancelled, or whose time is over, leaves it to the others.
                return await _in_time(asyncio.shield(opening), deadline_s + SPARE_S)
            except asyncio.CancelledError:
                if opening.cancelled() and not _is_cancelled():
                    raise Unreachable("the client was closed before anything was sent") from None
                raise
            except OperationError as error:
                if not opening.done():
                    raise
                if deadline_s > self._opening_until_s + SPARE_S:
                    continue  # the write that began it had less time than this one has
                raised = copy(error)  # each waiting write has one of its own
                raised.outcome = Outcome.NOT_APPLIED  # of the write, of which nothing was sent
                raise raised from error

    async def _begin(self, caller: Caller, deadline_s: float) -> _Open | None:
        loop = asyncio.get_running_loop()
        try:
            response = await caller.call(OPEN, max(0.01, deadline_s - loop.time()))
            if response.status >= 300:
                raise error_from(response)
            self._open = _Open(decode(response, SessionReply).id)
        except LimitReached:
            self._without_until_s = loop.time() + WITHOUT_S
        except RequestFailed as error:
            if error.status not in UNKNOWN_ROUTE:
                raise
            self._without_until_s = loop.time() + WITHOUT_S
        return self._open


async def _in_time(work: Awaitable[T], deadline_s: float) -> T:
    try:
        async with asyncio.timeout_at(deadline_s):
            return await work
    except OperationError:
        raise  # one of them is a TimeoutError, too
    except TimeoutError:
        raise DeadlineExceeded("the time was over before anything was sent", outcome=Outcome.NOT_APPLIED) from None


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _retrieve(opening: asyncio.Task[_Open | None]) -> None:
    """Its error belongs to those that wait, and they may all be gone."""
    if not opening.cancelled():
        opening.exception()
