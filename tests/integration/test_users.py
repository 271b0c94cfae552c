"""Users on three nodes: what one node has acknowledged holds on each of them, and after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncline.client import AsyncClient
from syncline.errors import PermissionDenied, Unauthenticated
from syncline.server.app import KvServer
from syncline.server.config import ServerConfig
from tests.helpers.ports import free_block

PASSWORD = "a good password"
ROUNDS = 5


@pytest.mark.deadline(60.0)
async def test_users_hold_on_each_node_and_after_a_restart(tmp_path: Path) -> None:
    port = free_block(3)
    members = {name: f"127.0.0.1:{port + at}" for at, name in enumerate("abc")}

    async def start(name: str) -> KvServer:
        return await KvServer.open(
            ServerConfig(
                name=name,
                data_dir=str(tmp_path / name),
                http_listen="127.0.0.1:0",
                peer_listen=members[name],
                initial_cluster=members,
                heartbeat_s=0.05,
                election_s=0.5,
                reserve_bytes=0,
            )
        )

    servers = {name: await start(name) for name in members}
    try:
        async with AsyncClient(servers["a"].http_url, timeout=20.0) as kv:
            await kv.add_user("root", PASSWORD, admin=True)
            await kv.add_role("reader")
            await kv.add_user("ann", roles=["reader"])
            await kv.enable_auth()
        async with AsyncClient(servers["a"].http_url, user="root", password=PASSWORD, timeout=20.0) as kv:
            for number in range(ROUNDS):
                key = f"key {number}"
                await kv.put(key, b"v")
                token = await kv.new_token("ann")
                await kv.allow("reader", "read", key=key)
                async with AsyncClient(servers["c"].http_url, token=token.token, timeout=20.0) as other:
                    assert await other.get(key) is not None, "at once, on another node"
                    await kv.disallow("reader", key=key)
                    with pytest.raises(PermissionDenied):
                        await other.get(key)
                    await kv.remove_token(token.id)
                    with pytest.raises(Unauthenticated):
                        await other.get(key)
            last = (await kv.new_token("ann")).token
            revision = (await kv.auth_status()).revision
        await servers["c"].raft.snapshot()
        await servers["c"].close(drain_s=0)
        servers["c"] = await start("c")
        async with AsyncClient(servers["c"].http_url, token=last, timeout=20.0) as other:
            assert (await other.auth_status()).revision == revision
            with pytest.raises(PermissionDenied):
                await other.get("key 0")
        async with AsyncClient(servers["c"].http_url, timeout=20.0) as other:
            with pytest.raises(Unauthenticated):
                await other.put("key 0", b"v")
    finally:
        for server in servers.values():
            await server.close(drain_s=0)
