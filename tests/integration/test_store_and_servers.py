"""Embedded stores and servers: one data directory, one cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

from syncline import Config, Store
from syncline.client import AsyncClient, PutOp, RevisionEvents
from syncline.server import KvServer, ServerConfig
from tests.helpers.ports import free_block
from tests.helpers.store_node import LIMIT_S, until_true


def server_config(path: Path, name: str, members: dict[str, str]) -> ServerConfig:
    return ServerConfig(
        name=name,
        data_dir=str(path / name),
        http_listen="127.0.0.1:0",
        peer_listen=members[name],
        initial_cluster=members,
        heartbeat_s=0.05,
        election_s=0.5,
        reserve_bytes=0,
    )


def node_config(path: Path, name: str, members: dict[str, str], **settings: object) -> Config:
    return Config(
        name=name,
        data_dir=str(path / name),
        listen=members[name],
        heartbeat_s=0.05,
        election_s=0.5,
        reserve_bytes=0,
        **settings,  # type: ignore[arg-type]
    )


async def test_store_opens_the_directory_of_a_server_and_the_other_way_round(tmp_path: Path) -> None:
    """Keys, revisions, history and leases are there; a snapshot of either is loaded by the other."""
    members = {"a": f"127.0.0.1:{free_block(1)}"}
    async with KvServer.open(server_config(tmp_path, "a", members)) as server, AsyncClient(server.http_url) as client:
        first = await client.put("a", "from the server")
        granted = await client.grant_lease(1000)
        await client.put("leased", "1", lease=granted.id)
        await client.snapshot()
        last = await client.put("b", "after the snapshot")
    async with Store.open(node_config(tmp_path, "a", members, peers=members)) as store:
        found = await store.get("a")
        assert found is not None
        assert (found.value, found.mod_revision, found.revision) == (b"from the server", first.revision, last.revision)
        assert (await store.lease_details(granted.id)).keys == (b"leased",)
        assert [change.revision async for change in _first(store, last.revision)] == [first.revision]
        await store.batch([PutOp(b"c", b"from the store")])
        await store.raft.snapshot()
        later = await store.put("d", "after it")
    async with KvServer.open(server_config(tmp_path, "a", members)) as server, AsyncClient(server.http_url) as client:
        values = {item.key: item.value async for item in client.scan(values=True)}
        assert values[b"a"] == b"from the server"
        assert values[b"c"] == b"from the store"
        assert values[b"d"] == b"after it"
        again = await client.get("d")
        assert again is not None
        assert again.mod_revision == later.revision


async def _first(store: Store, last: int) -> AsyncIterator[RevisionEvents]:
    async for change in store.watch("a", from_revision=1):
        yield change
        if change.revision < last:
            return


async def test_store_joins_a_cluster_of_servers(tmp_path: Path) -> None:
    """It is a member like the others: it is caught up, votes, and serves what clients write."""
    first_port = free_block(3)
    members = {name: f"127.0.0.1:{first_port + at}" for at, name in enumerate("ab")}
    joining = {"c": f"127.0.0.1:{first_port + 2}"}
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(KvServer.open(server_config(tmp_path, name, members))) for name in members
        ]
        client = AsyncClient([server.http_url for server in servers], timeout=LIMIT_S)
        stack.push_async_callback(client.close)
        await client.put("a", "from a client")

        async def ask(node_id: int) -> int:
            added = await client.add_member("c", joining["c"], node_id=f"{node_id:016x}")
            return int(added.cluster_id, 16)

        config = node_config(tmp_path, "c", joining)
        store = await stack.enter_async_context(Store.join(config, ask, timeout=LIMIT_S))
        found = await store.get("a")
        assert found is not None
        assert found.value == b"from a client"
        await store.put("b", "from a store")
        answer = await client.get("b")
        assert answer is not None
        assert answer.value == b"from a store"
        mine = store.raft.node_id
        await until_true(store, lambda: store.raft.membership().members[mine].role == "voter")
