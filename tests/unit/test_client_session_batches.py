"""Batches in a session of the caller's: an operation in doubt is sent again by itself, with its key."""

from __future__ import annotations

import msgspec
import pytest

from syncline.client import AsyncClient, GetOp, IncrementOp, OperationResult, PutOp
from syncline.errors import AnswerNotKept, OperationError, Outcome
from tests.helpers.http_server import HttpDouble, HttpRequest, Reply, json_reply

ID = "00000000000000a1"
DOUBT = {"status": 504, "error": {"code": "deadline_exceeded", "message": "late", "outcome": "unknown"}}
REFUSED = {"status": 503, "error": {"code": "no_leader", "message": "no", "outcome": "not_applied"}}
NOT_KEPT = {"status": 409, "error": {"code": "answer_not_kept", "message": "no", "outcome": "unknown"}}

OPERATIONS = (PutOp(b"a", b"1"), IncrementOp(b"n"), GetOp(b"a"), PutOp(b"b", b"2"))


class OnceServer:
    """Answers the operations of each batch by key and number of the attempt."""

    def __init__(self, special: dict[tuple[bytes, int], dict[str, object]]) -> None:
        self.special = special
        self.asked: list[list[tuple[bytes, int]]] = []

    async def __call__(self, request: HttpRequest) -> Reply:
        if request.path.startswith("/session"):
            return json_reply({"status": "success", "id": ID, "ttl_s": 60.0, "ended": True})
        ops = msgspec.msgpack.decode(request.body)["ops"]
        self.asked.append([(one["key"], one.get("sequence", 0)) for one in ops])
        results = [
            self.special.get((one["key"], len(self.asked)), {"status": 200, "op": one["op"], "revision": 5})
            for one in ops
        ]
        return Reply(200, msgspec.msgpack.encode({"results": results}), {"Content-Type": "application/msgpack"})


async def carried_out(server: OnceServer, timeout_s: float = 5.0) -> list[OperationResult | OperationError]:
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv, kv.session() as once:
        return await once.batch(OPERATIONS, timeout=timeout_s)


@pytest.mark.parametrize("failed", [DOUBT, REFUSED])
async def test_session_batch_sends_an_operation_in_doubt_again(failed: dict[str, object]) -> None:
    server = OnceServer({(b"n", 1): failed, (b"a", 1): failed, (b"n", 2): failed})
    results = await carried_out(server)
    assert all(isinstance(one, OperationResult) for one in results)
    first = [(b"a", 1), (b"n", 2), (b"a", 0), (b"b", 3)]
    assert server.asked == [first, [(b"a", 1), (b"n", 2), (b"a", 0)], [(b"n", 2)]]


async def test_session_batch_keeps_a_doubt_until_its_deadline() -> None:
    """A later attempt that surely had no effect does not undo the doubt about the first."""
    server = OnceServer({(b"n", 1): DOUBT} | {(b"n", number): REFUSED for number in range(2, 50)})
    results = await carried_out(server, timeout_s=0.6)
    (failed,) = [one for one in results if isinstance(one, OperationError)]
    assert failed.outcome is Outcome.UNKNOWN
    assert len(server.asked) > 1


async def test_session_batch_does_not_ask_again_for_an_answer_that_is_not_kept() -> None:
    server = OnceServer({(b"n", 1): NOT_KEPT})
    results = await carried_out(server)
    assert isinstance(results[1], AnswerNotKept)
    assert len(server.asked) == 1
