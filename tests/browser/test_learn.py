"""The screen of trials under `syncline up`: its nodes are killed, paused and started from the page, by its token."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.browser.console import ONE_LINK_CUT, PHONE, Browser, Page
from tests.helpers.ports import free_block

EXIT_S = 30.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the console that `up` has printed."""
    directory = tmp_path_factory.mktemp("up")
    command = [*(sys.executable, "-m", "syncline", "up", "--json", "--data-dir", str(directory / "data"))]
    command += ["--port", str(free_block(103))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = next(found for line in process.stdout if (found := json.loads(line))["event"] == "ready")
        yield ready["console"]
        process.send_signal(signal.SIGINT)
        process.wait(EXIT_S)


def test_learn_kills_the_leader_and_starts_it_again(address: str, page: Page) -> None:
    page.tab.goto(address)
    page.tab.get_by_role("heading", name="Learn").wait_for()
    assert "lab=" not in page.tab.url
    page.press("Write 100 keys a second")
    page.tab.get_by_role("button", name=re.compile("Kill the leader, ")).wait_for()
    name = page.tab.get_by_role("button", name=re.compile("Kill the leader, ")).inner_text()[-2:]
    page.tab.get_by_role("button", name=re.compile("Kill the leader, ")).click()
    page.tab.locator(f".ring [aria-label^='{name}, no answer']").wait_for()
    page.tab.locator(".ring .node.leader").wait_for()
    page.tab.locator(".row", has=page.tab.get_by_text(name, exact=True)).get_by_role("button", name="Start").click()
    page.tab.locator(f".ring [aria-label^='{name}, follower']").wait_for()
    page.press("Stop writing")


def test_learn_pauses_a_node_and_lets_it_go_on(address: str, page: Page) -> None:
    page.tab.goto(address)
    row = page.tab.locator(".row", has=page.tab.get_by_text("n3", exact=True))
    row.get_by_role("button", name="Pause").click()
    page.tab.locator(".ring [aria-label^='n3, no answer']").wait_for()
    row.get_by_role("button", name="Go on").click()
    page.tab.locator(".ring [aria-label^='n3, no answer']").wait_for(state="detached")


def test_learn_cuts_the_leader_off_and_connects_it_again(address: str, page: Page) -> None:
    """A partition: the node runs and has no say; the others elect a leader; connected again, it catches up."""
    page.tab.goto(address)
    cut = page.tab.get_by_role("button", name=re.compile("Cut off the leader, "))
    name = cut.inner_text()[-2:]
    cut.click()
    row = page.tab.locator(".row", has=page.tab.get_by_text(name, exact=True))
    row.get_by_text("cut off", exact=True).wait_for()
    page.tab.locator(f".ring .node.leader:not([aria-label^='{name}, '])").wait_for()
    page.tab.locator(f".ring [aria-label^='{name}, follower'], .ring [aria-label^='{name}, candidate']").wait_for()
    page.tab.wait_for_function(ONE_LINK_CUT)
    page.tab.get_by_role("link", name="Cluster").click()
    page.sees(f"{name} is cut off from the other nodes")
    urls = urls_of_nodes(address)
    with pytest.raises(urllib.error.HTTPError) as refused:
        put(f"{urls[name]}/key/learn?timeout=1s", b"lost")
    assert json.load(refused.value)["error"]["code"] == "no_leader"
    refused.value.close()
    other = next(url for node, url in urls.items() if node != name)
    put(f"{other}/key/learn?timeout=20s", b"kept")
    page.tab.get_by_role("link", name="Learn").click()
    row.get_by_role("button", name="Connect").click()
    page.tab.locator(".ring .link.cut").wait_for(state="detached")
    page.tab.locator(f".ring [aria-label^='{name}, follower']").wait_for()
    with urllib.request.urlopen(f"{urls[name]}/key/learn?timeout=20s") as read:
        assert read.read() == b"kept"


def test_learn_shows_what_another_page_has_cut_off(address: str, page: Page) -> None:
    """Two pages of one lab: an order of one is seen on the other, which has ordered nothing."""
    page.tab.goto(address)
    row = page.tab.locator(".row", has=page.tab.get_by_text("n3", exact=True))
    row.get_by_role("button", name="Cut off").wait_for()
    order(address, "cut", "n3")
    row.get_by_text("cut off", exact=True).wait_for()
    row.get_by_role("button", name="Connect").wait_for()
    order(address, "connect", "n3")
    row.get_by_role("button", name="Cut off").wait_for()
    assert row.get_by_text("cut off", exact=True).count() == 0


def test_learn_on_a_phone_by_the_keyboard_has_names_and_fits(address: str, browser: Browser) -> None:
    phone = browser.page(PHONE)
    phone.tab.goto(address)
    phone.tab.get_by_role("link", name="Cluster").click()
    phone.tab.locator("main.cluster").wait_for()
    phone.tab.keyboard.press("g")
    phone.tab.keyboard.press("t")
    phone.tab.get_by_role("button", name=re.compile("Cut off the leader, ")).wait_for()
    assert phone.nameless() == []
    assert phone.tab.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    phone.close()
    assert phone.faults == []


def order(address: str, action: str, node: str) -> None:
    """Give an order as another page does."""
    token = address.partition("#lab=")[2]
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{door_of(address)}/lab/{action}/{node}", method="POST", headers=headers)
    urllib.request.urlopen(request).close()


def door_of(address: str) -> str:
    """The URL at which `up` takes orders."""
    with urllib.request.urlopen(address.partition("#")[0].replace("/console/", "/console-settings")) as settings:
        door: str = json.load(settings)["lab"]
        return door


def urls_of_nodes(address: str) -> dict[str, str]:
    with urllib.request.urlopen(address.replace("/console/", "/raft/status")) as status:
        return {member["name"]: member["http"] for member in json.load(status)["members"]}


def put(url: str, value: bytes) -> None:
    urllib.request.urlopen(urllib.request.Request(url, data=value, method="PUT")).close()


def test_learn_is_not_there_without_the_token(address: str, page: Page) -> None:
    page.open(address.partition("/console/")[0])
    page.sees("All is well")
    assert page.tab.get_by_role("link", name="Learn").count() == 0


def test_learn_door_refuses_a_wrong_token(address: str) -> None:
    door = door_of(address)
    for token in ("", "x", "Bearer x"):
        request = urllib.request.Request(f"{door}/lab/kill/n1", method="POST", headers={"Authorization": token})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == 401
        caught.value.close()
