"""`syncline run`, `lock` and `elect`: options that do not fit together, and errors before a command is started."""

from __future__ import annotations

import pytest

from tests.helpers.command import syncline
from tests.helpers.http_server import refused_url

WRONG = {
    "no kind": (("run", "--", "true"), "give one of --lock, --leader and --once"),
    "two kinds": (("run", "--lock", "a", "--once", "b", "--", "true"), "give one of --lock, --leader and --once"),
    "no command": (("run", "--lock", "a"), "give the command to run after --"),
    "an empty command": (("run", "--lock", "a", "--"), "no command follows --"),
    "an empty name": (("run", "--lock", "", "--", "true"), "must not be empty"),
    "every without once": (("run", "--lock", "a", "--every", "5m", "--", "true"), "--every goes with --once"),
    "wait for a leader": (("run", "--leader", "a", "--wait", "5s", "--", "true"), "--wait goes with --lock"),
    "holders of once": (("run", "--once", "a", "--holders", "2", "--", "true"), "--holders goes with --lock"),
    "a value of a lock": (("run", "--lock", "a", "--value", "x", "--", "true"), "--value goes with --leader"),
    "a TTL of once": (("run", "--once", "a", "--ttl", "5s", "--", "true"), "--once holds nothing"),
    "a long grace": (("run", "--lock", "a", "--grace", "6s", "--", "true"), "up to half of --ttl"),
    "no holders": (("run", "--lock", "a", "--holders", "0", "--", "true"), "--holders"),
    "no time": (("run", "--lock", "a", "--ttl", "soon", "--", "true"), "is not a time"),
    "observe with a value": (("elect", "a", "--observe", "--value", "x"), "does not campaign"),
    "an empty lock": (("lock", ""), "must not be empty"),
    "an empty service": (("discover", ""), "must not be empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_cli_run_with_options_that_do_not_fit_is_wrong_usage(case: str) -> None:
    arguments, text = WRONG[case]
    ran = syncline(*arguments, endpoints=refused_url())
    assert ran.status == 2
    assert text in ran.error()


def test_cli_lock_prints_its_token_and_ends_with_its_input() -> None:
    """The input of this test is empty: it has ended."""
    from tests.helpers.site_server import site_in_thread

    with site_in_thread() as site:
        ran = syncline("lock", "a", endpoints=site.url)
        assert (ran.status, ran.text, ran.err) == (0, "1\n", "")
        ran = syncline("elect", "a", "--json", endpoints=site.url)
        assert ran.status == 0
        assert ran.json()["token"] == 3
        assert syncline("discover", "a", endpoints=site.url).status == 3


@pytest.mark.parametrize(("command", "status"), [("nothing-there", 127), ("/nothing/there", 127), (__file__, 126)])
def test_cli_run_of_a_command_that_can_not_run_asks_no_server(command: str, status: int) -> None:
    """Else it would count as done: with --once no other process would run it."""
    ran = syncline("run", "--once", "a", "--", command, endpoints=refused_url())
    assert ran.status == status
    assert command in ran.error()


def test_cli_lock_with_a_short_ttl_is_wrong_usage() -> None:
    ran = syncline("lock", "a", "--ttl", "1s", endpoints=refused_url())
    assert (ran.status, "ttl is 1.0" in ran.error()) == (2, True)
