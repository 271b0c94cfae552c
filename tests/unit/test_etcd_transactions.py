"""Transactions over etcd's gateway."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.etcd_wire import MAX_REQUEST_BYTES, Document, EtcdWire, b64


def put(key: str, value: str, **more: Any) -> Document:
    return {"request_put": {"key": b64(key), "value": b64(value), **more}}


def get(key: str, **more: Any) -> Document:
    return {"request_range": {"key": b64(key), **more}}


def delete(key: str, **more: Any) -> Document:
    return {"request_delete_range": {"key": b64(key), **more}}


async def with_a(value: str = "1") -> EtcdWire:
    wire = EtcdWire()
    await wire.good("kv/put", {"key": b64("a"), "value": b64(value)})
    return wire


async def test_etcd_txn_runs_the_branch_of_its_compares() -> None:
    wire = await with_a()
    create = {"compare": [{"key": b64("a"), "target": "CREATE", "create_revision": 0}], "failure": [get("a")]}
    document = await wire.good("kv/txn", {**create, "success": [put("a", "no")]})
    assert "succeeded" not in document
    assert document["header"]["revision"] == "3"
    [response] = document["responses"]
    assert response["response_range"]["header"] == {"revision": "3"}
    assert response["response_range"]["kvs"][0]["value"] == b64("1")
    assert response["response_range"]["count"] == "1"


async def test_etcd_txn_writes_in_one_revision_and_reads_them() -> None:
    wire = await with_a()
    document = await wire.good("kv/txn", {"success": [get("a"), put("b", "2"), get("b"), delete("a", prev_kv=True)]})
    assert document["succeeded"] is True, "no compare is true"
    assert document["header"]["revision"] == "4"
    before, written, after, gone = document["responses"]
    assert before["response_range"]["header"] == {"revision": "3"}
    assert written == {"response_put": {"header": {"revision": "4"}}}
    assert after["response_range"]["kvs"][0]["mod_revision"] == "4"
    assert gone["response_delete_range"]["deleted"] == "1"
    assert gone["response_delete_range"]["prev_kvs"][0]["value"] == b64("1")


async def test_etcd_txn_read_of_the_past_has_the_present_revision() -> None:
    """A header has the store's revision at its turn. What a read names is another one."""
    wire = await with_a()
    past = {"request_range": {"key": b64("a"), "range_end": b64("b"), "revision": 3}}
    nested = {"request_txn": {"success": [put("c", "3"), get("a", revision=3)]}}
    await wire.good("kv/put", {"key": b64("a"), "value": b64("2")})
    document = await wire.good("kv/txn", {"success": [get("a", revision=3), put("b", "2"), past, nested]})
    one, _, many, inner = document["responses"]
    [_, last] = inner["response_txn"]["responses"]
    found = [read["response_range"] for read in (one, many, last)]
    assert [read["header"]["revision"] for read in found] == ["4", "5", "5"]
    assert [read["kvs"][0]["value"] for read in found] == [b64("1")] * 3


async def test_etcd_txn_nested_has_an_empty_header() -> None:
    wire = await with_a()
    inner = {"compare": [{"key": b64("b"), "target": "CREATE"}], "success": [put("b", "y")]}
    document = await wire.good("kv/txn", {"success": [{"request_txn": inner}]})
    [response] = document["responses"]
    assert response["response_txn"]["header"] == {}
    assert response["response_txn"]["succeeded"] is True
    assert response["response_txn"]["responses"] == [{"response_put": {"header": {"revision": "4"}}}]


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        ({"target": "VALUE", "value": b64("5")}, True),
        ({"target": "VALUE", "result": "NOT_EQUAL", "value": b64("5")}, False),
        ({"target": "VALUE", "result": "GREATER", "value": b64("4")}, True),
        ({"target": "VALUE", "result": "LESS", "value": b64("6")}, True),
        ({"target": "VERSION", "version": "1"}, True),
        ({"target": "MOD", "mod_revision": 3, "result": 3}, False),
        ({"target": "CREATE", "create_revision": "2", "result": "GREATER"}, True),
        ({"target": "LEASE"}, True),
        ({"target": "LEASE", "result": "LESS", "lease": 1}, True),
        ({}, False),
        ({"range_end": b64("b"), "target": "VERSION", "version": 1}, True),
        ({"range_end": b64(b"\0"), "target": "MOD", "result": "LESS", "mod_revision": 9}, True),
    ],
)
async def test_etcd_txn_compares_as_etcd(compare: Document, holds: bool) -> None:
    wire = await with_a("5")
    document = await wire.good("kv/txn", {"compare": [{"key": b64("a"), **compare}]})
    assert document.get("succeeded", False) is holds


async def test_etcd_txn_value_of_an_absent_key_never_holds() -> None:
    wire = await with_a()
    for result in ("EQUAL", "NOT_EQUAL", "GREATER", "LESS"):
        compare = {"key": b64("none"), "target": "VALUE", "result": result, "value": b64("x")}
        assert "succeeded" not in await wire.good("kv/txn", {"compare": [compare]})


@pytest.mark.parametrize(
    "operations",
    [
        [put("a", "1"), put("a", "2")],
        [put("a", "1"), delete("a")],
        [delete("a", range_end=b64("c")), put("b", "1")],
        [put("b", "1"), {"request_txn": {"failure": [put("b", "2")]}}],
    ],
)
async def test_etcd_txn_that_writes_a_key_twice_is_refused(operations: list[Document]) -> None:
    wire = await with_a()
    expected = (400, 3, "duplicate key given in txn request")
    assert await wire.refused("kv/txn", {"success": operations}) == expected


