"""`/key/{key}`: one key with its raw value. The hot path: no task, no future of its own, little work."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, TypeVar

from syncline.kv.commands import ABSENT, EXISTS, MAX_KEY_BYTES, Delete, Put, encode_command
from syncline.kv.records import DeleteAnswer, KeyRecord, PutAnswer
from syncline.server.api import key_query
from syncline.server.api.backend import Backend
from syncline.server.api.errors import RequestError, problem
from syncline.server.api.reads import (
    DEFAULT_TIMEOUT_S,
    MAX_TIMEOUT_S,
    READ_PARAMETERS,
    ConfirmedReads,
    ReadPlan,
)
from syncline.server.api.router import Explain, Router
from syncline.server.http.limits import KIB, MIB
from syncline.server.http.request import Parameters, Request
from syncline.server.http.response import JSON, NO_CACHE, NO_STORE, OCTETS, Deferred, Respond, Response, status_line
from syncline.server.http.shortcuts import CONDITIONS, FastGet, FastGetRequest

__all__ = ["DEFAULT_MAX_KEY_BYTES", "DEFAULT_MAX_VALUE_BYTES", "KeyRoutes", "parse_etags"]

DEFAULT_MAX_KEY_BYTES: Final = KIB
DEFAULT_MAX_VALUE_BYTES: Final = MIB

PATTERN: Final = "/key/{key...}"

WRITE_PARAMETERS: Final = frozenset({"timeout"})
WRITES_LATER: Final = frozenset({"ttl", "lease"})
READS_LATER: Final = frozenset({"wait", "from", "revision"})

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
_FOUND: Final = b"%s%s%s" % (_OK, OCTETS, NO_CACHE) + b'ETag: "%d"\r\nSyncline-Revision: %d\r\nContent-Length: %d\r\n'
_WRITTEN: Final = b"%s%s%s" % (_OK, JSON, NO_STORE) + b'ETag: "%d"\r\nSyncline-Revision: %d\r\nContent-Length: %d\r\n'
_DELETED: Final = b"%s%s%s" % (_OK, JSON, NO_STORE) + b"Syncline-Revision: %d\r\nContent-Length: %d\r\n"


class KeyRoutes:
    """GET, HEAD, PUT, POST and DELETE of single keys."""

    def __init__(
        self,
        backend: Backend,
        reads: ConfirmedReads,
        *,
        explain: Explain,
        explain_read: Explain,
        max_key_bytes: int = DEFAULT_MAX_KEY_BYTES,
        max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
    ) -> None:
        assert max_key_bytes <= MAX_KEY_BYTES
        self._backend = backend
        self._reads = reads
        self._explain = explain
        self._explain_read = explain_read
        self._max_key_bytes = max_key_bytes
        self._max_value_bytes = max_value_bytes
        self._read_plans: dict[bytes, ReadPlan] = {}
        self._timeouts_s: dict[bytes, float] = {}

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        for methods, handler in (("GET", self.get), ("PUT POST", self.put), ("DELETE", self.delete)):
            router.add(methods, PATTERN, handler, conditions=True)
            router.add(methods, key_query.PATTERN, key_query.by_query(handler), conditions=True)

    @property
    def fast_get(self) -> FastGet:
        """The fast path: reads of a key that say nothing else."""
        return FastGet(b"GET /key/", Request("GET", b"", b"", {}, b"", route=f"GET {PATTERN}"), self.get_fast)

    # --- reading

    def get(self, request: Request, respond: Respond) -> None:
        """The raw value; 404 if there is no such key, 304 and 412 by the ETag."""
        if not 0 < len(request.argument) <= self._max_key_bytes:
            raise self._bad_key(request.argument)
        if request.query:
            self._reads.confirm(self._read_plan(request.query), self._read, request, respond)
        else:
            self._reads.within(DEFAULT_TIMEOUT_S, self._read, request, respond)

    def _read_plan(self, query: bytes) -> ReadPlan:
        """The parsed query: a client's queries are always the same few, so each is parsed once."""
        plan = self._read_plans.get(query)
        if plan is None:
            plan = ReadPlan.of(Parameters(query, READ_PARAMETERS, later=READS_LATER))
            _keep(self._read_plans, query, plan)
        return plan

    def _read(self, request: Request, respond: Respond, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain_read(error))
            return
        answer = self._answer(request)
        respond(answer if len(answer.body) <= DEFER_BYTES else Deferred.by(partial(self._answer, request)))

    def _answer(self, request: Request) -> Response:
        """The answer from the store's present state."""
        store = self._backend.store
        record = store.get(request.argument)
        headers = request.headers
        if not CONDITIONS.isdisjoint(headers):
            try:
                refusal = _check_conditions(headers, record, store.revision)
            except RequestError as bad:
                refusal = bad.response()
            if refusal is not None:
                return refusal
        if record is None:
            return _not_found(store.revision)
        value = record.value
        return Response(200, _FOUND % (record.mod_revision, store.revision, len(value)), value)

    def get_fast(self, request: FastGetRequest) -> None:
        """`get` by the fast path: the request says nothing but the key."""
        if len(request.argument) > self._max_key_bytes:
            request.respond(self._bad_key(request.argument).response())
            return
        try:
            self._reads.within(DEFAULT_TIMEOUT_S, self._read_fast, request, request.respond)
        except Exception as error:  # noqa: BLE001 - becomes the answer, as in the router
            request.respond(self._explain_read(error))

    def _read_fast(self, request: FastGetRequest, respond: Respond, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain_read(error))
            return
        store = self._backend.store
        record = store.get(request.argument)
        if record is None:
            respond(_not_found(store.revision))
            return
        value = record.value
        request.found(_FOUND % (record.mod_revision, store.revision, len(value)), value)

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
        self._propose(request, encode_command(Put(key, body, 0, expect)), respond)

    def delete(self, request: Request, respond: Respond) -> None:
        """Remove the key. An absent key is no error: `deleted` has the result."""
        if not 0 < len(request.argument) <= self._max_key_bytes:
            raise self._bad_key(request.argument)
        if b"if-none-match" in request.headers:
            raise RequestError("If-None-Match means nothing for DELETE; If-Match does")
        expect = _write_condition(request.headers)
        self._propose(request, encode_command(Delete(request.argument, expect)), respond, frees_space=True)

    def _propose(self, request: Request, command: bytes, respond: Respond, *, frees_space: bool = False) -> None:
        timeout_s = self._timeout_s(request.query) if request.query else DEFAULT_TIMEOUT_S
        if b"idempotency-key" in request.headers:
            raise RequestError("Idempotency-Key is not supported yet", code="not_supported")
        self._backend.propose(command, timeout_s, partial(self._proposed, respond), frees_space=frees_space)

    def _timeout_s(self, query: bytes) -> float:
        timeout_s = self._timeouts_s.get(query)
        if timeout_s is None:
            parameters = Parameters(query, WRITE_PARAMETERS, later=WRITES_LATER)
            timeout_s = parameters.duration_s("timeout", DEFAULT_TIMEOUT_S, high=MAX_TIMEOUT_S)
            _keep(self._timeouts_s, query, timeout_s)
        return timeout_s

    def _proposed(self, respond: Respond, result: object, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain(error))
            return
        if type(result) is PutAnswer:
            revision = result.revision
            body = b'{"status":"success","revision":%d}\n' % revision
            respond(Response(200, _WRITTEN % (revision, revision, len(body)), body))
        else:
            assert type(result) is DeleteAnswer, result
            deleted = b"true" if result.deleted else b"false"
            body = b'{"status":"success","deleted":%s,"revision":%d}\n' % (deleted, result.revision)
            respond(Response(200, _DELETED % (result.revision, len(body)), body))

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
    if len(etags) != 1 or 0 in etags:
        raise RequestError('If-Match of a write takes one strong ETag, such as "42", or * for any existing key')
    revision = etags.pop()
    return EXISTS if revision == ANY_ETAG else revision


def _not_found(revision: int) -> Response:
    return problem(404, "not_found", "there is no such key", fields=b"Syncline-Revision: %d\r\n" % revision)


def _precondition_failed(record: KeyRecord | None, revision: int) -> Response:
    current = record.mod_revision if record is not None else 0
    fields = b"Syncline-Revision: %d\r\n" % revision
    if record is not None:
        fields += b'ETag: "%d"\r\n' % current
    message = f"the key is at revision {current}" if record is not None else "the key does not exist"
    return problem(412, "precondition_failed", message, fields=fields, details={"revision": current})
