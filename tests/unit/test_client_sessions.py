"""Sessions of the client: keys of its writes, attempts with one key, and what is known of the outcome."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from syncline.client import AsyncClient
from syncline.errors import (
    AnswerNotKept,
    IdempotencyMismatch,
    LimitReached,
    OperationError,
    Outcome,
    Rejected,
    SessionExpired,
    UsageError,
)
from syncline.platform.world import World
from syncline.sessions.table import Limits
from tests.helpers.http_server import DROP, HttpDouble, HttpRequest, LoopNetwork, Reply, error_reply, json_reply

DONE = json_reply({"status": "success", "revision": 7})
ENDED = json_reply({"status": "success", "ended": True})
NO_LEADER = error_reply(503, "no_leader")
EXPIRED = error_reply(410, "session_expired", "unknown")
REFUSED = error_reply(412, "precondition_failed", details={"revision": 4})
ID = "00000000000000a1"


async def session(
    replies: list[Reply], work: Callable[[AsyncClient], Awaitable[object]], timeout_s: float = 5.0
) -> list[str]:
    """Run `work` in a session on a server that answers its writes with these; the keys that came."""
    left = list(replies)
    keys: list[str] = []

    async def handler(request: HttpRequest) -> Reply:
        if request.path.startswith("/session"):
            return ENDED if request.method == "DELETE" else json_reply({"status": "success", "id": ID, "ttl_s": 60.0})
        keys.append(request.headers.get("idempotency-key", "none"))
        return left.pop(0) if left else DONE

    world = World(network=LoopNetwork(), rng=random.Random(1))
    async with HttpDouble(handler) as double, AsyncClient(double.url, timeout=timeout_s, world=world) as kv:
        async with kv.session() as once:
            await work(once)
        paths = [(request.method, request.path) for request in double.requests]
        assert (paths[0], paths[-1]) == (("POST", "/session"), ("DELETE", f"/session/{ID}"))
    return keys


async def failing(*replies: Reply) -> OperationError:
    async def work(once: AsyncClient) -> None:
        with pytest.raises(OperationError) as raised:
            await once.put("a", "1")
        errors.append(raised.value)

    errors: list[OperationError] = []
    await session(list(replies), work)
    return errors[0]


async def test_session_of_a_client_gives_each_write_a_key_of_its_own() -> None:
    async def work(once: AsyncClient) -> None:
        await once.put("a", "1")
        await once.put("a", "2")
        await once.get("a")
        await once.compact(3)

    replies = [DONE, DONE, Reply(200, b"v", {"ETag": '"3"', "Syncline-Revision": "9"})]
    replies.append(json_reply({"status": "success", "oldest": 3}))
    assert await session(replies, work) == [f"{ID}/1", f"{ID}/2", "none", f"{ID}/3"]


@pytest.mark.parametrize("doubtful", [DROP, error_reply(504, "deadline_exceeded", "unknown"), NO_LEADER])
async def test_session_write_in_doubt_is_sent_again_with_its_key(doubtful: Reply) -> None:
    async def work(once: AsyncClient) -> None:
        assert (await once.put("a", "1")).revision == 7

    assert await session([doubtful, doubtful], work) == [f"{ID}/1"] * 3


async def test_session_writes_at_once_keep_their_keys() -> None:
    async def work(once: AsyncClient) -> None:
        await asyncio.gather(*(once.put("a", str(number)) for number in range(20)))

    keys = await session([DROP, DONE, DROP], work)
    assert {key.partition("/")[2] for key in keys} == {str(number) for number in range(1, 21)}


async def test_session_refusal_after_a_doubt_is_certain() -> None:
    """The server answers for the key, whichever attempt it was: the write had no effect."""
    error = await failing(DROP, REFUSED)
    assert (type(error), error.code, error.outcome) == (Rejected, "precondition_failed", Outcome.NOT_APPLIED)


async def test_session_expired_at_the_first_attempt_is_not_applied() -> None:
    first, later, refused = await failing(EXPIRED), await failing(DROP, EXPIRED), await failing(NO_LEADER, EXPIRED)
    assert {type(error) for error in (first, later, refused)} == {SessionExpired}
    assert first.outcome is Outcome.NOT_APPLIED
    assert later.outcome is Outcome.UNKNOWN
    assert refused.outcome is Outcome.NOT_APPLIED, "the attempt before certainly had no effect"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (error_reply(422, "idempotency_mismatch"), IdempotencyMismatch),
        (error_reply(409, "answer_not_kept", "unknown"), AnswerNotKept),
    ],
)
async def test_session_answer_that_is_final_is_not_asked_for_again(reply: Reply, kind: type[OperationError]) -> None:
    assert type(await failing(reply, DONE)) is kind


async def test_session_takes_no_call_without_an_exactly_once_form() -> None:
    async def work(once: AsyncClient) -> None:
        with pytest.raises(UsageError, match="takes no key"):
            await once.remove_member("b")

    assert await session([], work) == []


async def test_session_gives_a_grant_a_key_and_a_keep_alive_none() -> None:
    """A grant with a chosen id is sent again after a doubt, and answers what the first attempt has done."""
    granted = json_reply({"status": "success", "id": ID, "ttl_s": 30.0})
    kept = json_reply({"status": "success", "leases": [{"id": ID, "ttl_s": 30.0}], "missing": []})

    async def work(once: AsyncClient) -> None:
        assert (await once.grant_lease(30, lease=ID)).id == ID
        assert [one.id for one in await once.keep_alive([ID])] == [ID]

    assert await session([DROP, granted, kept], work) == [f"{ID}/1", f"{ID}/1", "none"]


async def test_session_of_a_client_bounds_the_writes_under_way() -> None:
    async def work(once: AsyncClient) -> None:
        assert once._keys is not None
        under_way = once._keys._under_way  # type: ignore[attr-defined]  # as if a write waited since the first one
        under_way[1] = None
        once._keys._next = Limits().window + 1  # type: ignore[attr-defined]
        with pytest.raises(LimitReached):
            await once.put("a", "1")

    assert await session([], work) == []
