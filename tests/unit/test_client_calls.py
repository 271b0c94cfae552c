"""The retry rules: what is tried again, what never is, and what the caller is told."""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from syncline.client import AsyncClient
from syncline.client import caller as module
from syncline.errors import (
    DeadlineExceeded,
    MembershipError,
    NoLeader,
    OperationError,
    Outcome,
    Rejected,
    RequestFailed,
    TooLarge,
    Unreachable,
)
from syncline.platform.network import ProtocolFactory, TcpNetwork
from syncline.platform.world import World
from syncline.server import join
from syncline.server.config import ServerConfig
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
    scripted,
)

DONE = json_reply({"status": "success", "revision": 7})
NO_LEADER = error_reply(503, "no_leader")
UNKNOWN = error_reply(503, "closed", "unknown")
VALUE = Reply(200, b"v", {"ETag": '"3"', "Syncline-Revision": "9"})


def client(*urls: str, timeout_s: float = 5.0, retry_refused: bool = True) -> AsyncClient:
    return AsyncClient(
        urls,
        timeout=timeout_s,
        world=World(network=LoopNetwork(), rng=random.Random(1)),
        retry_refused=retry_refused,
        retry_writes=False,
        batching=False,
    )


async def put_through(*replies: Reply, idempotent: bool = False, timeout_s: float = 5.0) -> HttpDouble:
    async with HttpDouble(scripted(*replies)) as double, client(double.url, timeout_s=timeout_s) as kv:
        assert (await kv.put("k", b"v", idempotent=idempotent)).revision == 7
        return double


async def failing_put(*replies: Reply, idempotent: bool = False, timeout_s: float = 0.6) -> tuple[OperationError, int]:
    async with HttpDouble(scripted(*replies)) as double, client(double.url, timeout_s=timeout_s) as kv:
        with pytest.raises(OperationError) as caught:
            await kv.put("k", b"v", idempotent=idempotent)
        return caught.value, len(double.requests)


async def test_a_refusal_that_was_not_applied_is_tried_again() -> None:
    double = await put_through(NO_LEADER, NO_LEADER, DONE)
    assert len(double.requests) == 3
    assert double.connections == 1


async def test_retries_end_at_the_deadline_with_the_servers_reason() -> None:
    error, attempts = await failing_put(NO_LEADER)
    assert isinstance(error, NoLeader)
    assert error.outcome is Outcome.NOT_APPLIED
    assert 2 <= attempts <= 10, "there are pauses between the rounds"


@pytest.mark.parametrize("doubtful", [UNKNOWN, DROP, error_reply(504, "deadline_exceeded", "unknown")])
async def test_a_write_in_doubt_is_not_repeated(doubtful: Reply) -> None:
    error, attempts = await failing_put(doubtful, DONE)
    assert error.outcome is Outcome.UNKNOWN
    assert attempts == 1


@pytest.mark.parametrize("doubtful", [UNKNOWN, DROP, error_reply(504, "deadline_exceeded", "unknown")])
async def test_a_write_in_doubt_is_repeated_if_it_is_idempotent(doubtful: Reply) -> None:
    assert len((await put_through(doubtful, DONE, idempotent=True)).requests) == 2


async def test_a_doubt_is_not_undone_by_a_later_refusal() -> None:
    error, attempts = await failing_put(UNKNOWN, NO_LEADER, idempotent=True)
    assert attempts > 1
    assert error.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (error_reply(413, "too_large"), TooLarge, "too_large"),
        (error_reply(412, "precondition_failed", details={"revision": 4}), Rejected, "precondition_failed"),
        (error_reply(409, "rejected"), Rejected, "rejected"),
        (error_reply(507, "disk_full"), RequestFailed, "disk_full"),
        (error_reply(400, "bad_request"), RequestFailed, "bad_request"),
        (error_reply(404, "unknown_route"), RequestFailed, "unknown_route"),
        (Reply(502, b"<html>bad gateway</html>"), RequestFailed, "bad_answer"),
        (Reply(200, b"not json"), RequestFailed, "bad_answer"),
    ],
)
async def test_a_definite_answer_is_not_retried(reply: Reply, kind: type[OperationError], code: str) -> None:
    error, attempts = await failing_put(reply)
    assert (type(error), error.code, attempts) == (kind, code, 1)


