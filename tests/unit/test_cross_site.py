"""Requests of web pages: which may change something here, under which names, and what pages may read."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import ConfigError
from syncline.server.config import ServerConfig
from syncline.server.exposure import cross_site_policy
from syncline.server.http.cross_site import CrossSitePolicy, host_name, is_origin
from tests.helpers.kv_node import KvWire, error_in

LOOPBACK = CrossSitePolicy(loopback=True, own_hosts=("127.0.0.1", "kv.example"), allowed_hosts=("Other.example",))
OPEN = CrossSitePolicy(allowed_origins=("https://Console.example", "http://localhost:3000/"))
LENGTH = "Content-Length: 1"
FOREIGN = {
    "a form": ("Origin: http://evil.example",),
    "a form, told in both ways": ("Origin: http://evil.example", "Sec-Fetch-Site: cross-site"),
    "a page without an origin": ("Origin: null",),
    "a browser that sends no Origin": ("Sec-Fetch-Site: cross-site",),
    "another port": ("Origin: http://x:81",),
    "another port of the same site": ("Sec-Fetch-Site: same-site",),
    "another scheme's port": ("Origin: https://x",),
    "the own name as a part": ("Origin: http://x.evil.example",),
    "a user before the name": ("Origin: http://x@evil.example",),
    "no URL": ("Origin: x",),
    "an origin that claims to be the own one": ("Origin: http://evil.example", "Sec-Fetch-Site: same-origin"),
    "a page of http of the own name, asking https": ("Origin: http://x", "Sec-Fetch-Site: cross-site"),
    "two origins": ("Origin: http://x", "Origin: http://evil.example"),
    "bytes": ("Origin: http://é",),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/key/a"), ("POST", "/key/a"), ("DELETE", "/key/a"), ("POST", "/raft/snapshot")]
)
async def test_crosssite_write_of_a_foreign_page_is_refused_each_time(case: str, method: str, path: str) -> None:
    """Three times: the header cache must not take such a header."""
    wire = KvWire(policy=OPEN)
    for _ in range(3):
        answer = await wire.ask_as("x:80", method, path, b"v", LENGTH, *FOREIGN[case])
        assert (answer.status, error_in(answer)["code"]) == (403, "cross_site")
        assert "access-control-allow-origin" not in answer.headers
    assert wire.backend.store.revision == 0
    assert wire.backend.changes == []


@pytest.mark.parametrize("case", FOREIGN)
async def test_crosssite_read_of_a_foreign_page_is_answered_unreadable(case: str) -> None:
    answer = await KvWire().ask_as("x", "GET", "/keys", b"", *FOREIGN[case])
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("host", "fields"),
    [
        ("x:8080", ()),
        ("x:8080", ("Origin: http://x:8080",)),
        ("X:8080", ("Origin: http://x:8080", "Sec-Fetch-Site: same-origin")),
        ("x", ("Origin: http://x",)),
        ("x:80", ("Origin: http://x",)),
        ("x", ("Origin: https://x:443",)),
        ("[::1]:8080", ("Origin: http://[::1]:8080",)),
        ("x", ("Sec-Fetch-Site: same-origin",)),
        ("x", ("Sec-Fetch-Site: none",)),
        ("x", ("Origin: https://console.example", "Sec-Fetch-Site: cross-site")),
        ("x", ("Origin: http://localhost:3000",)),
    ],
)
async def test_crosssite_write_of_an_own_or_allowed_page_is_done(host: str, fields: tuple[str, ...]) -> None:
    wire = KvWire(policy=OPEN)
    assert (await wire.ask_as(host, "PUT", "/key/a", b"v", LENGTH, *fields)).status == 200


# --- names


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "10.0.0.1",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "[::2]",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_crosssite_foreign_name_on_loopback_is_refused_each_time(host: str, method: str) -> None:
    """For the browser a page under a rebound name is of the server's own site: it could read everything."""
    wire = KvWire(policy=LOOPBACK)
    for fields in ((), (f"Origin: http://{host}", "Sec-Fetch-Site: same-origin"), (), ()):
        answer = await wire.ask_as(host, method, "/key/a", b"v", LENGTH, *fields)
        assert (answer.status, error_in(answer)["code"]) == (421, "foreign_host")
    assert wire.backend.store.revision == 0


async def test_crosssite_foreign_name_in_the_url_counts_before_the_host_field() -> None:
    """RFC 9112, 3.2.2."""
    wire = KvWire(policy=LOOPBACK)
    assert (await wire.ask_as("localhost", "GET", "http://evil.example/keys")).status == 421
    assert (await wire.ask_as("evil.example", "GET", "http://localhost/keys")).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost:8080", "localhost.", "a.localhost:1", "127.0.0.1:8080", "127.8.8.8", "[::1]:8080",
        "kv.example", "KV.example:443", "other.example", "", "node-a:8080",
    ],
)  # fmt: skip
async def test_crosssite_own_name_on_loopback_is_taken(host: str) -> None:
    wire = KvWire(policy=LOOPBACK)
    for _ in range(3):
        assert (await wire.ask_as(host, "PUT", "/key/a", b"v", LENGTH)).status == 200


@pytest.mark.parametrize("field", ["Origin: http://x", "Sec-Fetch-Site: same-origin", "Accept-Language: de"])
async def test_crosssite_name_without_a_dot_is_foreign_for_a_browser(field: str) -> None:
    """Public DNS has no such names, but a neighbour on the network may answer for one. A page that is read over plain
    HTTP sends neither of the first two with a read."""
    wire = KvWire(policy=LOOPBACK)
    for _ in range(4):  # the header cache learns what comes twice
        assert (await wire.ask_as("x", "GET", "/keys", b"", field)).status == 421
        assert (await wire.ask_as("localhost", "GET", "/keys", b"", "Accept-Language: de")).status == 200
        assert (await wire.ask_as("x", "GET", "/keys", b"")).status == 200


