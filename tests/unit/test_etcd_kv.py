"""KV over etcd's gateway: reads, writes, errors, as etcd answers them."""

from __future__ import annotations

import json

import pytest

from syncline.errors import DeadlineExceeded, DiskFull, Dropped, NoLeader, NoSpace, Outcome
from syncline.kv.commands import MAX_RANGE_ITEMS, Compact, Put, encode_command
from syncline.server.etcd.context import FIRST_KEY
from syncline.server.etcd.services import kv
from tests.helpers.etcd_wire import MAX_REQUEST_BYTES, EtcdWire, b64

ALL = {"key": b64(b"\0"), "range_end": b64(b"\0")}


async def written(**values: str) -> EtcdWire:
    """A store that begins as the face begins it, and has these keys."""
    wire = EtcdWire()
    for key, value in values.items():
        await wire.good("kv/put", {"key": b64(key), "value": b64(value)})
    return wire


def keys_in(document: dict[str, list[dict[str, str]]]) -> list[str]:
    return [kv["key"] for kv in document.get("kvs", [])]


async def test_etcd_empty_store_has_a_revision_and_no_key() -> None:
    wire = EtcdWire()
    document = await wire.good("kv/range", ALL)
    assert document == {"header": {"cluster_id": "7", "member_id": "4369", "revision": "2", "raft_term": "3"}}
    assert wire.backend.store.get(FIRST_KEY) is None
    await wire.good("kv/range", ALL)
    assert wire.backend.store.revision == 2, "it begins once"


async def test_etcd_store_with_keys_gets_no_other_first_revision() -> None:
    wire = EtcdWire()
    wire.backend.propose(encode_command(Put(b"a", b"1")), 1.0, lambda *_: None)
    document = await wire.good("kv/range", {"key": b64("a")})
    assert document["header"]["revision"] == "1"
    assert document["kvs"] == [
        {"key": b64("a"), "create_revision": "1", "mod_revision": "1", "version": "1", "value": b64("1")}
    ]


async def test_etcd_keys_are_those_of_the_own_routes() -> None:
    wire = await written(a="1")
    answer = await wire.ask("GET", "/key/a")
    assert (answer.status, answer.body) == (200, b"1")
    await wire.ask("PUT", "/key/b", b"2")
    assert (await wire.good("kv/range", {"key": b64("b")}))["kvs"][0]["value"] == b64("2")


async def test_etcd_put_answers_previous_record() -> None:
    wire = await written(a="1")
    assert "prev_kv" not in await wire.good("kv/put", {"key": b64("a"), "value": b64("2")})
    document = await wire.good("kv/put", {"key": b64("a"), "prev_kv": True})
    assert document["header"]["revision"] == "5"
    assert document["prev_kv"]["value"] == b64("2")
    kv = (await wire.good("kv/range", {"key": b64("a")}))["kvs"][0]
    assert "value" not in kv, "an empty value is left out"


@pytest.mark.parametrize(
    ("route", "body", "expected"),
    [
        ("kv/put", {"value": "MQ=="}, (400, 3, "key is not provided")),
        ("kv/range", {}, (400, 3, "key is not provided")),
        ("kv/deleterange", None, (400, 3, "key is not provided")),
        ("kv/txn", {"compare": [{}]}, (400, 3, "key is not provided")),
        ("kv/put", {"key": "YQ==", "lease": "99"}, (404, 5, "requested lease not found")),
        ("kv/put", {"key": "YQ==", "lease": -1}, (404, 5, "requested lease not found")),
        ("kv/txn", {"success": [{"request_put": {"key": "YQ==", "lease": -1}}]}, (404, 5, "requested lease not found")),
        ("kv/put", {"key": "YQ==", "value": "YQ==", "ignore_value": True}, (400, 3, "value is provided")),
        ("kv/put", {"key": "YQ==", "ignore_value": True}, (400, 3, "key not found")),
        ("kv/put", {"key": "YQ==", "lease": 1, "ignore_lease": True}, (400, 3, "lease is provided")),
        ("kv/range", {"key": "YQ==", "revision": 99}, (400, 11, "mvcc: required revision is a future revision")),
        ("kv/range", {"key": "YQ==", "sort_target": 9}, (400, 3, "invalid sort option")),
        ("kv/compaction", {"revision": 99}, (400, 11, "mvcc: required revision is a future revision")),
        ("kv/compaction", {}, (400, 11, "mvcc: required revision has been compacted")),
        ("lease/grant", {"TTL": 9_000_000_001}, (400, 11, "too large lease TTL")),
        ("lease/revoke", {"ID": 5}, (404, 5, "requested lease not found")),
        ("cluster/member/remove", {"ID": 5}, (404, 5, "member not found")),
        ("maintenance/transfer-leadership", {"targetID": 5}, (400, 9, "bad leader transferee")),
        ("auth/authenticate", {"name": "root"}, (400, 9, "authentication is not enabled")),
        ("auth/enable", {}, (400, 9, "root user does not exist")),
    ],
)
async def test_etcd_error_has_the_text_of_etcd(
    route: str, body: dict[str, object] | None, expected: tuple[int, int, str]
) -> None:
    assert await EtcdWire().refused(route, body) == expected


