"""`GET /keys` and `POST /txn`: pages that join into the whole, and transactions as JSON."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import RequestFailed
from syncline.kv.serving.pages import MAX_PAGE_BYTES, decode_cursor, encode_cursor
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import KvWire, error_in


def page_of(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    page = json.loads(answer.body)
    assert isinstance(page, dict)
    return page


def key_of(item: dict[str, Any]) -> bytes:
    if "key" in item:
        assert "key_base64" not in item
        return str(item["key"]).encode()
    return base64.b64decode(item["key_base64"])


async def filled(*keys: bytes, value: bytes = b"v", max_value_bytes: int = 1000) -> KvWire:
    wire = KvWire(max_value_bytes=max_value_bytes)
    for key in keys:
        assert (await wire.ask("PUT", "/key/" + quote(key, safe=""), value)).status == 200
    return wire


async def test_a_page_shows_the_keys_in_order_with_their_revisions() -> None:
    wire = await filled(b"b", b"a/x", b"a/y", b"a/x")
    answer = await wire.ask("GET", "/keys?prefix=a/")
    page = page_of(answer)
    assert page == {
        "revision": 4,
        "keys": [
            {
                "key": "a/x",
                "url": "/key/a/x",
                "mod_revision": 4,
                "create_revision": 2,
                "version": 2,
                "size_bytes": 1,
            },
            {
                "key": "a/y",
                "url": "/key/a/y",
                "mod_revision": 3,
                "create_revision": 3,
                "version": 1,
                "size_bytes": 1,
            },
        ],
        "count": 2,
        "more": False,
        "next": None,
        "next_url": None,
    }
    assert answer.headers["syncline-revision"] == "4"


async def test_values_are_text_where_they_can_be_and_base64_where_not() -> None:
    wire = await filled(b"a", value="é\0".encode())
    await wire.ask("PUT", "/key/b", b"\xff\x00")
    text, octets = page_of(await wire.ask("GET", "/keys?values=true"))["keys"]
    assert text["value"] == "é\0"
    assert "value" not in octets
    assert base64.b64decode(octets["value_base64"]) == b"\xff\x00"
    both = page_of(await wire.ask("GET", "/keys?values=base64"))["keys"]
    assert [base64.b64decode(item["value_base64"]) for item in both] == ["é\0".encode(), b"\xff\x00"]
    assert all("value" not in item for item in both)


@settings(max_examples=40, deadline=None)
@given(
    keys=st.sets(
        st.binary(min_size=1, max_size=12) | st.sampled_from([b"base64:abc", b"a b", b"a%20b", b".", b"a/../b"])
    ),
    limit=st.integers(1, 5),
    reverse=st.booleans(),
    follow=st.booleans(),
)
async def test_the_pages_join_into_the_whole_whatever_the_keys(
    keys: set[bytes], limit: int, reverse: bool, follow: bool
) -> None:
    wire = await filled(*keys)
    url, seen = f"/keys?limit={limit}&reverse={reverse}".lower(), []
    while True:
        page = page_of(await wire.ask("GET", url))
        assert len(page["keys"]) <= limit
        assert page["count"] == len(keys)
        seen += page["keys"]
        assert page["more"] == (page["next"] is not None) == (page["next_url"] is not None)
        if not page["more"]:
            break
        url = (
            page["next_url"]
            if follow
            else f"/keys?limit={limit}&reverse={reverse}&after=".lower() + quote(page["next"])
        )
    assert [key_of(item) for item in seen] == sorted(keys, reverse=reverse)
    for item in seen[:3]:
        assert (await wire.ask("GET", item["url"])).body == b"v"


async def test_a_page_ends_at_its_size_but_is_never_empty() -> None:
    wire = await filled(b"a", b"b", b"c", value=b"x" * (MAX_PAGE_BYTES // 2), max_value_bytes=3 * MAX_PAGE_BYTES)
    await wire.ask("PUT", "/key/d", b"x" * (2 * MAX_PAGE_BYTES))
    page = page_of(await wire.ask("GET", "/keys?values=true"))
    assert [item["key"] for item in page["keys"]] == ["a"]
    assert page["next"] == "a"
    last = page_of(await wire.ask("GET", "/keys?values=true&after=c"))
    assert [item["key"] for item in last["keys"]] == ["d"]
    assert last["next"] is None
    assert len(page_of(await wire.ask("GET", "/keys"))["keys"]) == 4, "without values they cost nothing"


async def test_a_page_of_long_keys_ends_at_its_size_too() -> None:
    wire = KvWire()
    for number in range(10_000):
        wire.backend.store.put(b"%090d" % number, b"", 0, 1)
    answer = await wire.ask("GET", "/keys?limit=10000")
    assert len(answer.body) < 4 * MAX_PAGE_BYTES
    page = page_of(answer)
    assert page["next"] == page["keys"][-1]["key"]
    assert 5000 < len(page["keys"]) < 6000


async def test_the_next_url_keeps_the_other_parameters() -> None:
    wire = await filled(b"a b1", b"a b2", b"a b3")
    page = page_of(await wire.ask("GET", "/keys?prefix=a+b&limit=1&after=a%20b1&values=true"))
    assert page["next_url"] == "/keys?prefix=a+b&limit=1&values=true&after=a%20b2"


async def test_counting_gives_the_number_alone() -> None:
    wire = await filled(b"a1", b"a2", b"b")
    assert page_of(await wire.ask("GET", "/keys?prefix=a&count")) == {"revision": 3, "count": 2}


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=10001", "limit=x", "limit=-1", "values=maybe", "reverse=2", "after=base64:!", "x=1", "prefix=%"],
)
async def test_bad_parameters_of_a_listing_are_refused(query: str) -> None:
    wire = await filled(b"a")
    answer = await wire.ask("GET", f"/keys?{query}")
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")


async def test_listing_refusal_of_values_names_what_is_accepted() -> None:
    answer = await KvWire().ask("GET", "/keys?values=maybe")
    assert error_in(answer)["message"] == "values='maybe': accepted are true and false, and base64"


@given(st.binary(min_size=1, max_size=30))
def test_a_cursor_comes_back_as_the_key(key: bytes) -> None:
    assert decode_cursor(encode_cursor(key).encode()) == key
    assert decode_cursor(encode_cursor(b"base64:" + key).encode()) == b"base64:" + key


def test_a_broken_cursor_is_refused() -> None:
    with pytest.raises(RequestFailed):
        decode_cursor(b"base64:abcde")
    assert decode_cursor(None) is None


# --- transactions


async def txn(wire: KvWire, **body: Any) -> Answer:
    body = {name.rstrip("_"): value for name, value in body.items()}
    return await wire.ask("POST", "/txn", json.dumps(body).encode())


async def test_a_transaction_whose_compares_hold_does_then() -> None:
    wire = await filled(b"a", b"old")
    answer = await txn(
        wire,
        compare=[
            {"key": "a", "number": 1},
            {"key": "a", "target": "version", "op": "<", "number": 2},
            {"key": "a", "target": "value", "value": "v"},
            {"key_base64": "/w==", "target": "create_revision", "op": "==", "number": 0},
        ],
        then=[
            {"op": "put", "key": "a", "value": "new"},
            {"op": "put", "key_base64": "/w==", "value_base64": "AAE="},
            {"op": "delete", "key": "old"},
            {"op": "get", "key": "a"},
            {"op": "get", "key": "missing"},
            {"op": "range", "prefix": "a", "values": True},
            {"op": "delete_range", "start": "x", "end": "y"},
        ],
    )
    assert answer.status == 200, answer.body
    body = json.loads(answer.body)
    assert (body["status"], body["succeeded"], body["revision"]) == ("success", True, 3)
    put, binary, deleted, got, missing, ranged, swept = body["results"]
    assert put == {"op": "put", "revision": 3, "created": False}
    assert binary["created"] is True
    assert deleted == {"op": "delete", "deleted": 1, "revision": 3}
    assert (got["op"], got["found"], got["key"], got["value"], got["mod_revision"]) == ("get", True, "a", "new", 3)
    assert missing == {"op": "get", "found": False, "key": "missing"}
    assert [item["value"] for item in ranged["keys"]] == ["new"]
    assert swept["deleted"] == 0
    stored = wire.backend.store.get(b"\xff")
    assert stored is not None
    assert stored.value == b"\x00\x01"
    assert answer.headers["syncline-revision"] == "3"


async def test_a_transaction_whose_compares_fail_does_else() -> None:
    wire = await filled(b"a")
    answer = await txn(
        wire,
        compare=[{"key": "a", "op": "!=", "number": 1}],
        then=[{"op": "delete", "key": "a"}],
        else_=[{"op": "get", "key": "a"}, {"op": "txn", "then": [{"op": "put", "key": "b", "value": "x"}]}],
    )
    body = json.loads(answer.body)
    assert (answer.status, body["succeeded"]) == (200, False)
    assert body["results"][0]["value"] == "v"
    assert body["results"][1]["results"] == [{"op": "put", "revision": 2, "created": True}]


BAD: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"[]", 400),
    (b"{", 400),
    (b"\xff", 400),
    (b'{"when":[]}', 400),
    (b'{"then":[{"op":"fly"}]}', 400),
    (b'{"then":[{"op":"put","key":"a"}]}', 400),
    (b'{"then":[{"op":"put","key":"a","value":"x","value_base64":"AA=="}]}', 400),
    (b'{"then":[{"op":"put","key":"a","value_base64":"!"}]}', 400),
    (b'{"then":[{"op":"put","key":"","value":"x"}]}', 400),
    (b'{"then":[{"op":"put","key":"\\ud800","value":"x"}]}', 400),
    (b'{"then":[{"op":"put","key":"a","value":"x","lease":1}]}', 400),
    (b'{"then":[{"op":"delete_range"}]}', 400),
    (b'{"then":[{"op":"delete_range","prefix":"a","start":"b"}]}', 400),
    (b'{"then":[{"op":"delete_range","prefix":"a","limit":-1}]}', 400),
    (b'{"compare":[{"key":"a"}]}', 400),
    (b'{"compare":[{"key":"a","number":-1}]}', 400),
    (b'{"compare":[{"key":"a","number":99999999999999999999999}]}', 400),
    (b'{"compare":[{"key":"a","number":1,"op":"~"}]}', 400),
    (b'{"compare":[{"key":"a","number":1,"target":"age"}]}', 400),
    (b'{"compare":[{"key":"a","target":"value","number":1}]}', 400),
    (b'{"compare":[{"key":"a","value":"x"}]}', 400),
    (b'{"then":[{"op":"put","key":"a","value":"x"},{"op":"delete","key":"a"}]}', 400),
    (b'{"then":[{"op":"put","key":"' + b"k" * 101 + b'","value":"x"}]}', 413),
    (b'{"then":[{"op":"put","key":"a","value":"' + b"v" * 1001 + b'"}]}', 413),
    (b'{"then":[' + b",".join(b'{"op":"get","key":"a"}' for _ in range(129)) + b"]}", 413),
    (b'{"then":[{"op":"txn","then":' * 3000, 400),
]


@pytest.mark.parametrize(("body", "status"), BAD)
async def test_a_transaction_that_makes_no_sense_is_refused(body: bytes, status: int) -> None:
    wire = KvWire()
    answer = await wire.ask("POST", "/txn", body)
    assert answer.status == status, answer.body
    assert error_in(answer)["outcome"] == "not_applied"
    assert wire.backend.store.revision == 0
