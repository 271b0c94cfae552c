"""A client of the key-value cluster in a simulation: requests through the servers' own routes, without sockets.

Its requests and answers go into a history. If the server dies, or does not answer in time, the outcome is unknown, as
for any client.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from syncline.client.schemas import ErrorAnswer, ErrorBody, ResultItem, TxnResultBody
from syncline.errors import Outcome
from syncline.server.http.request import Request as HttpRequest
from syncline.server.http.response import Response
from syncline.testing.linearizability.history import (
    ABSENT,
    Call,
    CallCompare,
    DeleteCall,
    NotApplied,
    PutCall,
    Ran,
    ReadCall,
    Recorder,
    Refused,
    Result,
    Seen,
    Step,
    TxnCall,
    Written,
)
from syncline.testing.sim.server import SimServer

__all__ = ["ClientError", "SimClient", "http_request", "result_of"]

GRACE_S: Final = 1.0
"""How much longer than the server's own time limit a client waits for an answer."""


class ClientError(AssertionError):
    """An invalid answer of a server."""


class _Deleted(msgspec.Struct):
    deleted: bool
    revision: int


_error_decoder = msgspec.json.Decoder(ErrorAnswer)
_deleted_decoder = msgspec.json.Decoder(_Deleted)
_ran_decoder = msgspec.json.Decoder(TxnResultBody)


class SimClient:
    """One client: one request at a time."""

    def __init__(self, name: str, recorder: Recorder, *, timeout_s: float) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._recorder = recorder
        self._query = b"timeout=%dms" % round(timeout_s * 1000)
        self.unanswered: list[tuple[SimServer, asyncio.Future[Response], str]] = []
        """Requests that the client gave up: they must still be answered if the process lives on."""

    async def ask(self, server: SimServer, request: Call) -> Result | None:
        """Send a request; return its result, or None if the outcome is unknown."""
        token = self._recorder.call(self.name, request, node=f"{server.name}{' (emptied)' if server.lost else ''}")
        life = server.lives
        answer = server.serve(http_request(request, self._query))
        await asyncio.wait([answer], timeout=self.timeout_s + GRACE_S)
        if not answer.done():
            self.unanswered = [item for item in self.unanswered if not item[1].done()]
            self.unanswered.append((server, answer, f"{request} of life {life} of {server.name}"))
            return None
        result = result_of(request, answer.result())
        if result is not None:
            self._recorder.returned(token, result)
        return result


def http_request(request: Call, query: bytes) -> HttpRequest:
    """The request of a call."""
    if isinstance(request, TxnCall):
        return HttpRequest("POST", b"/txn", query, {}, _txn_body(request))
    path = b"/key/" + request.key
    if isinstance(request, ReadCall):
        if request.stale:
            bound = b"" if request.max_stale_s is None else b"&max_stale=%dms" % round(request.max_stale_s * 1000)
            query = b"consistency=stale" + bound
        return HttpRequest("GET", path, query, {}, b"")
    headers: dict[bytes, bytes] = {}
    if request.expect is not None:
        headers = {b"if-none-match": b"*"} if request.expect == ABSENT else {b"if-match": _match(request.expect)}
    if isinstance(request, PutCall):
        return HttpRequest("PUT", path, query, headers, request.value)
    return HttpRequest("DELETE", path, query, headers, b"")


def _match(expect: int) -> bytes:
    return b"*" if expect < 0 else b'"%d"' % expect


def _txn_body(txn: TxnCall) -> bytes:
    def compare(one: CallCompare) -> dict[str, Any]:
        operator = "==" if one.equal else "!="
        if isinstance(one.operand, bytes):
            return {"key": one.key.decode(), "target": "value", "op": operator, "value": one.operand.decode()}
        return {"key": one.key.decode(), "target": "mod_revision", "op": operator, "number": one.operand}

    def step(one: Step) -> dict[str, Any]:
        if isinstance(one, PutCall):
            return {"op": "put", "key": one.key.decode(), "value": one.value.decode()}
        return {"op": "delete" if isinstance(one, DeleteCall) else "get", "key": one.key.decode()}

    return msgspec.json.encode(
        {
            "compare": [compare(one) for one in txn.compares],
            "then": [step(one) for one in txn.then],
            "else": [step(one) for one in txn.else_],
        }
    )


def result_of(request: Call, response: Response) -> Result | None:
    """What an answer says of a call; None if its outcome is unknown."""
    status = response.status
    if status == 200:
        return _success(request, response)
    if isinstance(request, ReadCall) and status == 404:
        return Seen(None, 0, _revision(response))
    problem = _error_decoder.decode(response.body).error
    if status == 412:
        return Refused(_refused_revision(problem))
    if problem.outcome is Outcome.UNKNOWN:
        return None
    return NotApplied(problem.code)


def _success(request: Call, response: Response) -> Result:
    if isinstance(request, TxnCall):
        ran = _ran_decoder.decode(response.body)
        return Ran(ran.succeeded, ran.revision, tuple(_step_result(one) for one in ran.results))
    if isinstance(request, ReadCall):
        return Seen(response.body, _etag(response), _revision(response))
    if isinstance(request, PutCall):
        return Written(_revision(response))
    deleted = _deleted_decoder.decode(response.body)
    return Written(deleted.revision, deleted.deleted)


def _step_result(one: ResultItem) -> Written | Seen:
    if one.op == "get":
        return Seen(one.value.encode() if isinstance(one.value, str) else None, one.mod_revision or 0)
    revision = one.revision or 0
    if one.op == "delete":
        return Written(revision, bool(one.deleted))
    return Written(revision, not one.created)


def _field(response: Response, name: bytes) -> bytes:
    for line in response.head.split(b"\r\n"):
        if line.startswith(name):
            return line[len(name) :]
    raise ClientError(f"no {name.decode()} in {response.head!r}")


def _revision(response: Response) -> int:
    return int(_field(response, b"Syncline-Revision: "))


def _etag(response: Response) -> int:
    return int(_field(response, b"ETag: ").strip(b'"'))


def _refused_revision(problem: ErrorBody) -> int | None:
    revision = (problem.details or {}).get("revision")
    return revision if isinstance(revision, int) else None
