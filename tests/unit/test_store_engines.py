"""`Store` on the URL of an engine: locks under faults, reads, watches, limits, and logs of other machines."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

import syncline
from syncline import Machine, OnceKey, Raft, Store, command
from syncline.client.coordination.lock import Lock
from syncline.engines.memory import shared_log
from syncline.errors import (
    Closed,
    ConfigError,
    LeaseLost,
    NodeFailed,
    NoLeader,
    OperationError,
    Outcome,
    RequestFailed,
    SynclineError,
    TooLarge,
    UsageError,
)
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import CommandResult, KvMachine
from syncline.machines import ReplicatedDict
from syncline.node.fsm import Entry
from tests.helpers.engine_stores import EngineStores, run_stores
from tests.helpers.node_cluster import Listing
from tests.helpers.store_node import one_store

TTL_S = 2.0


class Holders:
    """Those that hold one lock. A new one must not come while another one believes that it holds it."""

    def __init__(self) -> None:
        self.held: list[Lock] = []
        self.tokens: list[int] = []
        self.lost = 0

    async def hold(self, store: Store, rest_s: float) -> None:
        """Hold it for a while, or until it is lost."""
        try:
            async with store.lock("repo", ttl=TTL_S, wait=5) as held:
                assert [other for other in self.held if other.rest_s] == []
                assert not self.tokens or held.token > self.tokens[-1]
                self.tokens.append(held.token)
                self.held.append(held)
                try:
                    await asyncio.sleep(rest_s)
                    held.check()
                finally:
                    self.held.remove(held)
        except LeaseLost:
            self.lost += 1
        except OperationError:
            await asyncio.sleep(0.5)  # the backend is cut off, or another one holds it


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 23))])
def test_store_lock_has_one_holder_under_faults(seed: int) -> None:
    """Answers are lost, nodes are cut off and read late. All nodes hold the same state at the end."""

    async def scenario(stores: EngineStores) -> None:
        holders = Holders()
        opened = await stores.open_all(4)
        for backend in stores.backends:
            backend.rate = 0.05

        async def client(store: Store) -> None:
            while True:
                await holders.hold(store, stores.rng.uniform(0.0, 8.0))

        async def faults() -> None:
            while True:
                await asyncio.sleep(stores.rng.uniform(0.5, 4.0))
                backend = stores.rng.choice(stores.backends)
                if stores.rng.random() < 0.5:
                    backend.cut = True
                    await asyncio.sleep(stores.rng.uniform(0.1, 5.0))
                    backend.cut = False
                else:
                    backend.held = held = asyncio.Event()
                    await asyncio.sleep(stores.rng.uniform(1.0, 8.0))
                    held.set()

        tasks = [asyncio.ensure_future(client(store)) for store in opened]
        tasks.append(asyncio.ensure_future(faults()))
        await asyncio.wait(tasks, timeout=100, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == []
        for backend in stores.backends:
            backend.rate, backend.cut = 0.0, False
            if backend.held is not None:
                backend.held.set()
        assert len(holders.tokens) > 10
        assert holders.lost > 0, "no fault concerned a holder"

    run_stores(scenario, seed=seed)


def test_store_lock_of_a_node_that_is_gone_is_free_after_its_time() -> None:
    """The node with the lock is cut off from the backend, as one that was killed."""

    async def scenario(stores: EngineStores) -> None:
        one, two = await stores.open_all(2)
        first = one.lock("repo", ttl=TTL_S)
        await first.acquire()
        gone_s = stores.now_s()
        stores.backends[0].cut = True
        async with two.lock("repo", ttl=TTL_S) as second:
            assert not first.rest_s
            assert second.token > first.token
            assert stores.now_s() - gone_s <= TTL_S + 0.5
        stores.backends[0].cut = False
        with contextlib.suppress(LeaseLost):
            await first.release()

    run_stores(scenario)


def test_store_reads_and_watches_without_a_backend() -> None:
    """A read of the own state works. What asks for more says so, and a watch goes on later without a gap."""

    async def scenario(stores: EngineStores) -> None:
        one, two = await stores.open_all(2)
        await one.put("a", "1")
        await two.get("a")
        watch = two.watch("a", from_revision=1)
        assert (await anext(watch)).revision == 1
        stores.backends[1].cut = True
        await asyncio.sleep(20)
        await one.put("a", "2")
        stale = await two.get("a", consistency="stale")
        assert stale is not None
        assert stale.value == b"1"
        with pytest.raises(RequestFailed) as refused:
            await two.get("a", consistency="stale", max_stale_s=10, timeout=1)
        assert refused.value.code == "too_stale"
        for level in ("linearizable", "leader"):
            with pytest.raises(OperationError) as raised:
                await two.get("a", consistency=level, timeout=1)
            assert raised.value.outcome is Outcome.NOT_APPLIED
        with pytest.raises(NoLeader):
            await anext(two.watch("b"))
        stores.backends[1].cut = False
        assert (await anext(watch)).revision == 2
        fresh = await two.get("a", consistency="stale", max_stale_s=10)
        assert fresh is not None
        assert fresh.value == b"2"
        await two.get("a")
        stores.backends[1].cut = True
        await asyncio.sleep(5)
        assert await two.get("a", consistency="stale", max_stale_s=10) == fresh
        stores.backends[1].cut = False
        await watch.aclose()  # type: ignore[attr-defined]

    run_stores(scenario)


def test_store_session_writes_take_effect_once_under_lost_answers() -> None:
    async def scenario(stores: EngineStores) -> None:
        one, two = await stores.open_all(2)
        async with one.session(timeout=30) as once:
            stores.backends[0].rate = 0.3
            for count in range(1, 30):
                assert await once.increment("n", timeout=60) == count
            stores.backends[0].rate = 0.0
        found = await two.get("n")
        assert found is not None
        assert found.value == b"29"
        assert two.replica.stats().sessions == 0

    run_stores(scenario)


def test_store_command_of_a_session_tells_that_it_was_applied_before() -> None:
    async def scenario(stores: EngineStores) -> None:
        one, two = await stores.open_all(2)
        key = OnceKey(await one._node.open_session(5.0), sequence=1)
        ends: list[tuple[SynclineError | None, bool]] = []
        for store in (one, two):
            put = encode_command(Put(b"a", b"1"))
            store._node.propose_once(put, key, 5.0, lambda _, error, repeated: ends.append((error, repeated)))
            await asyncio.sleep(1)
        assert ends == [(None, False), (None, True)]
        assert await one._node.end_session(key.session, 5.0)

    run_stores(scenario)


def test_store_history_is_compacted_by_all_nodes() -> None:
    async def scenario(stores: EngineStores) -> None:
        one = await stores.open(history_revisions=20)
        two = await stores.open()
        for at in range(60):
            await two.put("a", str(at))
        await asyncio.sleep(2)
        assert two._machine.store.oldest >= 35
        found = await one.get("a", revision=two._machine.store.oldest)
        assert found is not None

    run_stores(scenario)


def test_store_values_fit_into_the_entries_of_the_engine() -> None:
    async def scenario(stores: EngineStores) -> None:
        one = await stores.open()
        with pytest.raises(TooLarge):
            await one.put("a", bytes(600_000))
        value = bytes(500_000)
        written = await one.put_many({f"k{at}": value for at in range(7)})
        assert len(written) == 7
        with pytest.raises(TooLarge):
            await one.batch([syncline.client.PutOp(f"k{at}".encode(), value) for at in range(7)])
        with pytest.raises(ConfigError, match="the largest entry of this engine"):
            await stores.open(max_value_bytes=1 << 20)
        small = await stores.open(max_value_bytes=10)
        with pytest.raises(TooLarge):
            await small.put("a", bytes(11))

    run_stores(scenario)


def test_store_close_on_an_engine_ends_what_waits() -> None:
    async def scenario(stores: EngineStores) -> None:
        one, two = await stores.open_all(2)
        lock = one.lock("repo", ttl=30)
        await lock.acquire()
        watching = asyncio.ensure_future(anext(one.watch("a")))
        waiting = asyncio.ensure_future(one.get("a", revision=99, timeout=60))
        async with two.lock("other"):
            await asyncio.sleep(0.1)
        await one.close()
        assert not lock.rest_s
        ends = await asyncio.gather(watching, waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [Closed, Closed]
        begun_s = stores.now_s()
        async with two.lock("repo"):
            assert stores.now_s() - begun_s < 1, "the lease of a store that closes ends with it"
        with pytest.raises(UsageError, match="closed"):
            await one.get("a")

    run_stores(scenario)


async def test_store_whose_node_was_closed_by_the_program_closes(tmp_path: Path) -> None:
    """Its calls end with `Closed`, and its own tasks end with it."""
    async with one_store(tmp_path) as on_raft, Store.open("memory:closed") as on_log:
        before = asyncio.all_tasks()
        for store in (on_raft, on_log):
            lease = await store.grant_lease(60)
            await store.replica.close()
            for call in (store.get("a"), store.put("a", "1"), store.keep_alive([lease.id])):
                with pytest.raises(Closed):
                    await call
            await store.close()
            await store.close()
            with pytest.raises(UsageError, match="closed"):
                await store.get("a")
        assert asyncio.all_tasks() < before


def test_store_on_an_engine_that_stopped_itself_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(stores: EngineStores) -> None:
        one = await stores.open()
        await one.put("a", "1")

        def broken(self: KvMachine, entry: Entry) -> CommandResult:
            raise RuntimeError(f"{self} is broken at {entry.index}")

        with monkeypatch.context() as patch:
            patch.setattr(KvMachine, "_apply", broken)
            with pytest.raises(RequestFailed):
                await one.put("a", "2")
        for call in (one.get("a"), one.put("a", "3"), one.keep_alive([7]), anext(one.watch("a"))):
            with pytest.raises(RequestFailed) as raised:
                await call
            assert raised.value.code == "node_failed"
        await one.close()

    run_stores(scenario)


class Jobs(Machine):
    waiting: list[str]

    @command
    def put(self, job: str) -> int:
        self.waiting.append(job)
        return len(self.waiting)


async def test_store_refuses_the_log_of_a_machine_and_the_other_way_round() -> None:
    """Nothing is written to it."""
    async with Jobs.open("memory:jobs") as jobs:
        await jobs.put("a")
        head = jobs.replica.stats().applied
        with pytest.raises(NodeFailed, match="this log is of the machine 'Jobs'"):
            await Store.open("memory:jobs")
        await jobs.replica.read_index()
        assert jobs.replica.stats().applied == head
    async with Store.open("memory:keys") as store, Store.open("memory:keys") as other:
        assert store.replica.stats().applied == other.replica.stats().applied == 1, "declared once"
        with pytest.raises(NodeFailed, match=r"this log is of the machine 'syncline\.Store'"):
            await Jobs.open("memory:keys")
        await store.put("a", "1")
        assert await other.count() == 1
    listing = Listing()
    async with syncline.open("memory:list", listing) as node:
        await node.apply(b"one")
        with pytest.raises(NodeFailed, match=r"machine 'Listing', and a store is the machine 'syncline\.Store'"):
            await Store.open("memory:list")
        shared_log("list", random.Random(1)).machine = ""
        with pytest.raises(NodeFailed, match="this log is of another state machine"):
            await Store.open("memory:list")  # its entries tell, if an earlier version has written them
        await node.read_index()
        assert listing.items == [b"one"]


async def test_machine_on_the_log_of_a_store_that_is_trimmed_is_refused() -> None:
    """The declaration is gone with the entries: the snapshot tells."""
    async with Store.open("memory:trimmed") as store:
        await store.put("a", "1")
        await store.replica.snapshot()
        with pytest.raises(NodeFailed):
            await Jobs.open("memory:trimmed")
        async with Store.open("memory:trimmed") as other:
            assert await other.count() == 1


async def test_store_replica_is_its_node_on_each_engine(tmp_path: Path) -> None:
    async with Store.open("memory:") as store:
        assert "memory:" in repr(store)
        assert store.replica.stats().applied == 1
        async with store.replica.leadership(timeout=20) as term:
            assert not term.lost, "it is free for the program"
        with pytest.raises(UsageError, match="not on Raft"):
            store.raft  # noqa: B018 - the access is what is tested
        await store.put("a", "1")
        assert (await store.replica.snapshot()).index == store.replica.stats().applied
    async with one_store(tmp_path) as store:
        assert isinstance(store.replica, Raft)
        assert store.replica is store.raft


@pytest.mark.parametrize("url", ["redis://h/0", "raft:", "etcd://h1", "no-such-file.toml", "raft:no-such-file.toml"])
async def test_store_open_refuses_what_is_no_engine(url: str) -> None:
    with pytest.raises(ConfigError):
        await Store.open(url)
    with pytest.raises(SynclineError):
        await Store.join(url, _never)


@pytest.mark.parametrize("url", ["http://me:secret@h/db", "ETCD://me:secret@h/jobs", "postgre://me:secret@h/db"])
async def test_store_open_says_which_urls_there_are(url: str) -> None:
    """An error shows no password."""
    for opening in (Store.open, ReplicatedDict.open):
        with pytest.raises(
            ConfigError, match=r"://…' is no URL of an engine: write raft:cluster\.toml, etcd://"
        ) as raised:
            await opening(url)
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["memory:a", "etcd://h/jobs", "postgresql://h/db?log=jobs"])
async def test_store_join_on_another_engine_says_what_to_use(url: str) -> None:
    with pytest.raises(ConfigError, match=r"has no members that it could join: use `Store\.open\(url\)`"):
        await Store.join(url, _never)


async def _never(_: int) -> int:
    raise AssertionError("nothing is asked")
