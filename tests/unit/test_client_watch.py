"""`AsyncClient.watch`: it goes on where it was, whatever happens to connections and servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest

from syncline.client import AsyncClient, KeyEvent, KeyInfo, RevisionEvents
from syncline.client.connection import ConnectionLost
from syncline.client.streaming import BUFFER_BYTES, StreamConnection
from syncline.errors import (
    ConfigError,
    DeadlineExceeded,
    OperationError,
    RequestFailed,
    RevisionCompacted,
    Unreachable,
    WatchEnded,
)
from tests.helpers.http_server import HANG, HttpDouble, HttpRequest, Reply, error_reply, refused_url


def put_line(revision: int, key: str = "a") -> dict[str, Any]:
    event = {"type": "put", "key": key, "value": "v", "create_revision": 1, "version": revision}
    return {"revision": revision, "events": [event]}


def stream(*lines: dict[str, Any], revision: int = 0, pieces: int = 1, end: bool = False, close: bool = True) -> Reply:
    """A streamed answer in so many chunks; then the connection is lost, or the answer ends, or nothing follows."""
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    size = max(1, -(-len(body) // pieces))
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
    head += b"Syncline-Revision: %d\r\n\r\n" % revision
    raw = head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return Reply(raw=raw + (b"0\r\n\r\n" if end else b""), close=close)


class WatchDouble(HttpDouble):
    """A server that answers watches one after the other; the last answer is given again."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        super().__init__(self._answer)

    async def _answer(self, request: HttpRequest) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    @property
    def starts(self) -> list[str | None]:
        return [request.parameters.get("from") for request in self.requests]


@asynccontextmanager
async def watching(*doubles: WatchDouble, **options: Any) -> AsyncIterator[AsyncClient]:
    for double in doubles:
        await double.start()
    try:
        async with AsyncClient([double.url for double in doubles], **options) as client:
            yield client
    finally:
        for double in doubles:
            await double.close()


async def take(watch: AsyncIterator[RevisionEvents], count: int) -> list[int]:
    """The revisions of the next so many changes; the watch is closed."""
    found: list[int] = []
    async with aclosing(cast("Any", watch)):
        async for change in watch:
            found.append(change.revision)
            if len(found) == count:
                break
    return found


async def test_client_watch_gives_typed_events_per_revision() -> None:
    lines: dict[str, Any] = {
        "revision": 8,
        "events": [
            {"type": "put", "key_base64": "/w==", "value": "é", "create_revision": 8, "version": 1, "lease": "00ff"},
            {
                "type": "delete",
                "key": "b",
                "prev": {"value_base64": "/w==", "mod_revision": 3, "create_revision": 2, "version": 2},
            },
        ],
        "later": 1,
    }
    async with watching(WatchDouble(stream(lines, close=False))) as client:
        watch = client.watch(prefix="", prev=True)
        change = await anext(watch)
        assert change == RevisionEvents(
            8,
            (
                KeyEvent("put", b"\xff", "é".encode(), 8, 1, 0xFF),
                KeyEvent("delete", b"b", b"", 0, 0, 0, KeyInfo(b"b", 3, 2, 2, 1, b"\xff")),
            ),
        )
        await cast("Any", watch).aclose()


@pytest.mark.parametrize("pieces", [1, 2, 7, 100])
async def test_client_watch_resumes_where_it_was_after_a_lost_connection(pieces: int) -> None:
    double = WatchDouble(
        stream(put_line(5), put_line(6), revision=4, pieces=pieces),
        stream(revision=9),
        stream(put_line(7), put_line(9), revision=9, pieces=pieces, end=True),
        stream(put_line(10), close=False),
    )
    async with watching(double) as client:
        assert await take(client.watch("a"), 5) == [5, 6, 7, 9, 10]
    assert double.starts == [None, "7", "7", "10"], "it asks for what follows"
    assert double.requests[0].headers["accept"] == "application/x-ndjson"


async def test_client_watch_without_events_resumes_from_its_beginning() -> None:
    """What happens while it is away must not be missed."""
    double = WatchDouble(stream(revision=4), stream(put_line(5), revision=30, close=False))
    async with watching(double) as client:
        assert await take(client.watch("a"), 1) == [5]
    assert double.starts == [None, "5"]


