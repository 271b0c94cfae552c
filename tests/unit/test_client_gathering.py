"""Operations that are in flight together leave as one batch, and each has the answer that it has alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.client import AsyncClient, KeyValue
from syncline.errors import (
    ConfigError,
    DeadlineExceeded,
    LeaseLost,
    NoLeader,
    OperationError,
    Outcome,
    Rejected,
    Unreachable,
    UsageError,
)
from tests.helpers.http_server import DROP, HANG, HttpDouble, HttpRequest, Reply, error_reply, json_reply
from tests.helpers.site_server import SiteServer, site_in_thread

ID = "00000000000000a1"
OPENED = json_reply({"status": "success", "id": ID, "ttl_s": 60.0})
ENDED = json_reply({"status": "success", "ended": True})
PUT = json_reply({"status": "success", "revision": 1})

Call = Callable[[AsyncClient], Awaitable[object]]


@dataclass
class BatchServer:
    """Answers batches by a function of their number, and holds what it was asked until `open` is set."""

    answer: Callable[[int, HttpRequest], Reply | None] = lambda _number, _request: None
    batches: list[HttpRequest] = field(default_factory=list)
    others: list[HttpRequest] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: HttpRequest) -> Reply:
        if request.path.startswith("/session"):
            return OPENED if request.method == "POST" else ENDED
        if request.path != "/batch":
            self.others.append(request)
            return PUT
        self.batches.append(request)
        special = self.answer(len(self.batches), request)
        self.arrived.set()
        await self.open.wait()
        return special if special is not None else batch_reply(operations(request))


def operations(request: HttpRequest) -> list[dict[str, object]]:
    found = msgspec.msgpack.decode(request.body)["ops"]
    assert isinstance(found, list)
    return found


def batch_reply(ops: list[dict[str, object]]) -> Reply:
    results = [{"status": 200, "op": one["op"], "revision": at + 1, "found": False} for at, one in enumerate(ops)]
    fields = {"Content-Type": "application/msgpack", "Syncline-Revision": "9"}
    return Reply(200, msgspec.msgpack.encode({"results": results}), fields)


async def arrived(server: BatchServer, count: int) -> None:
    """Wait until so many batches have come."""
    while len(server.batches) < count:
        server.arrived.clear()
        await server.arrived.wait()


def gathered(kv: AsyncClient) -> AsyncClient:
    """The client as if requests were under way: what follows is gathered."""
    for gathering in (kv._gathered_reads, kv._gathered_writes):
        assert gathering is not None
        gathering.begin_alone()
    return kv


async def results_of(calls: list[Call], kv: AsyncClient) -> list[object]:
    return [shown(one) for one in await asyncio.gather(*(call(kv) for call in calls), return_exceptions=True)]


def shown(result: object) -> object:
    if isinstance(result, ConfigError):
        return type(result), str(result)
    if not isinstance(result, OperationError):
        return result
    details = result.details if isinstance(result, Rejected) else None
    return type(result), result.code, result.outcome, details


KEYS = st.sampled_from(["a", "b", "n", "x" * 100, "x" * 101, ""])
VALUES = st.sampled_from([b"", b"7", b"\xff", b"v" * 1000, b"v" * 1001])
CONDITIONS = st.sampled_from(
    [{}, {}, {"if_absent": True}, {"if_present": True}, {"if_revision": 0}, {"if_revision": 2}]
)
LIVES = st.sampled_from([{}, {}, {"ttl": 30.0}, {"lease": "0" * 15 + "7"}])
PUTS = st.builds(lambda k, v, c, life: lambda kv: kv.put(k, v, **c, **life), KEYS, VALUES, CONDITIONS, LIVES)
DELETES = st.builds(lambda k, c: lambda kv: kv.delete(k, **c), KEYS, st.sampled_from([{}, {"if_revision": 1}]))
SUMS = st.builds(lambda k, by: lambda kv: kv.increment(k, by), KEYS, st.sampled_from([1, -3, 2**63 - 1]))
WRITES = st.lists(PUTS | DELETES | SUMS, min_size=1, max_size=8)
READS = st.lists(st.builds(lambda k: lambda kv: kv.get(k), KEYS), min_size=1, max_size=8)


@settings(max_examples=10, deadline=None)
@given(rounds=st.lists(st.tuples(WRITES, READS), min_size=1, max_size=3))
def test_batched_client_has_the_results_of_the_unbatched_one(rounds: list[tuple[list[Call], list[Call]]]) -> None:
    async def main() -> None:
        async with (
            SiteServer() as site,
            SiteServer() as other,
            AsyncClient(site.url) as batched,
            AsyncClient(other.url, batching=False) as plain,
        ):
            gathered(batched)
            for group in [calls for pair in rounds for calls in pair]:
                expected = [one for call in group for one in await results_of([call], plain)]
                assert [unleased(one) for one in await results_of(group, batched)] == list(map(unleased, expected))

    asyncio.run(main())


def unleased(result: object) -> object:
    """A result without the id of a lease, which each server draws."""
    if getattr(result, "lease", ""):
        return msgspec.structs.replace(result, lease="drawn")  # type: ignore[type-var]
    return result


async def test_gathering_sends_a_lone_operation_alone() -> None:
    server = BatchServer()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        for _ in range(3):
            await kv.put("a", "1")
    assert (len(server.others), server.batches) == (3, [])


async def test_gathering_sends_what_is_in_flight_together_as_one_batch() -> None:
    server = BatchServer()
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        await asyncio.gather(*(kv.put(f"k{number}", "v") for number in range(10)))
        await asyncio.gather(*(kv.get(f"k{number}") for number in range(10)))
    writes, reads = server.batches
    assert [one["key"] for one in operations(writes)] == [b"k%d" % number for number in range(10)]
    assert {one["op"] for one in operations(reads)} == {"get"}
    assert writes.headers["idempotency-key"] == f"{ID}/1"
    assert "idempotency-key" not in reads.headers


async def test_gathering_bounds_the_bytes_of_a_batch() -> None:
    server = BatchServer()
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        await asyncio.gather(*(kv.put(f"k{number}", bytes(60_000)) for number in range(40)), kv.put("b", bytes(70_000)))
    assert all(len(request.body) < 1_100_000 for request in server.batches)
    assert sum(len(operations(request)) for request in server.batches) == 40
    assert [request.path for request in server.others] == ["/key/b"]


@pytest.mark.parametrize("lost", [DROP, error_reply(504, "deadline_exceeded", "unknown"), error_reply(503, "closed")])
async def test_gathering_sends_a_batch_in_doubt_again_as_it_was(lost: Reply) -> None:
    server = BatchServer(lambda number, _: lost if number == 1 else None)
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        await asyncio.gather(*(kv.put(f"k{number}", "v") for number in range(3)))
    first, second = server.batches
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


async def test_gathering_keeps_a_batch_in_doubt_though_a_caller_is_gone() -> None:
    """It has a key, and another batch with this key would be a mismatch."""
    server = BatchServer(lambda number, _: DROP if number == 1 else None)
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        tasks = [asyncio.create_task(kv.put(f"k{number}", "v")) for number in range(3)]
        await server.arrived.wait()
        tasks[1].cancel()
        server.open.set()
        await asyncio.gather(tasks[0], tasks[2])
    first, second = server.batches
    assert first.body == second.body


async def test_gathering_keeps_the_deadline_of_each_operation() -> None:
    """The short one is in doubt: its batch is under way. The long one has its answer."""
    server = BatchServer()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        long = asyncio.create_task(kv.put("long", "v"))
        with pytest.raises(DeadlineExceeded) as lapsed:
            await kv.put("short", "v", timeout=0.1)
        server.open.set()
        await long
        server.open.clear()
        with pytest.raises(DeadlineExceeded) as read:
            await kv.get("short", timeout=0.1)
        server.open.set()
    assert lapsed.value.outcome is Outcome.UNKNOWN
    assert read.value.outcome is Outcome.NOT_APPLIED


async def test_gathering_takes_an_operation_out_of_a_batch_that_is_refused() -> None:
    """Its time is over, and no attempt had an effect: it is never sent again, and that is what the caller is told."""
    refused = error_reply(503, "no_leader")
    server = BatchServer(lambda number, _: refused if number < 6 else None)
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        long = asyncio.create_task(kv.put("long", "v"))
        with pytest.raises((NoLeader, DeadlineExceeded)) as lapsed:
            await kv.put("short", "v", timeout=0.3)
        await long
    assert lapsed.value.outcome is Outcome.NOT_APPLIED
    assert [one["key"] for one in operations(server.batches[-1])] == [b"long"]


async def test_gathering_leaves_the_others_alone_if_a_caller_is_cancelled() -> None:
    server = BatchServer()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        tasks = [asyncio.create_task(kv.put(f"k{number}", "v")) for number in range(3)]
        await server.arrived.wait()
        tasks[1].cancel()
        server.open.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[1], asyncio.CancelledError)
    assert len(server.batches) == 1
    assert [one for one in done if isinstance(one, BaseException)] == [done[1]]


async def test_gathering_gives_each_caller_an_error_of_its_own() -> None:
    server = BatchServer(lambda _number, _request: error_reply(507, "no_space"))
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        errors = await asyncio.gather(*(kv.put(f"k{n}", "v") for n in range(3)), return_exceptions=True)
    assert len({id(one) for one in errors}) == 3
    assert {getattr(one, "code", "") for one in errors} == {"no_space"}


async def test_gathering_sends_alone_what_an_older_server_takes_in_no_batch() -> None:
    server = BatchServer(lambda _number, _request: error_reply(400, "bad_request"))
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        await asyncio.gather(*(kv.put(f"k{number}", "v") for number in range(3)))
        await asyncio.gather(*(kv.put(f"k{number}", "v") for number in range(3)))
    assert (len(server.batches), len(server.others)) == (1, 6)


async def test_gathering_splits_reads_by_the_size_of_their_answers() -> None:
    async with SiteServer(max_value_bytes=300_000) as site, AsyncClient(site.url) as kv:
        values = {f"k{number}": bytes([number]) * 200_000 for number in range(12)}
        for key, value in values.items():
            await kv.put(key, value)
        gathered(kv)
        for _ in range(2):
            found = await asyncio.gather(*map(kv.get, values))
            assert [one.value for one in found if isinstance(one, KeyValue)] == list(values.values())
        assert kv._gathered_reads is not None
        assert kv._gathered_reads._most() == 5


async def test_gathering_sends_other_consistencies_alone() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        await kv.put("a", "1")
        gathered(kv)
        one, two, three = await asyncio.gather(
            kv.get("a", consistency="stale"), kv.get("a", revision=1), kv.get("a", consistency="linearizable")
        )
        assert one == two == three


async def test_closed_client_fails_what_is_under_way_and_takes_no_calls() -> None:
    server = BatchServer(lambda _number, _request: HANG)
    server.open.set()
    async with HttpDouble(server) as double:
        kv = AsyncClient(double.url)
        gathered(kv)
        tasks = [asyncio.create_task(kv.put(f"k{number}", "v")) for number in range(3)]
        await server.arrived.wait()
        await kv.close()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert {(type(one), getattr(one, "outcome", None)) for one in errors} == {(Unreachable, Outcome.UNKNOWN)}
        for call in (kv.put("a", "1"), kv.get("a"), kv.increment("n"), kv.members()):
            with pytest.raises(UsageError, match="closed"):
                await call


async def test_closed_client_ends_a_held_lease_and_its_block_says_so() -> None:
    """Nothing keeps it alive any more, and its keys must not stay for its time."""
    async with SiteServer() as site:
        kv = AsyncClient(site.url)
        with pytest.raises(LeaseLost, match="the client was closed"):
            async with kv.lease(30) as held:
                await kv.close()
        assert int(held.id, 16) not in site.backend.store.leases


def test_client_in_use_on_another_loop_is_refused() -> None:
    async def use(kv: AsyncClient) -> None:
        await asyncio.gather(*(kv.put(f"k{number}", "v") for number in range(3)))

    async def elsewhere(kv: AsyncClient) -> None:
        with pytest.raises(UsageError, match="one event loop"):
            await kv.put("a", "1")
        with pytest.raises(UsageError, match="one event loop"):
            await gathered(kv).get("a")

    async def main() -> None:
        server = BatchServer()
        server.open.set()
        async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
            await use(kv)
            await asyncio.to_thread(asyncio.run, elsewhere(kv))

    asyncio.run(main())


def test_client_goes_on_with_another_loop_when_the_first_is_closed() -> None:
    async def use(kv: AsyncClient) -> None:
        await asyncio.gather(*(kv.put(f"k{number}", "v") for number in range(5)))
        found = await asyncio.gather(*(kv.get(f"k{number}") for number in range(5)))
        assert all(one is not None for one in found)
        await kv._set.close()  # only so that no socket of the closed loop is left

    with site_in_thread() as site:
        kv = AsyncClient(site.url)
        for _ in range(2):
            asyncio.run(use(kv))


@pytest.mark.parametrize("operation", [lambda kv: kv.get("a"), lambda kv: kv.put("a", "1")])
async def test_gathering_passes_on_an_error_of_the_callers_own_function(operation: Call) -> None:
    """`on_retry` is the caller's. What it raises reaches those that wait: they would wait for ever."""

    def fail(_: OperationError) -> None:
        raise ZeroDivisionError

    server = BatchServer(lambda _number, _request: error_reply(503, "no_leader"))
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url, on_retry=fail) as kv:
        gathered(kv)
        calls = [asyncio.ensure_future(operation(kv)) for _ in range(3)]
        done, waiting = await asyncio.wait(calls, timeout=5.0)
        assert not waiting
        assert [type(call.exception()) for call in done] == [ZeroDivisionError] * 3


