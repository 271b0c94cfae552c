"""The screen of the cluster: who leads, what is wrong, what happened, and what an operator changes."""

from __future__ import annotations

import shlex

from playwright.sync_api import Route

from syncline.testing.process_cluster import ProcessCluster
from tests.browser.beside import beside
from tests.browser.console import Browser, Page
from tests.helpers.command import syncline


def test_cluster_screen_shows_members_leader_and_events(nodes: ProcessCluster, page: Page) -> None:
    page.open(nodes.endpoints[0])
    page.sees("All is well")
    leader = "abc"[nodes.leader()]
    page.tab.get_by_role("button", name=f"{leader}, leader").wait_for()
    assert page.tab.locator(".ring .node").count() == 3
    page.tab.locator(".timeline").get_by_text(f"{leader} leads in term").first.wait_for()
    page.tab.wait_for_function(
        "() => document.querySelectorAll('.ring .link:not(.cut) text').length === 2"
    )  # round trips


def test_cluster_screen_transfers_and_shows_the_command(nodes: ProcessCluster, page: Page) -> None:
    at = (nodes.leader() + 1) % 3
    name = "abc"[at]
    page.open(nodes.endpoints[0])
    page.sees("All is well")
    page.tab.locator(f".ring [aria-label^='{name}, ']").click()
    page.press("Make it the leader")
    assert f"transfer {name}" in page.tab.locator("dialog pre").inner_text()
    page.confirm("Transfer")
    page.sees("Transfer: done.")
    page.tab.get_by_role("button", name=f"{name}, leader").wait_for()
    assert nodes.leader() == at


def test_cluster_screen_takes_a_snapshot(nodes: ProcessCluster, page: Page) -> None:
    nodes.client().put("a", b"1")
    page.open(nodes.endpoints[0])
    page.tab.locator(".ring [aria-label^='a, ']").click()
    page.press("Take a snapshot")
    assert shown_command(page).endswith(" snapshot")
    page.confirm("Take it")
    page.tab.locator(".timeline").get_by_text("a took a snapshot at entry").first.wait_for()


def test_cluster_screen_adds_and_removes_a_member(nodes: ProcessCluster, page: Page) -> None:
    page.open(nodes.endpoints[0])
    page.sees("All is well")
    page.press("Add a member")
    page.fill("Name", "d")
    page.fill("Address for its peers (host:port)", "127.0.0.1:9")
    assert "member add d 127.0.0.1:9" in page.tab.locator("dialog pre").inner_text()
    page.tab.get_by_label("Stays a learner").check()
    page.confirm("Add")
    page.tab.locator(".ring [aria-label^='d, ']").click()
    page.press("Remove")
    assert shown_command(page).endswith(" member remove d")
    assert page.tab.locator("dialog").get_by_role("button", name="Remove").is_disabled()
    page.fill("Type d to confirm", "d")
    page.confirm("Remove")
    page.tab.locator(".ring [aria-label^='d, ']").wait_for(state="detached")


def test_cluster_screen_demotes_and_promotes_a_member(nodes: ProcessCluster, page: Page) -> None:
    """By its buttons, and by the commands that they show."""
    name = "abc"[(nodes.leader() + 1) % 3]
    learner = page.tab.locator(f".ring [aria-label^='{name}, learner']")
    follower = page.tab.locator(f".ring [aria-label^='{name}, follower']")
    page.open(nodes.endpoints[0])
    page.sees("All is well")
    follower.click()
    page.press("Make it a learner")
    demote = shown_command(page)
    page.confirm("Demote")
    learner.wait_for()
    page.sees(f"{name} is a learner")
    page.press("Promote to a voter")
    promote = shown_command(page)
    page.confirm("Cancel")
    run(promote, f"member promote {name}")
    follower.wait_for()
    run(demote, f"member demote {name}")
    learner.wait_for()
    page.press("Promote to a voter")
    page.confirm("Promote")
    follower.wait_for()


def shown_command(page: Page) -> str:
    """The command line that the open dialog shows."""
    shown: str = page.tab.locator("dialog pre").inner_text()
    return shown


def run(shown: str, expected: str) -> None:
    """Run the command that the page shows."""
    program, *arguments = shlex.split(shown)
    assert (program, " ".join(arguments[2:])) == ("syncline", expected)
    ran = beside(lambda: syncline(*arguments))
    assert ran.status == 0, ran