async def test_client_watch_resumes_after_its_progress() -> None:
    progress = {"progress": {"revision": 20}}
    double = WatchDouble(stream(put_line(5), progress, revision=4), stream(put_line(22), close=False))
    async with watching(double) as client:
        assert await take(client.watch("a"), 2) == [5, 22]
    assert double.starts == [None, "21"]


async def test_client_watch_from_the_future_does_not_go_back_to_a_progress() -> None:
    progress = {"progress": {"revision": 20}}
    double = WatchDouble(stream(progress, revision=4), stream(put_line(50), close=False))
    async with watching(double) as client:
        assert await take(client.watch("a", from_revision=50), 1) == [50]
    assert double.starts == ["50", "50"]


@pytest.mark.parametrize("code", ["closed", "no_leader"])
async def test_client_watch_that_a_server_ends_goes_on_with_another_one(code: str) -> None:
    end = {"error": {"code": code, "message": "no", "outcome": "not_applied", "details": {"from": 6}}}
    first, second = WatchDouble(stream(put_line(5), end)), WatchDouble(stream(put_line(6), close=False))
    told: list[OperationError] = []
    async with watching(first, second, on_retry=told.append) as client:
        assert await take(client.watch("a", from_revision=5), 2) == [5, 6]
    assert (first.starts, second.starts) == (["5"], ["6"])
    assert isinstance(told[0], WatchEnded)
    assert (told[0].code, told[0].resume) == (code, 6)


async def test_client_watch_skips_what_a_server_gives_again() -> None:
    double = WatchDouble(stream(put_line(5), put_line(5), put_line(4), put_line(6), close=False))
    async with watching(double) as client:
        assert await take(client.watch("a", from_revision=5), 2) == [5, 6]


@pytest.mark.parametrize("begun", [True, False])
async def test_client_watch_of_a_compacted_revision_raises_with_the_oldest(begun: bool) -> None:
    error = {"code": "compacted", "message": "gone", "outcome": "not_applied", "details": {"oldest": 77}}
    reply = stream({"error": error}) if begun else error_reply(410, "compacted", details={"oldest": 77})
    async with watching(WatchDouble(reply)) as client:
        with pytest.raises(RevisionCompacted) as raised:
            await take(client.watch("a", from_revision=5), 1)
    assert raised.value.oldest == 77


async def test_client_watch_asks_another_server_if_one_refuses() -> None:
    first, second = WatchDouble(error_reply(429, "limit")), WatchDouble(stream(put_line(5), close=False))
    async with watching(first, second) as client:
        assert await take(client.watch("a"), 1) == [5]


async def test_client_watch_that_makes_no_sense_to_the_server_is_raised_at_once() -> None:
    double = WatchDouble(error_reply(400, "bad_request"))
    async with watching(double) as client:
        with pytest.raises(RequestFailed):
            await take(client.watch("a"), 1)
    assert len(double.requests) == 1


async def test_client_watch_that_reaches_no_server_ends_at_the_deadline() -> None:
    async with AsyncClient(refused_url(), timeout=0.3) as client:
        with pytest.raises(Unreachable):
            await take(client.watch("a"), 1)
    async with AsyncClient(refused_url(), timeout=60.0, retry_refused=False) as client:
        with pytest.raises(Unreachable):
            await take(client.watch("a"), 1)
    async with watching(WatchDouble(HANG), timeout=0.3) as client:
        with pytest.raises(DeadlineExceeded):
            await take(client.watch("a"), 1)


async def test_client_watch_with_a_timeout_ends_when_it_was_away_for_so_long() -> None:
    double = WatchDouble(stream(put_line(5)), error_reply(503, "no_leader"))
    async with watching(double) as client:
        with pytest.raises(OperationError) as raised:
            await take(client.watch("a", timeout=0.3), 2)
    assert raised.value.code == "no_leader"
    assert len(double.requests) > 2


async def test_client_watch_does_not_ask_in_a_loop_if_each_ends_at_once() -> None:
    double = WatchDouble(stream(end=True))
    async with watching(double) as client:
        with pytest.raises(Unreachable):
            await take(client.watch("a", timeout=1.0), 1)
    assert len(double.requests) < 12


