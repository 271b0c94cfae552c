"""What users may see, signing in and out, and a console that only reads, or that is off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.client import Client
from tests.browser.beside import beside, running_nodes
from tests.browser.console import Page

PASSWORD = "a good password"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a node that needs credentials: root may do all, ann reads jobs/ alone."""
    with running_nodes(str(tmp_path_factory.mktemp("guarded")), nodes=1) as cluster:
        kv = cluster.client()
        kv.put("jobs/1", b"v")
        kv.put("secret", b"v")
        kv.add_user("root", PASSWORD, admin=True)
        kv.add_role("reader")
        kv.allow("reader", "read", prefix="jobs/")
        kv.add_user("ann", PASSWORD, roles=["reader"])
        kv.add_role("one")
        kv.allow("one", "readwrite", key="leased")
        kv.add_user("bob", PASSWORD, roles=["one"])
        kv.enable_auth()
        yield cluster.endpoints[0]


def sign_in(page: Page, user: str) -> None:
    page.tab.get_by_role("dialog", name="Sign in").wait_for()
    page.fill("User", user)
    page.tab.get_by_label("Password").fill(PASSWORD)
    page.tab.keyboard.press("Enter")
    page.sees("Sign out")


def test_access_needs_a_sign_in_and_ends_with_a_sign_out(guarded: str, page: Page) -> None:
    page.open(guarded)
    page.tab.get_by_role("dialog", name="Sign in").wait_for()
    page.fill("User", "root")
    page.tab.get_by_label("Password").fill("wrong")
    page.tab.keyboard.press("Enter")
    page.tab.locator("dialog [role=alert]").get_by_text(".").wait_for()
    sign_in(page, "root")
    page.sees("All is well")
    kept = page.tab.evaluate("JSON.stringify({...sessionStorage, ...localStorage})")
    assert PASSWORD not in kept
    assert "token" in kept
    page.press("Sign out")
    page.tab.get_by_role("dialog", name="Sign in").wait_for()
    assert page.tab.evaluate("sessionStorage.length") == 0


def test_access_without_permission_is_told_in_words(guarded: str, page: Page) -> None:
    page.open(guarded)
    sign_in(page, "ann")
    page.sees("This user may not see the cluster")
    page.tab.get_by_role("link", name="Keys").click()
    page.sees("This user may not read these keys")
    page.fill("Begins with", "jobs/")
    page.tab.keyboard.press("Enter")
    page.sees_rows(["1"])
    page.tab.get_by_role("link", name="Live").click()
    page.sees("This user may not see the figures")
    page.tab.get_by_role("link", name="Leases").click()
    page.sees("This user may not")
    page.open_keys(guarded, b"jobs/")
    page.press("New key")
    page.fill("Key", "jobs/2")
    page.confirm("Create")
    page.tab.locator(".toast.bad").wait_for()


@pytest.mark.parametrize("mode", ["read-only", "off"])
def test_access_to_a_console_that_is_limited(
    mode: str, page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNCLINE_CONSOLE", mode)
    with running_nodes(str(tmp_path), nodes=1) as cluster:
        url = cluster.endpoints[0]
        cluster.client().put("a", b"v")
        if mode == "off":
            answer = page.tab.goto(f"{url}/console/")
            assert answer is not None
            assert answer.status == 404
            return
        page.open(url)
        page.sees("All is well")
        page.sees("read-only")
        assert page.button("Add a member").count() == 0
        page.open_keys(url)
        page.sees_rows(["a"])
        assert page.button("New key").count() == 0
        page.open_key(url, b"a")
        assert page.button("Edit").count() == 0
        assert page.button("Download").count() == 1


def test_access_dialog_that_was_cancelled_does_not_come_again(guarded: str, page: Page) -> None:
    page.open(guarded)
    dialog = page.tab.get_by_role("dialog", name="Sign in")
    dialog.wait_for()
    page.press("Cancel")
    page.sees("Sign in to see the cluster")
    with page.tab.expect_response("**/raft/status"), page.tab.expect_response("**/raft/status"):
        pass
    assert dialog.count() == 0
    page.press("Sign in")
    sign_in(page, "root")
    page.sees("All is well")


def test_access_to_one_key_keeps_its_lease_when_it_is_saved(guarded: str, page: Page) -> None:
    """The user may list nothing. Without its lease the key would stay for ever."""
    root = beside(lambda: Client(guarded, user="root", password=PASSWORD))
    beside(lambda: root.put("leased", b"v", ttl=600))
    page.open(guarded)
    sign_in(page, "bob")
    page.sees("This user may not see the cluster")
    page.open_key(guarded, b"leased")
    page.press("Edit")
    page.tab.locator(".editor").fill("w")
    page.press("Save")
    page.sees("Saved as revision")
    page.tab.locator(".value", has_text="w").wait_for()
    assert page.tab.locator("dt:text-is('Lease') + dd").inner_text() != "none"
    found = beside(lambda: root.get("leased"))
    beside(root.close)
    assert found is not None
    assert found.value == b"w"


def test_access_without_a_quorum_is_by_the_password_in_memory(page: Page, tmp_path: Path) -> None:
    """No token can be made. The page must not be loaded again, which would ask for the password again."""
    with running_nodes(str(tmp_path)) as cluster:
        kv = cluster.client()
        kv.put("a", b"v")
        kv.add_user("root", PASSWORD, admin=True)
        own = cluster.leader()
        kv.enable_auth()
        for other in {0, 1, 2} - {own}:
            cluster.kill(other)
        page.open(cluster.endpoints[own])
        sign_in(page, "root")
        page.sees("No quorum: nothing can be written")
        page.tab.get_by_role("link", name="Keys").click()
        page.sees_rows(["a"])
        assert page.tab.get_by_role("dialog", name="Sign in").count() == 0
        assert PASSWORD not in page.tab.evaluate("JSON.stringify({...sessionStorage, ...localStorage})")


def test_access_with_a_credential_that_ended_does_not_send_it_again(guarded: str, page: Page) -> None:
    """A wrong password that the page sends each second would lock its user out."""
    page.open(guarded)
    sign_in(page, "root")
    page.tab.evaluate("sessionStorage.setItem('syncline.token', JSON.stringify({token: 'ended', user: 'root'}))")
    page.tab.reload()
    page.tab.get_by_role("dialog", name="Sign in").wait_for()
    with page.tab.expect_request("**/raft/status") as asked:
        pass
    assert "authorization" not in asked.value.headers
    assert page.tab.evaluate("sessionStorage.length") == 0


def test_access_signed_out_without_the_server_is_told(guarded: str, page: Page) -> None:
    """The token is still good: whoever has it may use it until it ends."""
    page.open(guarded)
    sign_in(page, "root")
    page.tab.route("**/token/*", lambda route: route.abort())
    page.press("Sign out")
    page.sees("the token could not be ended")
    with page.tab.expect_response(lambda response: response.status == 401):
        pass  # the page goes on asking, and must not ask the user over this message
    assert page.tab.evaluate("sessionStorage.length") == 0
    page.press("OK")
    page.tab.get_by_role("dialog", name="Sign in").wait_for()
