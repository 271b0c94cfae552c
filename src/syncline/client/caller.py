"""Send one request to the servers until one answers it, inside one deadline.

The rules, and why a write is never carried out twice without the caller's consent:

- Nothing was sent (no connection could be made): the next endpoint is tried.
- The server answers 503 and `not_applied` (no leader, overloaded, closing, …): the next endpoint is tried.
- The server answers that the time was over, and it was this attempt's only: the next endpoint is tried. (A member
  that is cut off waits for its leader; attempts are shorter than the call for idempotent requests alone.)
- The outcome is unknown (the connection was lost, an attempt's time was over, `outcome: unknown`): it is tried again
  only if the request is declared idempotent: all reads, and writes whose repetition the caller knows to be harmless.
- Anything else is the answer; if it is an error after an attempt of unknown outcome, its outcome is unknown too.

After each endpoint was tried once there is a pause with jitter, growing from round to round.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from syncline.client.arguments import duration_text
from syncline.client.connection import BadAnswer, ClientResponse, ConnectionLost, NotHttp, TlsRefused
from syncline.client.endpoints import ConnectFailed, Endpoint, EndpointSet
from syncline.client.streaming import StreamConnection
from syncline.client.wire import error_from, query
from syncline.errors import (
    AnswerNotKept,
    DeadlineExceeded,
    IdempotencyMismatch,
    OperationError,
    Outcome,
    Rejected,
    RequestFailed,
    SessionExpired,
    SynclineError,
    Unreachable,
    UsageError,
)

__all__ = ["Caller", "ClientRequest", "Content"]

FIRST_PAUSE_S: Final = 0.05
FIRST_CONFLICT_S: Final = 0.002
"""About a write's time: the client that was faster has written by then."""

PAUSE_LIMIT_S: Final = 1.0
"""An election takes a second or two: asking more rarely than this would only add to it."""

ATTEMPT_LIMIT_S: Final = 3.0
"""Time limit of one attempt of an idempotent request: a server that hangs (stopped, cut off) is left for another one.
Longer than an election at the default timers (1-2 s), through which a healthy server just waits."""

ANSWER_GRACE_S: Final = 0.25
"""The server gets a deadline this much earlier (a third of the time at most), so that its answer, which knows the
outcome, arrives in time."""

LAST_ATTEMPT_S: Final = 0.25
"""With less time left a refused write is not tried again: the attempt could only turn certainty into doubt."""

LAST_ATTEMPT_SHARE: Final = 0.1
"""Rest of the whole time below which no attempt is made: its timeout would only hide the reason of earlier failures."""

LONGEST_S: Final = 60.0
"""The longest time that the server takes for one operation. A client never asks for more: it would be refused."""

OK: Final = 200
RETRIED_STATUS: Final = 503
PARTIAL: Final = 206
IDENTITY: Final = "identity"
"""As a content coding: none."""

READS: Final = frozenset({"GET", "HEAD"})

ONCE: Final = (Rejected, IdempotencyMismatch, AnswerNotKept)
"""Errors that tell what became of a request with a key, whatever is not known of its earlier attempts."""

PATIENT_CODES: Final = frozenset({"overloaded"})
"""Refusals after which the server's Retry-After is waited for: asking at once would add to its load."""


LEADER_FIELD: Final = "syncline-leader"


class Content(Protocol):
    """A body that is made when it is sent: of the operations that still wait for their answers at that moment."""

    @property
    def wanted(self) -> bool:
        """Whether another attempt is of any use."""
        ...

    def body(self) -> bytes:
        """The body of the attempt that begins now. A connection is there."""
        ...

    def failed(self, error: OperationError) -> None:
        """No attempt has an answer so far, for this reason. `not_applied`: no attempt has had an effect."""
        ...


class ClientRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request, before its deadline and its server are known.

    `timed`: the server takes a `timeout` parameter, of at most `longest_s`. `keyed`: it takes an `Idempotency-Key`;
    `once`: the request has one.
    """

    method: str
    target: str
    parameters: dict[str, str | bytes | None] = {}
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    idempotent: bool = False
    timed: bool = True
    longest_s: float = LONGEST_S
    retried: bool = True
    keyed: bool = False
    has_keys: bool = False
    """Its operations have keys of their own."""
    needs_key: bool = True
    """False: a keep-alive, which a session may repeat without a key."""
    once: bool = False
    reads: bool = False
    """It has no effect, whatever its method."""
    content: Content | None = None
    """Makes the body, in place of `body`."""


class _Doubt(Exception):
    """An attempt failed, and another attempt may succeed. `error` is raised if there is no other.

    `hopeless`: no server, or no Syncline server, is at that address, and that will hardly change soon. `untrusted`:
    TLS fails for a reason that waiting does not remove. `answered`: the error is a server's own.
    """

    def __init__(
        self,
        error: OperationError,
        *,
        pause_s: float = 0.0,
        hopeless: bool = False,
        untrusted: bool = False,
        answered: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.answered = answered
        self.pause_s = pause_s
        self.hopeless = hopeless
        self.untrusted = untrusted


class _Reason:
    """The error to report if all attempts of a call fail: an unknown outcome before a certain one, the answer of a
    server (no leader, starting) before "can't reach" of another one, a reason before a timeout.
    """

    def __init__(self) -> None:
        self._error: OperationError | None = None
        self._answered = False
        self._last: OperationError | None = None

    def add(self, failure: _Doubt) -> OperationError:
        """Note a failed attempt. Returns the error to report."""
        self._last = failure.error
        if self._error is None or (not self.doubtful and self._is_better(failure)):
            self._error, self._answered = failure.error, failure.answered
        return self._error

    def _is_better(self, failure: _Doubt) -> bool:
        if failure.answered or failure.error.outcome is Outcome.UNKNOWN:
            return True
        return not self._answered and not isinstance(failure.error, DeadlineExceeded)

    @property
    def doubtful(self) -> bool:
        """Whether an attempt may have been carried out: a later one that surely was not doesn't change that."""
        return self._error is not None and self._error.outcome is Outcome.UNKNOWN

    def all_away(self) -> OperationError:
        """No server can be reached by now, so what one answered before is over. Returns the error to report."""
        assert self._error is not None
        assert self._last is not None
        if not self.doubtful:
            self._error, self._answered = self._last, False
        return self._error


