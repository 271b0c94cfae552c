"""Three embedded stores: what holds while leaders change and nodes leave."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from syncline import Store
from syncline.client import Compare, PutOp
from syncline.errors import LockLost, NoLeader, OperationError, Outcome
from syncline.kv.compactor import Compactor
from syncline.kv.lessor import Lessor
from tests.helpers.store_node import LIMIT_S, StoreCluster, store_cluster, until_true


async def leave(cluster: StoreCluster, store: Store) -> None:
    """Close a store, and wait until the others have a leader."""
    await store.close()
    await cluster.leader()


async def test_store_on_a_follower_writes_and_reads_as_the_leader_does(tmp_path: Path) -> None:
    async with store_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        for at, store in enumerate(cluster.stores.values()):
            written = await store.put("a", str(at))
            assert (await store.txn([Compare(b"a", number=written.revision)], [PutOp(b"b", b"1")])).succeeded
            for other in cluster.stores.values():
                found = await other.get("a")
                assert found is not None
                assert (found.value, found.mod_revision) == (b"%d" % at, written.revision)
                assert await other.count() == 2
        [follower, _] = await cluster.followers()
        granted = await follower.grant_lease(600)
        assert await follower.keep_alive([granted.id]) == [granted]
        details = [await store.lease_details(granted.id) for store in (leader, follower)]
        assert all(600 - LIMIT_S < one.ttl_s <= 600 for one in details)


async def test_store_watch_goes_on_across_a_leader_change(tmp_path: Path) -> None:
    """No revision is lost, and none comes twice; on a follower, and while the leader leaves."""
    async with store_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        watcher, writer = await cluster.followers()
        first = await writer.put("k/0", "0")
        seen: list[int] = []

        async def watch() -> None:
            async for change in watcher.watch(prefix="k/", from_revision=first.revision):
                seen.append(int(change.events[0].value))
                if len(seen) == 60:
                    return

        watching = asyncio.create_task(watch())
        for at in range(1, 30):
            await writer.put(f"k/{at}", str(at))
        await leave(cluster, leader)
        for at in range(30, 60):
            await writer.put(f"k/{at}", str(at))
        async with asyncio.timeout(LIMIT_S):
            await watching
        assert seen == list(range(60))


async def test_store_watch_waits_while_there_is_no_leader(tmp_path: Path) -> None:
    async with store_cluster(tmp_path) as cluster:
        store, *others = cluster.stores.values()
        await store.put("a", "1")
        watching = asyncio.ensure_future(anext(aiter(store.watch("a"))))
        impatient = asyncio.ensure_future(anext(aiter(store.watch("a", timeout=0.3))))
        await asyncio.sleep(0)
        for other in others:
            await other.close()
        with pytest.raises(NoLeader):
            await impatient
        with pytest.raises(OperationError) as caught:
            await store.put("a", "2", timeout=0.2)
        assert caught.value.outcome in (Outcome.NOT_APPLIED, Outcome.UNKNOWN)
        with pytest.raises(OperationError) as read:
            await store.get("a", timeout=0.2)
        assert read.value.outcome is Outcome.NOT_APPLIED
        stale = await store.get("a", consistency="stale")
        assert stale is not None
        assert not watching.done()
        await cluster.open(others[0].raft.config.name)
        await cluster.leader()
        written = await store.put("a", "3")
        async with asyncio.timeout(LIMIT_S):
            change = await watching
        assert change.revision <= written.revision, "the write before may have been carried out after all"


async def test_store_lock_is_held_by_one_store_at_a_time(tmp_path: Path) -> None:
    async with store_cluster(tmp_path) as cluster:
        one, other, _ = cluster.stores.values()
        order: list[str] = []

        async def hold(store: Store, name: str) -> int:
            async with store.lock("printer", ttl=5) as held:
                order.append(f"{name} has it")
                held.check()
                await store.put("printing", name)
                order.append(f"{name} ends")
                return held.token

        async with one.lock("printer", ttl=5) as first:
            waiting = asyncio.create_task(hold(other, "other"))
            await other.put("x", "1")
            assert order == []
            token = first.token
        later = await waiting
        assert order == ["other has it", "other ends"]
        assert later > token
        tokens = await asyncio.gather(*(hold(store, name) for name, store in cluster.stores.items()))
        assert len(set(tokens)) == 3
        assert min(tokens) > later
        assert [line.split()[0] for line in order[2::2]] == [line.split()[0] for line in order[3::2]]


async def test_store_lock_and_lease_outlive_a_leader(tmp_path: Path) -> None:
    async with store_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        [follower, _] = await cluster.followers()
        async with follower.lock("job", ttl=4) as held, follower.lease(4) as lease:
            await follower.put("alive", "1", lease=lease.id)
            await leave(cluster, leader)
            held.check()
            lease.check()
            found = await follower.get("alive")
            assert found is not None
            async with asyncio.timeout(LIMIT_S):
                kept = await follower.keep_alive([lease.id])
            assert kept[0].ttl_s == 4
        assert await follower.get("alive") is None


async def test_store_lock_of_a_closed_store_is_lost(tmp_path: Path) -> None:
    """Its holder learns that at the end of its time; another one gets the lock."""
    async with store_cluster(tmp_path) as cluster:
        follower, other = await cluster.followers()
        lock = follower.lock("job", ttl=2)
        held = await lock.acquire()
        await follower.close()
        async with asyncio.timeout(LIMIT_S):
            async with other.lock("job", ttl=2) as next_one:
                assert next_one.token > held.token
            await held.lost.wait()
        with pytest.raises(LockLost):
            held.check()


async def test_store_has_the_words_about_data(tmp_path: Path) -> None:
    async with store_cluster(tmp_path) as cluster:
        one, other, third = cluster.stores.values()
        async with one.register("api", "10.0.0.1:80", ttl=5), other.mapping("config/") as config:
            assert [instance.address for instance in await other.discover("api")] == ["10.0.0.1:80"]
            await one.put("config/mode", "blue")
            async with asyncio.timeout(LIMIT_S):
                while config.get("mode") != b"blue":
                    await config.changed()
        await asyncio.gather(*(store.counter("visits").add() for store in cluster.stores.values()))
        assert await third.counter("visits").value() == 3
        await one.queue("mail").put("hello")
        async with other.queue("mail").claim(ttl=5, wait=LIMIT_S) as item:
            assert item.value == b"hello"
        assert await third.queue("mail").size() == 0


async def test_store_session_goes_on_across_a_leader_change(tmp_path: Path) -> None:
    """Each increment takes effect once, though leaders change under it."""
    async with store_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        [follower, _] = await cluster.followers()
        async with follower.session() as once:
            counting = [asyncio.create_task(once.increment("n")) for _ in range(100)]
            await asyncio.sleep(0)
            await leave(cluster, leader)
            numbers = await asyncio.gather(*counting)
            assert sorted(numbers) == list(range(1, 101))


async def test_store_upkeep_ends_leases_and_compacts_on_the_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both follow the leadership, as on a server; both are ended with the store."""
    started: list[object] = []
    for kind in (Lessor, Compactor):
        monkeypatch.setattr(kind, "start", _noted(kind.start, started))
    async with store_cluster(tmp_path) as cluster:
        assert sorted(type(one).__name__ for one in started) == ["Compactor"] * 3 + ["Lessor"] * 3
        leader = await cluster.leader()
        [follower, _] = await cluster.followers()
        await follower.put("short", "1", ttl=2)
        await leave(cluster, leader)
        gone = follower.watch("short", events="delete")
        async with asyncio.timeout(LIMIT_S):
            change = await anext(aiter(gone))
        assert change.events[0].type == "delete"
        await until_true(follower, lambda: follower._machine.store.get(b"short") is None)


def _noted(start: object, started: list[object]) -> object:
    def noted(self: object) -> None:
        started.append(self)
        start(self)  # type: ignore[operator]

    return noted
