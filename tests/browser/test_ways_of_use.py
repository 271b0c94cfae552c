"""A phone's width, the keyboard alone, names for screen readers, and a dark system."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from syncline.testing.process_cluster import ProcessCluster
from tests.browser.console import DESKTOP, PHONE, Browser, Page, Size

SCREENS = ("cluster", "keys", "live", "leases")


COVERED_IN_RING: Final = """async ([count, leader]) => {
    const { ring } = await import('/console/ring.js');
    const status = { role: 'follower', revision: 1234, last_index: 9, commit: 9, applied: 9, term: 2 };
    const members = Array.from({ length: count }, (_, at) => (
        { id: at, name: `n${at + 1}`, role: 'voter', status, leads: at === leader, lag: 0, match: 9, rttS: 0.0039 }));
    document.querySelector('.ring').replaceWith(ring(members, { onpick() {}, picked: null }));
    const boxes = [...document.querySelectorAll('.ring .node rect.card, .ring .link text')].map((one) =>
        ({ what: one.textContent || one.parentNode.dataset.id, box: one.getBoundingClientRect() }));
    const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    return boxes.flatMap((one, at) => boxes.slice(at + 1).filter((other) => overlap(one.box, other.box))
        .map((other) => `${one.what}, ${other.what}`));
}"""
"""Draw a ring of as many members, and return which of its nodes and texts lie on each other."""


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    found = browser.page(PHONE)
    yield found
    found.close()
    assert found.faults == []


def test_phone_shows_each_screen_without_scrolling_sideways(node: ProcessCluster, phone: Page) -> None:
    kv = node.client()
    kv.put("a/" + "long" * 60, b"x" * 500)
    kv.put("services/" + "long" * 60, b"x" * 500, ttl=300.0)
    phone.open(node.endpoints[0])
    phone.sees("All is well")
    for screen in SCREENS:
        phone.tab.locator(f"nav a[href='#/{screen}']").click()
        phone.tab.locator(f"main.{screen} h1").wait_for()
        phone.tab.wait_for_timeout(300)
        assert phone.tab.evaluate("document.documentElement.scrollWidth") <= PHONE[0], screen
    phone.open_key(node.endpoints[0], b"a/" + b"long" * 60)
    assert phone.tab.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_ring_covers_neither_nodes_nor_round_trips(size: Size, node: ProcessCluster, browser: Browser) -> None:
    """Whichever of the members leads: a text on a link needs room between them."""
    page = browser.page(size)
    page.open(node.endpoints[0])
    page.sees("All is well")
    covered = {
        (count, leader): found
        for count in (1, 2, 3, 4, 5)
        for leader in range(count)
        if (found := page.tab.evaluate(COVERED_IN_RING, [count, leader]))
    }
    page.close()
    assert covered == {}
    assert page.faults == []


def test_keyboard_alone_reads_and_edits_a_key(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    for key in "abc":
        kv.put(key, b"one")
    page.open(node.endpoints[0])
    page.sees("All is well")
    keys = page.tab.keyboard
    keys.press("g")
    keys.press("k")
    page.sees_rows(["a", "b", "c"])
    for _ in range(30):
        keys.press("Tab")
        if page.tab.evaluate("document.activeElement.getAttribute('role')") == "listbox":
            break
    keys.press("ArrowDown")
    keys.press("Space")
    page.sees("1 selected")
    keys.press("Enter")
    page.tab.wait_for_selector("section[aria-label=Value]")
    for _ in range(30):
        if page.tab.evaluate("document.activeElement.textContent") == "Edit":
            break
        keys.press("Tab")
    keys.press("Enter")
    keys.press("Control+a")
    keys.type("two")
    keys.press("Control+s")
    page.sees("Saved as revision")
    assert kv.get("b").value == b"two"  # type: ignore[union-attr]


def test_keyboard_opens_and_closes_the_help(node: ProcessCluster, page: Page) -> None:
    page.open(node.endpoints[0])
    page.sees("All is well")
    page.tab.keyboard.press("?")
    page.tab.get_by_role("dialog", name="Keys").wait_for()
    page.tab.keyboard.press("Escape")
    page.tab.locator("dialog").wait_for(state="detached")


def test_controls_have_names_for_screen_readers(node: ProcessCluster, page: Page) -> None:
    node.client().put("a", b"v", ttl=300.0)
    for screen in (*SCREENS, "key?k=YQ"):
        page.open(node.endpoints[0], screen)
        page.tab.wait_for_timeout(500)
        assert page.nameless() == [], screen
    assert page.tab.evaluate("document.documentElement.lang") == "en"


def test_dark_system_has_dark_pages(node: ProcessCluster, browser: Browser) -> None:
    page = browser.page(theme="dark")
    page.open(node.endpoints[0])
    page.sees("All is well")
    assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 25)"
    page.close()
    assert page.faults == []


def test_pages_ask_the_cluster_alone(node: ProcessCluster, page: Page) -> None:
    asked: set[str] = set()
    page.tab.on("request", lambda request: asked.add(request.url))
    for screen in SCREENS:
        page.open(node.endpoints[0], screen)
        page.tab.wait_for_timeout(400)
    elsewhere = [url for url in asked if not url.startswith((*node.endpoints, "about:", "blob:", "data:"))]
    assert elsewhere == []


def test_use_of_a_hidden_page_holds_no_stream(node: ProcessCluster, page: Page) -> None:
    """A browser has six connections to a node for all its pages: those that nobody sees must not hold them."""
    hide = (
        "Object.defineProperty(document, 'hidden', {get: () => true, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.open(node.endpoints[0])
    page.tab.locator(".timeline").get_by_text("started").first.wait_for()
    with page.tab.expect_event("requestfailed", lambda request: "/events" in request.url):
        page.tab.evaluate(hide)
    with page.tab.expect_request("**/events*") as asked:
        page.tab.evaluate(hide.replace("true,", "false,"))
    assert asked.value.headers["last-event-id"]
