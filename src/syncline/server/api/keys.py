"""`/key/{key}`: one key with its raw value. The hot path: no task, no future of its own, little work."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, TypeVar

from msgspec.structs import replace

from syncline.client.schemas import DeleteReply, PutReply
from syncline.errors import Rejected
from syncline.kv.commands import ABSENT, EXISTS, MAX_KEY_BYTES, Delete, Put, encode_command, encode_put
from syncline.kv.records import DeleteAnswer, KeyRecord, PutAnswer
from syncline.kv.serving.key_limits import DEFAULT_MAX_KEY_BYTES, DEFAULT_MAX_VALUE_BYTES
from syncline.kv.serving.reads import DEFAULT_TIMEOUT_S, ConfirmedReads, ReadPlan
from syncline.kv.watch_hub import WatchHub
from syncline.server.api import key_query
from syncline.server.api.backend import Backend
from syncline.server.api.bodies import RawBody
from syncline.server.api.declare import (
    ETAG,
    IDEMPOTENCY_KEY,
    LEADER,
    READ_IF,
    READ_UNLESS,
    REPLAYED,
    REVISION,
    WRITE_IF,
    WRITE_UNLESS,
    Reply,
    Route,
)
from syncline.server.api.error_codes import (
    COMPACTED,
    KEYED,
    LEASE_FULL,
    LEASE_LIMIT,
    LEASE_NOT_FOUND,
    LENGTH_REQUIRED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    READING,
    UNKNOWN_ROUTE,
    WAIT_LIMIT,
)
from syncline.server.api.errors import RequestError, problem
from syncline.server.api.idempotency import FIELD, propose
from syncline.server.api.leader_field import LeaderField
from syncline.server.api.long_poll import FROM, WAIT, LongPolls, PollPlan
from syncline.server.api.parameters import Octets, Query
from syncline.server.api.reads import READ_QUERY, TIMEOUT, read_plan
from syncline.server.api.router import Explain, Router
from syncline.server.api.ttl import LEASE, TTL
from syncline.server.auth.access import KEYS
from syncline.server.auth.gate import AccessGate
from syncline.server.http.limits import KIB
from syncline.server.http.request import Request
from syncline.server.http.response import JSON, NO_CACHE, NO_STORE, OCTETS, Deferred, Respond, Response, status_line
from syncline.server.http.shortcuts import CONDITIONS

__all__ = [
    "DEFAULT_MAX_KEY_BYTES",
    "DEFAULT_MAX_VALUE_BYTES",
    "FOUND",
    "PATTERN",
    "WRITTEN",
    "KeyRoutes",
    "not_found",
    "parse_etags",
]

PATTERN: Final = "/key/{key...}"

DELETE_QUERY: Final = Query(TIMEOUT)
PUT_QUERY: Final = Query(TTL, LEASE, TIMEOUT)
GET_QUERY: Final = READ_QUERY.plus(WAIT, FROM)

SAME_ETAG: Final = replace(ETAG, optional=True)
"""Not at the end of a wait."""

GET: Final = Route(
    "GET",
    key_query.PATTERN,
    summary="Read a key",
    access=KEYS,
    about="With `wait` the answer comes when the key has changed at the revision `from` or after: 200 or 404. At the"
    " end of the wait it is 304 with `Syncline-Revision`.",
    query=GET_QUERY,
    fields=(READ_IF, READ_UNLESS),
    answers={
        200: Reply("The value.", ("application/octet-stream",), (ETAG, REVISION, LEADER)),
        304: Reply("It is at a revision of `If-None-Match`, or the wait is over.", (), (SAME_ETAG, REVISION)),
    },
    errors=(*READING, NOT_FOUND, PRECONDITION_FAILED, COMPACTED, WAIT_LIMIT),
    conditions=True,
)
DELETE: Final = Route(
    "DELETE",
    key_query.PATTERN,
    summary="Delete a key",
    access=KEYS,
    about="A key that is not there is no error.",
    query=DELETE_QUERY,
    fields=(WRITE_IF, IDEMPOTENCY_KEY),
    answers={200: Reply("It is not there any more.", (DeleteReply,), (REVISION, LEADER, REPLAYED))},
    errors=(*KEYED, PRECONDITION_FAILED),
    conditions=True,
)

MAX_CACHED_QUERIES: Final = 1024
"""Parsed queries that are kept,"""
MAX_CACHED_QUERY_BYTES: Final = 128
"""none longer than this."""

DEFER_BYTES: Final = 32 * KIB
"""A longer value is read when it can be written: a client that reads no answers keeps no values in memory."""

Cached = TypeVar("Cached")

ANY_ETAG: Final = -1
"""The value for `*` among ETags."""

_NO_LENGTH: Final = (
    "the request has no Content-Length, so it has no body: send the value, or Content-Length: 0 for an empty one;"
    " nothing was stored"
)

_OK: Final = status_line(200)
FOUND: Final = b"%s%s%s" % (_OK, OCTETS, NO_CACHE) + b'ETag: "%d"\r\nSyncline-Revision: %d\r\n%sContent-Length: %d\r\n'
"""The head of a value: its revision, that of the store, the line that names the leader, the length."""
WRITTEN: Final = b"%s%s%s" % (_OK, JSON, NO_STORE) + b'ETag: "%d"\r\nSyncline-Revision: %d\r\n%sContent-Length: %d\r\n'
"""The same of the answer to a write."""
_DELETED: Final = b"%s%s%s" % (_OK, JSON, NO_STORE) + b"Syncline-Revision: %d\r\n%sContent-Length: %d\r\n"


class KeyRoutes:
    """GET, HEAD, PUT, POST and DELETE of single keys."""

    def __init__(
        self,
        backend: Backend,
        reads: ConfirmedReads[Respond],
        hub: WatchHub,
        *,
        explain: Explain,
        explain_read: Explain,
        gate: AccessGate,
        max_key_bytes: int = DEFAULT_MAX_KEY_BYTES,
        max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
    ) -> None:
        assert max_key_bytes <= MAX_KEY_BYTES
        self._backend = backend
        self._reads = reads
        self._explain = explain
        self._explain_read = explain_read
        self._leader = LeaderField(backend)
        self._max_key_bytes = max_key_bytes
        self._max_value_bytes = max_value_bytes
        self._auth = gate.flag
        self._present_user = gate.present
        self._polls = LongPolls(backend, hub, reads, answer=self._answer, refusal=self._refusal, explain=explain_read)
        self._read_plans: dict[bytes, ReadPlan] = {}
        self._put_plans: dict[bytes, tuple[float, int, int]] = {}

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        key = Octets("key", "The key, percent-encoded.", required=True, max_bytes=self._max_key_bytes)
        for route, handler in ((GET, self.get), (self._put_route(), self.put), (DELETE, self.delete)):
            router.declare(replace(route, pattern=PATTERN, argument=key), handler)
            by_query = replace(
                route,
                pattern=key_query.PATTERN,
                query=route.query.plus(key),
                errors=(*route.errors, UNKNOWN_ROUTE),
            )
            router.declare(by_query, key_query.by_query(handler))

    def _put_route(self) -> Route:
        return Route(
            "PUT POST",
            key_query.PATTERN,
            summary="Store a value",
            access=KEYS,
            about="With `ttl` the key gets a lease of its own; with neither `ttl` nor `lease` it has none.",
            query=PUT_QUERY,
            fields=(WRITE_IF, WRITE_UNLESS, IDEMPOTENCY_KEY),
            body=RawBody("The value, stored unchanged.", self._max_value_bytes),
            answers={200: Reply("It is stored.", (PutReply,), (ETAG, REVISION, LEADER, REPLAYED))},
            errors=(
                *KEYED,
                LENGTH_REQUIRED,
                PRECONDITION_FAILED,
                LEASE_NOT_FOUND,
                LEASE_FULL,
                LEASE_LIMIT,
            ),
            conditions=True,
        )

    # --- reading

    def get(self, request: Request, respond: Respond) -> None:
        """The raw value; 404 if there is no such key, 304 and 412 by the ETag."""
        if not 0 < len(request.argument) <= self._max_key_bytes:
            raise self._bad_key(request.argument)
        if request.principal is not None:
            request.principal.check_key_readable(request.argument)
        if request.query:
            plan = self._read_plan(request.query)
            if isinstance(plan, PollPlan):
                _check_etags(request.headers)  # now: at the end of the wait nothing looks at them
                self._polls.poll(plan, request, respond)
            elif plan.revision:
                _check_etags(request.headers)  # now: the read may wait for its revision
                self._reads.confirm(plan, self._read_past, (request, plan.revision), respond)
            else:
                self._reads.confirm(plan, self._read, request, respond)
        else:
            self._reads.within(DEFAULT_TIMEOUT_S, self._read, request, respond)

    def _read_plan(self, query: bytes) -> ReadPlan:
        """The parsed query: a client's queries are always the same few, so each is parsed once."""
        plan = self._read_plans.get(query)
        if plan is None:
            parameters = GET_QUERY.parse(query)
            plan = PollPlan.waiting(parameters) or read_plan(parameters)
            _keep(self._read_plans, query, plan)
        return plan

    def _read(self, request: Request, respond: Respond, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain_read(error))
            return
        answer = self._answer(request)
        respond(answer if len(answer.body) <= DEFER_BYTES else Deferred.by(partial(self._answer, request)))

    def _read_past(self, read: tuple[Request, int], respond: Respond, error: BaseException | None) -> None:
        """Answer from the state at a past revision. Its records never change, so the answer holds one until it goes."""
        if error is not None:
            respond(self._explain_read(error))
            return
        request, revision = read
        try:
            record = self._backend.store.get(request.argument, revision)
        except Rejected as refusal:
            respond(self._explain_read(refusal))
        else:
            respond(self._answered(request, record))

    def _answer(self, request: Request) -> Response:
        """The answer from the store's present state."""
        return self._answered(request, self._backend.store.get(request.argument))

    def _answered(self, request: Request, record: KeyRecord | None) -> Response:
        """The answer with this record, after the conditions of the request."""
        if self._auth.on and (refusal := self._refusal(request)) is not None:
            return refusal
        store = self._backend.store
        headers = request.headers
        if not CONDITIONS.isdisjoint(headers):
            try:
                refusal = _check_conditions(headers, record, store.revision)
            except RequestError as bad:
                refusal = bad.response()
            if refusal is not None:
                return refusal
        if record is None:
            return not_found(store.revision)
        value = record.value
        return Response(200, FOUND % (record.mod_revision, store.revision, self._leader.line, len(value)), value)

    def _refusal(self, request: Request) -> Response | None:
        """The refusal if the key may not be read any more: users change while a read waits."""
        refusal = self._present_user(request.principal).read_refusal(request.argument, request.argument + b"\0")
        return None if refusal is None else self._explain_read(refusal)

    # --- writing

    def put(self, request: Request, respond: Respond) -> None:
        """Store the body unchanged."""
        key, body, headers = request.argument, request.body, request.headers
        if not 0 < len(key) <= self._max_key_bytes:
            raise self._bad_key(key)
        if len(body) > self._max_value_bytes:
            message = f"the value has {len(body)} bytes; the limit is {self._max_value_bytes}; nothing was stored"
            raise RequestError(message, status=413, code="too_large")
        if not body and b"content-length" not in headers and b"transfer-encoding" not in headers:
            raise RequestError(_NO_LENGTH, status=411, code="length_required")
        expect = None if CONDITIONS.isdisjoint(headers) else _write_condition(headers)
        timeout_s, lease, ttl_ms = self._put_plan(request.query) if request.query else (DEFAULT_TIMEOUT_S, 0, 0)
        if not ttl_ms:
            plain = not lease and expect is None
            command = encode_put(key, body) if plain else encode_command(Put(key, body, lease, expect))
            propose(self._backend, request, command, timeout_s, respond, self._proposed)
            return
        # The id of the lease is drawn for each attempt: the same request is told by any other.
        fingerprint = encode_command(Put(key, body, 1, expect, ttl_ms)) if FIELD in request.headers else b""
        command = encode_command(Put(key, body, self._backend.new_lease(), expect, ttl_ms))
        self._propose(request, command, timeout_s, respond, fingerprint=fingerprint)

    def delete(self, request: Request, respond: Respond) -> None:
        """Remove the key. An absent key is no error: `deleted` has the result."""
        if not 0 < len(request.argument) <= self._max_key_bytes:
            raise self._bad_key(request.argument)
        if b"if-none-match" in request.headers:
            raise RequestError("If-None-Match means nothing for DELETE; If-Match does")
        expect = _write_condition(request.headers)
        timeout_s = TIMEOUT.of(DELETE_QUERY.parse(request.query))
        command = encode_command(Delete(request.argument, expect))
        self._propose(request, command, timeout_s, respond, frees_space=True)

    def _propose(
        self,
        request: Request,
        command: bytes,
        timeout_s: float,
        respond: Respond,
        *,
        frees_space: bool = False,
        fingerprint: bytes = b"",
    ) -> None:
        propose(
            self._backend,
            request,
            command,
            timeout_s,
            respond,
            self._proposed,
            frees_space=frees_space,
            fingerprint=fingerprint,
        )

    def _put_plan(self, query: bytes) -> tuple[float, int, int]:
        """The time-out, the lease and the TTL in milliseconds that a query asks for."""
        plan = self._put_plans.get(query)
        if plan is None:
            parameters = PUT_QUERY.parse(query)
            plan = TIMEOUT.of(parameters), LEASE.of(parameters), TTL.of(parameters)
            if plan[1] and plan[2]:
                raise RequestError("give one of 'lease' and 'ttl', not both")
            _keep(self._put_plans, query, plan)
        return plan

    def _proposed(self, respond: Respond, result: object, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain(error))
            return
        if type(result) is PutAnswer:
            revision = result.revision
            own = b',"lease":"%016x"' % result.lease if result.lease else b""
            body = b'{"status":"success","revision":%d%s}\n' % (revision, own)
            respond(Response(200, WRITTEN % (revision, revision, self._leader.line, len(body)), body))
        else:
            assert type(result) is DeleteAnswer, result
            deleted = b"true" if result.deleted else b"false"
            body = b'{"status":"success","deleted":%s,"revision":%d}\n' % (deleted, result.revision)
            respond(Response(200, _DELETED % (result.revision, self._leader.line, len(body)), body))

    def _bad_key(self, key: bytes) -> RequestError:
        if not key:
            return RequestError("the key is empty: write it after /key/, percent-encoded")
        message = f"the key has {len(key)} bytes; the limit is {self._max_key_bytes}; nothing was stored"
        return RequestError(message, status=413, code="too_large")


