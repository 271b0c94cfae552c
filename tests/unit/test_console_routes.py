"""The web console: its files, their fields, its settings, and which pages may read from which nodes."""

from __future__ import annotations

import json
import re

import pytest

from syncline.server.api.event_feed import EVENTS_KEPT, EventFeed
from syncline.server.config import ServerConfig
from syncline.server.console.files import console_files
from syncline.server.console.routes import Console, origins_of
from syncline.server.http.cross_site import CrossSitePolicy
from tests.helpers.kv_node import KvWire, error_in

HTML = "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"


def with_console(**options: str) -> KvWire:
    return KvWire(console=Console(**options))  # type: ignore[arg-type]


async def test_console_page_is_served_with_its_safety_fields() -> None:
    answer = await with_console().ask("GET", "/console/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; connect-src 'self'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("name", sorted(set(console_files()) - {"index.html"}))
async def test_console_file_is_served_with_type_and_etag(name: str) -> None:
    wire = with_console()
    answer = await wire.ask("GET", f"/console/{name}")
    assert (answer.status, answer.body) == (200, console_files()[name].content)
    assert int(answer.headers["content-length"]) == len(answer.body)
    head = await wire.ask("HEAD", f"/console/{name}")
    assert (head.status, head.headers["etag"]) == (200, answer.headers["etag"])
    again = await wire.ask("GET", f"/console/{name}", b"", f"If-None-Match: {answer.headers['etag']}")
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "..%2froutes.py",
        "../routes.py",
        "%2e%2e/files.py",
        "/etc/passwd",
        "%00",
        "%ff",
        "index.html/",
        "x" * 300,
        "icons",
        "icons/",
        "main.js%00.html",
    ],
)
async def test_console_path_outside_of_the_files_is_404(path: str) -> None:
    answer = await with_console().ask("GET", f"/console/{path}")
    assert (answer.status, error_in(answer)["code"]) == (404, "unknown_route")


async def test_console_file_with_a_query_or_a_write_is_refused() -> None:
    wire = with_console()
    assert (await wire.ask("GET", "/console/main.js?v=1")).status == 400
    assert (await wire.ask("PUT", "/console/main.js", b"x")).status == 405


def test_console_files_load_nothing_from_elsewhere() -> None:
    """No address of another site, no code in the page, no markup made of text."""
    for name, file in console_files().items():
        text = file.content.decode()
        for url in re.findall(r"https?://[^\s\"'`<>)]+", text):
            assert url.startswith(("http://www.w3.org/", "http://127.0.0.1", "http://localhost")), (name, url)
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in text, (name, word)
        if name.endswith(".html"):
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", text), name


def test_console_files_are_small_and_import_only_each_other() -> None:
    files = console_files()
    assert sum(len(file.content) for file in files.values()) < 200_000
    for name, file in files.items():
        text = file.content.decode()
        assert text.count("\n") <= 600, name
        for imported in re.findall(r'from "\./([\w.-]+)"', text):
            assert imported in files, (name, imported)


def test_console_page_loads_all_modules_at_once() -> None:
    """Else the browser finds them one after another, a round trip for each floor of imports."""
    page = console_files()["index.html"].content.decode()
    named = set(re.findall(r'(?:modulepreload" href|script type="module" src)="([\w.-]+)"', page))
    assert named == {name for name in console_files() if name.endswith(".js")}


async def test_console_root_sends_browsers_there_and_lists_routes_to_others() -> None:
    wire = with_console()
    browser = await wire.ask("GET", "/", b"", HTML)
    assert (browser.status, browser.headers["location"], browser.headers["vary"]) == (303, "/console/", "Accept")
    other = await wire.ask("GET", "/", b"", "Accept: */*")
    assert "GET HEAD /console/{file...}" in json.loads(other.body)["routes"]
    short = await wire.ask("GET", "/console")
    assert (short.status, short.headers["location"]) == (308, "/console/")


@pytest.mark.parametrize("mode", ["on", "read-only"])
async def test_console_settings_tell_the_mode(mode: str) -> None:
    answer = await with_console(mode=mode).ask("GET", "/console-settings")
    assert json.loads(answer.body) == {"name": "a", "mode": mode, "lab": ""}


