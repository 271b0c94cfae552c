"""Pipelined requests: what may run beside what (RFC 9112, 9.3.2), and that waiting for it costs nothing else."""

from __future__ import annotations

import sys
from random import Random
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.server.http import input as input_module
from syncline.server.http.limits import HttpLimits
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Respond, bare
from syncline.server.http.state import Slot
from tests.helpers.http_wire import Wire, error_of, get, holding, put

SAFE = ("GET", "HEAD", "OPTIONS")
UNSAFE = ("PUT", "POST", "DELETE", "PATCH")


def ask(method: str, path: str = "/") -> bytes:
    return get(path).replace(b"GET", method.encode(), 1)


def depth() -> int:
    """Frames on the stack."""
    count, frame = 0, sys._getframe()
    while frame.f_back is not None:
        count, frame = count + 1, frame.f_back
    return count


def started(wire: Wire) -> list[str]:
    return [f"{request.method} {request.path.decode()}" for request in wire.requests]


# --- what may run beside what


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize("together", [True, False])
async def test_what_follows_an_unsafe_request_starts_when_that_is_answered(method: str, together: bool) -> None:
    wire = holding()
    if together:
        wire.send(ask(method, "/1") + get("/2") + get("/3"))
    else:
        for data in (ask(method, "/1"), get("/2"), get("/3")):
            wire.send(data)
    await wire.settle()
    assert started(wire) == [f"{method} /1"]
    wire.answer(0, b"one")
    await wire.settle()
    assert started(wire) == [f"{method} /1", "GET /2", "GET /3"]
    wire.answer(2, b"three")
    wire.answer(1, b"two")
    await wire.settle()
    assert [answer.body for answer in wire.answers] == [b"one", b"two", b"three"]
    assert wire.transport.reading


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_an_unsafe_request_starts_when_all_before_it_are_answered(method: str, order: tuple[int, int]) -> None:
    wire = holding()
    wire.send(get("/1") + get("/2") + ask(method, "/3") + get("/4"))
    for position in order:
        assert started(wire) == ["GET /1", "GET /2"]
        wire.answer(position)
        await wire.settle()
    assert started(wire) == ["GET /1", "GET /2", f"{method} /3"]
    wire.answer(2)
    await wire.settle()
    assert started(wire)[3:] == ["GET /4"]


async def test_safe_requests_run_beside_each_other() -> None:
    wire = holding()
    wire.send(b"".join(ask(method) for method in SAFE * 2))
    assert len(wire.responds) == 6


async def test_unsafe_requests_run_one_after_another() -> None:
    wire = holding()
    wire.send(b"".join(ask(method) for method in UNSAFE * 2))
    for position in range(8):
        assert len(wire.responds) == position + 1
        wire.answer(position, b"%d" % position)
        await wire.settle()
    assert [answer.body for answer in wire.answers] == [b"%d" % position for position in range(8)]


async def test_another_connection_waits_for_nothing() -> None:
    first = holding()
    second = Wire(server=first.server)
    first.send(put("/a", b"x") + get("/a"))
    second.send(get("/a"))
    assert started(first) == ["PUT /a", "GET /a"]


async def test_requests_that_are_read_at_once_keep_the_order_too() -> None:
    wire = Wire()
    for data in (put("/", b"abc"), get()) * 2:
        wire.send(data)
    wire.requests.clear()
    wire.server.shared.handler = wire.hold
    wire.send(put("/1", b"abc"))
    wire.send(get("/2"))
    assert started(wire) == ["PUT /1"]
    wire.answer(0)
    await wire.settle()
    assert started(wire) == ["PUT /1", "GET /2"]
    wire.send(put("/3", b"abc"))
    assert len(wire.responds) == 2
    wire.answer(1)
    await wire.settle()
    assert started(wire)[2:] == ["PUT /3"]
    wire.answer(2)
    await wire.settle()
    assert len(wire.answers) == 7
    assert wire.transport.reading


# --- where requests wait, and how they go on


