"""Sessions of a store: writes that take effect exactly once."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from syncline.client.embedded.calls import EmbeddedCalls
from syncline.client.embedded.errors import node_errors
from syncline.client.session_keys import SessionKeys
from syncline.errors import SynclineError, UsageError

__all__ = ["EmbeddedSessionCalls"]


class EmbeddedSessionCalls(EmbeddedCalls):
    """Sessions."""

    @asynccontextmanager
    async def session(self, *, timeout: float | None = None) -> AsyncIterator[Self]:
        """Open a session: a store like this one, whose writes take effect exactly once (docs/exactly-once.md).

            async with store.session() as once:
                await once.put("order/7", "paid")

        A write of it is proposed again after an unknown outcome until its deadline, and takes effect once. At the end
        of the block the session ends. If that can't be done in time, it ends later because it is idle. `timeout`
        bounds the opening.

        Its writes raise further:
            SessionExpired: the session was idle for too long. `not_applied` unless an earlier attempt is in doubt.
            AnswerNotKept: the write was carried out once, and its answer is not kept.
            LimitReached: 1,024 writes of the session are under way; nothing was proposed.

        Raises:
            DeadlineExceeded: no answer came in time.
            OperationError: the cluster refused it, or could not do it.
            UsageError: this is a session already.
            ConfigError, TypeError: an argument can't be used; nothing was proposed.
        """
        if self._keys is not None:
            raise UsageError("a session can't open another one: call it on the store")
        node, timeout_s = self._embedded.node, self._limit_s(timeout)
        with node_errors():
            session_id = await node.open_session(timeout_s)
        scope = copy.copy(self)
        scope._keys = SessionKeys(f"{session_id:016x}")
        try:
            yield scope
        finally:
            await self._end_session(session_id)

    async def _end_session(self, session_id: int) -> None:
        embedded = self._embedded
        try:
            await embedded.node.end_session(session_id, embedded.timeout_s)
        except SynclineError:
            return  # it ends because it is idle
