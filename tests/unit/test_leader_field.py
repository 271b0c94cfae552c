"""`Syncline-Leader`: a node that does not lead names the leader's URL, and a client asks there first."""

from __future__ import annotations

import pytest

from syncline import Member
from syncline.client import AsyncClient
from syncline.testing import RaftCluster
from tests.helpers.http_server import HttpDouble, HttpRequest, Reply, json_reply
from tests.helpers.kv_node import KvWire
from tests.helpers.node_cluster import Listing
from tests.helpers.virtual_nodes import call, inner, raft_of, server_of

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


def test_leader_observer_is_called_at_each_change_of_leader_and_address() -> None:
    with RaftCluster(Listing) as cluster:
        seen: dict[str, tuple[bool, Member | None]] = {}

        def observe(node: str) -> None:
            raft = raft_of(cluster, node)

            def note() -> None:
                seen[node] = (raft.is_leader, raft.leader)

            note()
            raft._observe(note)

        def assert_current() -> None:
            cluster.apply(b"x")
            cluster.run(2.0)
            for server in inner(cluster).running:
                raft = raft_of(cluster, server.name)
                assert seen[server.name] == (raft.is_leader, raft.leader), server.name
                assert raft.leader is not None
                assert raft.leader.address == raft_of(cluster, raft.leader.name).advertised

        for server in inner(cluster).running:
            observe(server.name)
        assert_current()
        first = cluster.leader
        cluster.transfer_leadership()
        assert cluster.leader != first
        assert_current()
        first = cluster.leader
        cluster.crash(first)
        assert_current()
        server_of(cluster, first).move()
        cluster.restart(first)
        observe(first)
        call(cluster, cluster.leader, lambda raft: raft.transfer_leadership(first))
        assert cluster.leader == first
        assert_current()
