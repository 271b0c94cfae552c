"""The screen of one key: read, edit, save under a condition, a conflict, the history, large and binary values."""

from __future__ import annotations

import urllib.request

from syncline.testing.process_cluster import ProcessCluster
from tests.browser.console import Page


def value_of(node: ProcessCluster, key: str) -> bytes:
    found = node.client().get(key)
    assert found is not None
    return found.value


def test_key_is_shown_as_json_text_and_hex(node: ProcessCluster, page: Page) -> None:
    node.client().put("config", b'{"b":[1,true],"a":"x"}')
    page.open_key(node.endpoints[0], b"config")
    assert page.tab.locator(".value").inner_text().splitlines()[:2] == ["{", '  "b": [']
    page.tab.get_by_role("tab", name="Text").click()
    assert page.tab.locator(".value").inner_text() == '{"b":[1,true],"a":"x"}'
    page.tab.get_by_role("tab", name="Hex").click()
    assert page.tab.locator(".value").inner_text().startswith("000000  7b 22 62 22 3a")


def test_key_is_edited_and_saved(node: ProcessCluster, page: Page) -> None:
    node.client().put("a", b"before")
    page.open_key(node.endpoints[0], b"a")
    page.press("Edit")
    page.tab.locator(".editor").fill("after")
    page.tab.keyboard.press("Control+s")
    page.sees("Saved as revision")
    assert value_of(node, "a") == b"after"


def test_key_that_is_no_json_any_more_is_not_saved_as_json(node: ProcessCluster, page: Page) -> None:
    node.client().put("a", b"{}")
    page.open_key(node.endpoints[0], b"a")
    page.press("Edit")
    page.tab.locator(".editor").fill("{")
    page.press("Save")
    page.sees("This is no JSON")
    assert value_of(node, "a") == b"{}"


