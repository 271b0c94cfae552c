"""The screen of keys: folders and lists, hostile names, selections, and what is done with keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from syncline.client import PutOp
from syncline.testing.process_cluster import ProcessCluster
from tests.browser.console import Page

HOSTILE = (
    b"<img src=x onerror=alert(1)>",
    b"javascript:alert(1)",
    "a\u202etxt.exe".encode(),
    b"'\";--</script><script>alert(2)</script>",
    b"\xff\xfe\x00binary",
    b"/",
    b"//a",
    b"#/keys?p=x",
    b"__proto__",
    "\u200bzero".encode(),
    b"a\\u202etxt.exe",
    "tag\U000e0041".encode(),
)


def test_keys_are_shown_as_folders_and_root_keys(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    for key in ("a/1", "a/2", "a/b/3", "root", "z/9"):
        kv.put(key, b"v")
    page.open_keys(node.endpoints[0])
    page.sees_rows(["a/", "root", "z/"])
    page.sees("3 keys")
    page.tab.locator(".line", has_text="a/").first.click()
    page.sees_rows(["1", "2", "b/"])
    page.tab.get_by_label("Show").select_option("flat")
    page.sees_rows(["a/1", "a/2", "a/b/3"])


def test_keys_with_another_separator_are_folders_of_it(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    for key in ("a:1", "a:2", "b/1"):
        kv.put(key, b"v")
    page.open_keys(node.endpoints[0], s=":")
    page.sees_rows(["a:", "b/1"])


def test_keys_of_hostile_names_are_shown_and_opened_as_text(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    for key in HOSTILE:
        kv.put(key, key)
    page.open_keys(node.endpoints[0], v="flat")
    page.tab.wait_for_function(f"() => document.querySelectorAll('.line').length === {len(HOSTILE)}")
    shown = page.rows()
    assert "<img src=x onerror=alert(1)>" in shown
    assert "a\\u202etxt.exe" in shown
    assert "a\\u005cu202etxt.exe" in shown, "two keys look the same"
    assert "tag\\udb40\\udc41" in shown
    assert "\\xff\\xfe\\x00binary" in shown
    page.open_key(node.endpoints[0], HOSTILE[0])
    names = set()
    for key in HOSTILE[1:]:
        page.go_to_key(key)
        page.tab.locator(".value").wait_for()
        names.add(page.tab.locator("h1").inner_text())
    assert len(names) == len(HOSTILE) - 1
    page.open(node.endpoints[0], "live")
    page.sees("Changes")
    for key in HOSTILE:
        kv.put(key, b"<svg onload=alert(3)>")
    page.tab.locator(".tail").get_by_text("<svg onload=alert(3)>").first.wait_for()


def test_keys_are_searched_by_prefix_and_by_text(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    for number in range(50):
        kv.put(f"jobs/{number:02}/state", b"v")
    page.open_keys(node.endpoints[0])
    page.sees_rows(["jobs/"])
    page.tab.keyboard.press("/")
    page.tab.keyboard.type("/4")
    page.tab.wait_for_function("() => document.querySelectorAll('.line').length === 10")
    page.sees("10 found in 50 of 50 keys")
    page.open_keys(node.endpoints[0])
    page.fill("Begins with", "jobs/1")
    page.tab.keyboard.press("Enter")
    page.sees("10 keys")


def test_keys_many_are_drawn_as_they_come_into_sight(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    kv.batch([PutOp(b"many/%04d" % number, b"v") for number in range(1000)])
    page.open_keys(node.endpoints[0], v="flat")
    page.sees("many/0000")
    assert page.tab.locator(".line").count() < 60
    page.tab.locator(".virtual").focus()
    for _ in range(6):
        page.tab.keyboard.press("End")
        page.tab.wait_for_timeout(150)
    page.sees("many/0999")


def test_key_is_made_duplicated_renamed_and_deleted(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    page.open_keys(node.endpoints[0])
    page.press("New key")
    page.fill("Key", "new")
    page.fill("Value (text)", "one")
    page.confirm("Create")
    page.tab.locator("h1", has_text="new").wait_for()
    page.press("Duplicate")
    page.fill("New key", "copy")
    page.confirm("Duplicate")
    page.tab.locator("h1", has_text="copy").wait_for()
    page.press("Rename")
    page.fill("New key", "moved")
    page.confirm("Rename")
    page.tab.locator("h1", has_text="moved").wait_for()
    assert {one.key: kv.get(one.key).value for one in kv.list().items} == {b"moved": b"one", b"new": b"one"}  # type: ignore[union-attr]
    page.press("Delete")
    page.confirm("Delete")
    page.sees("There is no such key.")
    assert kv.get("moved") is None


def test_key_rename_onto_another_key_is_refused(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    kv.put("a", b"1")
    kv.put("b", b"2")
    page.open_key(node.endpoints[0], b"a")
    page.press("Rename")
    page.fill("New key", "b")
    page.confirm("Rename")
    page.sees("Not renamed")
    assert kv.get("b").value == b"2"  # type: ignore[union-attr]


def test_keys_selected_are_deleted_and_others_stay(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    for key in "abcd":
        kv.put(key, b"v")
    page.open_keys(node.endpoints[0])
    page.tab.get_by_label("Select a").check()
    page.tab.get_by_label("Select c").check()
    page.sees("2 selected")
    page.tab.get_by_role("region", name="The selected keys").get_by_role("button", name="Delete").click()
    page.confirm("Delete")
    page.sees_rows(["b", "d"])
    assert [one.key for one in kv.list().items] == [b"b", b"d"]


def test_keys_below_a_prefix_are_deleted_after_a_typed_confirmation(node: ProcessCluster, page: Page) -> None:
    kv = node.client()
    for number in range(30):
        kv.put(f"jobs/{number}", b"v")
    kv.put("jobs", b"stays")
    page.open_keys(node.endpoints[0], b"jobs/")
    page.press("Delete below")
    page.sees("Delete 30 keys?")
    assert page.tab.get_by_role("button", name="Delete them").is_disabled()
    page.fill("Type jobs/ to confirm", "jobs/")
    page.confirm("Delete them")
    page.sees("30 keys were deleted.")
    assert [one.key for one in kv.list().items] == [b"jobs"]


def test_keys_are_exported_and_imported_again(node: ProcessCluster, page: Page, tmp_path: Path) -> None:
    kv = node.client()
    pairs = {b"text": b"v", b"\xff\x00": b"\x00\x01\xff", b"empty": b"", "ü".encode(): "ß".encode()}
    for key, value in pairs.items():
        kv.put(key, value)
    page.open_keys(node.endpoints[0])
    with page.tab.expect_download() as exported:
        page.press("Export")
    path = tmp_path / "keys.ndjson"
    exported.value.save_as(path)
    assert json.loads(path.read_text().splitlines()[-1])["end"]["keys"] == len(pairs)
    node.clear()
    with page.tab.expect_file_chooser() as chooser:
        page.press("Import")
    chooser.value.set_files(path)
    page.confirm("Import")
    page.sees("4 keys stored")
    assert {one.key: kv.get(one.key).value for one in kv.list().items} == pairs  # type: ignore[union-attr]


def test_key_is_uploaded_and_downloaded_byte_for_byte(node: ProcessCluster, page: Page, tmp_path: Path) -> None:
    content = bytes(range(256)) * 64
    (tmp_path / "picture.bin").write_bytes(content)
    page.open_keys(node.endpoints[0])
    with page.tab.expect_file_chooser() as chooser:
        page.press("Upload")
    chooser.value.set_files(tmp_path / "picture.bin")
    page.confirm("Upload")
    page.sees("picture.bin was stored.")
    with page.tab.expect_download() as downloaded:
        page.press("Download")
    assert Path(downloaded.value.path()).read_bytes() == content


@pytest.mark.parametrize("form", ["hex", "base64"])
def test_keys_are_shown_in_other_forms(form: str, node: ProcessCluster, page: Page) -> None:
    node.client().put(b"\x00\xff", b"v")
    page.open_keys(node.endpoints[0], f=form)
    page.sees_rows([{"hex": "00ff", "base64": "AP8="}[form]])


def test_new_key_in_hexadecimal_shows_the_command_of_its_bytes(node: ProcessCluster, page: Page) -> None:
    page.open_keys(node.endpoints[0])
    page.press("New key")
    page.fill("Key", "00 6")
    page.tab.get_by_label("It is given").select_option("hex")
    page.fill("Key", "00 61")
    page.fill("Deleted after (empty: never)", "30s; rm -r x")
    page.tab.locator("dialog pre", has_text="--ttl '30s; rm -r x' $'\\x00a'").wait_for()
