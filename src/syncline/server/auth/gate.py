"""The check of each request while clients need credentials.

    request ─> known credential? ─yes─> what the route needs ─> handler (asks its principal about keys)
                   │no                      │refused
                   └─> token, password      └─> ask the leader for newer users, once; then 403

When it decides. Users are a part of the store, so they are as old as the data of this node. A write is checked again
when it is applied (`kv.auth.checks`). A linearizable read is checked when it is confirmed: by users at least as new as
the request. A stale read is checked by the users of the state that it shows. If this node does
not know a credential or permission, it looks again after a confirmed read. So one that was just given works on every
node.

A credential that was found good is kept, by the bytes of its field: a password is not hashed for each request. It is
looked at again after each change of the users.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import msgspec

from syncline.client.schemas import ErrorBody
from syncline.errors import PermissionDenied, Rejected, Unauthenticated
from syncline.kv.auth.checks import denied
from syncline.kv.auth.flag import AuthFlag
from syncline.kv.store import KeyStore
from syncline.node.futures import ReadFuture
from syncline.platform.entropy import Entropy, system_entropy
from syncline.platform.worker import ThreadWorkers, Workers
from syncline.server.api.errors import CHALLENGE, RequestError, error_response
from syncline.server.auth.access import Access
from syncline.server.auth.audit import AuditLog
from syncline.server.auth.guarded_stream import GuardedSource, GuardedStreams
from syncline.server.auth.lockout import LockOut
from syncline.server.auth.passwords import MAX_PASSWORD_BYTES, PasswordCost, Passwords
from syncline.server.auth.principal import NoUser, Principal
from syncline.server.auth.tokens import hash_of_token, id_of_token
from syncline.server.auth.user_requests import UserRequests
from syncline.server.http.fields import SAFE_METHODS
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response
from syncline.server.http.stream import StreamSource

__all__ = ["AccessGate", "AuthBackend"]

MAX_KNOWN: Final = 1024
"""Credentials that are kept: only good ones are."""
MAX_FIELD_BYTES: Final = 4096
"""The longest `Authorization`: a password of the greatest length is shorter."""
CONFIRM_S: Final = 5.0

Handler = Callable[[Request, Respond], None]


class AuthBackend(Protocol):
    """The node, as far as the gate needs it."""

    @property
    def store(self) -> KeyStore: ...

    @property
    def auth_flag(self) -> AuthFlag: ...

    def observe_auth(self, callback: Callable[[], None]) -> None: ...

    def read_index(self, timeout_s: float) -> ReadFuture: ...


class _Asked(msgspec.Struct, eq=False):
    """One request on its way through the gate. Handlers may change the query and the argument, so they are kept."""

    request: Request
    respond: Respond
    handler: Handler
    access: Access
    query: bytes
    argument: bytes
    field: bytes
    """The credential, in the form in which it is kept."""
    confirmed: bool = False


def _explained(error: BaseException, read: bool) -> Response:
    return error_response(error, read=read)


class AccessGate:
    """Admits the requests of one node. `clock` is monotonic, `wall` the time since 1970 in seconds."""

    def __init__(
        self,
        backend: AuthBackend,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        workers: Workers | None = None,
        entropy: Entropy = system_entropy,
        cost: PasswordCost | None = None,
        explain: Callable[[BaseException, bool], Response] = _explained,
        max_user_requests: int = 0,
        max_user_write_bytes: int = 0,
    ) -> None:
        """`explain` makes an answer of an error, and is told whether the request only reads. `max_user_requests` of one
        user are answered at a time, with `max_user_write_bytes` of writes (0: no limit).
        """
        self.user_requests: UserRequests = UserRequests(max_user_requests, max_user_write_bytes)
        self._backend = backend
        self._clock = clock
        self._wall = wall
        self.flag: AuthFlag = backend.auth_flag
        self.passwords: Passwords = Passwords(workers or ThreadWorkers(), entropy, cost)
        self.streams: GuardedStreams = GuardedStreams()
        self.audit: AuditLog = AuditLog(clock)
        self.lock_out: LockOut = LockOut()
        self.no_user: NoUser = NoUser(self.flag)
        self._explain = explain
        self._known: dict[bytes, Principal] = {}
        self._checking: dict[bytes, list[_Asked]] = {}
        """By credential, the requests that wait for the check of its password."""
        backend.observe_auth(self._changed)

    async def close(self) -> None:
        """End the thread of the passwords."""
        await self.passwords.close()

    def wall_ms(self) -> float:
        """The time since 1970 in milliseconds."""
        return self._wall() * 1000

    def _changed(self) -> None:
        self.streams.recheck()

    # --- the way of a request

    def handle(self, request: Request, respond: Respond, handler: Handler, access: Access) -> None:
        """Call the handler if the client may do this; else answer 401 or 403."""
        respond, query, argument = partial(self.answer, request, respond), request.query, request.argument
        field = request.headers.get(b"authorization")
        if field is None:
            respond(_unauthenticated("this cluster needs a credential: a user and its password, or a token"))
            return
        principal = self.known(field)
        if principal is not None and access.by_keys:  # most requests
            request.principal = principal
            try:
                self.user_requests.call(principal.user, handler, request, respond)
            except PermissionDenied as refusal:
                asked = _Asked(request, respond, handler, access, query, argument, field)
                self._confirm_refusal(asked, refusal)
            except Unauthenticated as refusal:
                respond(_unauthenticated(str(refusal)))
            return
        asked = _Asked(request, respond, handler, access, query, argument, field)
        if principal is not None:
            self._admit(asked, principal)
            return
        try:
            self._identify(asked, field)
        except RequestError as refusal:
            asked.respond(refusal.response())

    def answer(self, request: Request, respond: Respond, response: Response) -> None:
        """Give the answer to a request of a user; a refusal is noted in the audit log."""
        if response.status in {401, 403}:
            principal = request.principal
            user = principal.user if principal is not None else _claimed(request.headers.get(b"authorization", b""))
            self.audit.refused(request, user, response.status)
        respond(response)

    def _admit(self, asked: _Asked, principal: Principal) -> None:
        request, access = asked.request, asked.access
        request.principal = principal
        try:
            permissions = principal.permissions
            if access.confirmed and not asked.confirmed:
                self._confirm(asked, partial(self._again, asked))
                return
            if access.admin and not permissions.is_admin:
                raise denied("do this: it takes the role 'root'")
            if access.operation is not None and access.operation not in permissions.operations:
                raise denied(f"do this: no role of the user allows the operation {access.operation.name.lower()!r}")
            self.user_requests.call(principal.user, asked.handler, request, asked.respond)
        except PermissionDenied as refusal:
            if asked.confirmed:
                asked.respond(error_response(refusal))
            else:
                self._confirm_refusal(asked, refusal)
        except Unauthenticated as refusal:
            asked.respond(_unauthenticated(str(refusal)))

    def _confirm_refusal(self, asked: _Asked, refusal: Rejected) -> None:
        """Refuse it, unless the permission is newer than this node's state."""
        self._confirm(asked, partial(self._after_refusal, asked, refusal, self._backend.store.auth.revision))

    def _after_refusal(self, asked: _Asked, refusal: Rejected, revision: int, error: BaseException | None) -> None:
        if error is not None or self._backend.store.auth.revision == revision:
            asked.respond(error_response(refusal))
        else:
            self._again(asked, None)

    def _confirm(self, asked: _Asked, then: Callable[[BaseException | None], None]) -> None:
        """Call `then` when the users are at least as new as now, or with the reason why that is not known."""
        asked.confirmed = True
        future = self._backend.read_index(CONFIRM_S)
        if future.done():
            then(future.exception())
        else:
            future.add_done_callback(lambda done: then(done.exception()))

    def _again(self, asked: _Asked, error: BaseException | None) -> None:
        """Go on after a confirmation. A handler that was called before had no effect: it only refused."""
        request = asked.request
        request.query, request.argument, request.principal = asked.query, asked.argument, None
        if error is not None:
            asked.respond(error_response(error, read=True))
            return
        principal = self.known(asked.field)
        if principal is None:
            asked.respond(_unauthenticated("the credential is not good any more"))
            return
        self._admit_late(asked, principal)

    # --- credentials

    def known(self, field: bytes | None) -> Principal | None:
        """The user of a credential that was found good before, and still is."""
        principal = self._known.get(field) if field is not None else None
        if principal is not None and not principal.is_valid:
            assert field is not None
            del self._known[field]
            return None
        return principal

    def known_reader(self, field: bytes | None, key: bytes) -> Principal | None:
        """`known`, for the fast path: None as well if the key may not be read, or something must be asked again."""
        principal = self._known.get(field) if field is not None else None
        if principal is None or (found := principal.unchanged()) is None or not found.readable.has_key(key):
            return None
        return principal

    def known_writer(self, field: bytes | None, key: bytes) -> Principal | None:
        """The same for a write."""
        principal = self._known.get(field) if field is not None else None
        if principal is None or (found := principal.unchanged()) is None or not found.writable.has_key(key):
            return None
        return principal

    def _identify(self, asked: _Asked, field: bytes) -> None:
        if len(field) > MAX_FIELD_BYTES:
            raise _unauthenticated_error(f"Authorization has {len(field)} bytes; the limit is {MAX_FIELD_BYTES}")
        scheme, _, rest = field.partition(b" ")
        rest = rest.strip(b" ")
        if scheme.lower() == b"bearer":
            hashed = hash_of_token(rest)
            if hashed is None:
                raise _unauthenticated_error("this is no token of Syncline: it may be cut off")
            asked.field = b"Bearer " + rest
            if not self._admit_known(asked):
                self._check_token(asked, asked.field, hashed)
        elif scheme.lower() == b"basic":
            user, password = _basic(rest)
            asked.field = b"Basic " + base64.b64encode(b"%s:%s" % (user.encode(), password))
            if not self._admit_known(asked):
                self._check_password([asked], asked.field, user, password)
        else:
            raise _unauthenticated_error("Authorization takes 'Basic' or 'Bearer'")

    def _admit_known(self, asked: _Asked) -> bool:
        """Go on if the credential is known in its plain form: one credential has one place, however it is written."""
        principal = self.known(asked.field)
        if principal is not None:
            self._admit(asked, principal)
        return principal is not None

    def _check_token(self, asked: _Asked, field: bytes, hashed: bytes) -> None:
        auth = self._backend.store.auth
        token = auth.tokens.get(id_of_token(hashed))
        if token is None or not hmac.compare_digest(token.hash, hashed):
            if asked.confirmed:
                asked.respond(_unauthenticated("there is no such token: it was revoked, or never made"))
            else:  # it may be newer than this node's state
                self._confirm(asked, partial(self._token_again, asked, field, hashed))
            return
        if self.wall_ms() >= token.expires_ms:
            asked.respond(_unauthenticated("the token has expired"))
            return
        self._keep([asked], field, token.user, token.id, token.expires_ms, auth.revision)

    def _token_again(self, asked: _Asked, field: bytes, hashed: bytes, error: BaseException | None) -> None:
        if error is not None:
            asked.respond(error_response(error, read=True))
            return
        self._check_token(asked, field, hashed)

    def _check_password(self, asks: list[_Asked], field: bytes, user: str, password: bytes) -> None:
        """Check the credential of these requests, which all have the same one."""
        if (waiting := self._checking.get(field)) is not None:
            waiting += asks
            return
        address = asks[0].request.address
        wait_s = self.lock_out.wait_s(user, address, self._clock())
        if wait_s:
            raise RequestError(
                f"too many wrong passwords of this user from this address: wait {wait_s:.0f} s",
                status=429,
                code="locked_out",
                fields=b"Retry-After: %d\r\n" % (int(wait_s) + 1),
            )
        auth = self._backend.store.auth
        record = auth.users.get(user)
        checked = self.passwords.check(password, None if record is None else record.password, address)
        self._checking[field] = asks
        checked.add_done_callback(partial(self._password_checked, field, user, password, auth.revision))

    def _password_checked(
        self, field: bytes, user: str, password: bytes, revision: int, checked: asyncio.Future[bool]
    ) -> None:
        asks = self._checking.pop(field)
        if checked.cancelled():
            return  # the server closes, and its connections with it
        if checked.result() and self._backend.store.auth.is_valid(user, b"", revision):
            self.lock_out.succeeded(user, asks[0].request.address)
            self._keep(asks, field, user, b"", 0, revision)
        elif asks[0].confirmed:
            self._wrong_password(asks, user)
        else:  # the user, or its password, may be newer than this node's state
            self._confirm(asks[0], partial(self._password_again, asks, field, user, password, revision))

    def _password_again(
        self,
        asks: list[_Asked],
        field: bytes,
        user: str,
        password: bytes,
        revision: int,
        error: BaseException | None,
    ) -> None:
        if error is not None:
            # Whether it is wrong is not known. But a node that is cut off must not be asked without an end.
            self.lock_out.failed(user, asks[0].request.address, self._clock())
            _answer_all(asks, error_response(error, read=True))
        elif self._backend.store.auth.revision == revision:
            self._wrong_password(asks, user)
        else:
            try:
                self._check_password(asks, field, user, password)
            except RequestError as refusal:
                _answer_all(asks, refusal.response())

    def _wrong_password(self, asks: list[_Asked], user: str) -> None:
        request = asks[0].request
        if self.lock_out.failed(user, request.address, self._clock()):
            self.audit.refused(request, user, 401, what="the user has to wait at this address")
        _answer_all(asks, _unauthenticated("the user or the password is wrong"))

    def _keep(self, asks: list[_Asked], field: bytes, user: str, token: bytes, expires_ms: int, verified: int) -> None:
        """Keep a good credential, and go on with the requests that have it."""
        principal = Principal(
            user,
            token,
            expires_ms=expires_ms,
            verified=verified,
            backend=self._backend,
            wall=self._wall,
        )
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[field] = principal
        for asked in asks:
            self._admit_late(asked, principal)

    def _admit_late(self, asked: _Asked, principal: Principal) -> None:
        """`_admit` outside of the router, which would answer the errors."""
        try:
            self._admit(asked, principal)
        except RequestError as refusal:
            asked.respond(refusal.response())
        except Exception as fault:  # noqa: BLE001 - becomes the answer, as in the router
            asked.respond(self._explain(fault, asked.request.method in SAFE_METHODS))

    # --- for handlers

    def present(self, principal: Principal | None) -> Principal | NoUser:
        """The user of a request, to ask when its answer is made: by then credentials may be needed."""
        return principal or self.no_user

    def guarded(
        self,
        source: StreamSource,
        request: Request,
        start: bytes,
        end: bytes | None,
        error: Callable[[ErrorBody], bytes],
    ) -> StreamSource:
        """A source that ends when the request's user may not read `[start, end)` any more."""
        user = self.present(request.principal)
        return GuardedSource(source, user, start, end, streams=self.streams, wall_ms=self.wall_ms, error=error)


