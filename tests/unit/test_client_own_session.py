"""The session that a client opens by itself: writes are retried, take effect once, and no caller has to do with it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from syncline.client import AsyncClient
from syncline.client.own_session import MAX_UNDER_WAY, STRIDE
from syncline.errors import (
    DeadlineExceeded,
    LimitReached,
    OperationError,
    Outcome,
    Rejected,
    SessionExpired,
    Unreachable,
)
from syncline.platform.world import World
from tests.helpers.http_server import (
    DROP,
    HANG,
    HttpDouble,
    HttpRequest,
    LoopNetwork,
    Reply,
    error_reply,
    json_reply,
    refused_url,
)
from tests.helpers.site_server import SiteServer

DONE = json_reply({"status": "success", "revision": 7})
ENDED = json_reply({"status": "success", "ended": True})
EXPIRED = error_reply(410, "session_expired", "unknown")
UNKNOWN = error_reply(504, "deadline_exceeded", "unknown")


class SessionServer:
    """Opens sessions `…01`, `…02`, …, and answers writes with `replies`, the last one for ever."""

    def __init__(self, *replies: Reply, opening: Callable[[int], Reply | None] = lambda _number: None) -> None:
        self.replies = list(replies) or [DONE]
        self.opening = opening
        self.opened = 0
        self.ended: list[str] = []
        self.keys: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, request: HttpRequest) -> Reply:
        if request.path.startswith("/session"):
            if request.method == "DELETE":
                self.ended.append(request.path.removeprefix("/session/"))
                return ENDED
            self.opened += 1
            number = self.opened
            await self.gate.wait()
            return self.opening(number) or json_reply({"status": "success", "id": f"{number:016x}", "ttl_s": 60.0})
        self.keys.append(request.headers.get("idempotency-key", "none"))
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def client(url: str, timeout_s: float = 5.0) -> AsyncClient:
    world = World(network=LoopNetwork(), rng=random.Random(1))
    return AsyncClient(url, timeout=timeout_s, world=world, batching=False)


def key(session: int, number: int) -> str:
    return f"{session:016x}/{1 + (number - 1) * STRIDE}"


async def test_client_opens_one_session_before_its_first_write_and_ends_it() -> None:
    server = SessionServer(DONE)
    async with HttpDouble(server) as double, client(double.url) as kv:
        await asyncio.gather(*(kv.put(f"k{number}", "v") for number in range(20)))
        await kv.put("a", "1")
    assert (server.opened, server.ended) == (1, [f"{1:016x}"])
    assert sorted(server.keys) == sorted(key(1, number) for number in range(1, 22))


async def test_client_that_only_reads_opens_no_session() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        await asyncio.gather(*(kv.get("a") for _ in range(3)))
        assert kv._own_session is not None
        assert kv._own_session._open is None


@pytest.mark.parametrize("lost", [DROP, UNKNOWN, error_reply(503, "no_leader")])
async def test_client_sends_a_write_in_doubt_again_with_its_key(lost: Reply) -> None:
    server = SessionServer(lost, lost, DONE)
    async with HttpDouble(server) as double, client(double.url) as kv:
        assert (await kv.put("a", "1")).revision == 7
    assert server.keys == [key(1, 1)] * 3


async def test_client_without_retry_of_writes_opens_no_session_and_is_in_doubt() -> None:
    server = SessionServer(DROP)
    async with HttpDouble(server) as double, AsyncClient(double.url, retry_writes=False) as kv:
        with pytest.raises(Unreachable) as lost:
            await kv.put("a", "1")
    assert lost.value.outcome is Outcome.UNKNOWN
    assert (server.opened, server.keys) == (0, ["none"])


async def test_client_opens_another_session_if_the_first_has_expired() -> None:
    server = SessionServer(DONE, EXPIRED, DONE)
    async with HttpDouble(server) as double, client(double.url) as kv:
        await kv.put("a", "1")
        await kv.put("a", "2")
    assert server.keys == [key(1, 1), key(1, 2), key(2, 1)]


async def test_client_reports_an_expired_session_after_a_doubt_as_unknown() -> None:
    server = SessionServer(DROP, EXPIRED, DONE)
    async with HttpDouble(server) as double, client(double.url) as kv:
        with pytest.raises(SessionExpired) as expired:
            await kv.put("a", "1")
        assert expired.value.outcome is Outcome.UNKNOWN
        await kv.put("a", "2")
    assert server.keys == [key(1, 1), key(1, 1), key(2, 1)]


@pytest.mark.parametrize("refusal", [error_reply(429, "limit"), error_reply(404, "unknown_route")])
async def test_client_writes_without_a_key_if_no_session_can_be_had(refusal: Reply) -> None:
    server = SessionServer(DONE, opening=lambda _number: refusal)
    async with HttpDouble(server) as double, client(double.url) as kv:
        await kv.put("a", "1")
        await kv.put("a", "2")
    assert (server.opened, server.keys) == (1, ["none", "none"])


async def test_client_leaves_the_opening_to_the_others_if_a_caller_is_cancelled() -> None:
    server = SessionServer(DONE)
    server.gate.clear()
    async with HttpDouble(server) as double, client(double.url) as kv:
        first, second = [asyncio.create_task(kv.put("a", "1")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded) as lapsed:
            await kv.put("a", "3", timeout=0.05)
        first.cancel()
        server.gate.set()
        assert (await second).revision == 7
        with pytest.raises(asyncio.CancelledError):
            await first
    assert lapsed.value.outcome is Outcome.NOT_APPLIED
    assert (server.opened, len(server.keys)) == (1, 1)


async def test_client_write_with_more_time_opens_the_session_itself() -> None:
    server = SessionServer(DONE, opening=lambda number: HANG if number == 1 else None)
    async with HttpDouble(server) as double, client(double.url) as kv:
        short = asyncio.create_task(kv.put("a", "1", timeout=0.1))
        await asyncio.sleep(0)
        assert (await kv.put("a", "2", timeout=5.0)).revision == 7
        with pytest.raises(OperationError) as given_up:
            await short
    assert given_up.value.outcome is Outcome.NOT_APPLIED


async def test_client_without_a_server_fails_as_without_a_session() -> None:
    async with AsyncClient(refused_url(), retry_refused=False) as kv:
        errors = await asyncio.gather(*(kv.put("a", "1") for _ in range(3)), return_exceptions=True)
    assert {(type(one), getattr(one, "outcome", None)) for one in errors} == {(Unreachable, Outcome.NOT_APPLIED)}
    assert len({id(one) for one in errors}) == 3


async def test_client_write_above_the_window_waits_for_room() -> None:
    """The first one is held. As many others as the window has go on; the next one waits, and is sent then."""
    held = asyncio.Event()
    reached, first_came = asyncio.Event(), asyncio.Event()

    async def handler(request: HttpRequest) -> Reply:
        if request.path.startswith("/session"):
            return json_reply({"status": "success", "id": f"{1:016x}", "ttl_s": 60.0, "ended": True})
        if request.path == "/key/first":
            first_came.set()
            await held.wait()
        if request.headers["idempotency-key"] == key(1, MAX_UNDER_WAY):
            reached.set()
        return DONE

    async with HttpDouble(handler) as double, client(double.url) as kv:
        first = asyncio.create_task(kv.put("first", "v"))
        await first_came.wait()
        for number in range(MAX_UNDER_WAY - 1):
            await kv.put(f"k{number}", "v")
        assert reached.is_set()
        with pytest.raises(DeadlineExceeded) as lapsed:
            await kv.put("late", "v", timeout=0.05)
        waiting = asyncio.create_task(kv.put("last", "v"))
        held.set()
        await asyncio.gather(first, waiting)
    assert lapsed.value.outcome is Outcome.NOT_APPLIED
    assert all(request.path != "/key/late" for request in double.requests)


async def test_client_closed_without_a_server_ends_within_its_limit() -> None:
    server = SessionServer(DONE)
    async with HttpDouble(server) as double:
        kv = client(double.url)
        await kv.put("a", "1")
        await double.drop_connections()
        assert double._server is not None
        double._server.close()
        async with asyncio.timeout(5):
            await kv.close()
    assert server.ended == []


async def test_client_write_lost_on_the_way_back_takes_effect_once() -> None:
    """The answer of the first attempt is lost behind the real routes."""
    async with SiteServer() as site:
        lost = 0

        async def relay(request: HttpRequest) -> Reply:
            nonlocal lost
            reply = await forward(site.url, request)
            if request.path in {"/txn", "/batch"} and lost < 2:
                lost += 1
                return DROP
            return reply

        async with HttpDouble(relay) as double, AsyncClient(double.url) as kv:
            assert await kv.increment("n") == 1
            assert kv._gathered_writes is not None
            kv._gathered_writes.begin_alone()
            assert sorted(await asyncio.gather(*(kv.increment("n") for _ in range(5)))) == [2, 3, 4, 5, 6]
            with pytest.raises(Rejected):
                await kv.put("n", "x", if_absent=True)
    assert lost == 2
    assert site.backend.store.get(b"n").value == b"6"  # type: ignore[union-attr]


async def forward(url: str, request: HttpRequest) -> Reply:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    writer.write(f"{request.method} {request.path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n".encode())
    writer.write(request.body)
    raw = await reader.read()
    writer.close()
    await writer.wait_closed()
    return Reply(raw=raw, close=True)


async def test_explicit_session_still_refuses_above_its_window() -> None:
    """A caller's own session has no queue: that error is documented."""
    async with SiteServer() as site, AsyncClient(site.url) as kv, kv.session() as once:
        keys = once._keys
        keys._under_way[1] = None  # type: ignore[union-attr]
        keys._next = 1_025  # type: ignore[union-attr]
        with pytest.raises(LimitReached):
            await once.put("a", "1")
