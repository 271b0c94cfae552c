"""Clients that ask for much and read nothing: they are not served on, and every other client is."""

from __future__ import annotations

import gc
import json

import pytest

from syncline.kv.commands import Put, encode_command
from syncline.server.http.limits import MIB, HttpLimits
from syncline.server.http.response import TEXT, Deferred, Respond, Response, bare
from tests.helpers.http_wire import Wire, get, holding, put
from tests.helpers.kv_node import KvWire

LIST = get("/keys?values=base64")
ANSWER_BYTES = 2 * MIB
"""What one page comes to at most: 1 MiB of values in base64, and what is around them."""


class Crowd:
    """A site with a page of 1 MiB, and clients that read nothing."""

    def __init__(self, unread: int, *, limits: HttpLimits | None = None) -> None:
        self.reader = KvWire(max_value_bytes=2 * MIB, limits=limits)
        for position in range(16):
            self.reader.backend.propose(
                encode_command(Put(b"k%02d" % position, b"v" * 64_000, 0, None)), 5.0, lambda *_: None
            )
        self.unread = [Wire(server=self.reader.server) for _ in range(unread)]
        for wire in self.unread:
            wire.transport.reads_all = False


@pytest.mark.parametrize("path", ["/keys?values=base64", "/keys?values=true&consistency=stale", "/key/k00"])
async def test_http_clients_that_read_nothing_do_not_stop_the_others(path: str) -> None:
    """Four such connections, 64 requests each, were enough to refuse everything for a minute."""
    crowd = Crowd(6, limits=HttpLimits(max_total_held_bytes=32 * MIB))
    for wire in crowd.unread:
        wire.send(get(path) * 64)
    for _ in range(20):
        await crowd.reader.settle()
    held_bytes = crowd.reader.server.held_bytes
    assert held_bytes <= 6 * (64 * 1024 + ANSWER_BYTES)
    made_bytes = sum(len(wire.received) for wire in crowd.unread)
    assert made_bytes <= 6 * (MIB + ANSWER_BYTES)
    for asked in ("/livez", "/readyz", "/health", "/metrics", "/version", "/key/k01", "/keys"):
        assert (await crowd.reader.ask("GET", asked)).status == 200
    assert (await crowd.reader.ask("PUT", "/key/new", b"v")).status == 200


async def test_http_client_that_reads_again_gets_every_answer_in_order() -> None:
    crowd = Crowd(1)
    [wire] = crowd.unread
    wire.send(LIST * 3 + put("/key/k99", b"last") + get("/key/k99") + LIST)
    for _ in range(200):
        wire.transport.take(256 * 1024)
        await wire.settle()
    answers = wire.answers
    assert [answer.status for answer in answers] == [200] * 6
    pages = [json.loads(answers[position].body) for position in (0, 1, 2, 5)]
    assert [page["revision"] for page in pages] == [16, 16, 16, 17], "a read before a write does not show it"
    assert answers[4].body == b"last"
    assert wire.server.held_bytes == 0


async def test_http_vital_routes_are_answered_above_the_total_limit() -> None:
    """Health, metrics and version have a share of their own, and that is bounded as well."""
    wire = KvWire(limits=HttpLimits(max_total_held_bytes=1000, vital_bytes=500))
    wire.server.shared.total.bytes = 1400
    for path in ("/livez", "/readyz", "/health", "/metrics", "/version", "/livez/node"):
        assert (await wire.ask("GET", path)).status == 200, path
    assert (await wire.ask("GET", "/key/a")).status == 503
    wire.server.shared.total.bytes = 1600
    assert (await wire.ask("GET", "/livez")).status == 503


async def test_http_connections_that_read_nothing_are_cut_under_pressure() -> None:
    """Many of them together could hold all memory for answers; a slow client that reads keeps its connection."""
    crowd = Crowd(12, limits=HttpLimits(max_total_held_bytes=20 * MIB))
    slow, *_ = crowd.unread
    for wire in crowd.unread:
        wire.send(LIST * 64)
    for _ in range(20):
        await crowd.reader.settle()
    server = crowd.reader.server
    assert server.held_bytes > 10 * MIB
    for second in range(1, 4):
        slow.transport.take(1000)
        server.sweep(float(second))
        await crowd.reader.settle()
    assert server.held_bytes <= 10 * MIB
    closed = [wire.transport.is_closing() for wire in crowd.unread]
    assert not closed[0], "it reads"
    assert 0 < sum(closed) < 11, "no more than are needed"
    assert (await crowd.reader.ask("GET", "/key/k01")).status == 200


async def test_http_metrics_are_not_made_for_a_client_that_reads_nothing() -> None:
    wire = KvWire(limits=HttpLimits(max_in_flight=1000))
    wire.transport.reads_all = False
    wire.site._health._metrics = lambda: bytes(100_000)
    wire.send(get("/metrics") * 500)
    for _ in range(20):
        await wire.settle()
    assert wire.server.held_bytes <= MIB + 200_000


async def test_http_deferred_answer_that_fails_is_500_for_its_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    wire = holding()
    wire.send(get("/a") * 3)

    def fail() -> Response:
        raise RuntimeError("no")

    wire.responds[1](Deferred.by(fail))
    wire.responds[2](Deferred.by(lambda: bare(200, TEXT, b"third")))
    assert wire.transport.written == []
    wire.answer(0)
    await wire.settle()
    assert [answer.status for answer in wire.answers] == [200, 500, 200]
    assert wire.server.held_bytes == 0
    assert "by a fault of the server" in caplog.text


async def test_http_deferred_answers_are_observed_when_they_are_made() -> None:
    seen: list[tuple[str, int]] = []

    def handler(request: object, respond: Respond) -> None:
        respond(Deferred.by(lambda: bare(404, TEXT, b"")))

    wire = Wire(handler, observe=lambda route, status, _seconds, *_: seen.append((route, status)))
    wire.transport.reads_all = False
    wire.send(get("/a") * 3)
    await wire.settle()
    assert seen == [("", 404)] * 3


async def test_http_deferred_answers_of_a_client_that_left_are_dropped() -> None:
    crowd = Crowd(1)
    [wire] = crowd.unread
    wire.send(LIST * 64)
    await wire.settle()
    wire.transport.abort()
    await wire.settle()
    assert wire.server.held_bytes == 0
    assert not [held for held in gc.get_objects() if isinstance(held, Deferred)]


async def test_http_resting_connection_is_closed_for_a_new_one() -> None:
    """Clients that hold connections and ask nothing must not lock out the others, nor an operator's probes."""
    first = holding(limits=HttpLimits(max_connections=3, vital_connections=0))
    others = [Wire(server=first.server) for _ in range(2)]
    first.send(get("/a"))
    others[0].send(get("/b"))
    first.advance(2.0)
    late = Wire(server=first.server)
    assert others[1].transport.closed, "it had asked nothing"
    assert not first.transport.closed
    assert not others[0].transport.closed
    late.send(get("/c"))
    assert len(first.requests) == 3
    refused = Wire(server=first.server)
    assert [answer.status for answer in refused.answers] == [503], "none rests any more"


async def test_http_connection_that_has_just_come_is_not_closed_for_another() -> None:
    first = holding(limits=HttpLimits(max_connections=2, vital_connections=0))
    second = Wire(server=first.server)
    refused = Wire(server=first.server)
    assert [answer.status for answer in refused.answers] == [503]
    assert not first.transport.closed
    assert not second.transport.closed
