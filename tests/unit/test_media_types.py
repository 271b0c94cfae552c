"""`Accept` of requests: which form of an answer a client asks for."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.helpers.http_wire import answers_so_far
from tests.helpers.kv_node import KvWire

LINES = "application/x-ndjson"
EVENTS = "text/event-stream"
JSON = "application/json"
PACKED = "application/msgpack"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", EVENTS),
        (LINES, LINES),
        ("Application/X-NDJSON ; q=1.0", LINES),
        (f"{EVENTS}, {LINES}", LINES),
        (f"{LINES};q=0", EVENTS),
        (f"{LINES};q=0.000, {EVENTS}", EVENTS),
        (f"{LINES};q=0.5, {EVENTS}", EVENTS),
        (f"{LINES};q=0.5, {EVENTS};q=0.25", LINES),
        (f"{LINES};q=never, {EVENTS};q=0.5", LINES),
    ],
)
async def test_watch_has_the_form_that_is_preferred(accept: str, expected: str) -> None:
    wire = KvWire()
    wire.send(f"GET /watch?key=a HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode())
    await wire.settle()
    [answer] = answers_so_far(wire.received)
    assert answer.headers["content-type"] == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [(f"{LINES}, {JSON}", LINES), (f"{LINES};q=0", JSON), (f"{JSON}, {LINES};q=0.9", JSON)],
)
async def test_listing_has_the_form_that_is_preferred(accept: str, expected: str) -> None:
    answer = await KvWire().ask("GET", "/keys", b"", f"Accept: {accept}")
    assert answer.headers["content-type"] == expected


@pytest.mark.parametrize(
    ("sent", "accept", "expected"),
    [
        (JSON, f"{PACKED};q=0", JSON),
        (JSON, f"{PACKED};q=0.5, {JSON}", JSON),
        (JSON, f"{PACKED}, {JSON};q=0.5", PACKED),
        (PACKED, f"{PACKED};q=0.5, {JSON}", JSON),
        (PACKED, f"{PACKED};q=0", JSON),
        (PACKED, f"{JSON};q=0", PACKED),
    ],
)
async def test_batch_answer_has_the_form_that_is_preferred(sent: str, accept: str, expected: str) -> None:
    ops = {"ops": [{"op": "get", "key": b"a" if sent == PACKED else "a"}]}
    body = msgspec.msgpack.encode(ops) if sent == PACKED else json.dumps(ops).encode()
    answer = await KvWire().ask("POST", "/batch", body, f"Content-Type: {sent}", f"Accept: {accept}")
    assert (answer.status, answer.headers["content-type"]) == (200, expected)
