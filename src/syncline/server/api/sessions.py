"""`POST /session`, `DELETE /session/{id}`: sessions for writes that take effect exactly once."""

from __future__ import annotations

import re
from typing import Final

from syncline.client.session_schemas import SessionEndReply, SessionReply
from syncline.errors import LimitReached
from syncline.node.intake import OPENED_S
from syncline.node.member_registry import format_id
from syncline.server.api.backend import Backend
from syncline.server.api.declare import Reply, Route
from syncline.server.api.error_codes import OPEN_LIMIT, WRITING
from syncline.server.api.errors import RequestError
from syncline.server.api.parameters import Query, Text
from syncline.server.api.reads import TIMEOUT
from syncline.server.api.router import Explain, Router, coroutine
from syncline.server.auth.access import USER
from syncline.server.http.request import Request
from syncline.server.http.response import Response, json_response
from syncline.server.tasks import Tasks
from syncline.sessions.entries import LARGEST_SEQUENCE

__all__ = ["SessionRoutes"]

QUERY: Final = Query(TIMEOUT)

OPEN: Final = Route(
    "POST",
    "/session",
    summary="Open a session",
    access=USER,
    about="Its id comes first in each `Idempotency-Key`. It ends after `ttl_s` without a write.",
    query=QUERY,
    answers={200: Reply("It is open.", (SessionReply,))},
    errors=(*WRITING, OPEN_LIMIT),
)
END: Final = Route(
    "DELETE",
    "/session/{id}",
    summary="End a session",
    access=USER,
    about="A session that is not open is no error.",
    argument=Text("id", "The session's id: 16 hexadecimal digits.", required=True),
    query=QUERY,
    answers={200: Reply("It is not open any more.", (SessionEndReply,))},
    errors=WRITING,
)

_ID: Final = re.compile(rb"[0-9A-Fa-f]{16}")


class SessionRoutes:
    """Opens and ends sessions."""

    def __init__(self, backend: Backend, tasks: Tasks, *, explain: Explain) -> None:
        self._backend = backend
        self._tasks = tasks
        self._explain = explain

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        router.declare(OPEN, coroutine(self._tasks, self.open, explain=self._explain))
        router.declare(END, coroutine(self._tasks, self.end, explain=self._explain))

    async def open(self, request: Request) -> Response:
        """Open a session."""
        timeout_s = TIMEOUT.of(QUERY.parse(request.query))
        if request.body not in (b"", b"{}"):
            raise RequestError("POST /session takes no body; nothing was done")
        try:
            session_id = await self._backend.open_session(timeout_s)
        except LimitReached as error:
            fields = b"Retry-After: %d\r\n" % OPENED_S  # the leader knows how much of it has passed
            raise RequestError(str(error), status=429, code=error.code, fields=fields) from error
        return json_response(SessionReply(format_id(session_id), self._backend.session_idle_s))

    async def end(self, request: Request) -> Response:
        """End a session. `ended` says whether it was open."""
        timeout_s = TIMEOUT.of(QUERY.parse(request.query))
        session_id = int(request.argument, 16) if _ID.fullmatch(request.argument) else 0
        if not 0 < session_id <= LARGEST_SEQUENCE:
            raise RequestError("the id of a session has 16 hexadecimal digits, as POST /session has answered it")
        return json_response(SessionEndReply(await self._backend.end_session(session_id, timeout_s)))