def test_key_changed_meanwhile_shows_both_versions(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    kv.put("a", b"first")
    page.open_key(node.endpoints[0], b"a")
    page.press("Edit")
    page.tab.locator(".editor").fill("mine")
    kv.put("a", b"theirs")
    page.press("Save")
    page.sees("Changed by another client meanwhile")
    assert page.tab.get_by_label("Your version").locator(".value").inner_text().strip() == "mine"
    assert page.tab.get_by_label("Now in the store").locator(".value").inner_text().strip() == "theirs"
    assert value_of(node, "a") == b"theirs"
    page.press("Replace theirs with mine")
    page.sees("Saved as revision")
    assert value_of(node, "a") == b"mine"


def test_key_changed_meanwhile_can_be_left_as_it_is(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    kv.put("a", b"first")
    page.open_key(node.endpoints[0], b"a")
    page.press("Edit")
    page.tab.locator(".editor").fill("mine")
    kv.delete("a")
    page.press("Save")
    page.sees("The key was deleted meanwhile")
    page.press("Keep theirs")
    page.sees("There is no such key.")
    assert kv.get("a") is None


def test_key_history_is_shown_and_restored(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    for number in range(4):
        kv.put("a", b"version %d" % number)
    page.open_key(node.endpoints[0], b"a")
    page.tab.wait_for_function("() => document.querySelectorAll('.history li').length === 4")
    page.tab.locator(".history li", has_text="version 1").get_by_role("button").click()
    page.confirm("Restore")
    page.sees("Saved as revision")
    assert value_of(node, "a") == b"version 1"


def test_key_that_was_deleted_is_restored_from_its_history(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    revision = kv.put("gone", b"precious").revision
    page.open_key(node.endpoints[0], b"gone")
    kv.delete("gone")
    page.sees("There is no such key.")
    assert kv.get("gone", revision=revision) is not None
    page.press("Create it")
    page.fill("Value (text)", "again")
    page.confirm("Create")
    page.tab.locator(".value").get_by_text("again").wait_for()


def test_key_with_a_value_of_1_mib_is_shown_in_part(node: ProcessCluster, page: Page) -> None:
    node.client().put("big", "ä".encode() * (512 * 1024))
    page.open_key(node.endpoints[0], b"big")
    page.sees("of 1.0 MiB")
    assert len(page.tab.locator(".value").inner_text()) == 32 * 1024
    page.press("Edit")
    page.sees("too large to edit here")


def test_key_with_a_binary_value_is_edited_in_hex(node: ProcessCluster, page: Page) -> None:
    node.client().put("bin", b"\x00\xff<script>alert(1)</script>")
    page.open_key(node.endpoints[0], b"bin")
    assert page.tab.locator(".value").inner_text().startswith("000000  00 ff 3c")
    page.press("Edit")
    page.tab.locator(".editor").fill("00 01 fe\nff")
    page.press("Save")
    page.sees("Saved as revision")
    assert value_of(node, "bin") == b"\x00\x01\xfe\xff"


def test_key_with_hidden_characters_shows_them(node: ProcessCluster, page: Page) -> None:
    node.client().put("a", "pay \u202eevil\u200b".encode())
    page.open_key(node.endpoints[0], b"a")
    assert page.tab.locator(".value").inner_text() == "pay \\u202eevil\\u200b"


def test_key_lease_stays_when_it_is_saved(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    kv.put("a", b"1", ttl=600.0)
    page.open_key(node.endpoints[0], b"a")
    page.press("Edit")
    page.tab.locator(".editor").fill("2")
    page.press("Save")
    page.sees("Saved as revision")
    found = kv.get("a")
    assert found is not None
    assert [lease.keys for lease in kv.leases()] == [1]


def test_key_has_its_request_in_three_ways(node: ProcessCluster, page: Page) -> None:
    node.client().put("it's", b"1")
    page.open_key(node.endpoints[0], b"it's")
    texts = page.tab.locator("details pre").all_text_contents()
    assert f"curl '{node.endpoints[0]}/key?key=it%27s'" in texts[0]
    assert 'kv.get("it\'s")' in texts[1]
    assert "get 'it'\\''s'" in texts[2]


def test_key_changed_by_others_is_shown_as_it_is_now(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    kv.put("a", b"one")
    page.open_key(node.endpoints[0], b"a")
    page.tab.locator(".value").get_by_text("one").wait_for()
    kv.put("a", b"two")
    page.tab.locator(".value").get_by_text("two").wait_for()


def test_key_shows_how_many_watches_include_it(node: ProcessCluster, page: Page) -> None:
    """Its own, that of the page, is among them; so are watches of a prefix, and reads that wait."""
    node.client().put("a/b", b"1")
    page.open_key(node.endpoints[0], b"a/b")
    watches = page.tab.locator("dt", has_text="Watches").locator("+ dd")
    watches.get_by_text("1 with this page's own", exact=True).wait_for()
    with urllib.request.urlopen(f"{node.endpoints[0]}/watch?prefix=a/"):
        watches.get_by_text("2 with this page's own", exact=True).wait_for()
    watches.get_by_text("1 with this page's own", exact=True).wait_for()


def test_key_json_keeps_numbers_and_names_as_they_are_written(node: ProcessCluster, page: Page) -> None:
    """JavaScript rounds large numbers, and keeps one of two equal names."""
    node.client().put("j", b'{"id":12345678901234567890,"f":1.0,"a":{},"a":[ ],"t":"\\u00e9 {,}"}')
    page.open_key(node.endpoints[0], b"j")
    lines = [
        "{",
        '  "id": 12345678901234567890,',
        '  "f": 1.0,',
        '  "a": {},',
        '  "a": [],',
        '  "t": "\\u00e9 {,}"',
        "}",
    ]
    assert page.tab.locator(".value").inner_text().splitlines() == lines
    page.press("Edit")
    page.press("Save")
    page.sees("Saved as revision")
    assert value_of(node, "j") == "\n".join(lines).encode()


def test_key_with_line_ends_of_windows_keeps_them(node: ProcessCluster, page: Page) -> None:
    """A text field of a browser has line feeds alone."""
    kv = node.client()
    kv.put("windows", b"a\r\nb\r\n")
    kv.put("mixed", b"a\r\nb\n")
    page.open_key(node.endpoints[0], b"windows")
    page.press("Edit")
    page.tab.locator(".editor").fill("a\nc\n")
    page.press("Save")
    page.sees("Saved as revision")
    assert value_of(node, "windows") == b"a\r\nc\r\n"
    page.open_key(node.endpoints[0], b"mixed")
    page.press("Edit")
    assert page.tab.locator(".editor").input_value() == "61 0d 0a 62 0a"
