"""`/lease…`: grant, keep alive, look at and end leases; and `/key/{key}/touch`."""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import Final

from msgspec.structs import replace

from syncline.client.lease_schemas import (
    MAX_KEPT_LEASES,
    KeepAliveBody,
    KeepAliveReply,
    LeaseBody,
    LeaseItem,
    LeaseKey,
    LeaseListItem,
    LeasePageReply,
    LeaseReply,
    LeaseTimeReply,
    RevokeReply,
    TouchReply,
)
from syncline.client.schemas import split
from syncline.errors import SynclineError
from syncline.kv.commands import LeaseGrant, LeaseRevoke, Touch, encode_command
from syncline.kv.lease_calls import LeaseTime
from syncline.kv.limits import MAX_LEASE_ID
from syncline.kv.records import LeaseAnswer, LeaseEndAnswer, TouchAnswer
from syncline.kv.serving.lease_views import lease_page, lease_view, no_such_lease
from syncline.server.api import key_query
from syncline.server.api.answering import answering
from syncline.server.api.backend import Backend
from syncline.server.api.bodies import JsonBody
from syncline.server.api.declare import IDEMPOTENCY_KEY, REPLAYED, REVISION, Reply, Route
from syncline.server.api.error_codes import (
    KEYED,
    LEASE_EXISTS,
    LEASE_LIMIT,
    LEASE_NOT_FOUND,
    NOT_FOUND,
    READING,
    UNKNOWN_ROUTE,
    WRITING,
)
from syncline.server.api.errors import RequestError
from syncline.server.api.idempotency import propose
from syncline.server.api.parameters import Integer, Octets, Query, Text
from syncline.server.api.reads import TIMEOUT
from syncline.server.api.router import Explain, Router, coroutine
from syncline.server.api.ttl import TTL, parse_lease, parse_ttl_ms, seconds
from syncline.server.auth.access import KEYS, STATUS, USER
from syncline.server.http.limits import KIB
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response, json_response
from syncline.server.tasks import Tasks

__all__ = ["KEEP", "TIMEOUT_S", "LeaseRoutes", "kept_answer"]

LEASE: Final = Text("id", "The id of the lease: 16 hexadecimal digits.", required=True)
QUERY: Final = Query(TIMEOUT)
LIMIT: Final = Integer("limit", "The most leases of one page.", default=1000, low=1, high=10_000)
AFTER: Final = Text("after", "The `next` of the page before.")
LIST_QUERY: Final = Query(LIMIT, AFTER, TIMEOUT)
TOUCH_QUERY: Final = Query(replace(TTL, required=True), TIMEOUT)

GRANT_BODY: Final = JsonBody(LeaseBody, what="a lease", about="The time to live, and perhaps the id.", max_bytes=KIB)
MANY_BODY: Final = JsonBody(
    KeepAliveBody,
    what="a list of leases",
    about=f"The ids of up to {MAX_KEPT_LEASES} leases.",
    max_bytes=64 * KIB,
)

TIMEOUT_S: Final = TIMEOUT.of(QUERY.parse(b""))

_ID: Final = re.compile(rb"[0-9a-f]{16}")
_NO_LEASE: Final = f"{0:016x}"

GRANT: Final = Route(
    "POST",
    "/lease",
    summary="Grant a lease",
    access=USER,
    about="Without an id the server draws one. The time counts from the grant, at the earliest.",
    query=QUERY,
    fields=(IDEMPOTENCY_KEY,),
    body=GRANT_BODY,
    answers={200: Reply("It is granted.", (LeaseReply,), (REPLAYED,))},
    errors=(*KEYED, LEASE_EXISTS, LEASE_LIMIT),
)
LIST: Final = Route(
    "GET",
    "/lease",
    summary="List the leases",
    access=STATUS,
    query=LIST_QUERY,
    answers={200: Reply("One page.", (LeasePageReply,), (REVISION,))},
    errors=READING,
)
SHOW: Final = Route(
    "GET",
    "/lease/{id}",
    summary="Look at a lease",
    access=KEYS,
    about="What is left of its time is known to the leader.",
    argument=LEASE,
    query=QUERY,
    answers={200: Reply("The time that is left, and the keys.", (LeaseTimeReply,), (REVISION,))},
    errors=(*READING, LEASE_NOT_FOUND),
)
REVOKE: Final = Route(
    "DELETE",
    "/lease/{id}",
    summary="End a lease",
    access=KEYS,
    about="Its keys are deleted in one revision.",
    argument=LEASE,
    query=QUERY,
    fields=(IDEMPOTENCY_KEY,),
    answers={200: Reply("It is over.", (RevokeReply,), (REVISION, REPLAYED))},
    errors=(*KEYED, LEASE_NOT_FOUND),
)
KEEP: Final = Route(
    "POST",
    "/lease/{id}/keepalive",
    summary="Keep a lease alive",
    access=KEYS,
    about="It has its full time again. Nothing is written to the log.",
    argument=LEASE,
    query=QUERY,
    answers={200: Reply("It has its full time.", (LeaseReply,))},
    errors=(*WRITING, LEASE_NOT_FOUND),
)
KEEP_MANY: Final = Route(
    "POST",
    "/lease/keepalive",
    summary="Keep many leases alive",
    access=KEYS,
    about="Nothing is written to the log. Ids without a lease are in `missing`.",
    query=QUERY,
    body=MANY_BODY,
    answers={200: Reply("They have their full time.", (KeepAliveReply,))},
    errors=WRITING,
)