def _keep(cache: dict[bytes, Cached], query: bytes, value: Cached) -> None:
    if len(query) > MAX_CACHED_QUERY_BYTES:
        return
    if len(cache) >= MAX_CACHED_QUERIES:
        cache.clear()  # a client with ever new queries gains nothing from the cache, and costs no more than this
    cache[query] = value


def parse_etags(raw: bytes, name: str, *, weak: bool) -> set[int]:
    """The revisions in an ETag list; `ANY_ETAG` for `*`. A bare number counts as a quoted one.

    `weak`: whether `W/"…"` counts (it never matches if it does not, RFC 9110, 8.8.3.2).
    """
    found: set[int] = set()
    for part in raw.split(b","):
        text = part.strip(b" \t")
        if text == b"*":
            found.add(ANY_ETAG)
            continue
        is_weak = text.startswith(b"W/")
        if is_weak:
            text = text[2:]
        if len(text) >= 2 and text[:1] == text[-1:] == b'"':
            text = text[1:-1]
        if not text.isdigit() or len(text) > 19:
            shown = part.decode("ascii", "replace").strip()
            raise RequestError(f'{name}: {shown!r} is not an ETag of this server, such as "42"')
        if weak or not is_weak:
            found.add(int(text))
    return found


def _check_etags(headers: Mapping[bytes, bytes]) -> None:
    """Raise `RequestError` if the conditions of a read can't be read."""
    parse_etags(headers.get(b"if-match", b"*"), "If-Match", weak=False)
    parse_etags(headers.get(b"if-none-match", b"*"), "If-None-Match", weak=True)


