"""`syncline watch`: what it prints, what it runs, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import Ran, syncline
from tests.helpers.http_server import HttpDouble, Reply, error_reply, in_thread, refused_url, scripted
from tests.unit.test_client_watch import put_line, stream

GONE: dict[str, Any] = {
    "error": {"code": "compacted", "message": "revision 9 was compacted", "outcome": "not_applied", "details": {}}
}
"""Ends a watch for good."""

DELETE: dict[str, Any] = {
    "revision": 6,
    "events": [
        {
            "type": "delete",
            "key_base64": "/w==",
            "prev": {
                "value": "old\n",
                "mod_revision": 3,
                "create_revision": 2,
                "version": 2,
                "lease": "00000000000000a1",
            },
        }
    ],
}
CHANGES = (put_line(5), DELETE)


def watch(*arguments: str, replies: tuple[Reply, ...] = (stream(*CHANGES, GONE),)) -> tuple[Ran, HttpDouble]:
    with in_thread(scripted(*replies)) as (double,):
        return syncline("watch", *arguments, endpoints=double.url), double


def test_cli_watch_prints_a_line_for_each_change() -> None:
    ran, double = watch("a", "--rev", "5")
    assert ran.text == "5\tput\ta\tv\n6\tdelete\t\\xff\n"
    assert ran.status == 1
    assert "revision 9 was compacted" in ran.error()
    assert (double.requests[0].parameters["key"], double.requests[0].parameters["from"]) == ("a", "5")


def test_cli_watch_with_prev_prints_the_value_before() -> None:
    ran, double = watch("--prefix", "", "--prev", "--only", "delete")
    assert ran.text == "5\tput\ta\tv\t\n6\tdelete\t\\xff\t\told\\n\n"
    parameters = double.requests[0].parameters
    assert (parameters["prefix"], parameters["prev"], parameters["events"]) == ("", "true", "delete")


def test_cli_watch_as_json_prints_a_document_for_each_revision() -> None:
    ran, _ = watch("a", "--json")
    assert [json.loads(line) for line in ran.text.splitlines()] == [
        put_line(5),
        DELETE,
    ]


def test_cli_watch_goes_on_after_a_lost_connection() -> None:
    ran, double = watch("a", replies=(stream(put_line(5)), stream(put_line(6), GONE)))
    assert ran.text == "5\tput\ta\tv\n6\tput\ta\tv\n"
    assert double.requests[1].parameters["from"] == "6"


SCRIPT = """
import os, sys
told = {name: value for name, value in os.environ.items() if name.startswith("SYNCLINE_WATCH_")}
with open(sys.argv[1], "ab") as out:
    out.write(repr((sorted(told.items()), sys.stdin.buffer.read())).encode() + b"\\n")
"""


def test_cli_watch_runs_a_command_for_each_change(tmp_path: Path) -> None:
    out = tmp_path / "out"
    large = {"revision": 7, "events": [{**put_line(7)["events"][0], "value": "x" * 200_000 + "\0"}]}
    replies = (stream(*CHANGES, large, GONE),)
    ran, _ = watch("--prefix", "a", "--", sys.executable, "-c", SCRIPT, str(out), replies=replies)
    assert ran.text == ""
    first, second, third = out.read_text().splitlines()
    assert first == repr(
        (
            [
                ("SYNCLINE_WATCH_KEY", "a"),
                ("SYNCLINE_WATCH_REVISION", "5"),
                ("SYNCLINE_WATCH_TYPE", "put"),
                ("SYNCLINE_WATCH_VALUE", "v"),
            ],
            b"v",
        )
    )
    assert "('SYNCLINE_WATCH_TYPE', 'delete')" in second
    assert "\\udcff" in second
    assert "SYNCLINE_WATCH_VALUE" not in third
    assert "x" * 200_000 + "\\x00" in third


def test_cli_watch_ends_with_its_command_and_tells_where_to_go_on() -> None:
    ran, _ = watch("a", "--", sys.executable, "-c", "raise SystemExit(3)")
    assert ran.status == 1
    assert "ended with status 3 at revision 5; watch again with --rev 5" in ran.error()


def test_cli_watch_with_a_command_that_is_not_there_tells_its_name() -> None:
    ran, _ = watch("a", "--json", "--", "/nothing/here")
    assert ran.status == 1
    assert "can't run /nothing/here" in json.loads(ran.error())["error"]["message"]


@pytest.mark.parametrize("arguments", [(), ("a", "--prefix", "b"), ("a", "--"), ("",), ("a", "--rev", "0")])
def test_cli_watch_that_makes_no_sense_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert syncline("watch", *arguments, endpoints=refused_url()).status == 2


def test_cli_watch_without_a_server_fails_at_once() -> None:
    ran = syncline("watch", "a", "--timeout", "60s", endpoints=refused_url())
    assert ran.status == 4
    assert "can't reach" in ran.error()


def test_cli_watch_that_the_server_refuses_ends_with_its_reason() -> None:
    ran, _ = watch("a", "--rev", "1", replies=(error_reply(410, "compacted", message="oldest is 7"),))
    assert (ran.status, ran.error()) == (1, "syncline: oldest is 7")


def test_cli_watch_says_once_why_it_can_not_watch() -> None:
    no_leader = error_reply(503, "no_leader", message="no leader is known")
    again = stream(put_line(6), GONE)
    ran, _ = watch("a", "--rev", "5", replies=(no_leader, no_leader, stream(put_line(5)), no_leader, again))
    lines = ran.err.splitlines()
    assert [line for line in lines if "no leader is known; still trying" in line] == [lines[0], lines[2]]
    assert ran.text == "5\tput\ta\tv\n6\tput\ta\tv\n"


def test_cli_watch_that_was_interrupted_asks_for_nothing() -> None:
    error = {"code": "no_leader", "message": "no leader; watch again from revision 6", "outcome": "not_applied"}
    ended = stream(put_line(5), {"error": {**error, "details": {"from": 6}}})
    ran, double = watch("a", "--rev", "5", replies=(ended, stream(put_line(6), GONE)))
    assert ran.err.splitlines()[0] == "syncline: the watch was interrupted (no_leader); still trying"
    assert double.requests[1].parameters["from"] == "6"
