"""Send one request to the servers until one answers it, inside one deadline.

The rules, and why a write is never carried out twice without the caller's consent:

- Nothing was sent (no connection could be made): the next endpoint is tried.
- The server answers 503 and `not_applied` (no leader, overloaded, closing, …): the next endpoint is tried.
- The server answers that the time was over, and it was this attempt's only: the next endpoint is tried. (A member
  that
  is cut off waits for its leader; attempts are shorter than the call for idempotent requests alone.)
- The outcome is unknown (the connection was lost, an attempt's time was over, `outcome: unknown`): it is tried again
  only if the request is declared idempotent: all reads, and writes whose repetition the caller knows to be harmless.
- Anything else is the answer; if it is an error after an attempt of unknown outcome, its outcome is unknown too.

After each endpoint was tried once there is a pause with jitter, growing from round to round.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.client.arguments import duration_text
from syncline.client.connection import BadAnswer, ClientResponse, ConnectionLost, NotHttp
from syncline.client.endpoints import ConnectFailed, Endpoint, EndpointSet
from syncline.client.wire import error_from, query
from syncline.errors import DeadlineExceeded, OperationError, Outcome, RequestFailed, SynclineError, Unreachable

__all__ = ["Caller", "ClientRequest"]

FIRST_PAUSE_S: Final = 0.05
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

RETRIED_STATUS: Final = 503
PARTIAL: Final = 206
IDENTITY: Final = "identity"
"""As a content coding: none."""

READS: Final = frozenset({"GET", "HEAD"})

PATIENT_CODES: Final = frozenset({"overloaded"})
"""Refusals after which the server's Retry-After is waited for: asking at once would add to its load."""


class ClientRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request, before its deadline and its server are known.

    `timed`: the server takes a `timeout` parameter, of at most `longest_s`.
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


class _Doubt(Exception):
    """An attempt failed, and another attempt may succeed. `error` is raised if there is no other.

    `hopeless`: no server, or no Syncline server, is at that address, and that will hardly change soon.
    """

    def __init__(self, error: OperationError, *, pause_s: float = 0.0, hopeless: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause_s = pause_s
        self.hopeless = hopeless


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
    ) -> None:
        self._endpoints = endpoints
        self._rng = rng
        self._user_agent = user_agent
        self._retry_refused = retry_refused
        self._on_retry = on_retry

    async def call(self, request: ClientRequest, timeout_s: float) -> ClientResponse:
        """The answer to a request. Only answers below 300, 304 and 404 are returned, any other is raised.

        Raises the `OperationError` that the server named; `Unreachable`, `DeadlineExceeded` or `RequestFailed`.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        last_attempt_s = min(LAST_ATTEMPT_S, LAST_ATTEMPT_SHARE * timeout_s) if request.idempotent else LAST_ATTEMPT_S
        tried: set[Endpoint] = set()
        hopeless = 0
        rounds = 0
        doubt: OperationError | None = None
        while True:
            endpoint = self._endpoints.pick(loop.time(), tried)
            assert endpoint is not None
            tried.add(endpoint)
            try:
                response = await self._attempt(request, endpoint, deadline_s)
            except _Doubt as failure:
                endpoint.failed(loop.time())
                hopeless += failure.hopeless
                # Once an attempt may have been carried out, a later one that surely was not doesn't undo the doubt.
                doubt = _worst(doubt, failure.error)
                pause_s = failure.pause_s
            except OperationError as error:
                if doubt is not None and doubt.outcome is Outcome.UNKNOWN:
                    error.outcome = Outcome.UNKNOWN  # an earlier attempt may be the reason of the refusal
                raise
            else:
                self._endpoints.worked(endpoint, loop.time())
                return response
            if len(tried) == len(self._endpoints):
                if hopeless == len(tried) and not self._retry_refused:
                    raise doubt
                pause_s = max(pause_s, self._pause(rounds))
                tried.clear()
                hopeless = 0
                rounds += 1
            if loop.time() + pause_s + last_attempt_s >= deadline_s:
                raise doubt
            if self._on_retry is not None:
                self._on_retry(doubt)
            await asyncio.sleep(pause_s)

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
                response = await endpoint.send(connection, self._head(request, endpoint, attempt_s), request.body)
        except ConnectFailed as failure:
            raise _Doubt(_not_reached(endpoint, failure), hopeless=failure.refused) from failure
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
        error = error_from(response)
        if not request.retried:
            raise error
        if error.outcome is Outcome.UNKNOWN:
            raise self._doubt_or_raise(request, error)
        if isinstance(error, DeadlineExceeded) and attempt_s < remaining_s:
            raise _Doubt(error)
        if response.status == RETRIED_STATUS:
            raise _Doubt(error, pause_s=_retry_after(response) if error.code in PATIENT_CODES else 0.0)
        raise error

    def _doubt_or_raise(
        self, request: ClientRequest, error: OperationError, *, hopeless: bool = False
    ) -> SynclineError | _Doubt:
        return _Doubt(error, hopeless=hopeless) if request.idempotent and request.retried else error

    def _head(self, request: ClientRequest, endpoint: Endpoint, attempt_s: float) -> bytes:
        parameters = request.parameters
        if request.timed:
            server_s = max(0.01, attempt_s - min(ANSWER_GRACE_S, attempt_s / 3))
            parameters = {**parameters, "timeout": duration_text(round(server_s, 3))}
        lines = [
            f"{request.method} {endpoint.base_path}{request.target}{query(parameters, after=request.target)} HTTP/1.1",
            f"Host: {endpoint.host_header}",
            f"User-Agent: {self._user_agent}",
            *(f"{name}: {value}" for name, value in request.headers),
        ]
        if request.method not in READS:
            lines.append(f"Content-Length: {len(request.body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def _pause(self, rounds: int) -> float:
        longest_s = min(PAUSE_LIMIT_S, FIRST_PAUSE_S * float(2 ** min(rounds, 16)))
        return longest_s * self._rng.uniform(0.5, 1.0)


def _worst(first: OperationError | None, second: OperationError) -> OperationError:
    """The error to report for two failed attempts: an unknown outcome before a certain one, a reason before a
    timeout.
    """
    if first is None or first.outcome is Outcome.UNKNOWN:
        return first or second
    lapsed = isinstance(second, DeadlineExceeded) and second.outcome is Outcome.NOT_APPLIED
    return first if lapsed else second


def _not_reached(endpoint: Endpoint, failure: ConnectFailed) -> Unreachable:
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
    return Outcome.NOT_APPLIED if request.method in READS else Outcome.UNKNOWN


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