async def test_etcd_request_above_the_limit_is_too_large() -> None:
    wire = await written(a="1")
    large = {"key": b64("k"), "value": b64(b"v" * MAX_REQUEST_BYTES)}
    assert await wire.refused("kv/put", large) == (400, 3, "request is too large")
    assert await wire.refused("kv/put", {"key": b64(b"k" * 5000)}) == (400, 3, "request is too large")
    await wire.good("kv/put", {"key": b64(b"k" * 4096)})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoLeader("none"), (503, 14, "no leader")),
        (DeadlineExceeded("late", outcome=Outcome.UNKNOWN), (503, 14, "request timed out")),
        (Dropped("dropped"), (503, 14, "dropped")),
        (NoSpace("full"), (429, 8, "mvcc: database space exceeded")),
        (DiskFull("full"), (429, 8, "mvcc: database space exceeded")),
    ],
)
async def test_etcd_put_that_no_node_carries_out_says_why(
    error: NoLeader | DiskFull, expected: tuple[int, int, str]
) -> None:
    wire = await written(a="1")
    wire.backend.propose_error = error
    assert await wire.refused("kv/put", {"key": b64("a")}) == expected


async def test_etcd_serializable_read_needs_no_leader() -> None:
    wire = await written(a="1")
    wire.backend.read_error = NoLeader("none")
    assert await wire.refused("kv/range", {"key": b64("a")}) == (503, 14, "no leader")
    document = await wire.good("kv/range", {"key": b64("a"), "serializable": True})
    assert document["count"] == "1"
    assert document["header"]["revision"] == "3"


async def test_etcd_range_limits_sorts_and_filters_as_etcd() -> None:
    wire = await written(a="2", b="9", c="5")
    span = {"key": b64("a"), "range_end": b64("d")}
    document = await wire.good("kv/range", {**span, "limit": 2})
    assert keys_in(document) == [b64("a"), b64("b")]
    assert (document["count"], document["more"]) == ("3", True)
    by_key = await wire.good("kv/range", {**span, "sort_order": "DESCEND", "limit": "1"})
    assert (keys_in(by_key), by_key["more"]) == ([b64("c")], True)
    by_value = await wire.good("kv/range", {**span, "sort_target": "VALUE", "keys_only": True})
    assert keys_in(by_value) == [b64("a"), b64("c"), b64("b")], "a target without an order ascends"
    assert "value" not in by_value["kvs"][0]
    newest = await wire.good("kv/range", {**span, "sort_target": 3, "sort_order": 2, "limit": 1})
    assert (keys_in(newest), newest["count"], newest["more"]) == ([b64("c")], "3", True)
    later = await wire.good("kv/range", {**span, "min_mod_revision": 4})
    assert (keys_in(later), later["count"]) == ([b64("b"), b64("c")], "3"), "the count is of the whole range"
    assert "more" not in later
    counted = await wire.good("kv/range", {**span, "count_only": True})
    assert {name: value for name, value in counted.items() if name != "header"} == {"count": "3"}
    past = await wire.good("kv/range", {**span, "revision": 3})
    assert (keys_in(past), past["header"]["revision"]) == ([b64("a")], "5"), "the header has the present revision"


async def test_etcd_range_end_of_zero_and_below_the_key() -> None:
    wire = await written(a="1", b="2", c="3")
    assert keys_in(await wire.good("kv/range", ALL)) == [b64("a"), b64("b"), b64("c")]
    assert keys_in(await wire.good("kv/range", {"key": b64("b"), "range_end": b64(b"\0")})) == [b64("b"), b64("c")]
    assert keys_in(await wire.good("kv/range", {"key": b64("b"), "range_end": b64("a")})) == []
    assert "deleted" not in await wire.good("kv/deleterange", {"key": b64("b"), "range_end": b64("a")})


async def test_etcd_range_larger_than_a_page_is_answered_whole() -> None:
    wire = await written(a="1")
    for number in range(MAX_RANGE_ITEMS + 5):
        wire.backend.propose(encode_command(Put(b"n%06d" % number, b"")), 1.0, lambda *_: None)
    span = {"key": b64("n"), "range_end": b64("o"), "keys_only": True}
    document = await wire.good("kv/range", span)
    assert len(document["kvs"]) == int(document["count"]) == MAX_RANGE_ITEMS + 5
    assert "more" not in document
    last = await wire.good("kv/range", {**span, "sort_target": "MOD", "sort_order": "DESCEND", "limit": 1})
    assert keys_in(last) == [b64(b"n%06d" % (MAX_RANGE_ITEMS + 4))]