async def test_pipelined_writes_fill_neither_the_stack_nor_the_loop() -> None:
    depths: list[int] = []
    count, most = 550, HttpLimits().max_in_flight

    def at_once(request: Request, respond: Respond) -> None:
        depths.append(depth())
        respond(bare(200, TEXT, b"x"))

    wire = holding()
    flushes: list[int] = []
    wire.send(put("/a", b"") + ask("PUT", "/") * count)
    assert len(wire.responds) == 1
    wire.server.shared.handler = at_once
    flush = wire.server._flush_all

    def counted() -> None:
        before = len(depths)
        flush()
        flushes.append(len(depths) - before)

    wire.server._flush_all = counted  # type: ignore[method-assign]
    wire.answer(0)
    for _ in range(10):
        await wire.settle()
    assert len(wire.answers) == count + 1
    assert max(depths) == min(depths), "each starts as deep as the first"
    assert sum(flushes) == count
    assert max(flushes) <= most, "others have their turn"
    assert wire.transport.reading


async def test_slow_read_delays_none_of_the_reads_behind_it() -> None:
    def handler(request: Request, respond: Respond) -> None:
        if request.path == b"/slow":
            wire.responds.append(respond)
        else:
            wire.echo(request, respond)

    wire = Wire()
    wire.server.shared.handler = wire.hold
    wire.send(put("/a", b"") + get("/slow") + get("/quick") * 300)
    wire.server.shared.handler = handler
    wire.answer(0)
    await wire.settle()
    assert started(wire)[1:] == ["GET /quick"] * 300
    wire.answer(1)
    await wire.settle()
    assert len(wire.answers) == 302


async def test_pipeline_beyond_a_slice_waits_unparsed_and_is_answered() -> None:
    wire = holding()
    pair = put("/a", b"x" * 100) + get("/a")
    wire.send(pair * 250)
    assert len(wire.connection._queue.unstarted) <= 2 * 16 * 1024 // len(pair), "one slice"
    paused = not wire.transport.reading
    answered = 0
    while answered < len(wire.responds):
        wire.answer(answered, b"%d" % answered)
        answered += 1
        await wire.settle()
    assert [answer.body for answer in wire.answers] == [b"%d" % position for position in range(500)]
    assert paused
    assert wire.transport.reading
    assert wire.server.held_bytes == 0


async def test_what_a_transport_delivers_though_it_was_paused_waits_unparsed() -> None:
    wire = holding()
    wire.send(put("/0", b"") + get("/1"))
    paused = not wire.transport.reading
    wire.send(get("/2"))
    wire.send(get("/3"))
    assert len(wire.connection._queue.unstarted) == 1
    wire.answer(0)
    await wire.settle()
    assert started(wire)[1:] == ["GET /1", "GET /2", "GET /3"]
    assert paused
    assert wire.transport.reading


async def test_the_bodies_of_waiting_requests_count_for_all_connections() -> None:
    first = holding(limits=HttpLimits(max_total_held_bytes=70_000))
    second = Wire(server=first.server)
    first.send(put("/a", b"x" * 1000))
    waiting = put("/b", b"y" * 60_000)
    for start in range(0, len(waiting), 10_000):
        first.send(waiting[start : start + 10_000])
    assert len(first.responds) == 1
    assert first.server.held_bytes == 61_000
    second.send(put("/c", b"z" * 10_000))
    assert error_of(second.answers[0].body)["code"] == "overloaded"
    first.answer(0)
    await first.settle()
    assert started(first) == ["PUT /a", "PUT /b"]
    assert first.server.held_bytes == 60_000
    first.send(put("/d", b"v" * 500))
    assert first.server.held_bytes == 60_500
    first.transport.abort()
    assert first.server.held_bytes == 0


async def test_waiting_requests_do_not_wait_for_their_own_bodies() -> None:
    wire = holding(limits=HttpLimits(max_held_bytes=1000))
    wire.send(put("/0", b"x" * 900) + put("/1", b"y" * 900) + put("/2", b"z" * 900))
    for position in range(3):
        assert len(wire.responds) == position + 1
        wire.answer(position)
        await wire.settle()
    assert len(wire.answers) == 3
    assert wire.server.held_bytes == 0
    assert wire.transport.reading


