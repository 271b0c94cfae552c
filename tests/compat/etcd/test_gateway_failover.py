"""Clients of the JSON gateway while the leader of the cluster is killed: etcd3gw, tooz, and Patroni's layer."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
import tooz
from etcd3gw import exceptions
from etcd3gw.client import Etcd3Client
from patroni.dcs import get_dcs
from patroni.exceptions import DCSError
from tooz import coordination

from syncline.client import Client
from syncline.testing.process_cluster import ProcessCluster
from tests.compat.waiting import until

WRITES = 60
TTL_S = 20

Result = TypeVar("Result")

pytestmark = pytest.mark.timeout(180)


def connect(url: str) -> Any:
    host, _, port = urlsplit(url).netloc.partition(":")
    return Etcd3Client(host=host, port=int(port), timeout=10)


def answer(call: Callable[[], Result]) -> Result | None:
    """What a call returns; None if the cluster has no leader at that moment."""
    try:
        return call()
    except (exceptions.Etcd3Exception, tooz.ToozError, DCSError):
        return None


def kill_leader(cluster: ProcessCluster) -> None:
    cluster.kill(cluster.leader())


def test_etcd3gw_lease_and_lock_outlive_the_leader(syncline_cluster: ProcessCluster, follower: str) -> None:
    """A lease that is refreshed keeps its keys, and a lock its holder, over the election."""
    client = connect(follower)
    lease = client.lease(ttl=TTL_S)
    assert client.put("failover/leased", "v", lease)
    one, two = client.lock("failover", ttl=TTL_S), client.lock("failover", ttl=TTL_S)
    assert one.acquire()
    kill_leader(syncline_cluster)
    assert until("the lease is refreshed", lambda: answer(lease.refresh)) == TTL_S
    assert until("the lock is refreshed", lambda: answer(one.refresh)) == TTL_S
    assert client.get("failover/leased") == [b"v"]
    assert not two.acquire()
    assert one.release()
    assert two.acquire()
    assert two.release()


def test_etcd3gw_watch_outlives_the_leader(syncline_cluster: ProcessCluster, follower: str) -> None:
    """Each write is told once and in order, by a node that does not lead."""
    client = connect(follower)
    events, cancel = client.watch_prefix("failover/watch/")
    told: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        for event in events:
            told.put(event["kv"]["key"])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for at in range(WRITES):
        if at == WRITES // 3:
            kill_leader(syncline_cluster)
        name = f"failover/watch/{at:03}"

        def written(name: str = name) -> bool | None:
            return answer(lambda: bool(client.create(name, "1") or client.get(name)))

        until(f"{name} is written", written)
    expected = [f"failover/watch/{at:03}".encode() for at in range(WRITES)]
    assert [told.get(timeout=30) for _ in expected] == expected
    assert told.empty()
    cancel()
    reader.join(10)


def test_tooz_lock_and_members_outlive_the_leader(syncline_cluster: ProcessCluster, follower: str) -> None:
    coordinators = []
    for name in (b"one", b"two"):
        parts = urlsplit(follower)
        coordinators.append(coordination.get_coordinator(f"etcd3+http://{parts.netloc}", name))
        coordinators[-1].start()
    one, two = coordinators
    one.create_group(b"failover").get()
    for coordinator in coordinators:
        coordinator.join_group(b"failover").get()
    held, other = one.get_lock(b"failover-lock"), two.get_lock(b"failover-lock")
    assert held.acquire()
    kill_leader(syncline_cluster)
    for coordinator in coordinators:
        until("a heartbeat arrives", lambda coordinator=coordinator: answer(coordinator.heartbeat))  # type: ignore[misc]
    assert one.get_members(b"failover").get() == {b"one", b"two"}
    assert not other.acquire(blocking=False)
    assert held.release()
    assert other.acquire(blocking=False)
    assert other.release()
    for coordinator in coordinators:
        coordinator.stop()


def patroni_node(name: str, scope: str, urls: list[str]) -> Any:
    hosts = [urlsplit(url).netloc for url in urls]
    timers = {"ttl": TTL_S, "retry_timeout": 10, "loop_wait": 1}
    return get_dcs({"namespace": "/failover/", "name": name, "scope": scope, "etcd3": {"hosts": hosts}, **timers})


def test_patroni_leader_key_outlives_the_leader(kv: Client, syncline_cluster: ProcessCluster) -> None:
    """The database's leader stays: its key is not deleted, not even for a moment, and the other can't take it."""
    logging.getLogger("patroni").setLevel(logging.CRITICAL)
    one, two = (patroni_node(name, "pg", syncline_cluster.endpoints) for name in ("one", "two"))
    for node in (one, two):
        assert node.touch_member({"state": "running", "conn_url": f"postgres://{node._name}", "xlog_location": 1})
    assert one.attempt_to_acquire_leader()
    [before] = kv.list("/failover/pg/leader").items
    kill_leader(syncline_cluster)
    for position in range(1000, 1010):

        def updated(position: int = position) -> bool | None:
            return answer(lambda: bool(one.update_leader(one.get_cluster(), position)))

        assert until("the leader's status is written", updated)
        assert not answer(two.attempt_to_acquire_leader)
    [after] = kv.list("/failover/pg/leader").items
    assert (after.create_revision, after.lease) == (before.create_revision, before.lease)
    until("the other sees the leader", lambda: (found := answer(two.get_cluster)) and found.leader.name == "one")
    until("the other sees the status", lambda: (found := answer(two.get_cluster)) and found.status.last_lsn == 1009)
