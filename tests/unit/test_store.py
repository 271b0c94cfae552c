"""One embedded store: its life, its errors, and what its calls cost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

import pytest

from syncline import Store
from syncline.client import Compare, GetOp, PutOp, Watchers
from syncline.client.results import RevisionEvents
from syncline.errors import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    LeaseLost,
    LimitReached,
    NodeFailed,
    OperationError,
    Outcome,
    Rejected,
    RequestFailed,
    RevisionCompacted,
    SessionExpired,
    TooLarge,
    UsageError,
)
from syncline.kv.machine import KvMachine
from syncline.kv.serving.kv_node import KvNode
from syncline.node.futures import ReadFuture
from syncline.node.levels import Levels
from tests.helpers.store_node import StoreCluster, one_store
from tests.helpers.tasks import nothing_reported

EACH_CALL: Final[dict[str, Callable[[Store], Awaitable[object]]]] = {
    "get": lambda kv: kv.get("a"),
    "put": lambda kv: kv.put("a", "1"),
    "delete": lambda kv: kv.delete("a"),
    "list": lambda kv: kv.list(),
    "scan": lambda kv: anext(aiter(kv.scan())),
    "count": lambda kv: kv.count(),
    "txn": lambda kv: kv.txn([], [PutOp(b"a", b"1")]),
    "batch": lambda kv: kv.batch([PutOp(b"a", b"1")]),
    "reading batch": lambda kv: kv.batch([GetOp(b"a")]),
    "increment": lambda kv: kv.increment("n"),
    "compact": lambda kv: kv.compact(1),
    "grant_lease": lambda kv: kv.grant_lease(30),
    "keep_alive": lambda kv: kv.keep_alive([1]),
    "revoke_lease": lambda kv: kv.revoke_lease(1),
    "lease_details": lambda kv: kv.lease_details(1),
    "leases": lambda kv: kv.leases(),
    "touch": lambda kv: kv.touch("a", 30),
    "lease": lambda kv: kv.lease(30).__aenter__(),
    "session": lambda kv: kv.session().__aenter__(),
    "watch": lambda kv: anext(aiter(kv.watch("a"))),
    "lock": lambda kv: kv.lock("a", wait=0).__aenter__(),
}


def test_store_is_made_by_open_alone() -> None:
    with pytest.raises(UsageError, match=r"Store\.open"):
        Store()


async def test_store_open_takes_await_or_a_block(tmp_path: Path) -> None:
    cluster = StoreCluster(tmp_path, "a")
    async with Store.open(cluster.config("a")) as store:
        await store.put("a", "1")
    async with await Store.open(cluster.config("a")) as again:
        found = await again.get("a")
        assert found is not None
        assert found.value == b"1"
        assert "leader" in repr(again)
    assert again.raft.role == "stopped"


@pytest.mark.parametrize("name", EACH_CALL)
async def test_store_call_after_close_is_a_usage_error(name: str, tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        pass
    with pytest.raises(UsageError, match="closed"):
        await EACH_CALL[name](store)


async def test_store_close_is_idempotent_and_waits_for_the_first(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        await asyncio.gather(store.close(), store.close())
        assert store.raft.role == "stopped"
        await store.close()


async def test_store_close_ends_the_calls_under_way(tmp_path: Path) -> None:
    """Whatever they wait for: the log, a later revision, a change, the leader."""
    async with one_store(tmp_path) as store:
        await store.put("a", "1")
        waiting: list[Awaitable[object]] = [
            store.get("a", revision=99),
            store.list(revision=99),
            EACH_CALL["watch"](store),
            store.keep_alive([7]),
            *(store.put(f"k{at}", "1") for at in range(20)),
        ]
        tasks = [asyncio.ensure_future(one) for one in waiting]
        for _ in range(3):
            await asyncio.sleep(0)
        with nothing_reported():
            await store.close()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends[:3]:
        assert isinstance(end, Closed)
        assert end.outcome is Outcome.NOT_APPLIED
    assert all(isinstance(end, Closed) or not isinstance(end, BaseException) for end in ends), ends


async def test_store_close_ends_a_read_that_is_confirmed_meanwhile(tmp_path: Path) -> None:
    """It would wait for its revision until its deadline."""
    async with one_store(tmp_path) as store:
        await store.put("a", "1")
        waiting = asyncio.ensure_future(store.get("a", revision=99))
        await asyncio.sleep(0)
        store._embedded.reads.close(Closed("closed"))
        await store.get("a")
        with pytest.raises(Closed):
            await waiting


async def test_store_held_lease_is_lost_after_close(tmp_path: Path) -> None:
    """The first keep-alive after it tells its holder."""
    async with one_store(tmp_path) as store:
        with nothing_reported():
            lease = store.lease(2)
            await lease.__aenter__()
            await store.close()
            assert isinstance(await lease.lost(), LeaseLost)
            with pytest.raises(LeaseLost):
                await lease.__aexit__(None, None, None)


@pytest.mark.parametrize("name", ["get", "put", "watch", "list", "keep_alive"])
async def test_store_on_another_loop_is_a_usage_error(name: str, tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        raised: list[BaseException] = []

        def other() -> None:
            try:
                asyncio.run(_awaited(EACH_CALL[name](store)))
            except UsageError as error:
                raised.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert "event loop" in str(raised[0])


async def _awaited(call: Awaitable[object]) -> object:
    return await call


@pytest.mark.parametrize("name", ["get", "put", "txn", "batch", "watch", "keep_alive", "lease_details", "list"])
async def test_store_on_a_node_that_stopped_itself_says_why(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the one that a client of a server gets, with the node's own as its cause."""
    async with one_store(tmp_path) as store:
        await store.put("a", "1")
        failing = asyncio.ensure_future(store.raft.failed())
        monkeypatch.setattr(KvMachine, "_apply", _breaks)
        with pytest.raises(RequestFailed):
            await store.put("a", "2")
        assert isinstance(await failing, NodeFailed)
        with pytest.raises(RequestFailed) as caught:
            await EACH_CALL[name](store)
        assert (caught.value.code, caught.value.status) == ("node_failed", 503)
        assert caught.value.outcome is Outcome.NOT_APPLIED
        assert "broken" in str(caught.value)
        assert isinstance(caught.value.__cause__, NodeFailed)