class Caller:
    """Sends requests to a set of endpoints."""

    def __init__(
        self,
        endpoints: EndpointSet,
        *,
        rng: random.Random,
        user_agent: str,
        retry_refused: bool,
        on_retry: Callable[[OperationError], None] | None = None,
        authorization: str = "",
        read_error: Callable[[ClientResponse], OperationError] = error_from,
    ) -> None:
        """`read_error` makes the error of an answer above 299: other servers than ours have their own form."""
        self._endpoints = endpoints
        self._read_error = read_error
        self._rng = rng
        self._user_agent = user_agent
        self._credential = (("Authorization", authorization),) if authorization else ()
        self._retry_refused = retry_refused
        self._on_retry = on_retry
        self._closed = False

    def close(self) -> None:
        """Begin no attempt from now on."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether no attempt begins any more."""
        return self._closed

    def check_open(self) -> None:
        """Raise `UsageError` if the client is closed."""
        if self._closed:
            raise UsageError("the client is closed: use it before its close, or make another one")

    async def call(self, request: ClientRequest, timeout_s: float) -> ClientResponse:
        """The answer to a request. Only answers below 300, 304 and 404 are returned, any other is raised.

        Raises the `OperationError` that the server named; `Unreachable`, `DeadlineExceeded` or `RequestFailed`; and
        `UsageError` if the client is closed.
        """
        self.check_open()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        last_attempt_s = min(LAST_ATTEMPT_S, LAST_ATTEMPT_SHARE * timeout_s) if request.idempotent else LAST_ATTEMPT_S
        tried: set[Endpoint] = set()
        hopeless = untrusted = 0
        rounds = 0
        reason = _Reason()
        while True:
            endpoint = self._endpoints.pick(loop.time(), tried)
            assert endpoint is not None
            tried.add(endpoint)
            try:
                response = await self._attempt(request, endpoint, deadline_s)
            except _Doubt as failure:
                endpoint.failed(loop.time())
                hopeless += failure.hopeless
                untrusted += failure.untrusted
                doubt = reason.add(failure)
                pause_s = failure.pause_s
                if request.content is not None:
                    request.content.failed(doubt)
                if self._closed:
                    raise doubt from failure
            except OperationError as error:
                doubtful = reason.doubtful
                if isinstance(error, SessionExpired):
                    error.outcome = Outcome.UNKNOWN if doubtful else Outcome.NOT_APPLIED
                elif doubtful and not (request.once and isinstance(error, ONCE)):
                    error.outcome = Outcome.UNKNOWN  # an earlier attempt may be the reason of the refusal
                raise
            else:
                self._endpoints.worked(endpoint, loop.time())
                if (leader := response.headers.get(LEADER_FIELD)) is not None:
                    self._endpoints.follow(leader, loop.time())
                return response
            if len(tried) == len(self._endpoints):
                if hopeless + untrusted == len(tried):
                    doubt = reason.all_away()
                    if not self._retry_refused:
                        raise doubt
                if untrusted == len(tried):
                    raise doubt
                pause_s = max(pause_s, self.pause_s(rounds))
                tried.clear()
                hopeless = untrusted = 0
                rounds += 1
            if loop.time() + pause_s + last_attempt_s >= deadline_s:
                raise doubt
            self.told(doubt)
            await asyncio.sleep(pause_s)
            if request.content is not None and not request.content.wanted:
                raise doubt

    @property
    def servers(self) -> int:
        """How many servers there are to ask."""
        return len(self._endpoints)

    @property
    def retry_refused(self) -> bool:
        """Whether another attempt is made if all servers refuse the connection."""
        return self._retry_refused

    def pick(self, tried: set[Endpoint]) -> Endpoint:
        """The endpoint to ask next, and a note that it is tried. `tried` is emptied when it has them all."""
        if len(tried) == len(self._endpoints):
            tried.clear()
        endpoint = self._endpoints.pick(asyncio.get_running_loop().time(), tried)
        assert endpoint is not None
        tried.add(endpoint)
        return endpoint

    async def open_stream(
        self, request: ClientRequest, endpoint: Endpoint, timeout_s: float
    ) -> tuple[ClientResponse, StreamConnection]:
        """Ask one server for an answer that is read as it comes: its head, and the connection that has its body.

        Raises the `OperationError` that the server named; `Unreachable`, `DeadlineExceeded` or `RequestFailed`.
        """
        self.check_open()
        now_s = asyncio.get_running_loop().time
        connection: StreamConnection | None = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = await endpoint.connect_stream()
                response = await connection.request(self._head(request, endpoint, timeout_s, 0), b"")
        except (ConnectFailed, TlsRefused) as failure:
            endpoint.failed(now_s())
            raise _not_reached(endpoint, failure) from failure
        except (ConnectionLost, BadAnswer) as failure:
            endpoint.failed(now_s())
            raise _lost(request, endpoint, failure) from failure
        except TimeoutError as failure:
            endpoint.failed(now_s())
            raise _timed_out(request, endpoint, timeout_s) from failure
        if (altered := _altered(response)) is None and response.status == OK:
            self._endpoints.worked(endpoint, now_s())
            return response, connection
        connection.abort()
        endpoint.failed(now_s())
        raise self._read_error(response) if altered is None else _lost(request, endpoint, altered)

    def told(self, error: OperationError) -> None:
        """Tell `on_retry` why another attempt is made."""
        if self._on_retry is not None:
            self._on_retry(error)

    async def _attempt(self, request: ClientRequest, endpoint: Endpoint, deadline_s: float) -> ClientResponse:
        loop = asyncio.get_running_loop()
        remaining_s = deadline_s - loop.time()
        if remaining_s <= 0:
            raise DeadlineExceeded("the time was over before anything was sent", outcome=Outcome.NOT_APPLIED)
        attempt_s = min(remaining_s, request.longest_s + ANSWER_GRACE_S)
        if request.idempotent and request.retried:
            attempt_s = min(attempt_s, ATTEMPT_LIMIT_S)
        connection = None
        try:
            async with asyncio.timeout(attempt_s):
                connection = await endpoint.connect()
                body = request.body if request.content is None else request.content.body()
                head = self._head(request, endpoint, attempt_s, len(body))
                response = await endpoint.send(connection, head, body)
        except ConnectFailed as failure:
            raise _Doubt(
                _not_reached(endpoint, failure), hopeless=failure.refused, untrusted=failure.untrusted
            ) from failure
        except TlsRefused as failure:
            raise _Doubt(_not_reached(endpoint, failure), untrusted=True) from failure
        except (ConnectionLost, BadAnswer) as failure:
            error = _lost(request, endpoint, failure)
            raise self._doubt_or_raise(request, error, hopeless=isinstance(failure, BadAnswer)) from failure
        except TimeoutError as failure:
            if connection is None:
                reason = ConnectFailed(f"no connection within {attempt_s:.3g} s", refused=False)
                raise _Doubt(_not_reached(endpoint, reason)) from failure
            raise self._doubt_or_raise(request, _timed_out(request, endpoint, attempt_s)) from failure
        if altered := _altered(response):
            raise self._doubt_or_raise(request, _lost(request, endpoint, altered), hopeless=True)
        if response.status < 300 or response.status in {304, 404}:
            return response
        error = self._read_error(response)
        if not request.retried:
            raise error
        if isinstance(error, SessionExpired | AnswerNotKept):
            raise error  # it will not be answered otherwise
        if error.outcome is Outcome.UNKNOWN:
            raise self._doubt_or_raise(request, error)
        if isinstance(error, DeadlineExceeded) and attempt_s < remaining_s:
            raise _Doubt(error)
        if response.status == RETRIED_STATUS:
            pause_s = _retry_after(response) if error.code in PATIENT_CODES else 0.0
            raise _Doubt(error, pause_s=pause_s, answered=True)
        raise error

    def _doubt_or_raise(
        self, request: ClientRequest, error: OperationError, *, hopeless: bool = False
    ) -> SynclineError | _Doubt:
        return _Doubt(error, hopeless=hopeless) if request.idempotent and request.retried else error

    def _head(self, request: ClientRequest, endpoint: Endpoint, attempt_s: float, body_bytes: int) -> bytes:
        parameters = request.parameters
        if request.timed:
            server_s = max(0.01, attempt_s - min(ANSWER_GRACE_S, attempt_s / 3))
            parameters = {**parameters, "timeout": duration_text(round(server_s, 3))}
        lines = [
            f"{request.method} {endpoint.base_path}{request.target}{query(parameters, after=request.target)} HTTP/1.1",
            f"Host: {endpoint.host_header}",
            f"User-Agent: {self._user_agent}",
            *(f"{name}: {value}" for name, value in (*self._credential, *request.headers)),
        ]
        if request.method not in READS:
            lines.append(f"Content-Length: {body_bytes}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def pause_s(self, rounds: int) -> float:
        """How long to wait after each endpoint was tried so many times."""
        longest_s = min(PAUSE_LIMIT_S, FIRST_PAUSE_S * float(2 ** min(rounds, 16)))
        return longest_s * self._rng.uniform(0.5, 1.0)

    def conflict_pause_s(self, attempts: int) -> float:
        """How long to wait after so many attempts at a key that other clients write."""
        return conflict_pause_s(attempts, self._rng)


def conflict_pause_s(attempts: int, rng: random.Random) -> float:
    """How long to wait after so many attempts at a key that others write."""
    return min(PAUSE_LIMIT_S / 4, FIRST_CONFLICT_S * float(2 ** min(attempts, 16))) * rng.random()


def _not_reached(endpoint: Endpoint, failure: Exception) -> Unreachable:
    return Unreachable(f"can't reach {endpoint.url}: {failure}", outcome=Outcome.NOT_APPLIED)


def _lost(request: ClientRequest, endpoint: Endpoint, failure: Exception) -> OperationError:
    not_sent = isinstance(failure, NotHttp)
    outcome = Outcome.NOT_APPLIED if not_sent else _outcome_after_sending(request)
    if isinstance(failure, BadAnswer):
        return RequestFailed(f"{endpoint.url}: {failure}", code="bad_answer", outcome=outcome)
    return Unreachable(f"{endpoint.url}: {failure}", outcome=outcome)


def _timed_out(request: ClientRequest, endpoint: Endpoint, attempt_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{endpoint.url} did not answer within {attempt_s:.3g} s", outcome=_outcome_after_sending(request)
    )


def _outcome_after_sending(request: ClientRequest) -> Outcome:
    return Outcome.NOT_APPLIED if request.reads or request.method in READS else Outcome.UNKNOWN


def _altered(response: ClientResponse) -> BadAnswer | None:
    """Why the content differs from the server's, byte for byte: a proxy in between has changed it."""
    if response.status == PARTIAL:
        return BadAnswer("the server answered with a part of the content, which was not asked for")
    encoding = response.headers.get("content-encoding", IDENTITY)
    if encoding.lower() != IDENTITY:
        return BadAnswer(f"the content is encoded ({encoding[:40]}), which was not asked for: by a proxy in between?")
    return None


def _retry_after(response: ClientResponse) -> float:
    try:
        return max(0.0, min(float(response.headers.get("retry-after", "0")), 60.0))
    except ValueError:
        return 0.0