def test_crosssite_names_elsewhere_are_checked_only_if_hosts_are_given() -> None:
    assert CrossSitePolicy().knows_host({b"host": b"any.example"})
    assert CrossSitePolicy(loopback=True, allowed_hosts=("*",)).knows_host({b"host": b"any.example"})
    given = CrossSitePolicy(own_hosts=("10.0.0.1",), allowed_hosts=("kv.example",))
    assert given.knows_host({b"host": b"kv.example:80"})
    assert given.knows_host({b"host": b"10.0.0.1:8080"})
    assert not given.knows_host({b"host": b"any.example"})


async def test_crosssite_policy_follows_from_the_settings() -> None:
    base = ServerConfig(name="a", data_dir="d", http_advertise="https://KV.example:8443")
    policy = await cross_site_policy(base)
    assert policy.knows_host({b"host": b"kv.example"})
    assert not policy.knows_host({b"host": b"evil.example"})
    for listen in ("0.0.0.0:8080", "[::]:8080", ""):
        elsewhere = await cross_site_policy(ServerConfig(name="a", data_dir="d", http_listen=listen))
        assert elsewhere.knows_host({b"host": b"evil.example"}), listen


def test_crosssite_host_names_are_compared_without_port_and_dot() -> None:
    names = {b"A.b:80": "a.b", b"[::1]:80": "::1", b"a.": "a", b"": "", b"[::1]": "::1", b"a:": "a"}
    assert {raw: host_name(raw) for raw in names} == names


# --- CORS


async def test_crosssite_page_of_an_allowed_origin_may_read_every_answer() -> None:
    """Also the errors, and answers that are made late."""
    wire = KvWire(policy=OPEN)
    origin = "Origin: https://console.example"
    for method, path, status in [
        ("PUT", "/key/a", 200), ("GET", "/key/a", 200), ("GET", "/keys", 200), ("GET", "/key/b", 404),
        ("GET", "/nothing", 404), ("GET", "/keys?bogus", 400), ("POST", "/raft/snapshot", 200),
    ]:  # fmt: skip
        answer = await wire.ask(method, path, b"", origin)
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == "https://console.example"
        assert answer.headers["vary"] == "Origin"
        assert "ETag" in answer.headers["access-control-expose-headers"]


async def test_crosssite_preflight_of_an_allowed_origin_is_granted() -> None:
    wire = KvWire(policy=OPEN)
    asked = ("Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: if-match")
    answer = await wire.ask(
        "OPTIONS", "/key/a", b"", "Origin: http://localhost:3000", *asked,
        "Access-Control-Request-Private-Network: true",
    )  # fmt: skip
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert "If-Match" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-private-network"] == "true"
    foreign = await wire.ask("OPTIONS", "/key/a", b"", "Origin: http://evil.example", *asked)
    assert not [name for name in foreign.headers if name.startswith("access-control")]


async def test_crosssite_star_allows_every_origin() -> None:
    wire = KvWire(policy=CrossSitePolicy(allowed_origins=("*",)))
    answer = await wire.ask("PUT", "/key/a", b"v", "Origin: http://any.example", "Sec-Fetch-Site: cross-site")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "http://any.example")


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("allowed_origins", ("kv.example",)),
        ("allowed_origins", ("https://kv.example/path",)),
        ("allowed_origins", ("ftp://kv.example",)),
        ("allowed_origins", ("https://u@kv.example",)),
        ("allowed_origins", ("https://kv.example:99999",)),
        ("allowed_hosts", ("kv.example:80",)),
        ("allowed_hosts", ("http://kv.example",)),
        ("allowed_hosts", ("",)),
    ],
)
def test_crosssite_setting_that_can_not_be_used_is_named(setting: str, values: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=setting):
        ServerConfig(name="a", data_dir="d", **{setting: values})  # type: ignore[arg-type]


def test_crosssite_origins_are_those_that_browsers_send() -> None:
    assert is_origin("https://kv.example:8443")
    assert is_origin("http://[::1]:3000")
    assert not is_origin("https://kv.example?a")
    assert not is_origin("https://")


def _own(text: str) -> bool:
    """Whether the name is one of the machine itself, by the module of the standard library."""
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return text == "localhost" or text.endswith(".localhost")


pieces = st.sampled_from([
    b"localhost", b"LOCALHOST", b".localhost", b"127.0.0.1", b"127.1", b"127", b"2130706433", b"0x7f000001", b"::1",
    b"[::1]", b"[::ffff:127.0.0.1]", b"::ffff:7f00:1", b"%eth0", b"n1", b"evil.example", b":80", b".", b":", b"[", b"]",
    b"0", b"1", b"\xb2", b"\xdf", b" ",
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=4).map(b"".join), st.booleans())
def test_crosssite_host_is_own_if_its_address_or_name_is_loopback(host: bytes, is_browser: bool) -> None:
    """The policy parses few names as addresses. None that it leaves out may be one."""
    name = host_name(host)
    simple = not is_browser and "." not in name and ":" not in name
    headers = {b"host": host, **({b"accept-language": b"en"} if is_browser else {})}
    assert CrossSitePolicy(loopback=True).knows_host(headers) == (not name or _own(name) or simple)