async def test_store_watch_ends_if_the_node_stops_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with one_store(tmp_path) as store:
        watching = asyncio.ensure_future(EACH_CALL["watch"](store))
        await asyncio.sleep(0)
        monkeypatch.setattr(KvMachine, "_apply", _breaks)
        with pytest.raises(RequestFailed):
            await store.put("b", "2")
        with pytest.raises(RequestFailed) as caught:
            await watching
        assert caught.value.code == "node_failed"


def _breaks(*_: object, **__: object) -> None:
    raise RuntimeError("the machine is broken")


async def test_store_gets_of_one_moment_share_one_confirmation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    read_index = KvNode.read_index

    def counted(node: KvNode, timeout_s: float) -> ReadFuture:
        asked.append(timeout_s)
        return read_index(node, timeout_s)

    monkeypatch.setattr(KvNode, "read_index", counted)
    async with one_store(tmp_path) as store:
        await store.put("a", "1")
        asked.clear()
        found = await asyncio.gather(*(store.get("a") for _ in range(64)))
        assert {one.value for one in found if one is not None} == {b"1"}
        assert len(found) == 64
        assert len(asked) <= 2, "a slow machine may cut the moment in two"


async def test_store_write_is_one_entry_of_the_log_and_a_read_none(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        await store.put("a", "1")
        last = store.raft.stats().last_index
        await store.put("a", "2")
        await store.batch([PutOp(b"x", b"1"), GetOp(b"x"), PutOp(b"y", b"1")])
        await store.get("a")
        await store.list()
        await store.batch([GetOp(b"a"), GetOp(b"b")])
        assert store.raft.stats().last_index == last + 2


async def test_store_values_are_the_machines_own_objects(tmp_path: Path) -> None:
    """Without JSON, and without a copy."""
    async with one_store(tmp_path) as store:
        await store.put("a", b"value")
        first, second = await store.get("a"), await store.get("a")
        assert first is not None
        assert second is not None
        assert first.value is second.value
        record = store._machine.store.get(b"a")
        assert record is not None
        assert first.value is record.value


async def test_store_refuses_wrong_types_and_values(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        wrong: dict[type[Exception], list[Callable[[Any], Awaitable[object]]]] = {
            TypeError: [
                lambda kv: kv.get(5),
                lambda kv: kv.put("a", 5),
                lambda kv: kv.put("a", "1", if_revision=True),
                lambda kv: kv.put("a", "1", timeout="5"),
                lambda kv: kv.list(limit="1"),
                lambda kv: kv.batch([object()]),
                lambda kv: kv.txn([object()]),
                lambda kv: kv.increment("a", 1.5),
                lambda kv: kv.keep_alive("0000000000000001"),
                lambda kv: anext(kv.watch(5)),
            ],
            ConfigError: [
                lambda kv: kv.put("a", "1", if_revision=1, if_absent=True),
                lambda kv: kv.put("a", "1", ttl=30, lease=1),
                lambda kv: kv.put("a", "1", ttl=0.5),
                lambda kv: kv.get("a", timeout=0),
                lambda kv: kv.get("\ud800"),
                lambda kv: kv.get(""),
                lambda kv: kv.put("", "1"),
                lambda kv: kv.get("a", consistency="strong"),
                lambda kv: kv.lease(float("nan")).__aenter__(),
                lambda kv: kv.keep_alive([]),
                lambda kv: anext(kv.watch()),
                lambda kv: anext(kv.watch(key="")),
                lambda kv: anext(kv.watch("a", events="all")),
            ],
            RequestFailed: [
                lambda kv: kv.put("a", "1", lease=0),
                lambda kv: kv.get("a", max_stale_s=1.0),
                lambda kv: kv.get("a", revision=2**63),
                lambda kv: anext(kv.watch(start="b", end="a")),
                lambda kv: anext(kv.watch("a", from_revision=2**63)),
                lambda kv: kv.compact(2**63),
            ],
            TooLarge: [
                lambda kv: kv.put("a", b"v" * (1 << 20) + b"v"),
                lambda kv: kv.put("k" * 1025, "1"),
                lambda kv: kv.batch([GetOp(b"a")] * 1001),
                lambda kv: anext(kv.watch("k" * 1025)),
            ],
        }
        last = store.raft.stats().last_index
        for kind, calls in wrong.items():
            for at, call in enumerate(calls):
                with pytest.raises(kind) as caught:
                    await call(store)
                assert type(caught.value) is kind, at
        assert store.raft.stats().last_index == last, "nothing was proposed"


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"timeout": 0}, ConfigError),
        ({"timeout": "5"}, TypeError),
        ({"max_key_bytes": 0}, ConfigError),
        ({"max_key_bytes": 5000}, ConfigError),
        ({"max_value_bytes": 16 << 20}, ConfigError),
        ({"max_value_bytes": -1}, ConfigError),
        ({"max_value_bytes": 1.5}, TypeError),
        ({"history_revisions": 0}, ConfigError),
        ({"history_bytes": True}, TypeError),
        ({"max_store_bytes": -1}, ConfigError),
    ],
)
async def test_store_open_refuses_settings(settings: dict[str, Any], kind: type[Exception], tmp_path: Path) -> None:
    cluster = StoreCluster(tmp_path, "a")
    for start in (Store.open, lambda config, **given: Store.join(config, _never, **given)):
        with pytest.raises(kind, match=next(iter(settings))):
            await start(cluster.config("a"), **settings)
    with pytest.raises(TypeError, match="Config"):
        await Store.open(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"cluster\.toml can't be read"):
        await Store.open(tmp_path / "cluster.toml")
    assert not (tmp_path / "a").exists()


