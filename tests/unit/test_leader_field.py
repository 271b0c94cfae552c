"""`Syncline-Leader`: a node that does not lead names the leader's URL, and a client asks there first."""

from __future__ import annotations

import pytest

from syncline.client import AsyncClient
from tests.helpers.http_server import HttpDouble, HttpRequest, Reply, json_reply
from tests.helpers.kv_node import KvWire

REQUESTS = (("GET", "/key/a"), ("PUT", "/key/a"), ("DELETE", "/key/a"), ("POST", "/batch"))


@pytest.mark.parametrize(("method", "target"), REQUESTS)
@pytest.mark.parametrize("leads", [True, False])
async def test_leader_is_named_by_the_other_nodes_alone(method: str, target: str, leads: bool) -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"1")
    wire.backend.is_leader, wire.backend.leader_name = leads, "a" if leads else "b"
    body = b'{"ops": [{"op": "put", "key": "a", "value": "1"}]}' if target == "/batch" else b"v"
    answer = await wire.ask(method, target, b"" if method in {"GET", "DELETE"} else body)
    assert answer.status == 200
    assert answer.headers.get("syncline-leader") == (None if leads else "http://b:8080")


async def test_leader_is_not_named_if_none_is_known() -> None:
    wire = KvWire()
    wire.backend.is_leader, wire.backend.leader_name = False, None
    answer = await wire.ask("PUT", "/key/a", b"1")
    assert (answer.status, "syncline-leader" in answer.headers) == (200, False)


async def test_client_asks_the_leader_first_and_the_next_one_if_it_fails() -> None:
    asked: list[str] = []
    leader_url = ""

    async def follower(_: HttpRequest) -> Reply:
        asked.append("follower")
        return json_reply({"status": "success", "revision": 1}, Syncline_Leader=leader_url)

    async def leader(_: HttpRequest) -> Reply:
        asked.append("leader")
        return json_reply({"status": "success", "revision": 1})

    async with HttpDouble(follower) as one, HttpDouble(leader) as other:
        leader_url = other.url
        async with AsyncClient([one.url, other.url], retry_writes=False) as kv:
            await kv.put("a", "1")
            await kv.put("a", "2")
            assert asked == ["follower", "leader"]
            await other.drop_connections()
            assert other._server is not None
            other._server.close()
            await kv.put("a", "3", idempotent=True)
            await kv.put("a", "4", idempotent=True)
    assert asked == ["follower", "leader", "follower", "follower"]
