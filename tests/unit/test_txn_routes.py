"""`POST /txn`: compares of leases and ranges, previous values, counters, touch, past revisions, and bad input."""

from __future__ import annotations

import json
from typing import Any

import pytest

from syncline.kv.commands import LeaseGrant, encode_command
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import KvWire, error_in

LEASE = f"{7:016x}"


async def txn(wire: KvWire, **body: Any) -> Answer:
    body = {name.rstrip("_"): value for name, value in body.items()}
    return await wire.ask("POST", "/txn", json.dumps(body).encode())


async def ran(wire: KvWire, **body: Any) -> dict[str, Any]:
    answer = await txn(wire, **body)
    assert answer.status == 200, answer.body
    found = json.loads(answer.body)
    assert isinstance(found, dict)
    return found


async def filled(*keys: str) -> KvWire:
    wire = KvWire()
    wire.backend.propose(encode_command(LeaseGrant(7, 60_000)), 1.0, lambda _, error: None)
    for key in keys:
        await wire.ask("PUT", f"/key/{key}", key.encode())
    return wire


async def test_txn_writes_give_previous_values() -> None:
    wire = await filled("a", "b", "c1", "c2", "n")
    await wire.ask("PUT", "/key/n", b"40")
    body = await ran(
        wire,
        then=[
            {"op": "put", "key": "a", "value": "new", "prev": True},
            {"op": "put", "key": "z", "value": "new", "prev": True},
            {"op": "delete", "key": "b", "prev": True},
            {"op": "delete_range", "prefix": "c", "prev": True},
            {"op": "increment", "key": "n", "by": 2, "prev": True},
        ],
    )
    put, fresh, deleted, cleared, counted = body["results"]
    assert (put["prev"]["value"], put["prev"]["mod_revision"], put["created"]) == ("a", 1, False)
    assert ("prev" in fresh, fresh["created"]) == (False, True)
    assert deleted["prev"]["value"] == "b"
    assert [item["value"] for item in cleared["prev"]] == ["c1", "c2"]
    assert (counted["value"], counted["prev"]["value"]) == (42, "40")
    assert {one["revision"] for one in body["results"]} == {7}


async def test_txn_without_prev_gives_none() -> None:
    wire = await filled("a", "b")
    body = await ran(wire, then=[{"op": "put", "key": "a", "value": ""}, {"op": "delete_range", "prefix": "b"}])
    assert all("prev" not in one for one in body["results"])


async def test_txn_reads_at_a_past_revision() -> None:
    wire = await filled("a", "b")
    await wire.ask("DELETE", "/key/a")
    body = await ran(
        wire,
        then=[
            {"op": "get", "key": "a", "revision": 2},
            {"op": "get", "key": "a"},
            {"op": "range", "prefix": "", "revision": 1, "values": True},
            {"op": "txn", "then": [{"op": "range", "prefix": "", "revision": 2}]},
        ],
    )
    past, now, first, inner = body["results"]
    assert (past["value"], now["found"]) == ("a", False)
    assert [item["key"] for item in first["keys"]] == ["a"]
    assert [item["key"] for item in inner["results"][0]["keys"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        ({"key": "leased", "target": "lease", "lease": LEASE}, True),
        ({"key": "leased", "target": "lease", "op": "!=", "lease": LEASE}, False),
        ({"key": "a1", "target": "lease", "lease": "0" * 16}, True),
        ({"key": "absent", "target": "lease", "lease": "0" * 16}, True),
        ({"prefix": "a", "target": "version", "number": 1}, True),
        ({"prefix": "a", "op": "<", "number": 2}, False),
        ({"prefix": "a", "op": "<", "number": 3}, True),
        ({"prefix": "nothing", "target": "version", "number": 0}, True),
        ({"prefix": "nothing", "target": "version", "op": ">", "number": 0}, False),
        ({"prefix": "", "target": "create_revision", "op": ">", "number": 0}, True),
        ({"key": "a1", "end": "a2", "target": "value", "value": "a1"}, True),
        ({"key": "a1", "end": "a3", "target": "value", "value": "a1"}, False),
        ({"prefix_base64": "YQ==", "target": "version", "number": 1}, True),
    ],
)
async def test_txn_compares_leases_and_ranges(compare: dict[str, object], holds: bool) -> None:
    wire = await filled("a1", "a2")
    await ran(wire, then=[{"op": "put", "key": "leased", "value": "", "lease": LEASE}])
    assert (await ran(wire, compare=[compare]))["succeeded"] is holds


async def test_txn_put_with_a_ttl_gets_a_lease_of_its_own() -> None:
    wire = await filled("a")
    body = await ran(wire, then=[{"op": "put", "key": "a", "value": "1", "ttl": "30s"}, {"op": "get", "key": "a"}])
    put, got = body["results"]
    assert put["lease"] == got["lease"] == f"{1:016x}"
    lease = wire.backend.store.leases.get(1)
    assert lease is not None
    assert (lease.ttl_ms, lease.own) == (30_000, True)


async def test_txn_touch_sets_the_ttl_without_the_value() -> None:
    wire = await filled("a")
    (first,) = (await ran(wire, then=[{"op": "touch", "key": "a", "ttl": "1m"}]))["results"]
    assert first == {"op": "touch", "lease": f"{1:016x}", "revision": 2}
    (second,) = (await ran(wire, then=[{"op": "touch", "key": "a", "ttl": "2m"}]))["results"]
    assert second == {"op": "touch", "lease": f"{1:016x}", "revision": 2}, "the lease that it has starts again"
    lease = wire.backend.store.leases.get(1)
    assert lease is not None
    assert lease.ttl_ms == 120_000