async def test_gathering_sends_nothing_for_callers_that_are_all_gone() -> None:
    """A batch without operations would be refused, and nothing be gathered for a while."""
    server = BatchServer(lambda number, _request: error_reply(503, "no_leader") if number == 1 else None)
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        calls = [asyncio.ensure_future(kv.get(f"k{number}")) for number in range(3)]
        await asyncio.wait_for(server.arrived.wait(), 5.0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert kv._gathered_reads is not None
        await asyncio.wait(kv._gathered_reads._batches.values(), timeout=5.0)
        assert [len(operations(request)) for request in server.batches] == [3]
        await asyncio.gather(kv.get("a"), kv.get("b"))
        assert len(server.batches) == 2


GARBAGE = [
    b"",
    b"\xff" * 100,
    b"\x81\xa7results\xc0",
    msgspec.msgpack.encode({"results": [{"status": "yes"}] * 2}),
    msgspec.msgpack.encode({"results": [{"status": 200}]}),
    msgspec.msgpack.encode({"results": [{"status": 409, "error": {"code": 7}}] * 2}),
    msgspec.msgpack.encode({"results": [{"status": 409, "error": {"code": "x" * 10**5, "message": "\x00"}}] * 2}),
    msgspec.msgpack.encode({"results": [{"status": -1, "value": "text", "found": True, "op": "get"}] * 2}),
    msgspec.msgpack.encode({"results": [{"status": 200, "value": 7, "found": True, "op": "get"}] * 2}),
    b"\x81\xa7results\x92" + b"\x91" * 100_000,
]


@pytest.mark.parametrize("body", GARBAGE)
@pytest.mark.parametrize(
    "operation", [lambda kv: kv.get("a"), lambda kv: kv.put("a", "1"), lambda kv: kv.increment("a")]
)
async def test_gathering_answer_of_a_broken_server_is_an_error(operation: Call, body: bytes) -> None:
    def answer(_number: int, _request: HttpRequest) -> Reply:
        return Reply(200, body, {"Content-Type": "application/msgpack", "Syncline-Revision": "9"})

    server = BatchServer(answer)
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url, timeout=0.3) as kv:
        gathered(kv)
        calls = [asyncio.ensure_future(operation(kv)) for _ in range(2)]
        _, waiting = await asyncio.wait(calls, timeout=5.0)
        assert not waiting
        for call in calls:
            error = call.exception()
            assert error is None or isinstance(error, OperationError), repr(error)