async def test_client_watch_leaves_a_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    from syncline.client import watch as watch_module

    monkeypatch.setattr(watch_module, "PROGRESS_S", 0.05)
    first, second = WatchDouble(stream(close=False, revision=4)), WatchDouble(stream(put_line(5), close=False))
    async with watching(first, second) as client:
        assert await take(client.watch("a"), 1) == [5]
    assert second.starts == ["5"]


async def test_client_watch_leaves_a_silent_server_by_its_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from syncline.client import watch as watch_module

    monkeypatch.setattr(watch_module, "LEAST_PROGRESS_S", 0.05)
    first, second = WatchDouble(stream(close=False, revision=4)), WatchDouble(stream(put_line(5), close=False))
    async with watching(first, second) as client:
        assert await take(client.watch("a", progress=0.05), 1) == [5]
    assert first.requests[0].parameters["progress"] == "0.05"


@pytest.mark.parametrize("progress", [0.5, 3601.0, float("nan"), 0])
async def test_client_watch_refuses_a_progress_that_no_server_takes(progress: float) -> None:
    async with watching(WatchDouble(stream())) as client:
        with pytest.raises(ConfigError, match="progress is"):
            client.watch("a", progress=progress)


async def test_client_that_closes_ends_its_watches() -> None:
    double = WatchDouble(stream(put_line(5), close=False))
    async with watching(double, timeout=0.2) as client:
        watch = client.watch("a", timeout=0.1)
        await anext(watch)
        await client.close()
        await double.close()
        with pytest.raises(Unreachable):
            await anext(watch)
        await double.start()


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda kv: kv.watch(), ConfigError),
        (lambda kv: kv.watch("a", prefix="b"), ConfigError),
        (lambda kv: kv.watch(""), ConfigError),
        (lambda kv: kv.watch("a", end="b"), ConfigError),
        (lambda kv: kv.watch("a", events="all"), ConfigError),
        (lambda kv: kv.watch("a", from_revision=0), ConfigError),
        (lambda kv: kv.watch("a", timeout=0), ConfigError),
        (lambda kv: kv.watch("\ud800"), ConfigError),
        (lambda kv: kv.watch(5), TypeError),
        (lambda kv: kv.watch("a", from_revision="5"), TypeError),
    ],
)
async def test_client_watch_with_unusable_arguments_fails_at_the_call(
    ask: Callable[[AsyncClient], object], error: type[Exception]
) -> None:
    async with AsyncClient(refused_url()) as client:
        with pytest.raises(error):
            ask(client)


class PausingTransport(asyncio.Transport):
    """A transport of which only the reading is of interest."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.aborted = False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def writelines(self, list_of_data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.aborted = True


async def test_stream_connection_reads_no_more_than_its_reader_takes() -> None:
    connection, transport = StreamConnection(), PausingTransport()
    connection.connection_made(transport)
    asked = asyncio.create_task(connection.request(b"GET / HTTP/1.1\r\n\r\n", b""))
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await asked).status == 200
    chunk = b"%x\r\n%b\r\n" % (100_000, bytes(100_000))
    states = []
    for _ in range(BUFFER_BYTES // 100_000 + 1):
        states.append(transport.reading)
        connection.data_received(chunk)
    states.append(transport.reading)
    assert states == [True] * (len(states) - 1) + [False]
    for _ in states[:-1]:
        assert len(await connection.read()) == 100_000
    assert [transport.reading] == [True]
    connection.data_received(b"3\r\nend\r\n")
    connection.connection_lost(None)
    assert await connection.read() == b"end"
    with pytest.raises(ConnectionLost):
        await connection.read()


async def test_stream_connection_without_a_length_ends_with_the_connection() -> None:
    connection, transport = StreamConnection(), PausingTransport()
    connection.connection_made(transport)
    asked = asyncio.create_task(connection.request(b"GET / HTTP/1.1\r\n\r\n", b""))
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")
    await asked
    connection.connection_lost(None)
    assert [await connection.read(), await connection.read()] == [b"abc", b""]
