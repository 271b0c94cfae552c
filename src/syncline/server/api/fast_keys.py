"""The fast paths of `/key/{key}`: reads and writes of a key that say nothing else.

The connection has recognised them (`http/shortcuts.py`), and no router stands between. They answer as the ordinary
routes do (`keys.py`). What needs more goes there: a condition, a key or value above a limit, a credential that is not
known yet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from syncline.kv.auth.permissions import UserPermissions
from syncline.kv.commands import encode_put
from syncline.kv.records import PutAnswer
from syncline.kv.serving.reads import DEFAULT_TIMEOUT_S, ConfirmedReads
from syncline.server.api.backend import Backend
from syncline.server.api.errors import RequestError, internal_error
from syncline.server.api.keys import FOUND, PATTERN, WRITTEN, not_found
from syncline.server.api.leader_field import LeaderField
from syncline.server.api.router import Explain
from syncline.server.auth.gate import AccessGate
from syncline.server.auth.principal import Principal
from syncline.server.http.fields import CONDITIONAL_FIELDS
from syncline.server.http.request import Request
from syncline.server.http.response import Respond
from syncline.server.http.shortcuts import FastRequest, FastRoute

__all__ = ["FastKeyRoutes"]

GET_ROUTE: Final = f"GET {PATTERN}"
PUT_ROUTE: Final = f"PUT {PATTERN}"


class FastKeyRoutes:
    """The fast paths of GET and PUT. `handle` is the ordinary way of a request."""

    def __init__(
        self,
        backend: Backend,
        reads: ConfirmedReads[Respond],
        *,
        explain: Explain,
        explain_read: Explain,
        gate: AccessGate,
        handle: Callable[[Request, Respond], None],
        max_key_bytes: int,
        max_value_bytes: int,
    ) -> None:
        self._backend = backend
        self._reads = reads
        self._explain = explain
        self._explain_read = explain_read
        self._leader = LeaderField(backend)
        self._gate = gate
        self._auth = gate.flag
        self._users = gate.user_requests
        self._handle = handle
        self._max_key_bytes = max_key_bytes
        self._max_value_bytes = max_value_bytes
        self.get: FastRoute = FastRoute(b"GET /key/", Request("GET", b"", b"", {}, b"", route=GET_ROUTE), self._get)
        self.put: FastRoute = FastRoute(b"PUT /key/", Request("PUT", b"", b"", {}, b"", route=PUT_ROUTE), self._put)

    # --- reading

    def _get(self, request: FastRequest) -> None:
        if len(request.argument) > self._max_key_bytes:
            self._handle(*request.ordinary())
            return
        if self._auth.on:
            self._get_guarded(request)
            return
        try:
            self._reads.within(DEFAULT_TIMEOUT_S, self._read_open, request, request.respond)
        except Exception as error:  # noqa: BLE001 - becomes the answer, as in the router
            request.respond(self._explain_read(error))

    def _get_guarded(self, request: FastRequest) -> None:
        """`_get` while clients need credentials: with a known one that may read the key, else the ordinary way."""
        key = request.argument
        principal = self._gate.known_reader(request.headers.get(b"authorization"), key)
        if principal is None:
            self._handle(*request.ordinary())
            return
        try:
            self._users.start(principal.user, 0)
        except RequestError as refusal:
            request.respond(refusal.response())
            return
        read = (request, principal, principal.looked_up)
        try:
            self._reads.within(DEFAULT_TIMEOUT_S, self._read_guarded, read, request.respond)
        except Exception as error:  # noqa: BLE001 - becomes the answer, as in the router
            self._users.ended(principal.user, 0)
            request.respond(self._explain_read(error))

    def _read_guarded(
        self,
        read: tuple[FastRequest, Principal, UserPermissions | None],
        respond: Respond,
        error: BaseException | None,
    ) -> None:
        request, principal, permissions = read
        self._users.ended(principal.user, 0)
        try:
            # Another request of the user may have looked the permissions up again since: they are not changed then, and
            # need not be those by which this read was let in.
            if error is None and self._auth.on and principal.unchanged() is not permissions:
                error = principal.read_refusal(request.argument, request.argument + b"\0")
                if error is not None:
                    respond = self._noting(self.get, request, principal)
            self._read(request, respond, error)
        except Exception as fault:  # noqa: BLE001 - becomes the answer: it is counted no more
            respond(internal_error(fault))

    def _read_open(self, request: FastRequest, respond: Respond, error: BaseException | None) -> None:
        if self._auth.on and error is None:
            error = self._gate.present(None).read_refusal(request.argument, None)
        self._read(request, respond, error)

    def _read(self, request: FastRequest, respond: Respond, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain_read(error))
            return
        store = self._backend.store
        record = store.get(request.argument)
        if record is None:
            respond(not_found(store.revision))
            return
        value = record.value
        request.found(FOUND % (record.mod_revision, store.revision, self._leader.line, len(value)), value)

    def _noting(self, route: FastRoute, request: FastRequest, principal: Principal) -> Respond:
        """Where to answer a request of a user that may be refused: a refusal goes into the audit log."""
        noted = replace(route.request, argument=request.argument, origin=request.origin, principal=principal)
        return partial(self._gate.answer, noted, request.respond)

    # --- writing

    def _put(self, request: FastRequest) -> None:
        key, body = request.argument, request.body
        if (
            not body
            or len(key) > self._max_key_bytes
            or len(body) > self._max_value_bytes
            or not CONDITIONAL_FIELDS.isdisjoint(request.headers)
        ):
            self._handle(*request.ordinary())
            return
        if self._auth.on:
            self._put_guarded(request)
            return
        then = partial(self._written, request, request.respond)
        try:
            self._backend.propose(encode_put(key, body), DEFAULT_TIMEOUT_S, then)
        except Exception as error:  # noqa: BLE001 - becomes the answer, as in the router
            request.respond(self._explain(error))

    def _put_guarded(self, request: FastRequest) -> None:
        """`_put` while clients need credentials: with a known one that may write the key, else the ordinary way."""
        key, body, gate = request.argument, request.body, self._gate
        principal = gate.known_writer(request.headers.get(b"authorization"), key)
        if principal is None:
            self._handle(*request.ordinary())
            return
        size_bytes = len(b"/key/") + len(key) + len(body)
        try:
            self._users.start(principal.user, size_bytes)
        except RequestError as refusal:
            request.respond(refusal.response())
            return
        then = partial(self._written_guarded, request, principal, size_bytes)
        try:
            self._backend.propose(principal.authorised_put(key, body), DEFAULT_TIMEOUT_S, then)
        except Exception as error:  # noqa: BLE001 - becomes the answer, as in the router
            self._users.ended(principal.user, size_bytes)
            request.respond(self._explain(error))

    def _written_guarded(
        self, request: FastRequest, principal: Principal, size_bytes: int, result: object, error: BaseException | None
    ) -> None:
        self._users.ended(principal.user, size_bytes)
        respond = request.respond if error is None else self._noting(self.put, request, principal)
        self._written(request, respond, result, error)

    def _written(self, request: FastRequest, respond: Respond, result: object, error: BaseException | None) -> None:
        try:
            if error is not None:
                respond(self._explain(error))
                return
            assert type(result) is PutAnswer, result
            revision = result.revision
            body = b'{"status":"success","revision":%d}\n' % revision
            request.found(WRITTEN % (revision, revision, self._leader.line, len(body)), body)
        except Exception as fault:  # noqa: BLE001 - as in `answering`: the request must have an answer
            respond(internal_error(fault))
