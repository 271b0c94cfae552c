"""Leases through the command and the client against real servers: HTTP, the clockwork, and the log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from syncline.errors import LeaseLost, Rejected
from syncline.server import KvServer, ServerConfig
from tests.helpers.command import Ran, syncline
from tests.helpers.ports import free_block

FAST_TTL_S = 2.0
HELD_TTL_S = 4.0
"""Long enough for a change of leader on a busy machine."""


def settings(name: str, path: Path, members: dict[str, str]) -> ServerConfig:
    return ServerConfig(
        name=name, data_dir=str(path / name), http_listen="127.0.0.1:0", peer_listen=members[name],
        initial_cluster=members, heartbeat_s=0.05, election_s=0.5, reserve_bytes=0,
    )  # fmt: skip


class OneServer:
    """A server on a loop and thread of its own, for commands that run a loop themselves."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        config = settings("a", path, {"a": f"127.0.0.1:{free_block(1)}"})

        async def start() -> KvServer:
            return await KvServer.open(config)

        self.server = asyncio.run_coroutine_threadsafe(start(), self._loop).result(20)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        return syncline(*arguments, stdin=stdin, endpoints=self.server.http_url)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[OneServer]:
    server = OneServer(tmp_path)
    try:
        yield server
    finally:
        server.close()


def test_lease_commands_grant_show_keep_and_end(run: OneServer) -> None:
    granted = run("lease", "grant", "90s", "--id", "00000000000000a1")
    assert (granted.status, granted.text) == (0, "00000000000000a1\n")
    drawn = run("lease", "grant", "2m", "--json").json()
    assert drawn["ttl_s"] == 120
    assert len(str(drawn["id"])) == 16
    assert run("put", "k", "v", "--lease", "00000000000000a1").text == "revision 1\n"
    shown = run("lease", "ttl", "00000000000000a1")
    assert shown.text.endswith(" s of 90 s\nk\n")
    listed = run("lease", "list").text.splitlines()
    assert [line.split() for line in listed if line.startswith("00000000000000a1 ")] == [
        ["00000000000000a1", "90", "1"]
    ]
    assert run("lease", "keepalive", "00000000000000a1", "--once").text == "90 s\n"
    assert run("lease", "grant", "9000000000s", "--id", "00000000000000a2").status == 0
    assert ["00000000000000a2", "9000000000", "0"] in [line.split() for line in run("lease", "list").text.splitlines()]
    assert run("lease", "revoke", "00000000000000a1").text == "deleted 1 key, revision 2\n"
    for arguments in (("ttl",), ("keepalive", "--once"), ("revoke",)):
        gone = run("lease", *arguments, "00000000000000a1")
        assert (gone.status, "there is no lease 00000000000000a1" in gone.error()) == (3, True)


def test_put_with_a_ttl_and_touch_make_a_key_that_ends(run: OneServer) -> None:
    assert run("put", "k", "v", "--ttl", "90s").text.startswith("revision 1, lease ")
    assert run("put", "j", "v").status == 0
    touched = run("touch", "j", "--ttl", "2s")
    assert (touched.status, touched.text.startswith("lease ")) == (0, True)
    assert run("touch", "x", "--ttl", "2s").status == 3
    waiting = threading.Event()
    for _ in range(100):
        if run("get", "j").status == 3:
            break
        waiting.wait(0.1)
    assert run("get", "j").status == 3
    assert run("get", "k").out == b"v"


def test_lease_commands_name_what_is_wrong(run: OneServer) -> None:
    for arguments, words in (
        (("lease", "grant", "1s"), "from 2 to 9000000000 seconds"),
        (("lease", "grant", "soon"), "is not a time"),
        (("lease", "grant", "0s"), "'0s' is not a time above 0"),
        (("touch", "k", "--ttl", "0"), "'0' is not a time above 0"),
        (("lease", "grant", "5s", "--id", "7"), "16 hexadecimal digits"),
        (("lease", "revoke", "x"), "16 hexadecimal digits"),
        (("put", "k", "v", "--ttl", "5s", "--lease", "00000000000000a1"), "one of ttl and lease"),
        (("touch", "k"), "--ttl"),
        (("lease", "grab"), "No such command"),
    ):
        failed = run(*arguments)
        assert (failed.status, words in failed.error()) == (2, True), failed.err
    assert run("put", "k", "v", "--lease", "00000000000000a1").status == 3


async def test_held_lease_outlives_a_leader_and_ends_with_its_block(tmp_path: Path) -> None:
    port = free_block(3)
    members = {name: f"127.0.0.1:{port + place}" for place, name in enumerate("abc")}
    servers = [await KvServer.open(settings(name, tmp_path, members)) for name in members]
    try:
        for server in servers:  # all have met, so that two of them are a quorum
            await server.raft.read_index(timeout=15.0)
        async with AsyncClient([server.http_url for server in servers], timeout=15.0) as kv:
            async with kv.lease(HELD_TTL_S) as lease:
                await kv.put("held", "x", lease=lease.id)
                leader = next(server for server in servers if server.raft.is_leader)
                await leader.raft.transfer_leadership()
                await leader.close()
                await asyncio.sleep(1.3 * HELD_TTL_S)
                lease.check()
                assert await kv.get("held") is not None
                details = await kv.lease_details(lease.id)
                assert details.keys == (b"held",)
                assert 0 < details.ttl_s <= details.granted_ttl_s == HELD_TTL_S
            assert await kv.get("held") is None
            lost = kv.lease(HELD_TTL_S)
            await lost.__aenter__()
            await kv.revoke_lease(lost.id)
            assert isinstance(await asyncio.wait_for(lost.lost(), 5.0), LeaseLost)
            with pytest.raises(LeaseLost):
                await lost.__aexit__(None, None, None)
    finally:
        for server in servers:
            await server.close()


async def test_grant_repeated_after_an_unknown_outcome_is_one_lease(tmp_path: Path) -> None:
    """The client draws the id, so that an attempt whose answer was lost can be made again."""
    server = await KvServer.open(settings("a", tmp_path, {"a": f"127.0.0.1:{free_block(1)}"}))
    try:
        async with AsyncClient(server.http_url) as kv:
            kv._entropy = lambda count: bytes([7]) * count
            first = await kv.grant_lease(30)
            assert await kv.grant_lease(30) == first
            assert [one.id for one in await kv.leases()] == [first.id]
            with pytest.raises(Rejected) as caught:
                await kv.grant_lease(30, lease=first.id)
            assert caught.value.code == "lease_exists"
            assert await kv.keep_alive([first.id, 5]) == [first]
            touched = await kv.put("k", "v", ttl=30)
            assert (await kv.touch("k", 60)).lease == touched.lease
            with pytest.raises(Rejected) as caught:
                await kv.touch("absent", 60)
            assert caught.value.code == "not_found"
    finally:
        await server.close()