async def test_gathering_counts_what_left_alone_before_the_first_batch() -> None:
    """A wrong count would let every second operation leave alone for as long as the client lives."""
    server = BatchServer()
    server.open.set()
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        await asyncio.gather(*(kv.get(f"k{number}") for number in range(3)))
        assert kv._gathered_reads is not None
        assert kv._gathered_reads._alone == 0
        first = asyncio.ensure_future(kv.get("a"))
        await asyncio.sleep(0)
        assert kv._gathered_reads.busy
        await first
        assert not kv._gathered_reads.busy


async def test_gathering_brings_the_tasks_of_several_groups_together() -> None:
    """The first operation leaves alone, and the others as a batch. If these groups stayed apart, each round would cost
    the cluster two batches."""
    server = BatchServer()
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:

        async def task(number: int) -> None:
            for _ in range(50):
                await kv.put(f"k{number}", "v")

        await asyncio.gather(*(task(number) for number in range(8)))
    sizes = [len(operations(request)) for request in server.batches]
    assert sizes.count(8) > len(sizes) / 2, sizes


async def test_gathering_holds_a_few_operations_back_for_an_answer() -> None:
    """And not for ever: this answer does not come."""
    server = BatchServer()
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        await kv.put("a", "1")
        assert kv._gathered_writes is not None
        server.open.clear()
        hanging = asyncio.create_task(kv.put("b", "2"))
        await arrived(server, 2)
        kv._gathered_writes._round_s = 10.0
        for batch in kv._gathered_writes._batches:
            batch.began_s -= 6.0  # half of a round is over
        held = asyncio.create_task(kv.put("c", "3"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert kv._gathered_writes._held is not None
        await arrived(server, 3)
        server.open.set()
        await asyncio.gather(hanging, held)
    assert [[one["key"] for one in operations(request)] for request in server.batches] == [[b"a"], [b"b"], [b"c"]]


async def test_gathering_leaves_at_once_in_the_first_half_of_a_round() -> None:
    server = BatchServer()
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:
        gathered(kv)
        await kv.put("a", "1")
        assert kv._gathered_writes is not None
        server.open.clear()
        kv._gathered_writes._round_s = 3600.0
        tasks = [asyncio.create_task(kv.put("b", "2"))]
        await arrived(server, 2)
        tasks.append(asyncio.create_task(kv.put("c", "3")))
        await arrived(server, 3)
        assert kv._gathered_writes._held is None
        server.open.set()
        await asyncio.gather(*tasks)


async def test_gathering_sends_the_writes_of_64_tasks_together() -> None:
    """One entry of the log and not three. More tasks have several batches under way."""
    server = BatchServer()
    server.open.set()
    async with HttpDouble(server) as double, AsyncClient(double.url) as kv:

        async def task(number: int) -> None:
            for _ in range(30):
                await kv.put(f"k{number}", "v")

        await asyncio.gather(*(task(number) for number in range(64)))
        few = len(server.batches)
        await asyncio.gather(*(task(number) for number in range(150)))
    sizes = [len(operations(request)) for request in server.batches]
    assert sizes[:few].count(64) > few / 2, sizes
    assert max(sizes) < 150
