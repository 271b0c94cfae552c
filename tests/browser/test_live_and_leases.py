"""The screens of what happens now, and of leases and locks."""

from __future__ import annotations

from syncline.testing.process_cluster import ProcessCluster
from tests.browser.console import Page


def test_live_shows_changes_and_plots(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    page.open(node.endpoints[0], "live")
    page.sees("0 changes since this page was opened")
    kv.put("jobs/1", b"queued")
    kv.delete("jobs/1")
    page.sees("2 changes since this page was opened")
    rows = page.tab.locator(".tail li").all_inner_texts()
    assert "del" in rows[0]
    assert "jobs/1" in rows[1]
    page.tab.wait_for_function("() => document.querySelectorAll('.curve').length >= 5")
    told = page.tab.locator(".plot").first.get_attribute("aria-label")
    assert told is not None
    assert told.startswith("Requests: 2xx")


def test_live_is_shown_by_more_pages_than_a_browser_has_connections(node: ProcessCluster, page: Page) -> None:
    """Six connections to one node are all that a browser makes. Every page is in sight, and shows each change."""
    page.tab.context.add_init_script("Object.defineProperty(document, 'hidden', { get: () => false })")
    tabs = [page.tab]
    page.open(node.endpoints[0], "live")
    for _ in range(7):
        tabs.append(page.tab.context.new_page())
        tabs[-1].goto(f"{node.endpoints[0]}/console/#/live")
    for tab in tabs:
        with tab.expect_response("**/raft/status", timeout=10_000):
            pass
    node.client().put("for all pages", b"v")
    for tab in tabs:
        tab.locator(".tail").get_by_text("for all pages").wait_for()
    tabs[0].get_by_role("link", name="Keys").click()
    page.sees_rows(["for all pages"])


def test_live_changes_can_be_held_and_filtered(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    page.open(node.endpoints[0], "live")
    page.sees("0 changes since this page was opened")
    page.tab.get_by_label("Begins with").fill("a/")
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_timeout(300)
    kv.put("b/1", b"v")
    kv.put("a/1", b"v")
    page.tab.locator(".tail").get_by_text("a/1").wait_for()
    assert page.tab.locator(".tail").get_by_text("b/1").count() == 0
    page.press("Pause")
    kv.put("a/2", b"v")
    page.press("Go on")
    kv.put("a/3", b"v")
    page.tab.locator(".tail").get_by_text("a/3").wait_for()


def test_leases_are_shown_and_ended(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    kv.put("services/a", b"v", ttl=300.0)
    page.open(node.endpoints[0], "leases")
    page.sees("services/a")
    page.sees("300 s")
    page.press("End")
    page.confirm("End it")
    page.sees("There are no leases.")
    assert kv.get("services/a") is None


def test_locks_show_holder_waiters_and_tokens(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    held = kv.lock("printer", ttl=60).acquire()
    kv.put("locks/printer/00000000000000ff", b"waits", ttl=60.0)
    page.open(node.endpoints[0], "leases")
    page.sees(f"token {held.token:,}")
    page.sees("holds it")
    page.sees("waits, 1")
    held.release()
    page.tab.locator(".lock .holder", has_text="waits").wait_for()


def test_lock_is_taken_away_from_its_holder(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    kv.put("locks/printer/00000000000000aa", b"", ttl=60.0)
    page.open(node.endpoints[0], "leases")
    page.press("Take it away")
    page.confirm("Take it away")
    page.sees("No lock is held.")
    assert kv.list().items == ()
