"""Batches, counters, compaction, past revisions and transactions of `AsyncClient`, on the real routes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from syncline.client import (
    AsyncClient,
    Compare,
    DeleteOp,
    DeletePrefixOp,
    DeleteRangeOp,
    GetOp,
    IncrementOp,
    ListOp,
    Operation,
    OperationResult,
    PutOp,
    TouchOp,
    TxnOp,
)
from syncline.errors import (
    ConfigError,
    LimitReached,
    NoLeader,
    OperationError,
    Outcome,
    Rejected,
    RequestFailed,
    TooLarge,
)
from syncline.kv.commands import LeaseGrant, encode_command
from tests.helpers.http_server import DROP, HttpDouble, Reply, json_reply, scripted
from tests.helpers.site_server import SiteServer


def odd(kind: Any, *fields: Any, **named: Any) -> object:
    """An operation with fields of any types."""
    return kind(*fields, **named)


def done(result: OperationResult | OperationError) -> OperationResult:
    assert isinstance(result, OperationResult), result
    return result


async def test_batch_results_stand_in_order_with_errors_among_them() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        results = await kv.batch(
            [
                PutOp(b"\xff", b"\xfe"),
                PutOp(b"a", b"1", if_absent=True, previous=True),
                PutOp(b"a", b"2", if_absent=True),
                PutOp(b"a", b"3", if_revision=2, previous=True),
                DeleteOp(b"a", if_revision=1),
                GetOp(b"\xff"),
                GetOp(b"nothing"),
                GetOp(b"a", revision=2),
                IncrementOp(b"n", 5, initial=37),
                PutOp(b"x" * 101, b""),
                PutOp(b"x", b"y" * 1001),
                TouchOp(b"nothing", 5.0),
                ListOp(b"", values=True, limit=2),
                TxnOp((Compare(b"a", number=3),), (DeleteRangeOp(b"a", b"b", previous=True),), (GetOp(b"a"),)),
                DeletePrefixOp(b"n"),
            ]
        )
        first, fresh, refused, replaced, unmatched, got, nothing, past, counted = results[:9]
        long_key, long_value, untouched, listed, ran, cleared = results[9:]
        assert (done(first).revision, done(fresh).created, done(fresh).previous) == (1, True, ())
        for error, revision in ((refused, 2), (unmatched, 3)):
            assert isinstance(error, Rejected)
            assert (error.code, error.details["revision"]) == ("precondition_failed", revision)
        assert [(item.value, item.mod_revision) for item in done(replaced).previous] == [(b"1", 2)]
        assert (done(got).key, done(got).value, done(got).mod_revision) == (b"\xff", b"\xfe", 1)
        assert (done(nothing).found, done(past).value, done(counted).number) == (False, b"1", 42)
        assert isinstance(long_key, TooLarge)
        assert isinstance(long_value, TooLarge)
        assert isinstance(untouched, OperationError)
        assert (untouched.code, untouched.outcome) == ("not_found", Outcome.NOT_APPLIED)
        assert [(item.key, item.value) for item in done(listed).items] == [(b"a", b"3"), (b"n", b"42")]
        assert (done(listed).count, done(listed).more) == (3, True)
        (inner,) = done(ran).results
        assert (done(ran).succeeded, inner.deleted, inner.previous[0].value) == (True, 1, b"3")
        assert done(cleared).deleted == 1


async def test_batch_of_nothing_is_answered() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        assert await kv.batch([]) == []


async def test_batch_that_the_cluster_refuses_raises() -> None:
    async with SiteServer() as site, AsyncClient(site.url, timeout=0.3) as kv:
        site.backend.propose_error = NoLeader("no leader")
        with pytest.raises(NoLeader):
            await kv.batch([PutOp(b"a", b"")])
        with pytest.raises(TooLarge, match="1001 operations"):
            await kv.batch([GetOp(b"a")] * 1001)


@pytest.mark.parametrize(
    "operation",
    [
        odd(PutOp, 1, b""),
        odd(PutOp, b"a", None),
        odd(PutOp, b"a", b"", lease=1.5),
        odd(PutOp, b"a", b"", ttl="5s"),
        odd(PutOp, b"a", b"", previous=1),
        odd(PutOp, b"a", b"", if_absent="yes"),
        odd(PutOp, b"a", b"", if_revision="1"),
        odd(DeleteOp, None),
        odd(DeleteOp, b"a", previous=None),
        odd(DeletePrefixOp, 7),
        odd(DeletePrefixOp, b"", limit="1"),
        odd(DeleteRangeOp, 1),
        odd(DeleteRangeOp, b"a", 2),
        odd(GetOp, b"a", revision="1"),
        odd(GetOp, b"a", revision=True),
        odd(ListOp, prefix=1),
        odd(ListOp, b"", values=1),
        odd(ListOp, b"", limit=1.0),
        odd(IncrementOp, b"a", by="1"),
        odd(IncrementOp, b"a", initial=1.0),
        odd(TouchOp, b"a", "5s"),
        odd(TxnOp, then=(b"a",)),
        odd(TxnOp, compare=(b"a",)),
        odd(TxnOp, (odd(Compare, 1),)),
        odd(TxnOp, (odd(Compare, b"a", number="1"),)),
        odd(TxnOp, (odd(Compare, b"a", value=1),)),
        odd(TxnOp, (odd(Compare, b"a", prefix=1),)),
        odd(TxnOp, (odd(Compare, b"a", op=1),)),
        "put",
        None,
        b"a",
    ],
)
async def test_batch_operation_of_a_wrong_type_is_refused_unsent(operation: object) -> None:
    async with (
        HttpDouble(scripted(Reply(500))) as double,
        AsyncClient(double.url, retry_writes=False, batching=False) as kv,
    ):
        with pytest.raises(TypeError):
            await kv.batch([operation])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            await kv.txn(then=[operation])  # type: ignore[list-item]
        assert double.requests == []


@pytest.mark.parametrize(
    "operation",
    [
        PutOp(b"a", b"", lease="7"),
        PutOp(b"a", b"", lease=-1),
        PutOp(b"a", b"", lease=2**63),
        PutOp(b"a", b"", ttl=0),
        PutOp(b"a", b"", if_absent=True, if_present=True),
        PutOp(b"a", b"", if_revision=-1),
        DeleteOp(b"a", if_revision=1, if_present=True),
        DeletePrefixOp(b"", limit=-1),
        GetOp(b"a", revision=-1),
        ListOp(b"", start=b"a"),
        ListOp(b"", end=b"a"),
        ListOp(b"", limit=2**63),
        IncrementOp(b"a", 2**63),
        TouchOp(b"a", float("nan")),
        TxnOp((Compare(b"a", end=b"b", prefix=True),)),
        TxnOp((Compare(b"a", value=b"", lease=0),)),
        TxnOp((Compare(b"a", number=2**64),)),
        TxnOp(then=(PutOp(b"a", b"", if_absent=True),)),
    ],
)
async def test_batch_operation_that_can_not_be_is_refused_unsent(operation: object) -> None:
    async with (
        HttpDouble(scripted(Reply(500))) as double,
        AsyncClient(double.url, retry_writes=False, batching=False) as kv,
    ):
        with pytest.raises(ConfigError):
            await kv.batch([operation])  # type: ignore[list-item]
        assert double.requests == []


@pytest.mark.parametrize("body", [b"", b"{}", b"\x80", b"\x81\xa7results\x90", b"\x81\xa7results\x91\x80", b"\xc1"])
async def test_batch_answer_that_can_not_be_read_is_unknown(body: bytes) -> None:
    async with (
        HttpDouble(scripted(Reply(200, body))) as double,
        AsyncClient(double.url, retry_writes=False, batching=False, timeout=0.5) as kv,
    ):
        with pytest.raises(RequestFailed) as failed:
            await kv.batch([PutOp(b"a", b"")])
        assert (failed.value.code, failed.value.outcome) == ("bad_answer", Outcome.UNKNOWN)


async def test_txn_compares_leases_and_ranges_and_gives_previous_values() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        site.backend.propose(encode_command(LeaseGrant(7, 60_000)), 1.0, lambda _, error: None)
        await kv.txn(then=[PutOp(b"a1", b"1", lease=7), PutOp(b"a2", b"2")])
        compares = [
            Compare(b"a1", lease=f"{7:016x}"),
            Compare(b"a2", lease=0),
            Compare(b"a", "version", number=1, prefix=True),
            Compare(b"a1", op="!=", value=b"x", end=b"a3"),
        ]
        then: list[Operation] = [
            PutOp(b"a1", b"3", ttl=30.0, previous=True),
            DeleteOp(b"a2", previous=True),
            IncrementOp(b"n", 2),
        ]
        result = await kv.txn(compares, then, [GetOp(b"a1")])
        assert result.succeeded
        put, deleted, counted = result.results
        assert (put.lease, put.previous[0].value, put.previous[0].lease) == (f"{1:016x}", b"1", 7)
        assert (deleted.deleted, deleted.previous[0].value, counted.number) == (1, b"2", 2)
        else_: list[Operation] = [ListOp(start=b"a", end=b"b"), GetOp(b"a2", revision=1)]
        failed = await kv.txn([Compare(b"n", value=b"3")], [], else_)
        assert not failed.succeeded
        listed, past = failed.results
        assert [item.key for item in listed.items] == [b"a1"]
        assert past.value == b"2"


async def test_increment_returns_the_sum() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        assert [await kv.increment("n"), await kv.increment(b"n", -3), await kv.increment("m", initial=9)] == [
            1,
            -2,
            10,
        ]
        await kv.put("t", "text")
        with pytest.raises(Rejected) as refused:
            await kv.increment("t")
        assert refused.value.code == "not_a_number"


async def test_get_at_a_revision_is_as_it_was() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        await kv.put("k", "old")
        await kv.delete("k")
        past = await kv.get("k", revision=1)
        assert past is not None
        assert (past.value, past.mod_revision, past.revision) == (b"old", 1, 2)
        assert await kv.get("k", revision=2) is None
        assert (await kv.compact(2)).oldest == 2
        for call in (kv.get("k", revision=1), kv.list(revision=1), kv.count(revision=1)):
            with pytest.raises(Rejected) as refused:
                await call
            assert (refused.value.code, refused.value.details["oldest"]) == ("compacted", 2)
        with pytest.raises(Rejected, match="revision") as refused:
            await kv.compact(9)
        assert refused.value.code == "future_revision"


@pytest.mark.parametrize("revision", [0, -1, True, "1", 1.0])
async def test_past_revision_that_is_none_is_refused_unsent(revision: object) -> None:
    async with (
        HttpDouble(scripted(Reply(500))) as double,
        AsyncClient(double.url, retry_writes=False, batching=False) as kv,
    ):
        for call in (kv.get("k", revision=revision), kv.list(revision=revision), kv.compact(revision)):  # type: ignore[arg-type]
            with pytest.raises((TypeError, ConfigError)):
                await call
        assert double.requests == []


async def test_scan_shows_one_revision_while_writes_go_on() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        await kv.batch([PutOp(f"k{number}".encode(), b"v") for number in range(9)])
        seen = []
        async for item in kv.scan("k", page=2, values=True):
            seen.append((item.key, item.value))
            await kv.delete(f"k{8 - len(seen)}")
            await kv.put(f"k{len(seen)}x", "late")
        assert seen == [(f"k{number}".encode(), b"v") for number in range(9)]
        assert [item.key async for item in kv.scan("k", page=2, revision=9)] == [key for key, _ in seen]


async def test_scan_whose_revision_is_compacted_ends_with_the_error() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        await kv.batch([PutOp(f"k{number}".encode(), b"v") for number in range(5)])
        scan = kv.scan("k", page=2)
        assert (await anext(scan)).key == b"k0"
        await kv.put("k0", "w")
        await kv.compact(6)
        with pytest.raises(Rejected, match="compact"):
            _ = [item async for item in scan]
        again = kv.scan("k", page=2, consistent=False)
        first = await anext(again)
        await kv.put("k0", "x")
        await kv.compact(7)
        assert [first.key, *[item.key async for item in again]] == [f"k{number}".encode() for number in range(5)]


async def test_batch_of_a_session_gives_each_write_a_key_of_its_own() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        async with kv.session() as once:
            first = await once.batch(
                [IncrementOp(b"n"), GetOp(b"n"), PutOp(b"a", b"1"), ListOp(b""), DeletePrefixOp(b"x")]
            )
            await once.put("b", "2")
            again = await once.batch([TxnOp(then=(IncrementOp(b"n"),)), TouchOp(b"a", 5.0), DeleteOp(b"b")])
            assert await once.batch([GetOp(b"a")]) != []
        assert all(isinstance(one, OperationResult) for one in [*first, *again])
        assert [key.sequence for key in site.backend.keys] == [1, 2, 3, 4, 5, 6, 7]
        assert len({key.session for key in site.backend.keys}) == 1


async def test_batch_of_a_session_is_sent_again_with_the_same_keys() -> None:
    """The answer of the first attempt is lost: the second one must be the same to the byte."""
    answer = msgspec.msgpack.encode({"results": [{"status": 200, "op": "increment", "value": 1, "revision": 1}]})
    session = json_reply({"id": f"{1:016x}", "ttl_s": 60.0})
    ended = json_reply({"status": "success", "ended": True})
    async with (
        HttpDouble(scripted(session, DROP, Reply(200, answer), ended)) as double,
        AsyncClient(double.url, retry_writes=False, batching=False, timeout=5.0) as kv,
        kv.session() as once,
    ):
        (result,) = await once.batch([IncrementOp(b"n")])
        assert done(result).number == 1
        attempts = [request.body for request in double.requests if request.path == "/batch"]
        assert len(attempts) == 2
        assert attempts[0] == attempts[1]
        (operation,) = msgspec.msgpack.decode(attempts[0])["ops"]
        assert (operation["session"], operation["sequence"]) == (f"{1:016x}", 1)


async def test_batch_of_a_session_has_the_limit_of_its_window() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv, kv.session() as once:
        with pytest.raises(LimitReached):
            await once.batch([IncrementOp(b"n")] * 1025)
        assert site.backend.keys == []
