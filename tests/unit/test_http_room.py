"""A server with too many connections: which of them make room, and how many may be told that there is none."""

from __future__ import annotations

import asyncio

from syncline.platform.network import Listener, TcpNetwork
from syncline.server.http.limits import HttpLimits
from syncline.server.http.server import SWEEP_PART
from tests.helpers.http_wire import Wire, error_of, get, holding

HALF = b"GET /a HTTP/1.1\r\nHo"
UPLOAD = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n"
ONE = HttpLimits(max_connections=1, vital_connections=0)


async def test_http_incomplete_request_makes_room_for_a_new_connection() -> None:
    """Thousands of clients that send a byte each would keep all others out for as long as a header may take."""
    for sent in (HALF, UPLOAD + b"x" * 1000):
        first = Wire(limits=ONE)
        first.send(sent)
        first.advance(2, step=1)
        second = Wire(server=first.server)
        assert [answer.status for answer in first.answers] == [503]
        assert "incomplete; nothing was done" in str(error_of(first.answers[0].body)["message"])
        second.send(get("/b"))
        assert [answer.status for answer in second.answers] == [200]


async def test_http_request_on_its_way_makes_no_room() -> None:
    """One that began a moment ago, one whose body arrives at a good rate, one that is being answered."""
    early = Wire(limits=ONE)
    early.advance(2, step=1)
    early.send(HALF)
    upload = Wire(limits=ONE)
    upload.send(UPLOAD)
    for _ in range(3):
        upload.send(b"x" * 40_000)
        upload.advance(1, step=1)
    busy = holding(limits=ONE)
    busy.send(get("/a"))
    busy.advance(2, step=1)
    for first in (early, upload, busy):
        second = Wire(server=first.server)
        assert [answer.status for answer in second.answers] == [503]
        assert not first.received


async def test_http_connection_that_rests_makes_room_first() -> None:
    first = Wire(limits=HttpLimits(max_connections=2, vital_connections=0))
    first.send(HALF)
    resting = Wire(server=first.server)
    resting.send(get("/a"))
    first.advance(2, step=1)
    Wire(server=first.server)
    assert resting.transport.closed
    assert not first.received


async def test_http_places_of_health_checks_are_not_held_by_silent_clients() -> None:
    busy = holding(limits=HttpLimits(max_connections=1, vital_connections=2))
    busy.send(get("/held"))
    silent = [Wire(server=busy.server) for _ in range(2)]
    silent[0].send(b"G")
    busy.advance(2, step=1)
    for _ in range(5):
        check = Wire(server=busy.server)
        check.send(get("/livez"))
        busy.answer(-1)
        await check.settle()
        assert [answer.status for answer in check.answers] == [200]
    assert not busy.received


async def test_http_refused_connections_are_bounded() -> None:
    """Each has a descriptor until its client closes it or some seconds have passed. Files and peers need them, too."""
    limits = HttpLimits(max_connections=1, vital_connections=0, refused_connections=4)
    busy = holding(limits=limits)
    busy.send(get("/held"))
    refused = [Wire(server=busy.server) for _ in range(10)]
    assert all([answer.status for answer in one.answers] == [503] for one in refused)
    assert [one.transport.aborted for one in refused] == [True] * 6 + [False] * 4
    assert not busy.transport.closed
    refused[-1].transport.abort()
    late = Wire(server=busy.server)
    assert not refused[-2].transport.aborted, "places of those that have left are free"
    assert not late.transport.aborted


class NoNetwork(TcpNetwork):
    """Listens on nothing: the connections of the test are in memory."""

    async def listen(self, *_: object, **__: object) -> Listener:
        return Closed()


class Closed:
    address = ("127.0.0.1", 0)

    async def close(self) -> None:
        return


class Turns:
    """Counts what is answered in each turn of the event loop."""

    def __init__(self, all_of: int) -> None:
        self.each: list[int] = []
        self.done = asyncio.Event()
        self._all_of = all_of
        self._begins = True

    def observe(self, _route: str, status: int, *_: object) -> None:
        assert status == 408
        if self._begins:
            self._begins = False
            self.each.append(0)
            asyncio.get_running_loop().call_soon(self._end)
        self.each[-1] += 1
        if sum(self.each) == self._all_of:
            self.done.set()

    def _end(self) -> None:
        self._begins = True


async def test_http_connections_that_are_late_together_end_some_a_turn() -> None:
    """Thousands may have come at the same moment. To end all of them in one turn would hold up elections."""
    turns = Turns(3 * SWEEP_PART)
    first = Wire(limits=HttpLimits(header_timeout_s=0.0), observe=turns.observe)
    for wire in [first, *(Wire(server=first.server) for _ in range(3 * SWEEP_PART - 1))]:
        wire.send(HALF)
    await first.server.start(NoNetwork(), "127.0.0.1", 0)
    await turns.done.wait()
    assert max(turns.each) <= SWEEP_PART
    await first.server.close(drain_s=0)
