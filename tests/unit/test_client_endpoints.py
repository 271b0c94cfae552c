"""Addresses, and which one is asked next."""

from __future__ import annotations

import pytest

from syncline.client.endpoints import Endpoint, EndpointSet, parse_endpoint, parse_endpoints
from syncline.errors import ConfigError
from tests.helpers.http_server import LoopNetwork


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        (" http://a:1/ ", "http://a:1"),
        ("localhost:8080", "http://localhost:8080"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("http://proxy/syncline", "http://proxy/syncline"),
        ("HTTPS://A:8443/Base", "https://A:8443/Base"),
    ],
)
def test_an_endpoint_is_brought_into_its_plain_form(text: str, url: str) -> None:
    assert parse_endpoint(text) == url


@pytest.mark.parametrize(
    "text",
    ["", "http://", "ftp://a:1", "http://a:0", "http://a:99999", "http://a:x", "http://a b:1", "http://u:p@a:1",
     "http://a:1?x=1", "http://a:1#x", "http://a:1\r\nX: y", "http://ä:1", "http://[::1"],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        parse_endpoint(text)


@pytest.mark.parametrize("path", ["/key", "/key/", "/key/greeting", "/proxy/key/a"])
def test_endpoint_with_the_path_of_a_key_is_refused(path: str) -> None:
    """It was taken for the path of a proxy: reads found nothing, and writes left keys such as `session` behind."""
    with pytest.raises(ConfigError, match="is the address of a key: give http://host:port alone"):
        parse_endpoint(f"http://127.0.0.1:8080{path}")
    assert parse_endpoint("http://proxy/keyspace") == "http://proxy/keyspace"


def test_several_endpoints_come_in_order_without_repeats() -> None:
    assert parse_endpoints(["a:1,b:2", "http://a:1/", "c:3,"]) == ["http://a:1", "http://b:2", "http://c:3"]


def test_too_many_endpoints_and_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most"):
        parse_endpoints([f"a:{port}" for port in range(1, 100)])
    with pytest.raises(ConfigError, match="no endpoint"):
        parse_endpoints(" , ")


def endpoints(*urls: str) -> list[Endpoint]:
    return [Endpoint(url, network=LoopNetwork()) for url in urls]


def test_endpoint_of_the_leader_is_asked_first_until_it_fails() -> None:
    a, b, c = endpoints("http://a:1", "http://b:1", "http://c:1")
    known = EndpointSet([a, b, c])
    known.follow("http://c:1", 0.0)
    known.follow("http://elsewhere:1", 0.0)
    assert known.pick(0.0, set()) is c
    c.failed(0.0)
    known.follow("http://c:1", 0.1)
    assert known.pick(0.1, set()) is a, "a follower may not know yet that the leader is gone"
    known.worked(a, 0.1)
    known.follow("http://b:1", 0.2)
    assert known.pick(100.0, set()) is b


def test_the_current_endpoint_is_asked_until_it_fails() -> None:
    a, b, c = endpoints("http://a:1", "http://b:1", "http://c:1")
    known = EndpointSet([a, b, c])
    assert known.pick(0.0, set()) is a
    a.failed(0.0)
    assert known.pick(0.0, set()) is b
    known.worked(b, 0.0)
    assert known.pick(100.0, set()) is b, "it stays with the one that works, though the first may be back"


def test_a_failing_endpoint_is_asked_last_but_still_asked() -> None:
    a, b = endpoints("http://a:1", "http://b:1")
    known = EndpointSet([a, b])
    a.failed(0.0)
    assert known.pick(0.0, {b}) is a
    b.failed(0.0)
    assert known.pick(0.0, set()) is a
    assert known.pick(0.0, {a, b}) is None


def test_the_penalty_grows_with_failures_in_a_row_and_is_bounded() -> None:
    (a,) = endpoints("http://a:1")
    lengths = []
    for _ in range(10):
        a.failed(0.0)
        lengths.append(a.ask_last_until_s)
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[3]
    assert lengths[-1] <= 10.0
    a.worked()
    a.failed(0.0)
    assert a.ask_last_until_s == lengths[0]