async def _never(_: int) -> int:
    raise AssertionError("nobody is asked")


async def test_store_that_can_not_begin_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = StoreCluster(tmp_path, "a")
    monkeypatch.setattr(KvNode, "__init__", _breaks)
    with pytest.raises(RuntimeError, match="broken"):
        await Store.open(cluster.config("a"))
    monkeypatch.undo()
    await (await cluster.open("a")).close()


async def test_store_refuses_commands_that_a_member_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Levels, "machine_version", property(lambda _: 0))
    monkeypatch.setattr(Levels, "may_rise_to", lambda *_: False)
    async with one_store(tmp_path) as store:
        for call in (store.put("a", "1"), store.batch([PutOp(b"a", b"1")]), store.txn([Compare(b"a")])):
            with pytest.raises(Rejected) as caught:
                await call
            assert caught.value.code == "needs_upgrade"


async def test_store_call_that_is_cancelled_takes_nothing_with_it(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        with nothing_reported():
            calls: list[Awaitable[object]] = [store.put("a", "1"), store.get("a"), store.get("a", revision=9)]
            tasks = [asyncio.ensure_future(call) for call in calls]
            other = asyncio.ensure_future(store.get("a"))
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            await other
            await store.put("b", "1")


async def test_store_read_of_a_later_revision_waits_for_it(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        first = await store.put("a", "1")
        waiting = asyncio.ensure_future(store.get("a", revision=first.revision + 1))
        await store.get("a")
        assert not waiting.done()
        await store.put("a", "2")
        found = await waiting
        assert found is not None
        assert found.value == b"2"
        with pytest.raises(DeadlineExceeded) as caught:
            await store.get("a", revision=99, timeout=0.05)
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_store_watch_of_a_slow_reader_goes_on_from_the_history(tmp_path: Path) -> None:
    """It is cut off by the hub at a megabyte, and loses nothing."""
    async with one_store(tmp_path) as store:
        watching = store.watch(prefix="", from_revision=1)
        begun = asyncio.ensure_future(anext(aiter(watching)))
        await asyncio.sleep(0)
        await store.put("first", "1")
        seen: list[RevisionEvents] = [await begun]
        for _ in range(3):
            await asyncio.gather(*(store.put(f"k{at}", b"v" * 50_000) for at in range(12)))
        async for change in watching:
            seen.append(change)
            if len(seen) == 37:
                break
        assert [change.revision for change in seen] == list(range(1, 38))
        assert store._hub.cut_off == 1


async def test_store_counts_the_watches_that_include_a_key(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        assert await store.watchers("a/1") == Watchers(name=store.raft.config.name, watches=0)
        await store.put_many({"a/1": "", "b/1": ""})
        watches = [store.watch("a/1", from_revision=1)]
        watches += [store.watch(prefix=prefix, from_revision=1) for prefix in ("a/", "b/")]
        for watch in watches:
            await anext(watch)  # now it has begun
        assert [(await store.watchers(key)).watches for key in ("a/1", "a/2", "b/1", "c")] == [2, 1, 1, 0]
        with pytest.raises(ConfigError, match="empty"):
            await store.watchers("")
        for watch in watches:
            await cast("AsyncGenerator[RevisionEvents, None]", watch).aclose()
        assert (await store.watchers("a/1")).watches == 0


async def test_store_watch_of_a_compacted_revision_says_where_the_history_begins(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        for at in range(4):
            await store.put("a", str(at))
        await store.compact(3)
        with pytest.raises(RevisionCompacted) as caught:
            await anext(aiter(store.watch("a", from_revision=1)))
        assert caught.value.oldest == 3


async def test_store_session_write_takes_effect_once(tmp_path: Path) -> None:
    """The same key is proposed again after an unknown outcome; the recorded answer comes back."""
    async with one_store(tmp_path) as store:
        async with store.session() as once:
            lost: list[object] = []
            propose = once._embedded.node.propose_once

            def losing(command: bytes, key: Any, timeout_s: float, then: Any, **named: Any) -> None:
                if lost:
                    propose(command, key, timeout_s, then, **named)
                    return

                def unknown(*answer: object) -> None:
                    lost.append(answer)
                    then(None, DeadlineExceeded("the answer was lost"), False)

                propose(command, key, timeout_s, unknown, **named)

            once._embedded.node.propose_once = losing  # type: ignore[method-assign]
            assert await once.increment("n") == 1
            assert len(lost) == 1
        found = await store.get("n")
        assert found is not None
        assert found.value == b"1"


async def test_store_session_has_a_window_and_an_end(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        async with store.session() as once:
            with pytest.raises(UsageError):
                await once.session().__aenter__()
            puts = (once.put("a", str(at)) for at in range(1025))
            ends = await asyncio.gather(*puts, return_exceptions=True)
            assert [type(end) for end in ends if isinstance(end, BaseException)] == [LimitReached]
            results = await once.batch([PutOp(b"x", b"1"), GetOp(b"x"), PutOp(b"y", b"1", if_absent=True)])
            assert [isinstance(one, OperationError) or one.op for one in results] == ["put", "get", "put"]
        with pytest.raises(SessionExpired) as caught:
            await once.put("a", "1")
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_store_errors_are_one_for_each_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers may add notes to them; a node gives one error to all reads of a moment."""
    async with one_store(tmp_path) as store:
        future = ReadFuture(loop=asyncio.get_running_loop())
        monkeypatch.setattr(KvNode, "read_index", lambda *_: future)
        calls = [asyncio.ensure_future(store.get("a")) for _ in range(3)]
        await asyncio.sleep(0)
        future.set_exception(DeadlineExceeded("no quorum"))
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(error) for error in errors] == ["no quorum"] * 3
        assert {error.outcome for error in errors if isinstance(error, DeadlineExceeded)} == {Outcome.NOT_APPLIED}
        assert len({id(error) for error in errors}) == 3
