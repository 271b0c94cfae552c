"""Fields, parameters and members that would change what a request means are carried out or refused, never ignored."""

from __future__ import annotations

import gzip
import json

import pytest

from syncline.server.api.errors import RequestError
from syncline.server.http.documents import check_members
from tests.helpers.http_wire import put
from tests.helpers.kv_node import KvWire, error_in
from tests.helpers.route_paths import path_of

REFUSED: dict[str, tuple[str, str, bytes, str, int, str]] = {
    "an encoded value": ("PUT", "/key/a", gzip.compress(b"v"), "Content-Encoding: gzip", 415, "unsupported_media_type"),
    "an encoded value, posted": ("POST", "/key/a", b"v", "content-encoding: br", 415, "unsupported_media_type"),
    "an encoded transaction": ("POST", "/txn", b"{}", "Content-Encoding: gzip", 415, "unsupported_media_type"),
    "an encoded change": ("POST", "/raft/snapshot", b"", "Content-Encoding: gzip", 415, "unsupported_media_type"),
    "a part of a value": ("PUT", "/key/a", b"v", "Content-Range: bytes 0-0/5", 400, "bad_request"),
    "a part for a key that is there": ("POST", "/key/a", b"v", "Content-Range: bytes */5", 400, "bad_request"),
    "a date for a write": (
        "PUT", "/key/a", b"v", "If-Unmodified-Since: Sat, 01 Jan 2000 00:00:00 GMT", 400, "bad_request",
    ),
    "a date for a deletion": (
        "DELETE", "/key/a", b"", "If-Unmodified-Since: Sat, 01 Jan 2000 00:00:00 GMT", 400, "bad_request",
    ),
    "another method": ("POST", "/key/a", b"", "X-HTTP-Method-Override: DELETE", 400, "bad_request"),
    "a condition of a transaction": ("POST", "/txn", b"{}", 'If-Match: "7"', 400, "bad_request"),
    "a negative condition of a transaction": ("POST", "/txn", b"{}", "If-None-Match: *", 400, "bad_request"),
    "a condition of a listing": ("GET", "/keys", b"", 'If-Match: "7"', 400, "bad_request"),
    "a condition of a change": ("POST", "/raft/remove", b'{"ID":"b"}', 'If-Match: "7"', 400, "bad_request"),
    "a key of two": ("PUT", "/key/a", b"v", "Idempotency-Key: a, b", 400, "bad_request"),
    "a key without a sequence": ("POST", "/txn", b"{}", "Idempotency-Key: 00000000000000a1/", 400, "bad_request"),
    "a repeated change": ("POST", "/raft/remove", b'{"ID":"b"}', "Idempotency-Key: 1", 400, "bad_request"),
    "a repeated listing": ("GET", "/keys", b"", "Idempotency-Key: 1", 400, "bad_request"),
    "JSON in another encoding": (
        "POST", "/txn", b"{}", "Content-Type: application/json; charset=latin-1", 415, "unsupported_media_type",
    ),
    "a change in another encoding": (
        "POST", "/raft/remove", b'{"ID":"b"}', 'Content-Type: a/b;charset="UTF-16"', 415, "unsupported_media_type",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_http_field_that_is_not_carried_out_is_refused_each_time(case: str) -> None:
    """Three times: the header cache must not take a header whose fields are refused."""
    method, path, body, field, status, code = REFUSED[case]
    wire = KvWire()
    for _ in range(3):
        answer = await wire.ask(method, path, body, field)
        error = error_in(answer)
        assert (answer.status, error["code"], error["outcome"]) == (status, code, "not_applied")
        assert answer.keep_alive
    assert wire.backend.store.revision == 0
    assert wire.backend.changes == []


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("PUT", "/key/a", "Content-Encoding: identity"),
        ("GET", "/key/a", "Content-Encoding: gzip"),
        ("GET", "/key/a", "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"),
        ("GET", "/keys", "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"),
        ("POST", "/txn", "Content-Type: application/json; charset=utf-8"),
    ],
)
async def test_http_field_without_a_meaning_for_the_request_is_taken(method: str, path: str, field: str) -> None:
    """RFC 9110 (13.1.3) has a server without modification dates ignore If-Modified-Since."""
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    assert (await wire.ask(method, path, b"{}" if method != "GET" else b"", field)).status == 200


