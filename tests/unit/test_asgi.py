"""The ASGI form: the same answers, through `scope`, `receive` and `send`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from syncline.server.api.site import Site
from syncline.server.asgi import AsgiApp
from syncline.server.http.large_answers import TURN_BYTES
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Deferred, Respond, Response, bare
from tests.helpers.http_wire import Feed
from tests.helpers.kv_node import FakeBackend


class Mounted:
    """An ASGI server's side of one application."""

    def __init__(self, root: str = "") -> None:
        self.backend = FakeBackend()
        self.app = AsgiApp(Site(self.backend, name="a"), max_body_bytes=100)
        self.root = root
        self.root_of_paths = root
        """Some servers give paths without the mount."""

    async def ask(
        self, method: str, path: str, *parts: bytes, query: bytes = b"", raw: bytes | None = None, **fields: str
    ) -> tuple[int, dict[str, str], bytes]:
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": self.root_of_paths + path,
            "root_path": self.root,
            "query_string": query,
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()],
        }
        if raw is not None:
            scope["raw_path"] = self.root_of_paths.encode() + raw
        waiting = [
            {"type": "http.request", "body": part, "more_body": position < len(parts) - 1}
            for position, part in enumerate(parts or (b"",))
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start, body = sent
        assert start["type"] == "http.response.start"
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], headers, body["body"]


async def test_keys_are_served_under_a_mount_point() -> None:
    mounted = Mounted("/kv")
    status, headers, body = await mounted.ask("PUT", "/key/a", b"va", b"lue")
    assert (status, json.loads(body)["revision"], headers["etag"]) == (200, 1, '"1"')
    status, headers, body = await mounted.ask("GET", "/key/a")
    assert (status, body, headers["content-length"]) == (200, b"value", "5")
    assert (await mounted.ask("HEAD", "/key/a"))[2] == b""
    assert (await mounted.ask("GET", "/key/a", if_none_match='"1"'))[0] == 304
    assert (await mounted.ask("GET", "/keys", query=b"prefix=a&count"))[2] == b'{"revision":1,"count":1}\n'
    assert (await mounted.ask("GET", ""))[0] == 200


async def test_the_raw_path_is_the_key() -> None:
    mounted = Mounted()
    await mounted.ask("PUT", "/key/\ufffd/b", b"v", raw=b"/key/%ff%2Fb?x=1", query=b"")
    assert mounted.backend.store.get(b"\xff/b") is not None
    await mounted.ask("PUT", "/key/é ?", b"v")
    assert mounted.backend.store.get("é ?".encode()) is not None


async def test_coroutine_routes_and_errors_are_answered() -> None:
    mounted = Mounted()
    assert (await mounted.ask("POST", "/raft/snapshot"))[0] == 200
    assert (await mounted.ask("GET", "/nothing"))[0] == 404
    assert (await mounted.ask("PUT", "/key/a", b"x" * 60, b"x" * 60))[0] == 413


@pytest.mark.parametrize(("announced", "sent"), [("5", b""), ("5", b"1234"), ("5", b"123456"), ("5, 5", b"12345")])
async def test_asgi_body_of_another_length_than_announced_is_400(announced: str, sent: bytes) -> None:
    """Some ASGI servers lose a body whose request offers an upgrade: the old value must stay."""
    mounted = Mounted()
    assert (await mounted.ask("PUT", "/key/a", b"old", content_length="3"))[0] == 200
    status, _, body = await mounted.ask("PUT", "/key/a", sent, content_length=announced)
    assert status == 400
    assert f"Content-Length is {announced}" in body.decode()
    assert (await mounted.ask("GET", "/key/a"))[2] == b"old"


def mounted_pages(make: Callable[[], Response]) -> Mounted:
    """An application whose answers are large, and made by `make`."""
    mounted = Mounted()
    mounted.app = AsgiApp(cast("Site", lambda _request, respond: respond(Deferred.by(make))))
    return mounted


