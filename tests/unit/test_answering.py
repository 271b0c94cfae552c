"""Callbacks of proposals: a fault in one is answered with 500 and logged, and its client does not wait."""

from __future__ import annotations

import json
import logging

import pytest

from syncline.node.futures import ApplyCall, Then
from syncline.node.session_calls import SessionCall, ThenOnce
from syncline.server.api.answering import answering
from syncline.server.http.response import Response, json_response
from syncline.sessions.entries import OnceKey
from tests.helpers.auth_site import AuthWire, add_users, bearer
from tests.helpers.kv_node import FakeBackend, KvWire, error_in

PUTS = b'{"ops":[{"op":"put","key":"a","value":"1"},{"op":"delete","key":"b"}]}'
ROUTES = {
    "put": ("PUT", "/key/a", b"1"),
    "txn": ("POST", "/txn", b'{"then":[{"op":"put","key":"a","value":"1"}]}'),
    "batch": ("POST", "/batch", PUTS),
    "lease": ("POST", "/lease", b'{"ttl":"30s"}'),
    "compact": ("POST", "/compact", b'{"revision":1}'),
    "touch": ("POST", "/key/a/touch?ttl=30s", b""),
}
KEYED = [name for name in ROUTES if name != "compact"]


class FaultyBackend(FakeBackend):
    """Gives each proposal an answer of a type that no route knows, by the calls of a real node."""

    def propose(self, command: bytes, timeout_s: float, then: Then, *, frees_space: bool = False) -> None:
        del command, timeout_s, frees_space
        ApplyCall(then).answered("not an answer of this machine")

    def propose_once(
        self,
        command: bytes,
        key: OnceKey,
        timeout_s: float,
        then: ThenOnce,
        *,
        frees_space: bool = False,
        fingerprint: bytes = b"",
    ) -> None:
        del command, key, timeout_s, frees_space, fingerprint
        SessionCall(then).answered("not an answer of this machine")


@pytest.mark.parametrize("name", ROUTES)
async def test_proposal_whose_callback_raises_is_answered_500(name: str, caplog: pytest.LogCaptureFixture) -> None:
    wire = KvWire(FaultyBackend())
    with caplog.at_level(logging.ERROR, "syncline.server"):
        answer = await wire.ask(*ROUTES[name])
    assert (answer.status, error_in(answer)["code"], error_in(answer)["outcome"]) == (500, "internal", "unknown")
    (record,) = [one for one in caplog.records if one.name == "syncline.server"]
    assert record.exc_info is not None
    assert (await wire.ask("GET", "/key/a")).status == 404, "the connection goes on"


@pytest.mark.parametrize("name", KEYED)
async def test_proposal_with_a_key_whose_callback_raises_is_answered_500(name: str) -> None:
    wire = KvWire(FaultyBackend())
    answer = await wire.ask(*ROUTES[name], "Idempotency-Key: order-7")
    assert (answer.status, error_in(answer)["outcome"]) == (500, "unknown")


async def test_batch_of_two_parts_whose_callbacks_raise_has_one_answer() -> None:
    wire = KvWire(FaultyBackend())
    put = {"op": "put", "key": "a", "value": "1"}
    once = [{**put, "session": f"{7:016x}", "sequence": at} for at in (1, 2)]
    answer = await wire.ask("POST", "/batch", json.dumps({"ops": once}).encode())
    assert answer.status == 500
    assert (await wire.ask("GET", "/key/a")).status == 404


async def test_change_of_a_role_whose_callback_raises_is_answered_500() -> None:
    backend = FaultyBackend()
    add_users(backend)
    wire = AuthWire(backend)
    answer = await wire.ask("POST", "/role", b'{"name":"reader"}', bearer("root"))
    assert answer.status == 500


def test_answering_leaves_an_answer_that_was_given(caplog: pytest.LogCaptureFixture) -> None:
    """The server takes the first answer of a request; a fault after it is only logged."""
    answers: list[Response] = []

    def then(number: int) -> None:
        answers.append(json_response({"number": number}))
        raise ValueError("after the answer")

    with caplog.at_level(logging.ERROR, "syncline.server"):
        answering(answers.append, then)(7)
    assert b"200" in answers[0].head
    assert "after the answer" in caplog.text
