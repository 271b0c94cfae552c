"""Sessions of a client: writes that take effect exactly once, though they are sent again after a lost answer."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from syncline.client.caller import ClientRequest
from syncline.client.calls import ServerCalls
from syncline.client.session_keys import SessionKeys
from syncline.client.session_schemas import SessionReply
from syncline.client.wire import decode
from syncline.errors import OperationError

__all__ = ["SessionCalls"]


class SessionCalls(ServerCalls):
    """Sessions."""

    @asynccontextmanager
    async def session(self, *, timeout: float | None = None) -> AsyncIterator[Self]:
        """Open a session: a client like this one, whose writes take effect exactly once (docs/exactly-once.md).

            async with kv.session() as once:
                await once.put("order/7", "paid")

        A write of it is sent again after an unknown outcome until its deadline, and takes effect once. It shares the
        connections of this client. At the end of the block the session ends; if no server can be reached, it ends
        later because it is idle. `timeout` bounds the opening.

        Its writes raise further:
            SessionExpired: the session was idle for too long. `not_applied` unless an earlier attempt is in doubt.
            AnswerNotKept: the write was carried out once, and its answer is not kept.
            LimitReached: 1,024 writes of the session are under way; nothing was sent.
            UsageError: the call has no exactly-once form, such as a change of the membership; nothing was sent.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        # Sent again if its outcome is unknown: a session that is never used ends because it is idle.
        request = ClientRequest(method="POST", target="/session", idempotent=True)
        opened = decode(await self._answer(request, timeout), SessionReply)
        scope = copy.copy(self)
        scope._keys = SessionKeys(opened.id)
        scope._gathered_writes = None  # each of its writes has a key of its own
        try:
            yield scope
        finally:
            await self._end_session(opened.id)

    async def _end_session(self, session: str) -> None:
        request = ClientRequest(method="DELETE", target=f"/session/{session}", idempotent=True)
        try:
            await self._answer(request, None)
        except OperationError:
            return  # it ends because it is idle