async def test_waiting_requests_are_refused_in_their_turn_where_too_much_is_held() -> None:
    wire = holding(limits=HttpLimits(max_total_held_bytes=1000))
    wire.send(put("/0", b"x" * 10) + put("/1", b"y" * 100) + get("/2"))
    other = Wire(server=wire.server)
    other.send(put("/3", b"z" * 890))
    assert started(wire) == ["PUT /0", "PUT /3"]
    wire.server.shared.total.bytes += 1000  # by further connections
    wire.answer(0)
    await wire.settle()
    assert [answer.status for answer in wire.answers] == [200, 503, 503]
    wire.server.shared.total.bytes -= 1000
    wire.send(put("/4", b""))
    assert started(wire)[2:] == ["PUT /4"]


async def test_nothing_that_waits_is_started_for_a_client_that_does_not_read() -> None:
    wire = holding()
    wire.transport.reads_all = False
    wire.send(put("/0", b"") + put("/1", b"") + get("/2"))
    wire.answer(0, b"z" * 100_000)
    await wire.settle()
    assert len(wire.responds) == 1
    wire.transport.take(200_000)
    await wire.settle()
    assert len(wire.responds) == 2


async def test_nothing_that_waits_is_started_for_a_client_that_has_gone() -> None:
    wire = holding()
    wire.send(put("/0", b"") + put("/1", b"x" * 100))
    wire.transport.abort()
    wire.answer(0)
    await wire.settle()
    assert len(wire.responds) == 1
    assert wire.server.held_bytes == 0


# --- the end of a connection, and answers of other kinds


async def test_what_waits_is_answered_to_a_half_closed_client() -> None:
    wire = holding()
    wire.send(put("/0", b"") + get("/1") + put("/2", b""))
    assert wire.connection.eof_received() is True
    for position in range(3):
        wire.answer(position)
        await wire.settle()
    assert [answer.keep_alive for answer in wire.answers] == [True, True, False]
    assert wire.transport.closed


async def test_what_waits_is_answered_before_a_refusal() -> None:
    wire = holding()
    wire.send(put("/0", b"") + get("/1") + put("/2", b"") + b"rubbish\r\n\r\n")
    for position in range(3):
        assert wire.transport.eof_written is False
        assert len(wire.responds) == position + 1
        wire.answer(position)
        await wire.settle()
    assert [answer.status for answer in wire.answers] == [200, 200, 200, 400]
    assert wire.transport.eof_written


async def test_what_waits_is_answered_by_a_server_that_closes() -> None:
    wire = holding()
    wire.send(put("/0", b"") + get("/1") + put("/2", b""))
    wire.connection.drain()
    for position in range(3):
        assert not wire.transport.closing
        wire.answer(position)
        await wire.settle()
    assert [answer.keep_alive for answer in wire.answers] == [True, True, False]
    assert wire.transport.closed


async def test_a_waiting_request_that_closes_the_connection_is_the_last() -> None:
    wire = holding()
    wire.send(put("/0", b"") + get("/1", "Connection: close") + put("/2", b""))
    for position in range(2):
        wire.answer(position)
        await wire.settle()
    assert len(wire.responds) == 2
    assert [answer.keep_alive for answer in wire.answers] == [True, False]
    assert wire.transport.closed


async def test_a_write_that_fails_lets_the_next_one_start() -> None:
    def handler(request: Request, respond: Respond) -> None:
        if request.path == b"/bad":
            raise ZeroDivisionError
        wire.hold(request, respond)

    wire = Wire()
    wire.server.shared.handler = handler
    wire.send(put("/0", b"") + put("/bad", b"") * 2 + get("/1"))
    assert started(wire) == ["PUT /0"]
    wire.answer(0)
    await wire.settle()
    assert started(wire) == ["PUT /0", "GET /1"]
    wire.answer(1)
    await wire.settle()
    assert [answer.status for answer in wire.answers] == [200, 500, 500, 200]


async def test_continue_waits_for_the_requests_that_wait() -> None:
    wire = holding()
    wire.send(put("/0", b"") + get("/1") + put("/2", b"body", "Expect: 100-continue")[:-4])
    wire.answer(0)
    await wire.settle()
    assert b"Continue" not in wire.received
    wire.answer(1)
    await wire.settle()
    assert wire.received.endswith(b"okHTTP/1.1 100 Continue\r\n\r\n")
    assert wire.transport.reading
    wire.send(b"body")
    assert started(wire)[2:] == ["PUT /2"]