PUT = {"op": "put", "key": "a", "value": "1"}


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"then": [{**PUT, "if_absent": True}]}, 400, "bad_request", "then 0: 'if_revision', 'if_absent'"),
        ({"else": [{"op": "delete", "key": "a", "if_revision": 3}]}, 400, "bad_request", "else 0"),
        ({"then": [{**PUT, "prev": 1}]}, 400, "bad_request", "$.then[0].prev"),
        ({"then": [{**PUT, "lease": 7}]}, 400, "bad_request", "$.then[0].lease"),
        ({"then": [{**PUT, "lease": "seven"}]}, 400, "bad_request", "then 0: 'lease' is 'seven'"),
        ({"then": [{**PUT, "lease": "F" * 16}]}, 400, "bad_request", "'lease'"),
        ({"then": [{**PUT, "lease": "f" * 16}]}, 400, "bad_request", "'lease'"),
        ({"then": [{**PUT, "lease": f"{8:016x}"}]}, 404, "lease_not_found", "lease"),
        ({"then": [{**PUT, "ttl": "1999ms"}]}, 400, "bad_request", "then 0: 'ttl' is '1999ms'"),
        ({"then": [{**PUT, "ttl": "9000000001s"}]}, 400, "bad_request", "'ttl'"),
        ({"then": [{"op": "touch", "key": "a"}]}, 400, "bad_request", "`ttl`"),
        ({"then": [{"op": "touch", "key": "absent", "ttl": "5s"}]}, 404, "not_found", "key"),
        ({"then": [{"op": "increment", "key": "a"}]}, 409, "not_a_number", "a"),
        ({"then": [{"op": "increment", "key": "x", "by": 2**63}]}, 400, "bad_request", "$.then[0].by"),
        ({"then": [{"op": "increment", "key": "x", "by": 2**62, "initial": 2**62}]}, 409, "not_a_number", "64 bits"),
        ({"then": [{"op": "get", "key": "a", "revision": 99}]}, 400, "future_revision", "99"),
        ({"then": [{"op": "get", "key": "a", "revision": "1"}]}, 400, "bad_request", "$.then[0].revision"),
        ({"compare": [{"key": "a", "target": "lease", "number": 7}]}, 400, "bad_request", "'lease', not 'number'"),
        ({"compare": [{"key": "a", "target": "lease"}]}, 400, "bad_request", "takes 'lease'"),
        ({"compare": [{"key": "a", "target": "lease", "lease": "7"}]}, 400, "bad_request", "'lease' is '7'"),
        ({"compare": [{"key": "a", "lease": LEASE}]}, 400, "bad_request", "'number', not 'lease'"),
        ({"compare": [{"key": "a", "target": "value", "number": 1}]}, 400, "bad_request", "'value', not 'number'"),
        ({"compare": [{"key": "a"}]}, 400, "bad_request", "takes 'number'"),
        ({"compare": [{"key": "a", "number": 2**70}]}, 400, "bad_request", "number"),
        ({"compare": [{"key": "a", "target": "size", "number": 1}]}, 400, "bad_request", "target 'size'"),
        ({"compare": [{"key": "a", "op": ">=", "number": 1}]}, 400, "bad_request", "op '>='"),
        ({"compare": [{"number": 1}]}, 400, "bad_request", "'key'"),
        ({"compare": [{"prefix": "a", "key": "a", "number": 1}]}, 400, "bad_request", "'prefix' alone"),
        ({"compare": [{"prefix": "a", "end": "b", "number": 1}]}, 400, "bad_request", "'prefix' alone"),
        ({"compare": [{"end": "b", "number": 1}]}, 400, "bad_request", "'key'"),
        ({"compare": [{"prefix": "p" * 102, "number": 1}]}, 413, "too_large", "'prefix'"),
        ({"compare": [{"key": "a", "number": 1, "every": True}]}, 400, "bad_request", "`every`"),
        ({"then": [PUT, {**PUT, "key": "c"}, {**PUT, "key": "c"}]}, 400, "bad_command", "twice: b'c'"),
        ({"then": [PUT, {"op": "delete_range", "prefix": ""}]}, 400, "bad_command", "twice: b'a'"),
        ({"else": [{"op": "delete_range", "prefix": "a"}, {"op": "txn", "else": [PUT]}]}, 400, "bad_command", "b'a'"),
    ],
)  # fmt: skip
async def test_txn_that_is_refused_stores_nothing(body: dict[str, object], status: int, code: str, words: str) -> None:
    wire = await filled("a")
    digest = wire.backend.store.digest
    answer = await wire.ask("POST", "/txn", json.dumps(body).encode())
    error = error_in(answer)
    assert (answer.status, error["code"], error["outcome"]) == (status, code, "not_applied")
    assert words in error["message"]
    assert wire.backend.store.digest == digest


async def test_txn_at_a_compacted_revision_names_the_oldest() -> None:
    wire = await filled("a", "b")
    await wire.ask("POST", "/compact", b'{"revision":2}')
    answer = await txn(wire, then=[{"op": "get", "key": "a", "revision": 1}])
    assert (answer.status, error_in(answer)["code"], error_in(answer)["details"]) == (410, "compacted", {"oldest": 2})