async def test_etcd_txn_may_delete_a_key_twice() -> None:
    wire = await with_a()
    document = await wire.good("kv/txn", {"success": [delete("a"), delete("a"), delete("a", range_end=b64("b"))]})
    assert [one["response_delete_range"].get("deleted") for one in document["responses"]] == ["1", None, None]


async def test_etcd_txn_of_too_many_operations_is_refused() -> None:
    wire = await with_a()
    expected = (400, 3, "too many operations in txn request")
    many = [get(str(number)) for number in range(129)]
    assert await wire.refused("kv/txn", {"success": many}) == expected
    nested = [{"request_txn": {"success": many[:65]}}, {"request_txn": {"failure": many[:65]}}]
    assert await wire.refused("kv/txn", {"success": nested}) == expected
    assert (await wire.good("kv/txn", {"success": many[:128]}))["succeeded"] is True


async def test_etcd_txn_keeps_what_a_put_ignores() -> None:
    wire = await with_a("kept")
    await wire.good("lease/grant", {"TTL": 60, "ID": 7})
    keep = {"request_put": {"key": b64("a"), "ignore_value": True, "lease": 7, "prev_kv": True}}
    document = await wire.good("kv/txn", {"success": [keep, get("a")]})
    written, read = document["responses"]
    assert written["response_put"]["prev_kv"]["value"] == b64("kept")
    assert read["response_range"]["kvs"][0]["value"] == b64("kept")
    assert read["response_range"]["kvs"][0]["lease"] == "7"


async def test_etcd_txn_that_keeps_sees_a_write_in_between() -> None:
    """The value is read first: if the key changes before the transaction is applied, it is read again."""
    wire = await with_a("old")
    wire.backend.hold = True
    body = {"key": b64("a"), "ignore_value": True}
    await wire.open("kv/put", body)
    wire.backend.release()  # the read
    await wire.settle()
    wire.backend.hold = False
    other = EtcdWire(wire.backend)
    await other.good("kv/put", {"key": b64("a"), "value": b64("new")})
    wire.backend.release()  # the transaction, whose compare does not hold any more
    await wire.settle()
    kv = (await other.good("kv/range", {"key": b64("a")}))["kvs"][0]
    assert (kv["value"], kv["version"]) == (b64("new"), "3")


async def test_etcd_txn_operation_without_a_request_is_refused() -> None:
    assert await (await with_a()).refused("kv/txn", {"success": [{}]}) == (400, 3, "key not found")


async def test_etcd_txn_that_only_deletes_frees_space() -> None:
    wire = await with_a()
    await wire.good("kv/txn", {"success": [delete("a"), get("b")]})
    assert wire.backend.freeing[-1]
    await wire.good("kv/txn", {"success": [delete("a")], "failure": [put("b", "1")]})
    assert not wire.backend.freeing[-1]


@pytest.mark.parametrize("branch", ["success", "failure"])
async def test_etcd_txn_ignores_missing_keys_of_untaken_branches(branch: str) -> None:
    """A put that keeps the value of a key that is not there fails only if it is carried out."""
    kept = {"request_put": {"key": b64("none"), "ignore_value": True}}
    other = {"success": "failure", "failure": "success"}[branch]
    for compare in (
        {"key": b64("a"), "target": "VALUE", "value": b64("1")},
        {"key": b64("a"), "range_end": b64("c"), "target": "VERSION", "version": 1},
        {"key": b64("x"), "range_end": b64("z"), "target": "VERSION", "version": 0},
    ):
        wire = await with_a()
        result = {"result": "EQUAL" if branch == "failure" else "NOT_EQUAL"}
        body = {"compare": [{**compare, **result}], branch: [kept], other: [put("b", "2")]}
        document = await wire.good("kv/txn", body)
        assert len(document["responses"]) == 1
        nested = await wire.good("kv/txn", {"success": [put("c", "3"), {"request_txn": {**body, other: [get("a")]}}]})
        assert nested["header"]["revision"] == "5"
        body["compare"] = [{**compare, "result": "NOT_EQUAL" if branch == "failure" else "EQUAL"}]
        status, _, text = await wire.refused("kv/txn", {"success": [put("d", "4"), {"request_txn": body}]})
        assert (status, text) == (400, "key not found")
        assert (await wire.good("kv/range", {"key": b64("d")})).get("count") is None


async def test_etcd_txn_fields_are_checked_before_duplicates() -> None:
    wire = await with_a()
    inner = {"request_txn": {"success": [put("b", "1"), put("b", "2")]}}
    status, _, text = await wire.refused("kv/txn", {"success": [inner, get("")]})
    assert (status, text) == (400, "key is not provided")


async def test_etcd_put_that_keeps_looks_for_its_lease_first() -> None:
    wire = await with_a()
    body = {"key": b64("none"), "ignore_value": True, "lease": 7}
    assert (await wire.refused("kv/put", body))[::2] == (404, "requested lease not found")
    large = {"key": b64("none"), "ignore_lease": True, "value": b64("v" * MAX_REQUEST_BYTES)}
    assert (await wire.refused("kv/put", large))[::2] == (400, "request is too large")
