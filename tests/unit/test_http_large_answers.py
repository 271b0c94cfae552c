"""Large answers are made a few per turn of the event loop: many clients with a page each do not hold it."""

from __future__ import annotations

import asyncio

from syncline.server.http.large_answers import TURN_BYTES
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Deferred, Respond, Response, bare
from tests.helpers.http_wire import Wire, get

PAGE = bytes(TURN_BYTES * 3 // 4)
PER_TURN = 2
"""Pages: the second one passes the limit."""


class Pages:
    """A server whose answers below `/page` are large, and clients of it."""

    def __init__(self, clients: int) -> None:
        self.made = 0
        first = Wire(self.handle)
        self.clients = [first, *(Wire(server=first.server) for _ in range(clients - 1))]

    def handle(self, request: Request, respond: Respond) -> None:
        respond(Deferred.by(self.page) if request.path == b"/page" else bare(200, TEXT, b"small"))

    def page(self) -> Response:
        self.made += 1
        return bare(200, TEXT, PAGE)

    async def until_made(self, count: int) -> None:
        while self.made < count:
            before = self.made
            await asyncio.sleep(0)
            assert self.made - before <= PER_TURN


async def test_http_pages_of_many_clients_are_made_a_few_per_turn() -> None:
    pages = Pages(20)
    for wire in pages.clients:
        wire.send(get("/page"))
    assert pages.made == PER_TURN
    await pages.until_made(20)
    for wire in pages.clients:
        await wire.settle()
        assert [len(answer.body) for answer in wire.answers] == [len(PAGE)]
    assert pages.clients[0].server.held_bytes == 0


async def test_http_small_answer_does_not_wait_for_pages_of_others() -> None:
    pages = Pages(20)
    *readers, other = pages.clients
    for wire in readers:
        wire.send(get("/page"))
    other.send(get("/a"))
    await asyncio.sleep(0)
    assert [answer.body for answer in other.answers] == [b"small"]
    assert pages.made < len(readers)


async def test_http_pages_that_wait_for_a_turn_keep_the_order_of_answers() -> None:
    pages = Pages(4)
    for wire in pages.clients:
        wire.send((get("/page") + get("/a")) * 3)
    await pages.until_made(12)
    for wire in pages.clients:
        await wire.settle()
        assert [len(answer.body) for answer in wire.answers] == [len(PAGE), len(b"small")] * 3


async def test_http_page_of_a_client_that_left_is_not_made() -> None:
    pages = Pages(4)
    for wire in pages.clients:
        wire.send(get("/page"))
    pages.clients[2].transport.abort()
    await pages.until_made(3)
    for _ in range(5):
        await asyncio.sleep(0)
    assert pages.made == 3
    assert pages.clients[0].server.held_bytes == 0
