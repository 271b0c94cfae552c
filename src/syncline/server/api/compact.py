"""`POST /compact`: give up old revisions."""

from __future__ import annotations

from typing import Final

from syncline.client.schemas import CompactBody, CompactReply
from syncline.kv.commands import Compact, encode_command
from syncline.kv.records import CompactAnswer
from syncline.server.api.backend import Backend
from syncline.server.api.bodies import JsonBody
from syncline.server.api.declare import IDEMPOTENCY_KEY, REPLAYED, REVISION, Reply, Route
from syncline.server.api.error_codes import FUTURE_REVISION, KEYED
from syncline.server.api.idempotency import propose
from syncline.server.api.parameters import Query
from syncline.server.api.reads import TIMEOUT
from syncline.server.api.router import Explain, Router
from syncline.server.auth.access import COMPACT
from syncline.server.http.limits import KIB
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, json_response

__all__ = ["CompactRoutes"]

MAX_COMPACT_BYTES: Final = KIB
"""The body: one number."""

QUERY: Final = Query(TIMEOUT)
BODY: Final = JsonBody(
    CompactBody, what="a compaction", about="The oldest revision to keep.", max_bytes=MAX_COMPACT_BYTES
)

ROUTE: Final = Route(
    "POST",
    "/compact",
    summary="Give up old revisions",
    access=COMPACT,
    about="Below the oldest readable revision nothing changes.",
    query=QUERY,
    body=BODY,
    fields=(IDEMPOTENCY_KEY,),
    answers={200: Reply("It is given up.", (CompactReply,), (REVISION, REPLAYED))},
    errors=(*KEYED, FUTURE_REVISION),
)


class CompactRoutes:
    """Compaction by hand."""

    def __init__(self, backend: Backend, *, explain: Explain) -> None:
        self._backend = backend
        self._explain = explain

    def add_to(self, router: Router) -> None:
        """Register the route."""
        router.declare(ROUTE, self.compact)

    def compact(self, request: Request, respond: Respond) -> None:
        """Make a revision the oldest one that can be read."""
        timeout_s = TIMEOUT.of(QUERY.parse(request.query))
        command = encode_command(Compact(BODY.read(request).revision))
        propose(self._backend, request, command, timeout_s, respond, self._done, frees_space=True)

    def _done(self, respond: Respond, result: object, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain(error))
            return
        assert isinstance(result, CompactAnswer), result
        respond(json_response(CompactReply(result.oldest), fields=b"Syncline-Revision: %d\r\n" % result.revision))