async def test_a_client_is_not_late_while_its_requests_wait() -> None:
    wire = holding()
    wire.send(put("/0", b"") + get("/1") + put("/2", b"body")[:-4])
    wire.advance(200)
    assert not wire.transport.closing
    for position in range(2):
        wire.answer(position)
        await wire.settle()
    assert len(wire.answers) == 2
    wire.advance(40)
    assert wire.answers[2].status == 408


# --- whatever is asked, and however it is answered

Asked: TypeAlias = tuple[str, int]
"""A method, and the bytes of a body."""

SLICE = 300
LIMITS = HttpLimits(max_in_flight=4, max_held_bytes=500, max_body_bytes=400)
DEEPEST = 30
"""Frames between a test and a handler at most: the same for one request and for hundreds."""


class Watched(Wire):
    """Holds requests or answers them at once, by chance, and checks at each start what may run."""

    def __init__(self, chance: Random, asked: list[Asked]) -> None:
        super().__init__(limits=LIMITS)
        self.server.shared.handler = self.take
        self.chance = chance
        self.asked = asked
        self.running: dict[int, Respond] = {}
        self.begun = 0
        self.deepest = 0
        self.wrong: list[str] = []
        """What a handler sees: an exception of its own would only be another answer."""

    def take(self, request: Request, respond: Respond) -> None:
        number, self.begun = self.begun, self.begun + 1
        method, size = self.asked[number]
        if (request.method, request.path, len(request.body)) != (method, b"/%d" % number, size):
            self.wrong.append(f"{request.method} {request.path!r} starts in place of {number}")
        beside = [self.asked[other][0] for other in (*self.running, number)]
        if len(beside) > 1 and not set(beside) <= set(SAFE):
            self.wrong.append(f"{beside} run beside each other")
        if len(beside) > LIMITS.max_in_flight:
            self.wrong.append(f"{len(beside)} run")
        self.running[number] = respond
        self.deepest = max(self.deepest, depth())
        if self.chance.random() < 0.3:
            self.reply(number)

    def reply(self, number: int) -> None:
        self.running.pop(number)(bare(200, TEXT, b"%d " % number + b"v" * self.chance.choice([0, 0, 200])))

    def check(self) -> None:
        assert not self.wrong
        held = self.connection
        held.check()
        assert sum(len(_body(slot)) for slot in held._queue.unstarted) <= SLICE + LIMITS.max_body_bytes
        bodies = sum(self.asked[number][1] for number in self.running)
        assert self.server.held_bytes >= bodies
        assert bodies <= LIMITS.max_held_bytes + LIMITS.max_body_bytes
        assert not (held._queue.unstarted or held._link.unparsed) or not self.transport.reading


def _body(slot: Slot) -> bytes:
    assert slot.request is not None
    return slot.request.body


many = st.lists(
    st.tuples(st.sampled_from(["GET", "GET", "OPTIONS", "PUT", "POST"]), st.sampled_from([0, 0, 0, 10, 200, 400])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(many, st.lists(st.integers(1, 900), min_size=1, max_size=10), st.randoms(use_true_random=False))
async def test_whatever_is_asked_runs_as_it_may_and_is_answered_in_order(
    asked: list[Asked], pieces: list[int], chance: Random
) -> None:
    async def scenario() -> None:
        wire = Watched(chance, asked)
        wire.transport._high_water = 400
        data = b"".join(
            put(f"/{number}", b"b" * size).replace(b"PUT", method.encode(), 1)
            for number, (method, size) in enumerate(asked)
        )
        outside = depth()
        while data or wire.running or wire.transport.unread:
            assert wire.running or wire.transport.unread or (data and wire.transport.reading), "nothing goes on"
            if data and wire.transport.reading:
                piece = chance.choice(pieces)
                wire.send(data[:piece])
                data = data[piece:]
                wire.check()
            for number in sorted(wire.running, key=lambda _: chance.random()):
                if chance.random() < 0.5:
                    wire.reply(number)
            wire.transport.reads_all = chance.random() < 0.5
            wire.transport.take(chance.choice([0, 100, 1000]))
            await wire.settle()
            wire.check()
        assert [answer.body.split()[0] for answer in wire.answers] == [b"%d" % number for number in range(len(asked))]
        assert wire.server.held_bytes == 0
        assert wire.transport.reading
        assert wire.deepest <= outside + DEEPEST

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_module, "SLICE_BYTES", SLICE)
        await scenario()
