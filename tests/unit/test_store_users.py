"""A store beside a server whose clients need credentials: a program within a member needs none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from syncline import Config, Store
from syncline.client import AsyncClient, Compare, GetOp, PutOp
from syncline.errors import Unauthenticated
from syncline.kv.versions import USERS_VERSION
from syncline.server.app import KvServer
from syncline.server.config import ServerConfig
from tests.helpers.ports import free_block
from tests.helpers.store_node import LIMIT_S, until_true

PASSWORD = "a long password"


@asynccontextmanager
async def server_and_store(path: Path) -> AsyncIterator[tuple[KvServer, Store]]:
    """Two members of one cluster."""
    port = free_block(2)
    peers = {name: f"127.0.0.1:{port + at}" for at, name in enumerate("ab")}
    serving = KvServer.open(
        ServerConfig(
            name="a", data_dir=str(path / "a"), http_listen="127.0.0.1:0", peer_listen=peers["a"],
            initial_cluster=peers, heartbeat_s=0.02, election_s=0.2, reserve_bytes=0,
        )
    )  # fmt: skip
    config = Config(
        name="b", data_dir=str(path / "b"), listen=peers["b"], peers=peers, heartbeat_s=0.02, election_s=0.2,
        reserve_bytes=0,
    )  # fmt: skip
    server, store = await asyncio.gather(serving, Store.open(config, timeout=LIMIT_S))
    try:
        await until_true(store, lambda: store.raft.machine_version >= USERS_VERSION)
        yield server, store
    finally:
        await asyncio.gather(server.close(), store.close())


async def require_credentials(kv: AsyncClient) -> None:
    await kv.add_user("root", PASSWORD, admin=True)
    await kv.enable_auth()


async def test_store_works_while_clients_need_credentials(tmp_path: Path) -> None:
    """Each kind of command of a store: none of them is a client's."""
    async with server_and_store(tmp_path) as (server, store), AsyncClient(server.http_url, timeout=LIMIT_S) as kv:
        await require_credentials(kv)
        with pytest.raises(Unauthenticated):
            await kv.put("a", "of a client")
        await store.put("a", "1")
        assert await store.increment("n") == 1
        batch = await store.batch([PutOp(b"b", b"2"), GetOp(b"a"), PutOp(b"c", b"3", ttl=60.0)])
        assert not [one for one in batch if isinstance(one, Exception)]
        txn = await store.txn([Compare(b"a", value=b"1")], [PutOp(b"d", b"4")])
        assert txn.succeeded
        async with store.lease(60) as lease:
            await store.put("leased", "1", lease=lease.id)
        assert await store.get("leased") is None
        async with store.lock("printer", ttl=60) as held:
            assert held.token > 0
        assert (await store.delete("b")).deleted
        assert (await store.compact(2)).oldest == 2


async def test_store_session_goes_on_when_clients_need_credentials(tmp_path: Path) -> None:
    """Its commands before and after that have the same form of key and fingerprint."""
    async with server_and_store(tmp_path) as (server, store), AsyncClient(server.http_url, timeout=LIMIT_S) as kv:
        async with store.session() as once:
            await once.put("a", "1")
            await require_credentials(kv)
            await once.put("a", "2")
            batch = await once.batch([PutOp(b"b", b"1"), PutOp(b"c", b"2")])
            assert not [one for one in batch if isinstance(one, Exception)]
        found = await store.get("a")
        assert found is not None
        assert found.value == b"2"


async def test_store_that_lags_needs_no_credential_either(tmp_path: Path) -> None:
    """A member may not have applied yet that clients need credentials: what it proposes is still a member's."""
    async with server_and_store(tmp_path) as (server, store), AsyncClient(server.http_url, timeout=LIMIT_S) as kv:
        assert not store._machine.store.auth.enabled
        late = store._node.member_command(b"\x93\x00\xc4\x01a\xc4\x011")
        await require_credentials(kv)
        ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        store._node.propose(late, LIMIT_S, lambda answer, error: ended.set_result(error or answer))
        assert not isinstance(await ended, Exception)
