"""etcd that refuses what it has written, and keys of a log that another program has deleted or overwritten."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import syncline
from syncline import Engine, LogReplica
from syncline.engines.backend import BackendFull, BackendLost
from syncline.engines.etcd import EtcdBackend
from syncline.errors import ConfigError, DeadlineExceeded, NodeFailed, OperationError, Outcome
from tests.compat.engines.servers import EtcdServers, etcd_servers
from tests.helpers.node_cluster import Listing

pytestmark = [pytest.mark.timeout(180), pytest.mark.deadline(90.0)]


def _backend(node: object) -> EtcdBackend:
    assert isinstance(node, LogReplica)
    backend = node._driver.backend
    assert isinstance(backend, EtcdBackend)
    return backend


async def test_engine_etcd_command_that_was_refused_and_written_is_applied(
    etcd_alone: EtcdServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd looks for space before it takes a request, and again when it applies it. Then it writes, and refuses."""
    machine, refused = Listing(), 0
    async with syncline.open(f"etcd://{etcd_alone.hosts}/written", machine) as node:
        await node.apply(b"one", timeout=20)
        client = _backend(node)._client
        txn = client.txn

        async def refuse(*arguments: Any, **more: Any) -> object:
            nonlocal refused
            answer = await txn(*arguments, **more)
            if not more.get("writes", True) or refused:
                return answer
            refused += 1
            raise BackendFull("etcdserver: mvcc: database space exceeded")

        monkeypatch.setattr(client, "txn", refuse)
        assert await node.apply(b"two", timeout=20) == 2
        assert await node.apply(b"three", timeout=20) == 3, "one append after the other: the refusal was taken"
        assert refused == 1
        assert machine.items == [b"one", b"two", b"three"]