async def test_a_doubt_is_not_undone_by_a_later_answer_either() -> None:
    for doubtful in (UNKNOWN, DROP):
        error, attempts = await failing_put(doubtful, error_reply(412, "precondition_failed"), idempotent=True)
        assert (error.code, error.outcome, attempts) == ("precondition_failed", Outcome.UNKNOWN, 2)
    error, attempts = await failing_put(NO_LEADER, error_reply(412, "precondition_failed"), idempotent=True)
    assert (error.code, error.outcome, attempts) == ("precondition_failed", Outcome.NOT_APPLIED, 2)


async def test_a_hanging_server_ends_a_write_at_the_deadline_in_doubt() -> None:
    error, attempts = await failing_put(HANG, timeout_s=0.3)
    assert isinstance(error, DeadlineExceeded)
    assert (error.outcome, attempts) == (Outcome.UNKNOWN, 1)


async def test_a_read_leaves_a_hanging_server_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPT_LIMIT_S", 0.1)
    async with HttpDouble(scripted(HANG)) as a, HttpDouble(scripted(VALUE)) as b, client(a.url, b.url) as kv:
        found = await kv.get("k")
        assert found is not None
        assert (found.value, found.mod_revision, found.revision) == (b"v", 3, 9)
        assert len(a.requests) == 1


LAPSED = error_reply(504, "deadline_exceeded")


async def test_one_attempts_lapse_of_time_is_not_the_whole_calls() -> None:
    """A member that is cut off waits for its leader until the attempt's time is over: another may be well."""
    async with HttpDouble(scripted(LAPSED)) as a, HttpDouble(scripted(VALUE)) as b, client(a.url, b.url) as kv:
        found = await kv.get("k")
        assert found is not None
        assert (len(a.requests), len(b.requests)) == (1, 1)
    async with HttpDouble(scripted(LAPSED)) as a, HttpDouble(scripted(DONE)) as b, client(a.url, b.url) as kv:
        await kv.put("k", b"v", idempotent=True)
        assert (len(a.requests), len(b.requests)) == (1, 1)


async def test_the_lapse_of_the_whole_time_is_final() -> None:
    error, attempts = await failing_put(LAPSED, idempotent=True, timeout_s=module.ATTEMPT_LIMIT_S / 2)
    assert (error.code, error.outcome, attempts) == ("deadline_exceeded", Outcome.NOT_APPLIED, 1)
    error, attempts = await failing_put(LAPSED)
    assert (error.code, error.outcome, attempts) == ("deadline_exceeded", Outcome.NOT_APPLIED, 1)


async def test_read_without_an_answer_is_not_applied() -> None:
    async with HttpDouble(scripted(HANG)) as double, client(double.url, timeout_s=0.2) as kv:
        with pytest.raises(DeadlineExceeded) as caught:
            await kv.get("k")
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_a_reason_is_told_rather_than_the_lapse_of_time_after_it() -> None:
    handler = scripted(error_reply(503, "too_stale"), HANG)
    async with HttpDouble(handler) as double, client(double.url, timeout_s=0.4) as kv:
        with pytest.raises(RequestFailed) as caught:
            await kv.get("k")
        assert caught.value.code == "too_stale"


async def test_a_write_is_not_tried_again_in_the_last_moment() -> None:
    error, attempts = await failing_put(NO_LEADER, HANG, timeout_s=0.26)
    assert (error.code, error.outcome, attempts) == ("no_leader", Outcome.NOT_APPLIED, 1)