async def test_etcd_range_above_the_limit_of_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await written(a="1")
    monkeypatch.setattr(kv, "MAX_ANSWER_BYTES", 1_000_000)
    for number in range(MAX_RANGE_ITEMS + 5):
        wire.backend.propose(encode_command(Put(b"n%06d" % number, b"")), 1.0, lambda *_: None)
    span = {"key": b64("n"), "range_end": b64("o")}
    status, code, text = await wire.refused("kv/range", span)
    assert (status, code) == (429, 8)
    assert "read in pages, by limit" in text
    assert (await wire.good("kv/range", {**span, "limit": 5}))["more"] is True


async def test_etcd_delete_counts_and_answers_what_went() -> None:
    wire = await written(a="1", b="2")
    document = await wire.good("kv/deleterange", {"key": b64("a")})
    assert (document["deleted"], document["header"]["revision"]) == ("1", "5")
    document = await wire.good("kv/deleterange", {"key": b64("a")})
    assert "deleted" not in document
    assert document["header"]["revision"] == "5", "nothing changed"
    document = await wire.good("kv/deleterange", {**ALL, "prev_kv": True})
    assert [kv["value"] for kv in document["prev_kvs"]] == [b64("2")]
    assert wire.backend.freeing[-1], "deletes pass when the space is short"


async def test_etcd_put_keeps_value_or_lease() -> None:
    wire = await written(a="1")
    await wire.good("lease/grant", {"TTL": 60, "ID": 7})
    await wire.good("kv/put", {"key": b64("a"), "ignore_value": True, "lease": 7})
    kv = (await wire.good("kv/range", {"key": b64("a")}))["kvs"][0]
    assert (kv["value"], kv["lease"], kv["version"]) == (b64("1"), "7", "2")
    answer = await wire.good("kv/put", {"key": b64("a"), "ignore_lease": True, "value": b64("2"), "prev_kv": True})
    assert answer["prev_kv"]["value"] == b64("1")
    assert (await wire.good("kv/range", {"key": b64("a")}))["kvs"][0]["lease"] == "7"
    await wire.good("kv/put", {"key": b64("a"), "value": b64("3")})
    assert "lease" not in (await wire.good("kv/range", {"key": b64("a")}))["kvs"][0], "a put without a lease detaches"


async def test_etcd_compaction_refuses_what_is_compacted() -> None:
    wire = await written(a="1", b="2", c="3")
    assert (await wire.good("kv/compaction", {"revision": 4}))["header"]["revision"] == "5"
    compacted = (400, 11, "mvcc: required revision has been compacted")
    assert await wire.refused("kv/compaction", {"revision": "4"}) == compacted
    assert await wire.refused("kv/range", {"key": b64("a"), "revision": 3}) == compacted
    await wire.good("kv/range", {"key": b64("a"), "revision": 4})


async def test_etcd_present_revision_is_read_after_a_full_compaction() -> None:
    wire = await written(a="1")
    wire.backend.propose(encode_command(Compact(3)), 1.0, lambda *_: None)
    assert (await wire.good("kv/range", {"key": b64("a"), "revision": 3}))["count"] == "1"


async def test_etcd_routes_take_any_content_type_and_query() -> None:
    wire = await written(a="1")
    body = json.dumps({"key": b64("a")}).encode()
    status, document = await wire.post("kv/range", body, "Content-Type: application/x-www-form-urlencoded")
    assert (status, document["count"]) == (200, "1")
    status, document = await wire.post("/v3beta/kv/range", body)
    assert (status, document["count"]) == (200, "1")


async def test_etcd_unknown_route_and_method() -> None:
    wire = EtcdWire()
    assert (await wire.ask("POST", "/v3/kv/nothere")).status == 404
    answer = await wire.ask("GET", "/v3/kv/range")
    assert (answer.status, answer.headers["allow"]) == (405, "OPTIONS, POST")
    assert (await wire.ask("POST", "/v2/keys/a")).status == 404


async def test_etcd_routes_refuse_web_pages_of_other_sites() -> None:
    wire = EtcdWire()
    answer = await wire.ask("POST", "/v3/kv/put", b'{"key":"YQ=="}', "Origin: http://evil.example")
    assert answer.status == 403
    assert wire.backend.store.revision == 0


async def test_etcd_methods_of_no_service_are_unimplemented() -> None:
    wire = EtcdWire()
    assert await wire.refused("maintenance/downgrade") == (
        501,
        12,
        "a downgrade is not offered: see `syncline upgrade`",
    )