def test_cluster_screen_goes_on_when_the_leader_is_killed(nodes: ProcessCluster, page: Page) -> None:
    leader = nodes.leader()
    own = (leader + 1) % 3
    page.open(nodes.endpoints[own])
    page.sees("All is well")
    nodes.kill(leader)
    page.sees(f"{'abc'[leader]} does not answer")
    successor = "abc"[nodes.leader()]
    page.tab.get_by_role("button", name=f"{successor}, leader").wait_for()
    killed = page.tab.get_by_role("button", name=f"{'abc'[leader]}, no answer", exact=True)
    killed.click()  # its name does not tell how far it is behind: the new leader has not heard of it yet
    page.tab.locator("dt", has_text="Behind the leader").locator("+ dd", has_text="not known").wait_for()
    nodes.restart(leader)
    page.sees("All is well")


def test_cluster_screen_sees_the_others_when_its_own_node_is_killed(nodes: ProcessCluster, page: Page) -> None:
    """The page was loaded from a node that is gone: it asks the others, and names one to go to."""
    own = nodes.leader()
    page.open(nodes.endpoints[own])
    page.sees("All is well")
    nodes.kill(own)
    page.sees("The node of this console does not answer")
    successor = "abc"[nodes.leader()]
    page.tab.get_by_role("button", name=f"{successor}, leader").wait_for()
    nodes.restart(own)
    page.sees("All is well")


def test_cluster_without_a_quorum_is_told_and_can_be_read(nodes: ProcessCluster, browser: Browser, page: Page) -> None:
    nodes.client().put("config/a", b"kept")
    nodes.client().put("locks/report/01", b"a lock's holder", ttl=300.0)
    own = nodes.leader()
    for other in {0, 1, 2} - {own}:
        nodes.kill(other)
    page.open(nodes.endpoints[own])
    page.sees("No quorum: nothing can be written")
    page.sees("1 of 3 voters answers, and 2 are needed")
    page.open_keys(nodes.endpoints[own], b"config/")
    page.sees_rows(["a"])
    page.sees("as this node has them")
    page.open_key(nodes.endpoints[own], b"config/a")
    page.sees("Read from this node alone")
    assert page.tab.locator(".value").inner_text() == "kept"
    page.open(nodes.endpoints[own], "leases")
    page.sees("The leases can't be read")
    page.sees("a lock's holder")
    page.open(nodes.endpoints[own], "live")
    page.tab.wait_for_function("() => document.querySelectorAll('.curve').length >= 5")


def test_cluster_screen_asks_the_others_under_another_name(nodes: ProcessCluster, page: Page) -> None:
    """People type localhost, and nodes announce 127.0.0.1: for a browser these are two sites."""
    page.open(nodes.endpoints[0].replace("127.0.0.1", "localhost"))
    page.sees("All is well")
    assert page.tab.locator(".ring .no-answer").count() == 0


def test_cluster_screen_that_reaches_one_follower_alone_raises_no_alarm(nodes: ProcessCluster, page: Page) -> None:
    leader = nodes.leader()
    own, other = (leader + 1) % 3, (leader + 2) % 3
    for at in (leader, other):
        page.tab.route(f"{nodes.endpoints[at]}/**", lambda route: route.abort())
    page.open(nodes.endpoints[own])
    page.sees(f"This page does not reach {'abc'[leader]}")
    page.sees("It leads, and other nodes hear it")
    page.sees(f"This page does not reach {'abc'[other]}")
    assert page.tab.get_by_text("does not answer").count() == 0


def test_cluster_screen_of_a_member_that_came_later_is_loaded_again(nodes: ProcessCluster, page: Page) -> None:
    """The policy of a page names the nodes that it may ask: those that were there when it was loaded."""

    def without(route: Route) -> None:
        answer = route.fetch()
        origin = nodes.endpoints[2]
        policy = answer.headers["content-security-policy"].replace(f" {origin}", "")
        route.fulfill(
            response=answer,
            headers={**answer.headers, "content-security-policy": policy},
            body=answer.text().replace(origin, ""),
        )

    page.tab.route("**/console/", without, times=1)
    page.open(nodes.endpoints[0])
    page.sees("All is well")
    page.tab.wait_for_function("() => document.querySelectorAll('.ring .node:not(.not-seen-from-here)').length === 3")
    assert page.tab.evaluate("performance.getEntriesByType('navigation')[0].type") == "reload"
