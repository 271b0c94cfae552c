"""Clients that speak gRPC while the leader of the cluster is killed: aetcd and etcdctl."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aetcd
import pytest

from syncline.client import Client
from syncline.testing.process_cluster import ProcessCluster
from tests.compat.etcd.etcdctl import Etcdctl
from tests.compat.waiting import DEADLINE_S, until

WRITES = 60
TTL_S = 20

Result = TypeVar("Result")

pytestmark = [pytest.mark.timeout(180), pytest.mark.deadline(120.0)]


async def insisting(call: Callable[[], Awaitable[Result]]) -> Result:
    """Repeat a call, which is harmless to repeat, while the cluster has no leader."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await call()
            except aetcd.exceptions.ClientError:
                await asyncio.sleep(0.05)


def connect(url: str) -> Any:
    parts = urlsplit(url)
    return aetcd.Client(host=parts.hostname, port=parts.port, timeout=10)


async def test_aetcd_watch_and_lease_outlive_the_leader(syncline_cluster: ProcessCluster, follower: str) -> None:
    """Writes are told in order, by a node that does not lead, and a lease that is refreshed keeps its key."""
    async with connect(follower) as client:
        lease = await client.lease(TTL_S)
        await client.put(b"leased", b"v", lease)
        watch = await client.watch_prefix(b"watch/")
        for at in range(WRITES):
            if at == WRITES // 3:
                await asyncio.to_thread(lambda: syncline_cluster.kill(syncline_cluster.leader()))
            await insisting(lambda at=at: client.put(b"watch/%03d" % at, b"1"))  # type: ignore[misc]
        told: list[bytes] = []
        async with asyncio.timeout(DEADLINE_S):
            async for event in watch:
                if event.kv.key not in told:  # a put whose answer was lost is made twice
                    told.append(event.kv.key)
                if len(told) == WRITES:
                    break
        assert told == [b"watch/%03d" % at for at in range(WRITES)]
        await watch.cancel()
        await insisting(lease.refresh)
        assert (await client.get(b"leased")).value == b"v"


def test_etcdctl_goes_on_with_another_node(etcdctl: str, syncline_cluster: ProcessCluster) -> None:
    ctl = Etcdctl(etcdctl, syncline_cluster.endpoints)
    assert ctl("put", "a", "1") == "OK\n"
    syncline_cluster.kill(syncline_cluster.leader())
    until("a write succeeds", lambda: ctl.tried("put", "b", "2") == "OK\n")
    assert ctl("get", "--print-value-only", "a") == "1\n"


@contextmanager
def waiting_for_lock(ctl: Etcdctl, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, ctl.started("lock", "guard", output=output) as process:
        yield process


def test_etcdctl_lock_outlives_the_leader(etcdctl: str, syncline_cluster: ProcessCluster, tmp_path: Path) -> None:
    """The first holder keeps it over the election; the second gets it when the first gives it up."""
    ctl = Etcdctl(etcdctl, syncline_cluster.endpoints)
    first, second = tmp_path / "first", tmp_path / "second"
    with waiting_for_lock(ctl, first) as holder:
        until("the first holds the lock", lambda: b"guard/" in first.read_bytes())
        with waiting_for_lock(ctl, second):
            until("the second waits", lambda: ctl("get", "--prefix", "--keys-only", "guard/").count("guard/") == 2)
            syncline_cluster.kill(syncline_cluster.leader())
            until("a write succeeds", lambda: ctl.tried("put", "b", "2") == "OK\n")
            assert ctl("get", "--prefix", "--keys-only", "guard/").count("guard/") == 2
            assert second.read_bytes() == b""
            assert holder.poll() is None
            holder.terminate()
            until("the second holds the lock", lambda: b"guard/" in second.read_bytes())


def test_etcdctl_and_our_own_routes_have_the_same_keys(
    etcdctl: str, kv: Client, syncline_cluster: ProcessCluster
) -> None:
    ctl = Etcdctl(etcdctl, syncline_cluster.endpoints)
    kv.put("ours", b"1", ttl=300)
    assert ctl("get", "ours") == "ours\n1\n"
    [ours] = kv.list("ours").items
    assert f"lease {ours.lease:016x} granted with TTL(300s)" in ctl("lease", "timetolive", f"{ours.lease:x}")
    granted = ctl("lease", "grant", "200").split()[1]
    assert ctl("put", "--lease", granted, "theirs", "2") == "OK\n"
    theirs = kv.get("theirs")
    assert theirs is not None
    assert theirs.value == b"2"
    assert kv.lease_details(granted.rjust(16, "0")).granted_ttl_s == 200.0
    assert kv.delete("theirs").deleted
    assert ctl("get", "theirs") == ""
