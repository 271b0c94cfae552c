"""`Store` answers as `AsyncClient` does: the same random operations on both, and results and errors are compared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from syncline import Store
from syncline.client import (
    AsyncClient,
    Compare,
    DeleteOp,
    DeletePrefixOp,
    DeleteRangeOp,
    GetOp,
    IncrementOp,
    ListOp,
    PutOp,
    TouchOp,
    TxnOp,
)
from syncline.errors import Rejected, SynclineError
from tests.helpers.site_server import SiteServer
from tests.helpers.store_node import StoreCluster

KEY_LIMIT: Final = 100
VALUE_LIMIT: Final = 1000
"""Of the server; the store gets the same."""

FIRST_LEASE: Final = 10_000
"""Ids of leases that the operations name; those that are drawn are below or far above it."""
LAST_LEASE: Final = FIRST_LEASE + 4

KEYS: Final = st.sampled_from([b"a", b"b", b"ab", b"b/c", b"\xff\x00", "é".encode(), b"", b"k" * 101, b"base64:x"])
VALUES: Final = st.sampled_from([b"", b"1", b"-7", b"x" * 9, b"\xfe", b"9223372036854775807", b"v" * 1001])
PREFIXES: Final = st.sampled_from([b"", b"a", b"b", b"\xff", b"zz", b"k" * 102])
TTLS: Final = st.sampled_from([1000.0, 5000.5, 1.0, 0.0, 1e12])
LEASES: Final = st.sampled_from([FIRST_LEASE, FIRST_LEASE + 1, LAST_LEASE, 0, 2**63 - 1, 2**63])
BACK: Final = st.integers(0, 30)
"""How many revisions before the present one."""
COUNTS: Final = st.sampled_from([0, 1, 2, 5, 1000])
FLAGS: Final = st.booleans()
NUMBERS: Final = st.sampled_from([0, 1, -3, 2**62, 2**63 - 1, 2**63, -1])

COMPARES: Final = st.one_of(
    st.builds(
        Compare,
        key=KEYS,
        target=st.sampled_from(["mod_revision", "create_revision", "version", "value", "other"]),
        op=st.sampled_from(["==", "!=", "<", ">", "="]),
        number=NUMBERS,
        end=st.none() | KEYS,
    ),
    st.builds(Compare, key=KEYS, op=st.sampled_from(["==", "!=", "<"]), value=VALUES),
    st.builds(Compare, key=PREFIXES, lease=LEASES, prefix=FLAGS),
)

SIMPLE: Final = st.one_of(
    st.builds(PutOp, key=KEYS, value=VALUES, previous=FLAGS),
    st.builds(PutOp, key=KEYS, value=VALUES, lease=st.none() | LEASES, ttl=st.none() | TTLS),
    st.builds(DeleteOp, key=KEYS, previous=FLAGS),
    st.builds(DeletePrefixOp, prefix=PREFIXES, limit=COUNTS, previous=FLAGS),
    st.builds(DeleteRangeOp, start=KEYS, end=st.none() | KEYS, limit=COUNTS, previous=FLAGS),
    st.builds(GetOp, key=KEYS, revision=COUNTS),
    st.builds(ListOp, prefix=PREFIXES, limit=COUNTS, values=FLAGS, reverse=FLAGS, revision=COUNTS),
    st.builds(ListOp, start=st.none() | KEYS, end=st.none() | KEYS, values=FLAGS),
    st.builds(IncrementOp, key=KEYS, by=NUMBERS, initial=NUMBERS, previous=FLAGS),
    st.builds(TouchOp, key=KEYS, ttl=TTLS),
)
SOME: Final = st.lists(SIMPLE, max_size=3).map(tuple)
TXNS: Final = st.builds(TxnOp, compare=st.lists(COMPARES, max_size=2).map(tuple), then=SOME, else_=SOME)
CONDITIONAL: Final = st.one_of(
    st.builds(PutOp, key=KEYS, value=VALUES, if_revision=COUNTS),
    st.builds(PutOp, key=KEYS, value=VALUES, if_absent=FLAGS, if_present=FLAGS),
    st.builds(DeleteOp, key=KEYS, if_revision=st.none() | COUNTS, if_present=FLAGS),
)

Calls = AsyncClient | Store
Call = Callable[[Calls, int], Awaitable[object]]
"""One call, given the present revision."""


def named(name: str, *arguments: Any, **named_arguments: Any) -> Call:
    return lambda kv, _: getattr(kv, name)(*arguments, **named_arguments)


def past(name: str, back: int | None, *arguments: Any, **named_arguments: Any) -> Call:
    """A call with a revision: so many before the present one. None: without one."""

    def call(kv: Calls, revision: int) -> Awaitable[object]:
        asked = None if back is None else max(1, revision - back)
        found: Awaitable[object] = getattr(kv, name)(*arguments, revision=asked, **named_arguments)
        return found

    return call


def scan(prefix: bytes, page: int, values: bool) -> Call:
    async def call(kv: Calls, _: int) -> object:
        return [item async for item in kv.scan(prefix, page=page, values=values)]

    return call


def longer(value: bytes | None) -> bytes:
    return (value or b"")[:9] + b"!"


def in_session(*operations: Any) -> Call:
    async def call(kv: Calls, _: int) -> object:
        async with kv.session() as once:
            return [await outcome(once.put(b"s", b"1")), await outcome(once.batch(list(operations)))]

    return call


LEVELS: Final = st.sampled_from([None, "linearizable", "leader", "stale", "strong"])

CALLS: Final = st.one_of(
    st.builds(named, st.just("put"), KEYS, VALUES),
    st.builds(named, st.just("put"), KEYS, VALUES, if_revision=COUNTS, if_absent=FLAGS),
    st.builds(named, st.just("put"), KEYS, VALUES, ttl=st.none() | TTLS, lease=st.none() | LEASES),
    st.builds(named, st.just("delete"), KEYS, if_revision=st.none() | COUNTS),
    st.builds(past, st.just("get"), st.none() | BACK, KEYS, consistency=LEVELS),
    st.builds(named, st.just("get"), KEYS, consistency=LEVELS, max_stale_s=st.sampled_from([None, 60.0, 1e6, -1])),
    st.builds(
        past,
        st.just("list"),
        st.none() | BACK,
        PREFIXES,
        after=st.sampled_from([None, "", "a", "base64:_wA", "base64:abcde"]),
        limit=st.sampled_from([0, 1, 2, 1000, 10_001]),
        values=FLAGS,
        reverse=FLAGS,
    ),
    st.builds(past, st.just("count"), st.none() | BACK, PREFIXES),
    st.builds(scan, PREFIXES, st.sampled_from([1, 2, 1000]), FLAGS),
    st.builds(lambda txn: named("txn", txn.compare, txn.then, txn.else_), TXNS),
    st.builds(lambda ops: named("batch", ops), st.lists(SIMPLE | CONDITIONAL | TXNS, max_size=4)),
    st.builds(lambda ops: in_session(*ops), st.lists(SIMPLE | CONDITIONAL | TXNS, max_size=3)),
    st.builds(named, st.just("increment"), KEYS, NUMBERS, initial=NUMBERS),
    st.builds(lambda back: lambda kv, revision: kv.compact(max(1, revision - back)), st.integers(-1, 40)),
    st.builds(named, st.just("touch"), KEYS, TTLS),
    st.builds(lambda ttl, lease: named("grant_lease", ttl, lease=lease), TTLS, LEASES),
    st.builds(named, st.just("revoke_lease"), LEASES),
    st.builds(named, st.just("keep_alive"), st.lists(LEASES, max_size=3)),
    st.builds(named, st.just("lease_details"), LEASES),
    st.builds(named, st.just("leases")),
    st.builds(named, st.just("get_many"), st.lists(KEYS, max_size=4)),
    st.builds(named, st.just("put_many"), st.dictionaries(KEYS, VALUES, max_size=3), ttl=st.none() | TTLS),
    st.builds(named, st.just("update"), KEYS, st.sampled_from([longer, lambda _: None, lambda _: 5])),
    st.builds(named, st.just("put_json"), KEYS, st.sampled_from([{"a": 1}, None, object]), if_absent=FLAGS),
    st.builds(named, st.just("get_json"), KEYS, type=st.sampled_from([None, int])),
)


FILLED: Final = named("put_many", {b"a": b"1", b"ab": b"7", b"b": b"x", b"b/c": b"", b"\xff\x00": b"\xfe"})
"""First in each example, so that there is something to find and to delete."""


EACH_KIND: Final = [
    DeletePrefixOp(b"", limit=1, previous=True),
    DeleteRangeOp(b"a", limit=1),
    ListOp(prefix=b"", limit=1, values=True),
    PutOp(b"c", b"5", previous=True),
    IncrementOp(b"c", previous=True),
    DeleteOp(b"c", previous=True),
    TouchOp(b"b", 1000.0),
    TxnOp((Compare(b"b", lease=0, op="!="),), (GetOp(b"b"), GetOp(b"c")), (PutOp(b"b", b""),)),
]
"""Each field of a result differs from its default in one of them."""
READS_ONLY: Final = [GetOp(b"b"), ListOp(prefix=b"", limit=1, reverse=True), ListOp(start=b"b"), GetOp(b"c")]


def plain(value: object, name: str = "") -> object:
    """A result as plain data, without the ids of leases that were drawn, and without what is left of a lease's time."""
    if isinstance(value, SynclineError):
        details = value.details if isinstance(value, Rejected) else {}
        known = {key: "drawn" if key == "lease" else one for key, one in details.items()}
        return type(value).__name__, getattr(value, "code", ""), value.outcome, known
    if isinstance(value, msgspec.Struct):
        fields = {field: plain(getattr(value, field), field) for field in value.__struct_fields__}
        return type(value).__name__, {**fields, "ttl_s": None} if type(value).__name__ == "LeaseDetails" else fields
    if isinstance(value, list | tuple):
        return [plain(one, name) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if name in ("lease", "id") and value:
        number = int(value, 16) if isinstance(value, str) else value
        assert isinstance(number, int)
        return number if FIRST_LEASE <= number <= LAST_LEASE or number >= 2**63 - 1 else "drawn"
    return value


async def outcome(call: Awaitable[object]) -> object:
    """What a call returns or raises, as plain data."""
    try:
        found = await call
    except (SynclineError, TypeError) as error:
        found = plain(error) if isinstance(error, SynclineError) else type(error).__name__
    else:
        found = plain(found)
    if isinstance(found, list) and found and all(isinstance(one, tuple) and one[0] == "LeaseSummary" for one in found):
        found = sorted(found, key=repr)  # by their ids, of which most are drawn
    return found


async def events(kv: Calls, revision: int, last: int) -> object:
    found = []
    async for change in kv.watch(prefix=b"", from_revision=revision, prev=True):
        found.append(plain(change))
        if change.revision >= last:
            return found
    raise AssertionError("a watch does not end by itself")


def test_store_answers_as_a_client_of_a_server_does(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        site, nodes = SiteServer(max_value_bytes=VALUE_LIMIT), StoreCluster(tmp_path, "a")
        runner.run(site.start())
        store = runner.run(nodes.open("a", max_key_bytes=KEY_LIMIT, max_value_bytes=VALUE_LIMIT))
        client = AsyncClient(site.url)
        compared: list[object] = []

        async def compare(calls: list[Call]) -> None:
            for call in [FILLED, *calls]:
                revision = store._machine.store.revision
                assert site.backend.store.revision == revision
                from_store = await outcome(call(store, revision))
                assert from_store == await outcome(call(client, revision))
                compared.append(from_store)
            assert store._machine.store.oldest == site.backend.store.oldest

        @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(CALLS, min_size=1, max_size=12))
        @example([named("batch", EACH_KIND), named("batch", READS_ONLY)])
        @example([named("get_many", [b"a", b"k" * (KEY_LIMIT + 1), b""])])
        def run(calls: list[Call]) -> None:
            runner.run(compare(calls))

        try:
            run()
            oldest, last = store._machine.store.oldest, store._machine.store.revision
            assert last > oldest
            assert runner.run(events(store, oldest, last)) == runner.run(events(client, oldest, last))
            assert len(compared) > 100
        finally:
            runner.run(client.close())
            runner.run(site.close())
            runner.run(store.close())