async def test_asgi_pages_of_many_clients_are_made_a_few_per_turn() -> None:
    made: list[int] = []

    def make() -> Response:
        made.append(1)
        return bare(200, TEXT, bytes(TURN_BYTES * 3 // 4))

    mounted = mounted_pages(make)
    asked = [asyncio.create_task(mounted.ask("GET", "/page")) for _ in range(20)]
    asked[7].cancel()
    while len(made) < 19:
        before = len(made)
        await asyncio.sleep(0)
        assert len(made) - before <= 2
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [answer[0] for answer in answers if not isinstance(answer, BaseException)] == [200] * 19
    assert len(made) == 19


async def test_asgi_page_that_can_not_be_made_is_500(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Response:
        raise RuntimeError("no")

    assert (await mounted_pages(fail).ask("GET", "/page"))[0] == 500
    assert "by a fault of the server" in caplog.text


async def test_a_client_that_leaves_is_not_answered() -> None:
    mounted = Mounted()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await mounted.app({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    assert sent == []


class Waits:
    """A site whose one request waits, and asks to be told if its client leaves."""

    def __init__(self) -> None:
        self.left = 0
        self.stay: Callable[[], None] = lambda: None
        self.respond: Respond = lambda _response: None
        self.sent: list[Any] = []
        self.leaves = asyncio.Event()
        self.received = 0
        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        self.task = asyncio.create_task(AsgiApp(cast("Site", self._site))(scope, self._receive, self._send))

    def _site(self, request: Request, respond: Respond) -> None:
        assert request.origin is not None
        self.respond, self.stay = respond, request.origin.when_left(self._left)

    def _left(self) -> None:
        self.left += 1

    async def _receive(self) -> Any:
        self.received += 1
        if self.received == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_asgi_request_that_waits_is_told_that_its_client_has_left() -> None:
    waits = Waits()
    await turns()
    assert not waits.task.done()
    waits.leaves.set()
    await waits.task
    assert (waits.left, waits.sent) == (1, [])
    waits.respond(bare(200, TEXT, b"late"))
    assert waits.sent == []


async def test_asgi_request_that_has_waited_is_answered() -> None:
    waits = Waits()
    await turns()
    waits.stay()
    waits.respond(bare(200, TEXT, b"found"))
    await waits.task
    assert [message.get("body") for message in waits.sent] == [None, b"found"]
    waits.leaves.set()
    await turns()
    assert (waits.left, len(asyncio.all_tasks())) == (0, 1)


async def test_asgi_long_poll_ends_when_its_client_leaves() -> None:
    """Its watch counts against the limit of a node."""
    site = Site(FakeBackend(), name="a")
    left = asyncio.Event()
    asked: list[None] = []

    async def receive() -> Any:
        if not asked:
            asked.append(None)
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/key/a",
        "query_string": b"wait=60s",
        "headers": [],
    }
    task = asyncio.create_task(AsgiApp(site)(scope, receive, send))
    await turns()
    assert len(site.watches) == 1
    left.set()
    await task
    assert len(site.watches) == 0


async def test_lifespan_and_other_connections() -> None:
    mounted = Mounted()
    messages: asyncio.Queue[Any] = asyncio.Queue()
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    for kind in ("lifespan.startup", "lifespan.shutdown"):
        messages.put_nowait({"type": kind})
    await mounted.app({"type": "lifespan"}, messages.get, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(RuntimeError, match="websocket"):
        await mounted.app({"type": "websocket"}, messages.get, send)


class AsgiStream:
    """One streamed answer over ASGI: what was sent, and a client that leaves when the test says so."""

    def __init__(self, method: str = "GET") -> None:
        self.feed = Feed()
        self.app = AsgiApp(cast("Site", lambda _request, respond: respond(self.feed.answer())))
        self.sent: list[Any] = []
        self.left = asyncio.Event()
        self._asked = False
        self._news = asyncio.Event()
        scope: dict[str, Any] = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": []}
        self.task = asyncio.create_task(self.app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        self._news.set()

    async def until_sent(self, count: int) -> None:
        while len(self.sent) < count:
            self._news.clear()
            await self._news.wait()


async def test_asgi_stream_is_sent_piece_by_piece() -> None:
    stream = AsgiStream()
    await stream.until_sent(1)
    assert ((b"x-kind"), b"feed") in stream.sent[0]["headers"]
    stream.feed.give(b"one")
    await stream.until_sent(2)
    stream.feed.give(b"two", None)
    await stream.task
    bodies = [(message["body"], message.get("more_body", False)) for message in stream.sent[1:]]
    assert bodies == [(b"one", True), (b"two", True), (b"", False)]
    assert stream.feed.closed == 1


async def test_asgi_head_of_a_stream_reads_nothing_of_it() -> None:
    stream = AsgiStream("HEAD")
    await stream.task
    assert [message.get("body") for message in stream.sent] == [None, b""]
    assert (stream.feed.reads, stream.feed.closed) == (0, 1)


@pytest.mark.parametrize("cancelled", [True, False])
async def test_asgi_stream_of_a_client_that_leaves_is_closed(cancelled: bool) -> None:
    stream = AsgiStream()
    await stream.until_sent(1)
    if cancelled:
        stream.task.cancel()
    else:
        stream.left.set()
    await asyncio.wait([stream.task])
    assert stream.feed.closed == 1
    assert len(stream.sent) == 1


async def test_asgi_stream_whose_source_fails_is_not_completed() -> None:
    def fail() -> bytes | None:
        raise RuntimeError("no")

    stream = AsgiStream()
    stream.feed.read = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no"):
        await stream.task
    assert stream.feed.closed == 1
    assert len(stream.sent) == 1
