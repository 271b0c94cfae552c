"""Batches, past revisions and compaction on real servers: each node says the same, and waits if it is behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syncline.client import AsyncClient, DeleteOp, GetOp, IncrementOp, Operation, OperationResult, PutOp
from syncline.errors import Rejected
from syncline.server import KvServer, ServerConfig
from tests.helpers.ports import free_block

SIZE = 3


@contextlib.asynccontextmanager
async def servers(directory: Path) -> AsyncIterator[list[KvServer]]:
    """A cluster in this process."""
    port = free_block(2 * SIZE)
    members = {f"n{at}": f"127.0.0.1:{port + SIZE + at}" for at in range(SIZE)}
    async with contextlib.AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(
                KvServer.open(
                    ServerConfig(
                        name=name,
                        data_dir=str(directory / name),
                        http_listen=f"127.0.0.1:{port + at}",
                        peer_listen=peer,
                        initial_cluster=members,
                        drain_s=0.5,
                    )
                )
            )
            for at, (name, peer) in enumerate(members.items())
        ]
        async with AsyncClient([server.http_url for server in opened], timeout=20.0) as kv:
            await kv.put("ready", "yes")
        yield opened


def clients(opened: list[KvServer]) -> list[AsyncClient]:
    """One client for each node alone."""
    return [AsyncClient(server.http_url, timeout=20.0) for server in opened]


@pytest.mark.deadline(60.0)
async def test_batches_and_past_revisions_hold_on_each_node_of_a_cluster(tmp_path: Path) -> None:
    async with servers(tmp_path) as opened, contextlib.AsyncExitStack() as stack:
        kvs = [await stack.enter_async_context(kv) for kv in clients(opened)]
        revisions = []
        for number, kv in enumerate(kvs * 3):
            puts: list[Operation] = [PutOp(f"k{at}".encode(), b"%d" % number) for at in range(64)]
            results = await kv.batch([*puts, IncrementOp(b"batches"), GetOp(b"k0"), DeleteOp(b"nothing")])
            assert all(isinstance(one, OperationResult) for one in results)
            counted, got = results[64], results[65]
            assert isinstance(counted, OperationResult)
            assert isinstance(got, OperationResult)
            assert (counted.number, got.value) == (number + 1, b"%d" % number)
            revisions.append(counted.revision)
        for kv in kvs:
            for number, revision in enumerate(revisions):
                past = await kv.get("k63", revision=revision)
                assert past is not None
                assert past.value == b"%d" % number
                keys = [item.key async for item in kv.scan("k", page=10, revision=revision)]
                assert keys == sorted(f"k{at}".encode() for at in range(64))
        assert (await kvs[0].compact(revisions[4])).oldest == revisions[4]
        for kv in kvs:
            now = await kv.put("now", "x")
            assert (await kv.get("now", revision=now.revision)) is not None
            with pytest.raises(Rejected) as refused:
                await kv.get("k0", revision=revisions[3])
            assert (refused.value.code, refused.value.details["oldest"]) == ("compacted", revisions[4])
        for kv in kvs:
            await kv.get("now")  # so that each node has applied the last write
        assert len({(await kv.status()).digest for kv in kvs}) == 1


@pytest.mark.deadline(60.0)
async def test_read_at_a_later_revision_waits_on_a_follower(tmp_path: Path) -> None:
    async with servers(tmp_path) as opened, contextlib.AsyncExitStack() as stack:
        kvs = [await stack.enter_async_context(kv) for kv in clients(opened)]
        revision = (await kvs[0].get("ready")).revision  # type: ignore[union-attr]
        waiting = [asyncio.create_task(kv.get("late", revision=revision + 3)) for kv in kvs]
        for value in ("1", "2", "3"):
            assert not any(task.done() for task in waiting)
            await kvs[0].put("late", value)
        found = await asyncio.gather(*waiting)
        assert [one.value for one in found if one is not None] == [b"3"] * SIZE


@pytest.mark.deadline(60.0)
async def test_store_keeps_its_history_over_a_restart(tmp_path: Path) -> None:
    config = ServerConfig(
        name="a",
        data_dir=str(tmp_path / "a"),
        http_listen="127.0.0.1:0",
        peer_listen=f"127.0.0.1:{free_block(1)}",
        drain_s=0.5,
    )
    async with KvServer.open(config) as server, AsyncClient(server.http_url, timeout=20.0) as kv:
        first = await kv.put("k", "old")
        await kv.batch([PutOp(b"k", b"new"), PutOp(b"n", b"1"), IncrementOp(b"n", 41)])
        await kv.snapshot()
        await kv.delete("k")
    async with KvServer.open(config) as server, AsyncClient(server.http_url, timeout=20.0) as kv:
        past = await kv.get("k", revision=first.revision)
        assert past is not None
        assert past.value == b"old"
        assert await kv.get("k") is None
        number = await kv.get("n")
        assert number is not None
        assert number.value == b"42"