async def test_http_415_tells_which_encoding_is_taken() -> None:
    answer = await KvWire().ask("PUT", "/key/a", b"v", "Content-Encoding: gzip")
    assert answer.headers["accept-encoding"] == "identity"


# --- lengths


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("path", ["/key/a", "/key?key=a"])
async def test_http_write_of_a_key_without_a_length_is_411(method: str, path: str) -> None:
    """`curl -X PUT` without `-d` says nothing of a body: the value must stay."""
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"precious")
    for _ in range(3):
        answer = await wire.ask_as("x", method, path)
        assert (answer.status, error_in(answer)["code"]) == (411, "length_required")
    assert (await wire.ask("GET", "/key/a")).body == b"precious"
    assert (await wire.ask(method, path, b"")).status == 200
    assert (await wire.ask("GET", "/key/a")).body == b""


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/key/a"), ("DELETE", "/key?key=a"), ("GET", "/key/a"), ("GET", "/keys"), ("GET", "/health")],
)
async def test_http_body_on_a_method_that_takes_none_is_400(method: str, path: str) -> None:
    """A condition in the body of a delete was passed over, and the key deleted all the same."""
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"precious")
    answer = await wire.ask(method, path, b'{"if_revision": 7}')
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")
    assert (await wire.ask("GET", "/key/a")).body == b"precious"


async def test_http_write_with_an_empty_chunked_body_stores_it() -> None:
    wire = KvWire()
    answer = await wire.ask_as("x", "PUT", "/key/a", b"0\r\n\r\n", "Transfer-Encoding: chunked")
    assert answer.status == 200
    assert wire.backend.store.get(b"a") is not None


async def test_http_1_0_write_whose_body_ends_with_the_connection_is_411() -> None:
    wire = KvWire()
    wire.send(b"PUT /key/a HTTP/1.0\r\n\r\nnew value")
    await wire.settle()
    assert wire.next_answer().status == 411
    assert wire.backend.store.revision == 0


@pytest.mark.parametrize("path", ["/raft/snapshot", "/raft/transfer"])
async def test_http_post_of_other_routes_needs_no_length(path: str) -> None:
    assert (await KvWire().ask_as("x", "POST", path)).status == 200


# --- parameters


async def test_http_unknown_parameter_is_400_on_every_route() -> None:
    """Routes are taken from the router, so a new one is walked too."""
    wire = KvWire()
    routes = wire.site.router.routes
    assert len(routes) > 15
    for pattern, methods in routes.items():
        path = path_of(pattern, b"node" if "{check}" in pattern else b"a")
        for method in set(methods) - {"HEAD"}:
            answer = await wire.ask(method, f"{path}{'&' if '?' in path else '?'}bogus=1", b"")
            assert answer.status == 400, (method, path)
            assert "unknown parameter 'bogus'" in error_in(answer)["message"]
    assert wire.backend.store.revision == 0
    assert wire.backend.changes == []


# --- members


@pytest.mark.parametrize(
    ("path", "body", "member"),
    [
        (
            "/txn",
            b'{"compare":[{"key":"lock","number":1}],"compare":[],"then":[{"op":"put","key":"a","value":"v"}]}',
            "compare",
        ),
        ("/txn", b'{"compare":[{"key":"a","number":1,"number":0}],"then":[]}', "number"),
        ("/txn", b'{"then":[{"op":"put","key":"a","value":"x","value":"y"}]}', "value"),
        ("/txn", b'{"then":[{"op":"put","key":"a","value":"v"}],"\\u0074hen":[]}', "then"),
        ("/txn", b'{"then":[{"op":"txn","then":[{"op":"delete","key":"a","key":"b"}]}]}', "key"),
        ("/raft/remove", b'{"ID":"b","ID":"c"}', "ID"),
        ("/raft/remove", b'{"ID":"b","Force":null,"Force":true}', "Force"),
        ("/raft/add", b'{"ID":"d","Address":"h:1","Address":"h:2"}', "Address"),
    ],
)
async def test_http_json_with_a_repeated_member_is_400(path: str, body: bytes, member: str) -> None:
    """Decoders take the last one: a transaction would lose the compares that guard it."""
    wire = KvWire()
    answer = await wire.ask("POST", path, body)
    assert answer.status == 400
    assert f"{member!r} is given twice" in error_in(answer)["message"]
    assert wire.backend.store.revision == 0
    assert wire.backend.changes == []