async def test_engine_etcd_command_that_was_refused_is_in_doubt_if_it_cant_look(
    etcd_alone: EtcdServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question whether the refused record is there gets no answer: nothing says that it is not."""
    async with syncline.open(f"etcd://{etcd_alone.hosts}/doubt", Listing()) as node:
        backend = _backend(node)

        async def refuse(*_: object, **__: object) -> object:
            raise BackendFull("etcdserver: mvcc: database space exceeded")

        async def lost(_: bytes) -> object:
            raise BackendLost("cut off", sent=False)

        monkeypatch.setattr(backend._client, "txn", refuse)
        monkeypatch.setattr(backend, "_get", lost)
        with pytest.raises(BackendLost) as raised:
            await backend.append(1, 1, b"", 0, node._driver.taker.mark)  # type: ignore[attr-defined]
        assert raised.value.sent


async def test_engine_etcd_out_of_space_tells_no_writer_a_lie(tmp_path: Path) -> None:
    """Several writers at once fill the last of the space. What was refused is not in the log."""
    with etcd_servers(tmp_path, quota=16 << 20) as servers:
        url, machine = f"etcd://{servers.hosts}/full", Listing()
        async with contextlib.AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(syncline.open(url, Listing())) for _ in range(8)]
            seen = await stack.enter_async_context(syncline.open(url, machine))
            for number, node in enumerate(nodes):
                await node.apply(b"%d" % number, timeout=20)

            async def write(number: int) -> tuple[bytes, object]:
                data = b"%04d" % number + bytes(1 << 19)
                try:
                    return data, await nodes[number % 8].apply(data, timeout=30)
                except OperationError as error:
                    return data, error.outcome

            answers = await asyncio.gather(*(write(number) for number in range(80)))
            refused = [data for data, answer in answers if answer is Outcome.NOT_APPLIED]
            await seen.read_index(timeout=20)
            assert refused, "the quota is reached"
            assert not set(refused) & set(machine.items), "refused with `not_applied`, and applied"
            assert {data for data, answer in answers if isinstance(answer, int)} <= set(machine.items)


def _etcdctl(servers: EtcdServers, *arguments: str) -> None:
    command = ["etcdctl", f"--endpoints={servers.hosts}", *arguments]
    subprocess.run(command, env=os.environ | {"ETCDCTL_API": "3"}, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("del", "--prefix", "NAME/log/"), "its records behind 0 are gone"),
        (("put", "NAME/trim", "junk"), "NAME/trim was written by another program"),
        (("put", "NAME/id", "junk"), "NAME/id is of another program"),
    ],
    ids=["records", "trim", "id"],
)
async def test_open_etcd_names_the_keys_that_others_have_changed(
    etcd_alone: EtcdServers, change: tuple[str, ...], text: str, request: pytest.FixtureRequest
) -> None:
    """It must not begin with an empty state, as if nothing had ever been acknowledged."""
    name = f"changed-{request.node.callspec.id}"
    url = f"etcd://{etcd_alone.hosts}/{name}"
    async with syncline.open(url, Listing()) as node:
        await node.apply(b"one", timeout=20)
    _etcdctl(etcd_alone, *(part.replace("NAME", name) for part in change))
    with pytest.raises(NodeFailed, match=text.replace("NAME", name)):
        await syncline.open(url, Listing())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("put", "NAME/snap/current", "junk"), "NAME/snap/current was written by another program"),
        (("del", "NAME/snap/current"), "no snapshot has them"),
        (("del", "--prefix", "NAME/snap/FOLDER"), "part 0 of 1 of the newest snapshot is gone"),
    ],
    ids=["junk", "pointer", "parts"],
)
async def test_open_etcd_names_what_its_snapshot_lacks(
    etcd_alone: EtcdServers, change: tuple[str, ...], text: str, request: pytest.FixtureRequest
) -> None:
    name = f"snap-{request.node.callspec.id}"
    url = f"etcd://{etcd_alone.hosts}/{name}"
    async with syncline.open(url, Listing()) as node:
        for number in range(10):
            await node.apply(b"%d" % number, timeout=20)
        await node.snapshot()
        current, _ = await _backend(node)._current_snapshot()
    assert current is not None
    _etcdctl(etcd_alone, *(part.replace("NAME", name).replace("FOLDER", current.folder) for part in change))
    with pytest.raises(NodeFailed, match=text.replace("NAME", name)):
        await asyncio.wait_for(syncline.open(url, Listing()), 10)


async def test_open_etcd_refuses_a_file_that_is_no_certificate(tmp_path: Path) -> None:
    """grpc would log its own lines, and never connect."""
    file = tmp_path / "ca.pem"
    file.write_text("junk")
    with pytest.raises(ConfigError, match=r"ca\.pem holds no certificate"):
        await asyncio.wait_for(syncline.open(f"etcds://127.0.0.1:1/jobs?ca={file}", Listing()), 5)


async def test_engine_etcd_tells_what_its_user_lacks(tmp_path: Path) -> None:
    """An operator switches users on while a node is open, then gives them rights, and takes them away again."""
    root = "--user=root:root"
    with etcd_servers(tmp_path) as servers:
        url, poor = f"etcd://{servers.hosts}/users", f"etcd://poor:poor@{servers.hosts}/users"
        async with syncline.open(url, Listing()) as node:
            await node.apply(b"one", timeout=20)
            for command in ("user add root:root", "user add poor:poor", "role add root", "role add writer"):
                _etcdctl(servers, *command.split())
            _etcdctl(servers, *["user", "grant-role", "root", "root"])
            _etcdctl(servers, "auth", "enable")
            await _is_refused(node, "this cluster has users: write etcd://USER:PASSWORD@")
            with pytest.raises(ConfigError, match="permission denied: grant a role of the user readwrite"):
                await asyncio.wait_for(syncline.open(poor, Listing()), 10)
            grant = ["role", "grant-permission", "writer", "--prefix=true", "readwrite", "users/"]
            _etcdctl(servers, root, *grant)
            _etcdctl(servers, root, *["user", "grant-role", "poor", "writer"])
            async with syncline.open(poor, Listing()) as other:
                assert await other.apply(b"two", timeout=20) == 2
                _etcdctl(servers, root, *["user", "revoke-role", "poor", "writer"])
                await _is_refused(other, "permission denied: grant a role of the user readwrite")
                _etcdctl(servers, root, *["user", "grant-role", "poor", "writer"])
                assert await other.apply(b"three", timeout=20) == 3
            _etcdctl(servers, root, "auth", "disable")
            assert await node.apply(b"four", timeout=20) == 4


async def _is_refused(node: Engine[object], text: str) -> None:
    async with asyncio.timeout(30):
        while True:
            with pytest.raises(DeadlineExceeded) as raised:
                await node.apply(b"refused", timeout=1)
            if text in str(raised.value) and raised.value.outcome is Outcome.NOT_APPLIED:
                return