async def test_client_write_whose_time_is_over_is_not_sent() -> None:
    """What was not sent is not in doubt, and the error names no time below zero."""
    error, attempts = await failing_put(DONE, timeout_s=1e-9)
    assert isinstance(error, DeadlineExceeded)
    assert (error.outcome, attempts) == (Outcome.NOT_APPLIED, 0)
    assert "-" not in str(error)


async def test_a_refused_connection_goes_to_the_next_endpoint_and_stays_there() -> None:
    async with HttpDouble(scripted(DONE)) as double, client(refused_url(), double.url) as kv:
        for _ in range(5):
            await kv.put("k", b"v")
        assert len(double.requests) == 5
        assert double.connections == 1


async def test_an_endpoint_that_comes_back_within_the_deadline_is_reached() -> None:
    double = HttpDouble(scripted(DONE))
    url = refused_url()
    refused = asyncio.Event()

    class WatchedNetwork(LoopNetwork):
        async def connect(self, *arguments: Any, **named: Any) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
            try:
                return await super().connect(*arguments, **named)
            except OSError:
                refused.set()
                raise

    async with AsyncClient(
        url, retry_writes=False, batching=False, world=World(network=WatchedNetwork()), timeout=20.0
    ) as kv:
        writing = asyncio.create_task(kv.put("k", b"v"))
        await refused.wait()
        await double.start(int(url.rsplit(":", 1)[1]))
        assert (await writing).revision == 7
    await double.close()


@pytest.mark.deadline(5.0)
async def test_client_without_retry_fails_if_all_endpoints_refuse() -> None:
    async with client(refused_url(), refused_url(), timeout_s=30.0, retry_refused=False) as kv:
        with pytest.raises(Unreachable, match="refused") as caught:
            await kv.put("k", b"v")
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_an_impatient_client_still_waits_for_a_leader() -> None:
    async with (
        HttpDouble(scripted(NO_LEADER, DONE)) as double,
        client(refused_url(), double.url, retry_refused=False) as kv,
    ):
        assert (await kv.put("k", b"v")).revision == 7


async def test_client_respects_retry_after_of_an_overloaded_server() -> None:
    times = []

    async def handler(_: HttpRequest) -> Reply:
        times.append(asyncio.get_running_loop().time())
        if len(times) > 1:
            return DONE
        busy = error_reply(503, "overloaded")
        return Reply(503, busy.body, {**busy.headers, "Retry-After": "0.4"})

    async with HttpDouble(handler) as double, client(double.url) as kv:
        await kv.put("k", b"v")
    first, second = times[0], times[1]
    assert second - first >= 0.4


async def test_the_server_is_told_a_deadline_before_the_clients() -> None:
    double = await put_through(DONE, timeout_s=2.0)
    told = float(double.requests[0].parameters["timeout"])
    assert 1.0 < told < 2.0


async def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    async with HttpDouble(scripted(DONE)) as double, client(double.url) as kv:
        await kv.put("k", b"v")
        await double.drop_connections()
        (endpoint,) = kv._set
        await endpoint._idle[0].wait_closed()
        await kv.put("k", b"v")
        assert double.connections == 2


async def test_operations_at_once_use_a_connection_each_and_share_later() -> None:
    together = asyncio.Barrier(8)

    async def handler(_: HttpRequest) -> Reply:
        await together.wait()
        return DONE

    async with HttpDouble(handler) as double, client(double.url) as kv:
        for _ in range(3):
            await asyncio.gather(*(kv.put(f"k{number}", b"v") for number in range(8)))
        assert double.connections == 8


async def test_closing_the_client_ends_what_is_under_way() -> None:
    arrived = asyncio.Event()

    async def handler(_: HttpRequest) -> Reply:
        arrived.set()
        return HANG

    async with AsyncExitStack() as stack:
        double = await stack.enter_async_context(HttpDouble(handler))
        kv = client(double.url)
        writing = asyncio.create_task(kv.put("k", b"v"))
        await arrived.wait()
        await kv.close()
        with pytest.raises(Unreachable) as caught:
            await writing
        assert caught.value.outcome is Outcome.UNKNOWN