def test_http_json_with_one_name_in_several_objects_is_taken() -> None:
    check_members(b'[{"a":1,"b":{"a":2}},{"a":[{"a":3}]}]')
    check_members(json.dumps({str(number): number for number in range(1000)}).encode())


@pytest.mark.parametrize("document", [b"[" * 100_000, b'{"a":\xff}', b'{"a":1}}'])
def test_http_json_that_only_the_second_decoder_refuses_is_400(document: bytes) -> None:
    with pytest.raises(RequestError, match="is not JSON"):
        check_members(document)


@pytest.mark.parametrize(
    "document",
    [
        b'{"":1,"":2}',
        b'{"a":"b","c":[{"d":1},{"d":1,"d":2}]}',
        b'{ "a" : {"b":"\xc3\xa9"} , "a" : 1 }',
        b'{"a":"\\"","a":1}',
        b'{"a":1,"\\u0061":2}',
    ],
)
def test_http_json_with_a_repeated_member_in_any_form_is_found(document: bytes) -> None:
    """The quick look counts quotes, and leaves documents with escapes to the slow one."""
    with pytest.raises(RequestError, match="is given twice"):
        check_members(document)


# --- hosts

BAD_HOSTS = [
    "a b",
    "a/b",
    "a@b",
    "a:b",
    "a:1:2",
    "[::1",
    "::1",
    "a,b c",
    "a?b",
    "a#b",
    "a%2",
    ":80",
    "é",
    '"a"',
    "[::1]x",
    "a\\b",
]


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_http_host_that_is_none_is_400(host: str, version: str) -> None:
    wire = KvWire()
    wire.send(f"PUT /key/a HTTP/{version}\r\nHost: {host}\r\nContent-Length: 1\r\n\r\nv".encode())
    await wire.settle()
    answer = wire.next_answer()
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")
    assert wire.backend.store.revision == 0


@pytest.mark.parametrize(
    "host", ["", "a", "a.b:80", "a:", "10.0.0.1:8080", "[::1]", "[fe80::1%25eth0]:80", "a_b", "a%20b"]
)
async def test_http_host_of_every_form_is_taken(host: str) -> None:
    assert (await KvWire().ask_as(host, "GET", "/livez")).status == 200


@pytest.mark.parametrize(
    "target",
    ["http:///key/a", "http://", "http://?a", "https:///key/a", "http://:80/key/a", "http://u@h/key/a", "http://a b/"],
)
async def test_http_url_without_a_host_is_400(target: str) -> None:
    """RFC 9110 (4.2.1): a URL of http with an empty host is rejected as invalid."""
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    wire.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await wire.settle()
    assert wire.next_answer().status == 400


@pytest.mark.parametrize("target", ["http://h/key/a", "HTTP://h:80/key/a?timeout=1s", "https://[::1]/key/a"])
async def test_http_url_with_a_host_leads_to_its_path(target: str) -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    assert (await wire.ask("GET", target)).body == b"v"


# --- OPTIONS


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("*", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
        ("http://h", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
        ("/key/a", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
        ("/keys", "GET, HEAD, OPTIONS"),
        ("/txn", "OPTIONS, POST"),
    ],
)
async def test_http_options_tells_the_methods(target: str, allowed: str) -> None:
    wire = KvWire()
    answer = await wire.ask("OPTIONS", target)
    assert (answer.status, answer.headers["allow"]) == (204, allowed)
    assert "content-length" not in answer.headers
    assert (await wire.ask("GET", "/livez")).status == 200, "the connection goes on"
    assert (await wire.ask("OPTIONS", "/nothing")).status == 404
    assert (await wire.ask("GET", "*")).status == 404


async def test_http_write_with_a_usual_header_is_still_read_at_once() -> None:
    """The checks must not push the usual request out of the header cache."""
    wire = KvWire()
    for _ in range(2):
        wire.send(put("/key/a", b"v", "User-Agent: y"))
    assert wire.server.shared.header_cache.read(put("/key/b", b"w", "User-Agent: y")) is not None