def _answer_all(asks: list[_Asked], response: Response) -> None:
    for asked in asks:
        asked.respond(Response(response.status, response.head, response.body))


def _unauthenticated_error(message: str) -> RequestError:
    return RequestError(message, status=401, code="unauthenticated", fields=CHALLENGE)


def _unauthenticated(message: str) -> Response:
    return _unauthenticated_error(message).response()


def _basic(encoded: bytes) -> tuple[str, bytes]:
    """The user and password of a field `Authorization: Basic`."""
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
        user = name.decode()
    except (binascii.Error, UnicodeDecodeError):
        raise _unauthenticated_error("what follows 'Basic' is not base64 of USER:PASSWORD in UTF-8") from None
    if not colon:
        raise _unauthenticated_error("what follows 'Basic' has no colon between user and password")
    if len(password) > MAX_PASSWORD_BYTES:
        raise _unauthenticated_error(f"the password has {len(password)} bytes; the limit is {MAX_PASSWORD_BYTES}")
    return user, password


def _claimed(field: bytes) -> str:
    """The user that a refused request says it is, for the log; never the rest of its credential, nor all of it."""
    scheme, _, rest = field.partition(b" ")
    if scheme.lower() != b"basic" or len(field) > MAX_FIELD_BYTES:
        return ""
    try:
        # Strictly: what is no base64, such as a bare token, would come out as bytes that tell of it.
        user, colon, _ = base64.b64decode(rest.strip(b" "), validate=True).partition(b":")
        return user.decode("utf-8", "backslashreplace") if colon else ""
    except binascii.Error:
        return ""
