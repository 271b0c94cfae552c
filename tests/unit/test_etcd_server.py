"""etcd's gateway on a real server: sockets, files, and three nodes on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from syncline.client.client import AsyncClient
from syncline.server.app import KvServer
from tests.helpers.etcd_wire import b64
from tests.unit.test_server_app import cluster, raw, settings


async def ask(url: str, route: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Send one request on a connection of its own."""
    data = json.dumps(body).encode()
    head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    answer = await raw(url, head.encode() + data)
    status, _, rest = answer.partition(b"\r\n\r\n")
    return int(status.split()[1]), json.loads(rest)


async def answered(url: str, route: str, body: dict[str, Any]) -> dict[str, Any]:
    """`ask`, again while there is no leader: a busy machine holds elections. What is written here may be repeated."""
    status, document = await ask(url, route, body)
    while status == 503:
        status, document = await ask(url, route, body)
    assert status == 200, document
    return document


async def test_etcd_clients_are_served_on_loopback_by_default(tmp_path: Path) -> None:
    async with await KvServer.open(settings(tmp_path)) as server, AsyncClient(server.http_url) as client:
        status, document = await ask(server.http_url, "/v3/kv/put", {"key": b64("a"), "value": b64("1")})
        assert (status, document["header"]["revision"]) == (200, "3")
        found = await client.get("a")
        assert found is not None
        assert found.value == b"1"
        _, members = await ask(server.http_url, "/v3/cluster/member/list", {})
        assert members["members"][0]["clientURLs"] == [server.http_url]


async def test_etcd_clients_are_not_served_if_switched_off(tmp_path: Path) -> None:
    async with await KvServer.open(settings(tmp_path, etcd_api="off")) as server:
        status, document = await ask(server.http_url, "/v3/kv/range", {"key": b64("a")})
        assert (status, document["error"]["code"]) == (404, "unknown_route")
        assert b"etcdserver" not in await raw(
            server.http_url, b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )


@pytest.mark.deadline(60.0)
async def test_etcd_clients_see_one_cluster_through_each_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as servers:
        urls = [server.http_url for server in servers.values()]
        terms: list[int] = []
        for number in range(6):
            value = b64(str(number))
            written = await answered(urls[number % 3], "/v3/kv/put", {"key": b64("k"), "value": value})
            read = await answered(urls[(number + 1) % 3], "/v3/kv/range", {"key": b64("k")})
            assert read["kvs"][0]["value"] == value
            assert int(read["header"]["revision"]) >= int(written["header"]["revision"])
            terms += [int(written["header"]["raft_term"]), int(read["header"]["raft_term"])]
        assert terms == sorted(terms), "the term never falls, whichever node answers"
        ids = {(await answered(url, "/v3/maintenance/status", {}))["header"]["member_id"] for url in urls}
        listed = (await answered(urls[0], "/v3/cluster/member/list", {}))["members"]
        assert {member["ID"] for member in listed} == ids
        assert len(ids) == 3


async def test_etcd_revisions_go_on_after_a_restart(tmp_path: Path) -> None:
    config = settings(tmp_path)
    async with await KvServer.open(config) as server:
        await ask(server.http_url, "/v3/kv/put", {"key": b64("a")})
    async with await KvServer.open(msgspec.structs.replace(config, http_listen="127.0.0.1:0")) as server:
        _, document = await ask(server.http_url, "/v3/kv/put", {"key": b64("a")})
        assert document["header"]["revision"] == "4", "a store that has begun does not begin again"