def _matches(etags: set[int], record: KeyRecord | None) -> bool:
    return record is not None and (ANY_ETAG in etags or record.mod_revision in etags)


def _check_conditions(headers: Mapping[bytes, bytes], record: KeyRecord | None, revision: int) -> Response | None:
    """The answer if the conditions of a read don't hold (RFC 9110, 13.2.2), else None."""
    wanted = headers.get(b"if-match")
    if wanted is not None and not _matches(parse_etags(wanted, "If-Match", weak=False), record):
        return _precondition_failed(record, revision)
    unwanted = headers.get(b"if-none-match")
    if (
        unwanted is not None
        and record is not None
        and _matches(parse_etags(unwanted, "If-None-Match", weak=True), record)
    ):
        fields = b'ETag: "%d"\r\nSyncline-Revision: %d\r\n' % (record.mod_revision, revision)
        head = b"%s%s%s" % (status_line(304), NO_CACHE, fields)
        return Response(304, head)
    return None


def _write_condition(headers: Mapping[bytes, bytes]) -> int | None:
    """The `expect` of a command: a revision, `EXISTS`, `ABSENT`, or None."""
    wanted, unwanted = headers.get(b"if-match"), headers.get(b"if-none-match")
    if wanted is None and unwanted is None:
        return None
    if wanted is not None and unwanted is not None:
        raise RequestError("If-Match and If-None-Match can't both be given for a write")
    if unwanted is not None:
        if parse_etags(unwanted, "If-None-Match", weak=True) != {ANY_ETAG}:
            raise RequestError("If-None-Match of a write takes * alone: the key must not exist")
        return ABSENT
    assert wanted is not None
    etags = parse_etags(wanted, "If-Match", weak=False)
    if len(etags) != 1 or 0 in etags or max(etags) >= 2**63:
        raise RequestError('If-Match of a write takes one strong ETag, such as "42", or * for any existing key')
    revision = etags.pop()
    return EXISTS if revision == ANY_ETAG else revision


def not_found(revision: int) -> Response:
    """There is no such key in the store at this revision."""
    return problem(404, "not_found", "there is no such key", fields=b"Syncline-Revision: %d\r\n" % revision)


def _precondition_failed(record: KeyRecord | None, revision: int) -> Response:
    current = record.mod_revision if record is not None else 0
    fields = b"Syncline-Revision: %d\r\n" % revision
    if record is not None:
        fields += b'ETag: "%d"\r\n' % current
    message = f"the key is at revision {current}" if record is not None else "the key does not exist"
    return problem(412, "precondition_failed", message, fields=fields, details={"revision": current})