async def test_a_dial_that_takes_too_long_is_no_doubt_about_the_request() -> None:
    class Slow(TcpNetwork):
        async def connect(
            self, factory: ProtocolFactory, host: str, port: int, *, tls: ssl.SSLContext | None = None, timeout_s: float
        ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("it never answers")

    async with AsyncClient(
        "http://127.0.0.1:1", retry_writes=False, batching=False, world=World(network=Slow()), timeout=0.1
    ) as client:
        with pytest.raises(Unreachable, match="no connection within") as caught:
            await client.put("a", b"v")
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_connection_lost_when_made_leaves_the_request_not_applied() -> None:
    class Flighty(LoopNetwork):
        async def connect(self, *arguments: Any, **named: Any) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
            transport, protocol = await super().connect(*arguments, **named)
            if self.dials == 1:  # as a server that is killed ends it
                transport.abort()
            return transport, protocol

    async with (
        HttpDouble(scripted(DONE)) as double,
        AsyncClient(double.url, retry_writes=False, batching=False, world=World(network=Flighty())) as kv,
    ):
        assert (await kv.put("k", b"v")).revision == 7
        assert len(double.requests) == 1


async def test_a_connection_that_comes_up_after_its_call_gave_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TLS handshake goes on in the background when the call's time is over: see `TcpNetwork.connect`."""
    loop = asyncio.get_running_loop()
    create, gate = loop.create_connection, asyncio.Event()
    made: asyncio.Future[asyncio.Transport] = loop.create_future()

    async def late(*arguments: Any, **named: Any) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        await gate.wait()
        transport, protocol = await create(*arguments, **named)
        made.set_result(transport)
        return transport, protocol

    monkeypatch.setattr(loop, "create_connection", late)
    async with (
        HttpDouble(scripted(DONE)) as double,
        AsyncClient(double.url, retry_writes=False, batching=False) as kv,
    ):
        with pytest.raises(Unreachable, match="no connection within"):
            await kv.put("k", b"v", timeout=0.1)
        gate.set()
        assert (await made).is_closing()


async def test_a_node_that_joins_goes_on_says_why_and_heeds_a_refusal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(join, "TOLD_EVERY_S", 0.0)
    replies = [error_reply(503, "no_leader"), error_reply(503, "no_leader"), error_reply(409, "membership")]
    async with HttpDouble(scripted(*replies)) as double:
        config = ServerConfig(
            name="d",
            data_dir=str(tmp_path),
            http_listen="127.0.0.1:1",
            peer_listen="127.0.0.1:2",
            join=(double.url,),
        )
        with pytest.raises(MembershipError):
            await join.ask_members(config, 7, http="", world=World(network=TcpNetwork(), rng=random.Random(1)))
        assert len(double.requests) == 3
    told = [record.getMessage() for record in caplog.records if record.name == "syncline.server.join"]
    assert len(told) == 2
    assert all("could not join yet" in line for line in told)


async def test_call_error_is_the_answer_of_a_server_before_others_that_are_away() -> None:
    """Of three nodes two are down: the third one knows why nothing goes on, and the others tell nothing."""
    answer = error_reply(503, "no_leader", message="no quorum of the voters is reachable")
    async with HttpDouble(scripted(*[answer] * 50)) as double:
        for urls in ([double.url, refused_url(), refused_url()], [refused_url(), double.url, refused_url()]):
            async with client(*urls, timeout_s=0.6) as kv:
                with pytest.raises(NoLeader, match="no quorum"):
                    await kv.get("k")


async def test_call_error_is_unreachable_once_all_servers_are_away() -> None:
    """What the last one has answered before is over."""
    replies = scripted(NO_LEADER, DROP)
    async with HttpDouble(replies) as double, client(double.url, retry_refused=False) as kv:

        async def leave(request: HttpRequest) -> Reply:
            double.stop_listening()
            return await replies(request)

        double.handler = leave
        with pytest.raises(Unreachable, match="refused"):
            await kv.get("k")
        assert len(double.requests) == 2