class LeaseRoutes:
    """Leases, and times to live of keys."""

    def __init__(
        self, backend: Backend, tasks: Tasks, *, explain: Explain, explain_read: Explain, max_key_bytes: int
    ) -> None:
        self._backend = backend
        self._tasks = tasks
        self._explain = explain
        self._explain_read = explain_read
        self._max_key_bytes = max_key_bytes

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        keep = partial(coroutine, self._tasks, explain=self._explain)
        read = partial(coroutine, self._tasks, explain=self._explain_read)
        router.declare(GRANT, self.grant)
        router.declare(LIST, read(self.list))
        router.declare(SHOW, read(self.show))
        router.declare(REVOKE, self.revoke)
        router.declare(KEEP, self.keep_alive)
        router.declare(KEEP_MANY, keep(self.keep_many_alive))
        key = Octets("key", "The key, percent-encoded.", required=True, max_bytes=self._max_key_bytes)
        touch = Route(
            "POST",
            "/key/{key...}/touch",
            summary="Give a key a time to live",
            access=KEYS,
            about="If the key has a lease of its own, that lease starts again. Otherwise the key gets one.",
            argument=key,
            query=TOUCH_QUERY,
            fields=(IDEMPOTENCY_KEY,),
            answers={200: Reply("It has its full time.", (TouchReply,), (REVISION, REPLAYED))},
            errors=(*KEYED, NOT_FOUND, LEASE_LIMIT),
        )
        router.declare(touch, self.touch)
        by_query = replace(
            touch,
            pattern="/touch",
            argument=None,
            query=TOUCH_QUERY.plus(key),
            errors=(*touch.errors, UNKNOWN_ROUTE),
        )
        router.declare(by_query, key_query.by_query(self.touch))

    # --- through the log

    def grant(self, request: Request, respond: Respond) -> None:
        """Grant a lease."""
        timeout_s = TIMEOUT.of(QUERY.parse(request.query))
        body = GRANT_BODY.read(request)
        ttl_ms = parse_ttl_ms(body.ttl, "the body")
        lease = parse_lease(body.id, "the body", field="id") if isinstance(body.id, str) else self._backend.new_lease()
        # The id is drawn for each attempt: the body tells the same request from others.
        self._propose(request, LeaseGrant(lease, ttl_ms), timeout_s, respond, fingerprint=b"lease " + request.body)

    def revoke(self, request: Request, respond: Respond) -> None:
        """End a lease."""
        timeout_s = TIMEOUT.of(QUERY.parse(request.query))
        self._propose(request, LeaseRevoke(_lease_of(request)), timeout_s, respond, frees_space=True)

    def touch(self, request: Request, respond: Respond) -> None:
        """Renew or set the TTL of a key."""
        parameters = TOUCH_QUERY.parse(request.query)
        timeout_s, ttl_ms = TIMEOUT.of(parameters), TTL.of(parameters)
        key = request.argument
        if request.body:
            raise RequestError("a touch takes no body: it leaves the value as it is")
        if not ttl_ms:
            raise RequestError("the parameter 'ttl' is missing: a time such as 30s")
        if not key:
            raise RequestError("the key is empty")
        if len(key) > self._max_key_bytes:
            message = f"the key has {len(key)} bytes; the limit is {self._max_key_bytes}"
            raise RequestError(message, status=413, code="too_large")
        command = Touch(key, ttl_ms, self._backend.new_lease())
        fingerprint = encode_command(Touch(key, ttl_ms, 1))
        self._propose(request, command, timeout_s, respond, fingerprint=fingerprint)

    def _propose(
        self,
        request: Request,
        command: LeaseGrant | LeaseRevoke | Touch,
        timeout_s: float,
        respond: Respond,
        *,
        frees_space: bool = False,
        fingerprint: bytes = b"",
    ) -> None:
        propose(
            self._backend,
            request,
            encode_command(command),
            timeout_s,
            respond,
            partial(self._proposed, command),
            frees_space=frees_space,
            fingerprint=fingerprint,
        )

    def _proposed(
        self,
        command: LeaseGrant | LeaseRevoke | Touch,
        respond: Respond,
        result: object,
        error: BaseException | None,
    ) -> None:
        if error is not None:
            respond(self._explain(error))
            return
        match result:
            case LeaseAnswer(lease, ttl_ms):
                respond(json_response(LeaseReply(f"{lease:016x}", seconds(ttl_ms))))
            case LeaseEndAnswer():
                respond(json_response(RevokeReply(result.deleted, result.revision), fields=_revision(result.revision)))
            case TouchAnswer(revision, lease):
                assert isinstance(command, Touch), command
                reply = TouchReply(revision, f"{lease:016x}", seconds(command.ttl_ms))
                respond(json_response(reply, fields=_revision(revision)))
            case _:
                raise AssertionError(result)

    # --- without the log

    def keep_alive(self, request: Request, respond: Respond) -> None:
        """Keep one lease alive. Without a task or a future: there may be a thousand a second."""
        timeout_s = TIMEOUT.of(QUERY.parse(request.query)) if request.query else TIMEOUT_S
        lease = _lease_of(request)
        if request.body:
            raise RequestError("a keep-alive takes no body: the id is in the path")
        if request.principal is not None:
            request.principal.check_lease_writable(lease)
        then = answering(respond, partial(self._kept, request.argument, respond))
        self._backend.lease_calls.keep_alive_then(lease, timeout_s, then)

    def _kept(self, name: bytes, respond: Respond, time: LeaseTime | None, error: SynclineError | None) -> None:
        if time is None:
            assert error is not None
            respond(self._explain(error))
        elif time.ttl_ms:
            respond(Response(200, *kept_answer(name, time.ttl_ms)))
        else:
            respond(self._explain(no_such_lease(int(name, 16))))

    async def keep_many_alive(self, request: Request) -> Response:
        """Keep many leases alive."""
        timeout_s = TIMEOUT.of(QUERY.parse(request.query))
        ids = MANY_BODY.read(request).ids
        leases = [parse_lease(text, f"'ids' {place}", field="id") for place, text in enumerate(ids)]
        if request.principal is not None:
            for lease in leases:
                request.principal.check_lease_writable(lease)
        times = await self._backend.lease_calls.keep_alive(leases, timeout_s)
        pairs = list(zip(ids, times, strict=True))
        kept = [LeaseItem(text, seconds(time.ttl_ms)) for text, time in pairs if time.ttl_ms]
        return json_response(KeepAliveReply(kept, [text for text, time in pairs if not time.ttl_ms]))

    async def show(self, request: Request) -> Response:
        """What is left of one lease's time, and its keys."""
        timeout_s = TIMEOUT.of(QUERY.parse(request.query))
        lease = _lease_of(request)
        view = await lease_view(self._backend, lease, timeout_s)
        if request.principal is not None:
            request.principal.check_lease_readable(lease)
        keys = [LeaseKey(*split(name)) for name in view.keys]
        reply = LeaseTimeReply(f"{lease:016x}", seconds(view.rest_ms), seconds(view.ttl_ms), keys, view.more)
        return json_response(reply, fields=_revision(view.revision))

    async def list(self, request: Request) -> Response:
        """A page of the leases."""
        parameters = LIST_QUERY.parse(request.query)
        limit, after = LIMIT.of(parameters), AFTER.of(parameters)
        start = parse_lease(after, "the parameter", field="after") if after else 0
        await self._backend.read_index(TIMEOUT.of(parameters))
        store = self._backend.store
        book = store.leases
        page, more = lease_page(store, start, limit)
        items = [LeaseListItem(f"{one.id:016x}", seconds(one.ttl_ms), book.key_count(one.id)) for one in page]
        following = items[-1].id if more else None
        return json_response(
            LeasePageReply(store.revision, items, len(book), following), fields=_revision(store.revision)
        )


def kept_answer(name: bytes, ttl_ms: int) -> tuple[bytes, bytes]:
    """Head and body of the answer to a keep-alive of the lease of this name, 16 hexadecimal digits."""
    head, before, after = _kept_form(ttl_ms)
    return head, b"%s%s%s" % (before, name, after)


@lru_cache(maxsize=64)  # leases of one program have one TTL
def _kept_form(ttl_ms: int) -> tuple[bytes, bytes, bytes]:
    """The answer to a keep-alive: its head, and its body before and behind the id."""
    answer = json_response(LeaseReply(_NO_LEASE, seconds(ttl_ms)))
    before, _, after = answer.body.partition(_NO_LEASE.encode())
    return answer.head, before, after


def _lease_of(request: Request) -> int:
    raw = request.argument
    if _ID.fullmatch(raw) is None:
        shown = raw[:40].decode("ascii", "replace")
        raise RequestError(f"the id of the lease is {shown!r}; expected its 16 hexadecimal digits, in lower case")
    lease = int(raw, 16)
    return lease if 0 < lease <= MAX_LEASE_ID else parse_lease(raw.decode(), "the path", field="id")


def _revision(revision: int) -> bytes:
    return b"Syncline-Revision: %d\r\n" % revision