@pytest.mark.parametrize("console", [None, Console("off")])
async def test_console_that_is_off_has_no_routes(console: Console | None) -> None:
    wire = KvWire(console=console)
    for path in ("/console", "/console/", "/console/main.js", "/console-settings"):
        assert (await wire.ask("GET", path)).status == 404
    assert (await wire.ask("GET", "/", b"", HTML)).status == 200


def test_console_setting_is_on_by_default_and_takes_three_words() -> None:
    assert ServerConfig(name="a", data_dir="d").console == "on"
    with pytest.raises(ValueError, match="console"):
        ServerConfig(name="a", data_dir="d", console="maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://127.0.0.1:8080", {"http://127.0.0.1:8080"}),
        ("https://KV.example:8443/mount", {"https://kv.example:8443"}),
        ("http://[::1]:8080", {"http://[::1]:8080"}),
        ("", set()),
        ("ftp://x", set()),
        ("http://x; script-src *", set()),
        ("http://x' *", set()),
        ("http://é.example", set()),
        ("http://[::1", set()),
    ],
)
def test_console_policy_takes_no_word_from_a_members_url(url: str, origin: set[str]) -> None:
    assert origins_of([url]) == origin


def member_policy() -> CrossSitePolicy:
    policy = CrossSitePolicy(loopback=True)
    policy.member_origins = lambda: {"http://127.0.0.1:8081"}
    return policy


async def test_console_of_another_member_may_read_and_not_write() -> None:
    wire = KvWire(policy=member_policy())
    fields = ("Origin: http://127.0.0.1:8081", "Sec-Fetch-Site: same-site")
    read = await wire.ask_as("127.0.0.1:8080", "GET", "/raft/status", b"", *fields)
    assert (read.status, read.headers["access-control-allow-origin"]) == (200, "http://127.0.0.1:8081")
    write = await wire.ask_as("127.0.0.1:8080", "PUT", "/key/a", b"v", "Content-Length: 1", *fields)
    assert (write.status, error_in(write)["code"]) == (403, "cross_site")
    asked = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization")
    preflight = await wire.ask_as("127.0.0.1:8080", "OPTIONS", "/raft/status", b"", *fields, *asked)
    assert preflight.headers["access-control-allow-methods"] == "GET, HEAD"


async def test_console_page_names_the_nodes_that_its_policy_lets_it_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that a browser has kept has the old policy: its ETag changes with the members."""
    origins: set[str] = set()
    monkeypatch.setattr("syncline.server.api.site.Site.member_origins", lambda _: origins)
    wire = with_console()
    alone = await wire.ask("GET", "/console/")
    assert b'<meta name="origins" content="">' in alone.body
    origins.update({"http://b:8080", "http://a:8080"})
    both = await wire.ask("GET", "/console/", b"", f"If-None-Match: {alone.headers['etag']}")
    assert both.status == 200
    assert b'<meta name="origins" content="http://a:8080 http://b:8080">' in both.body
    assert int(both.headers["content-length"]) == len(both.body)
    assert "connect-src 'self' http://a:8080 http://b:8080;" in both.headers["content-security-policy"]
    again = await wire.ask("GET", "/console/", b"", f"If-None-Match: {both.headers['etag']}")
    assert (again.status, again.body) == (304, b"")


async def test_console_of_no_member_may_not_read() -> None:
    wire = KvWire(policy=member_policy())
    answer = await wire.ask_as("127.0.0.1:8080", "GET", "/raft/status", b"", "Origin: http://127.0.0.1:9999")
    assert "access-control-allow-origin" not in answer.headers


def test_event_feed_keeps_the_newest_and_numbers_them() -> None:
    from syncline.client.event_schemas import EventItem

    feed = EventFeed(wall=lambda: 1000.0, name_of=lambda _: "")
    assert (feed.oldest, feed.next) == (1_000_000, 1_000_000)
    for term in range(EVENTS_KEPT + 3):
        feed.record(EventItem(type="started", term=term, index=0, at=0.0))
    assert (feed.oldest, feed.next) == (1_000_003, 1_000_003 + EVENTS_KEPT)
    assert json.loads(feed.get(feed.oldest))["term"] == 3
