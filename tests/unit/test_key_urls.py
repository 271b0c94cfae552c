"""The URLs in answers lead to their keys: in clients that resolve dot segments, and below a mount."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers.kv_node import KvWire, error_in
from tests.unit.test_asgi import Mounted

KEYS = st.one_of(
    st.lists(
        st.sampled_from([".", "..", "a", "%2e", "%2E.", "", "...", "a b", "é", "\\", "?", "#", "\t", "+", "&="]),
        max_size=6,
    )
    .map("/".join)
    .filter(bool)
    .map(str.encode),
    st.binary(min_size=1, max_size=12),
)  # fmt: skip


def resolved(url: str) -> str:
    """A URL as a browser sends it: the path's dot segments are resolved, `%2e` included (WHATWG URL, 4.4)."""
    path, mark, query = url.partition("?")
    kept: list[str] = []
    *segments, last = path.replace("\\", "/").split("/")[1:]
    for segment in segments:
        plain = re.sub("%2e", ".", segment, flags=re.IGNORECASE)
        if plain == "..":
            kept = kept[:-1]
        elif plain != ".":
            kept.append(segment)
    plain = re.sub("%2e", ".", last, flags=re.IGNORECASE)
    if plain == "..":
        kept = kept[:-1]
    kept.append("" if plain in {".", ".."} else last)
    return "/" + "/".join(kept) + mark + query


async def stored(*keys: bytes) -> KvWire:
    wire = KvWire()
    for position, key in enumerate(keys):
        answer = await wire.ask("PUT", "/key/" + quote(key, safe=""), b"value %d" % position)
        assert answer.status == 200, answer.body
    return wire


@settings(max_examples=200, deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=6, unique=True))
@example([b".", b"..", b"a/..", b"../a", b"a/./b", b"a/b", b"%2E%2E", b"/..//"])
async def test_listing_url_leads_a_browser_to_its_key(keys: list[bytes]) -> None:
    wire = await stored(*keys)
    page = json.loads((await wire.ask("GET", "/keys?values=true")).body)
    assert len(page["keys"]) == len(keys)
    for item in page["keys"]:
        answer = await wire.ask("GET", resolved(item["url"]))
        assert (answer.status, answer.body.decode()) == (200, item["value"]), item["url"]


def test_resolving_in_this_test_is_that_of_a_browser() -> None:
    assert resolved("/key/a/%2E%2e/b") == "/key/b"
    assert resolved("/key/%2e") == "/key/"
    assert resolved("/key/a/.%2E") == "/key/"
    assert resolved("/key?key=a/../b") == "/key?key=a/../b"


async def test_key_parameter_takes_every_method_and_the_routes_parameters() -> None:
    wire = KvWire()
    road = "/key?key=a%2F..%2Fb+c%2Bd"
    assert (await wire.ask("PUT", road + "&timeout=2s", b"one")).status == 200
    assert wire.backend.timeouts_s == [2.0]
    record = wire.backend.store.get(b"a/../b c+d")
    assert record is not None
    assert (await wire.ask("POST", "/key?timeout=2s&key=a%2F..%2Fb+c%2Bd", b"two", 'If-Match: "1"')).status == 200
    answer = await wire.ask("GET", road + "&consistency=stale")
    assert (answer.body, answer.headers["etag"]) == (b"two", '"2"')
    assert (await wire.ask("HEAD", road)).headers["content-length"] == "3"
    assert (await wire.ask("GET", road, b"", 'If-None-Match: "2"')).status == 304
    assert json.loads((await wire.ask("DELETE", road)).body)["deleted"] is True
    assert wire.backend.store.get(b"a/../b c+d") is None


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("key=a&key=b", 400, "given twice"),
        ("key=a&%6Bey=b", 400, "given twice"),
        ("", 404, "no key is given"),
        ("timeout=1s", 404, "no key is given"),
        ("key=", 400, "the key is empty"),
        ("key=%zz", 400, "bad percent-escape"),
        ("key=" + "a" * 101, 413, "the limit is 100"),
        ("key=a&bogus=1", 400, "unknown parameter 'bogus'"),
        ("key=a&ttl=1", 400, "ttl"),
    ],
)
async def test_key_parameter_that_is_none_is_refused(query: str, status: int, words: str) -> None:
    wire = KvWire()
    for method in ("GET", "PUT", "DELETE"):
        if method == "GET" and "ttl" in query:
            continue
        answer = await wire.ask(method, f"/key?{query}", b"v" if method == "PUT" else b"")
        assert answer.status == status, method
        assert words in error_in(answer)["message"]
    assert wire.backend.store.revision == 0


@pytest.mark.parametrize("after", ["", "base64:"])
async def test_listing_with_an_empty_cursor_begins_at_the_first_page(after: str) -> None:
    """In reverse too: that is at the end."""
    wire = await stored(b"a", b"b", b"c")
    for reverse, first in (("false", "a"), ("true", "c")):
        page = json.loads((await wire.ask("GET", f"/keys?limit=1&reverse={reverse}&after={after}")).body)
        assert [item["key"] for item in page["keys"]] == [first]


# --- below a mount


@pytest.mark.parametrize("root", ["/kv", "/a b/é", "/k"])
async def test_mounted_urls_lead_back_into_the_mount(root: str) -> None:
    mounted = Mounted(root)
    for key in ("a", "b/..", "c"):
        body = json.dumps({"then": [{"op": "put", "key": key, "value": f"of {key}"}, {"op": "get", "key": key}]})
        txn = json.loads((await mounted.ask("POST", "/txn", body.encode()))[2])
        assert await follow(mounted, txn["results"][1]["url"]) == f"of {key}".encode()
    url, seen = root_of(root) + "/keys?limit=1&values=true", []
    while url:
        page = json.loads(await follow(mounted, url))
        for item in page["keys"]:
            assert await follow(mounted, item["url"]) == item["value"].encode()
            seen.append(item["key"])
        url = page["next_url"]
    assert seen == ["a", "b/..", "c"]


def root_of(root: str) -> str:
    return quote(root, safe="/")


async def follow(mounted: Mounted, url: str) -> bytes:
    """Ask as a client does that resolves `url` against the host."""
    inside = resolved(url).removeprefix(root_of(mounted.root))
    assert inside != url, "it leads out of the mount"
    path, _, query = inside.partition("?")
    status, _, body = await mounted.ask("GET", path, raw=None, query=query.encode())
    assert status == 200
    return body


async def test_mounted_path_that_only_begins_like_the_mount_is_kept() -> None:
    """Some servers give a path without the mount: `/key/a` below `/k` is not `ey/a`."""
    mounted = Mounted("/k")
    mounted.root_of_paths = ""
    assert (await mounted.ask("PUT", "/key/a", b"v", content_length="1"))[0] == 200
    assert mounted.backend.store.get(b"a") is not None


async def test_mounted_request_with_a_bad_host_is_400() -> None:
    assert (await Mounted().ask("GET", "/keys", host="a b"))[0] == 400
    assert (await Mounted().ask("GET", "/keys", host="a:80"))[0] == 200


async def test_mounted_write_of_a_foreign_page_is_403() -> None:
    mounted = Mounted()
    assert (await mounted.ask("PUT", "/key/a", b"v", host="a", origin="http://evil.example"))[0] == 403
    assert mounted.backend.store.revision == 0
    assert (await mounted.ask("PUT", "/key/a", b"v", host="a", origin="http://a"))[0] == 200
