"""`status`, `member`, `transfer`, `snapshot` against doubles of a cluster's nodes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.helpers.command import Ran, syncline
from tests.helpers.http_server import HttpDouble, KeyDouble, error_reply, in_thread, json_reply, refused_url

IDS = {name: f"{number:016x}" for number, name in enumerate(("a", "b", "c", "gone"), 1)}


def member(name: str, url: str, *, role: str = "voter", lag: int | None = None) -> dict[str, object]:
    return {"id": IDS[name], "name": name, "role": role, "peer": f"{name}:7100", "http": url, "match": None,
            "lag": lag, "active": None}  # fmt: skip


def status(name: str, url: str, role: str, members: list[dict[str, object]], **more: object) -> dict[str, object]:
    return {
        "cluster_id": "00000000000000ab", "cluster": "test", "id": IDS[name], "name": name, "role": role, "term": 3,
        "leader": {"id": IDS["a"], "name": "a", "http": ""}, "commit": 9, "applied": 8, "last_index": 9,
        "first_index": 1, "snapshot_index": 0, "membership_index": 1, "lag": 1, "pid": 100, "data_dir": f"/data/{name}",
        "version": "0.1.0", "http": url, "peer": f"{name}:7100", "uptime_s": 1.5, "revision": 7, "last_contact_s": 0.1,
        "digest": "0123456789abcdef" * 2, "members": members, **more,
    }  # fmt: skip


@contextmanager
def cluster() -> Iterator[tuple[dict[str, KeyDouble], list[HttpDouble], str]]:
    """Nodes a (leader) and b that answer, and c that does not."""
    nodes = {"a": KeyDouble(), "b": KeyDouble()}
    with in_thread(*nodes.values()) as doubles:
        away = refused_url()
        urls = [*(double.url for double in doubles), away]
        views = {
            "a": [member(name, url, lag=lag) for name, url, lag in zip("abc", urls, (0, 5, 6), strict=True)],
            "b": [member(name, url) for name, url in zip("abc", urls, strict=True)],
        }
        nodes["a"].status = status("a", urls[0], "leader", views["a"])
        nodes["b"].status = status("b", urls[1], "follower", views["b"])
        yield nodes, doubles, away


INTERRUPTED_WHILE_LOADING = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
runpy.run_module("syncline", run_name="__main__")
"""


def test_ctrl_c_while_the_command_is_being_loaded_shows_no_traceback() -> None:
    command = [sys.executable, "-c", INTERRUPTED_WHILE_LOADING]
    ran = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, b"", b"")


def test_one_endpoint_is_enough_to_see_every_member() -> None:
    with cluster() as (_, doubles, away):
        ran = syncline("status", "--json", "--endpoints", doubles[1].url)
    assert ran.status == 0
    found = ran.json()
    assert (found["cluster_id"], found["leader"]) == ("00000000000000ab", "a")
    rows = found["members"]
    assert isinstance(rows, list)
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert rows[1] == {
        "name": "b", "id": IDS["b"], "role": "follower", "http": doubles[1].url, "peer": "b:7100", "term": 3,
        "commit": 9, "applied": 8, "lag": 5, "pid": 100, "data_dir": "/data/b", "reachable": True, "member": True,
        "voter": True,
        "leader": "a", "last_index": 9, "first_index": 1, "snapshot_index": 0, "revision": 7, "uptime_s": 1.5,
        "version": "0.1.0", "error": None, "active": None, "promote": False, "fault": "",
        "digest_index": 0, "digest_agreement": "none", "digest_age_s": None,
        "digest": "0123456789abcdef" * 2, "url": doubles[1].url,
    }  # fmt: skip
    assert (rows[2]["role"], rows[2]["reachable"], rows[2]["http"]) == (None, False, away)
    assert "connection refused" in rows[2]["error"]


def test_the_table_shows_members_and_why_one_is_not_there() -> None:
    with cluster() as (_, doubles, away):
        ran = syncline("status", "--endpoints", doubles[0].url)
    lines = ran.text.splitlines()
    assert lines[0].split() == ["NAME", "ROLE", "HTTP", "TERM", "LAG", "DIGEST", "PID"]
    assert lines[2].split() == ["b", "follower", doubles[1].url, "3", "5", "01234567", "100"]
    assert lines[3].split()[:4] == ["c", "unreachable", away, "-"]
    assert lines[4] == f"c: can't reach {away}: connection refused"


def test_status_of_a_member_with_a_fault_shows_it_instead_of_its_lag() -> None:
    """A node that has lost entries acknowledged them once: the leader's match index says lag 0."""
    with cluster() as (nodes, doubles, _):
        members = nodes["a"].status["members"]
        assert isinstance(members, list)
        members[1]["fault"] = "it has lost entries"
        ran = syncline("status", "--endpoints", doubles[0].url)
        as_json = syncline("status", "--json", "--endpoints", doubles[0].url)
    assert ran.text.splitlines()[4] == "b: not healthy: it has lost entries"
    row = rows_of(as_json)[1]
    assert (row["name"], row["lag"], row["fault"]) == ("b", None, "it has lost entries")


def test_status_says_that_the_states_differ_without_a_majority() -> None:
    with cluster() as (nodes, doubles, _):
        nodes["b"].status |= {"digest_index": 8192, "digest_agreement": "no_majority", "digest_age_s": 2.0}
        table = syncline("status", "--endpoints", doubles[0].url)
        as_json = syncline("status", "--json", "--endpoints", doubles[0].url)
    assert "the voters' states differ" in table.text
    row = rows_of(as_json)[1]
    assert (row["digest_index"], row["digest_agreement"], row["digest_age_s"]) == (8192, "no_majority", 2.0)


def rows_of(ran: Ran) -> list[dict[str, object]]:
    rows = ran.json()["members"]
    assert isinstance(rows, list)
    return rows


def test_a_cluster_without_a_leader_says_so() -> None:
    with cluster() as (nodes, doubles, _):
        for node in nodes.values():
            node.status |= {"role": "candidate", "leader": None}
        ran = syncline("status", "--endpoints", doubles[0].url)
    assert "\nno leader, so that writes" in ran.text


def test_a_named_endpoint_that_is_no_member_is_shown_too() -> None:
    stranger = refused_url()
    with cluster() as (nodes, doubles, _):
        nodes["b"].status |= {"id": IDS["gone"], "name": "gone"}
        ran = syncline("status", "--json", "--endpoints", f"{doubles[0].url},{doubles[1].url},{stranger}")
    rows = ran.json()["members"]
    assert isinstance(rows, list)
    shown = {row["name"] or row["http"]: (row["reachable"], row["member"]) for row in rows}
    assert shown == {"a": (True, True), "b": (False, True), "c": (False, True), "gone": (True, False),
                     stranger: (False, False)}  # fmt: skip
    assert "another node, gone, answers" in rows[1]["error"]


def test_endpoints_of_different_clusters_are_a_mistake() -> None:
    with cluster() as (nodes, doubles, _):
        nodes["b"].status |= {"cluster_id": "00000000000000cd"}
        ran = syncline("status", "--endpoints", f"{doubles[0].url},{doubles[1].url}")
    assert ran.status == 2
    assert "different clusters" in ran.error()


def test_unreachable_server_is_one_line() -> None:
    ran = syncline("status", endpoints=f"{refused_url()},{refused_url()}")
    assert ran.status == 4
    assert ran.error().count("connection refused") == 2


MEMBERS = [member("a", "http://a"), member("b", "", role="learner")]
ADDED = {"status": "success", "added": True, "cluster_id": "ab", "membership_index": 4, "member": MEMBERS[1],
         "members": MEMBERS}  # fmt: skip
LEVELS = {"level": 1, "machine_version": 3, "possible_level": 2, "possible_machine_version": 4, "held": True,
          "hold_level": 0, "members": [{"id": "2", "name": "b", "level": 2, "machine_version": 4},
                                       {"id": "1", "name": "a", "level": 3, "machine_version": 4}]}  # fmt: skip
CHANGED = {"status": "success", "membership_index": 5, "members": MEMBERS}


@pytest.mark.parametrize(
    ("arguments", "path", "answer", "sent", "line"),
    [
        (("member", "add", "b", "b:7100"), "/raft/add", ADDED,
         {"ID": "b", "Address": "b:7100", "Http": "", "Learner": False}, "b: added as learner"),
        (("member", "add", "b", "b:7100", "--learner", "--http", "http://b"), "/raft/add", {**ADDED, "added": False},
         {"ID": "b", "Address": "b:7100", "Http": "http://b", "Learner": True}, "b: is a member already as learner"),
        (("member", "remove", "b"), "/raft/remove", CHANGED, {"ID": "b"}, "b: removed"),
        (("member", "update", "b", "--address", "b2:7100"), "/raft/update", CHANGED,
         {"ID": "b", "Address": "b2:7100"}, "b: its peers dial it at b2:7100"),
        (("member", "promote", "b"), "/raft/promote", CHANGED, {"ID": "b"}, "b: promoted"),
        (("member", "demote", "b"), "/raft/demote", CHANGED, {"ID": "b"}, "b: demoted"),
        (("member", "remove", "b", "--force"), "/raft/remove", CHANGED, {"ID": "b", "Force": True}, "b: removed"),
        (("member", "promote", "b", "--force"), "/raft/promote", CHANGED, {"ID": "b", "Force": True}, "b: promoted"),
        (("member", "demote", "b", "--force"), "/raft/demote", CHANGED, {"ID": "b", "Force": True}, "b: demoted"),
        (("transfer", "b"), "/raft/transfer", {"leader": {"id": "2", "name": "b", "http": ""}}, {"To": "b"}, "b leads"),
        (("transfer",), "/raft/transfer", {"leader": {"id": "2", "name": "", "http": ""}}, {}, "2 leads"),
        (("upgrade", "hold"), "/raft/upgrade", LEVELS, {"Action": "hold"},
         "the cluster is at level 1, machine version 3"),
        (("upgrade", "finalize"), "/raft/upgrade", LEVELS, {"Action": "finalize"},
         "the cluster is at level 1, machine version 3"),
        (("snapshot",), "/raft/snapshot", {"created": True, "index": 7}, {}, "snapshot at index 7"),
        (("snapshot",), "/raft/snapshot", {"created": False, "index": 7}, {},
         "nothing new since the snapshot at index 7"),
        (("snapshot", "take"), "/raft/snapshot", {"created": True, "index": 7}, {}, "snapshot at index 7"),
    ],
)  # fmt: skip
def test_a_change_sends_what_it_should_and_says_what_came_of_it(
    arguments: tuple[str, ...], path: str, answer: object, sent: dict[str, object], line: str
) -> None:
    node = KeyDouble()
    node.answers[path] = json_reply(answer)
    with in_thread(node) as (double,):
        ran = syncline(*arguments, endpoints=double.url)
        as_json = syncline(*arguments, "--json", endpoints=double.url)
    assert (ran.status, ran.text.splitlines()[0]) == (0, line)
    assert [request.json() for request in double.requests] == [sent, sent]
    assert as_json.status == 0
    json.loads(as_json.out)


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, ["all members can do level 2, machine version 4", "held until `syncline upgrade finalize`"]),
        ({"held": False, "hold_level": 1}, ["held at level 1 by the settings of the node that answers"]),
        ({"possible_level": 0}, ["not all members have announced what they can do"]),
        (
            {"members": [{"id": "1", "name": "a", "level": 0, "machine_version": 0}]},
            ["a     not known  not known         1"],
        ),
    ],
)
def test_upgrade_status_says_what_keeps_the_levels_down(change: dict[str, object], lines: list[str]) -> None:
    node = KeyDouble()
    node.answers["/raft/upgrade"] = json_reply(LEVELS | change)
    with in_thread(node) as (double,):
        ran = syncline("upgrade", "status", endpoints=double.url)
        as_json = syncline("upgrade", "status", "--json", endpoints=double.url)
    assert ran.status == 0
    for line in lines:
        assert line in ran.text, ran.text
    assert as_json.json() == LEVELS | change


def test_members_are_listed() -> None:
    node = KeyDouble()
    node.answers["/raft/members"] = json_reply(
        {"membership_index": 5, "joint": False, "leader": None, "members": MEMBERS}
    )
    with in_thread(node) as (double,):
        ran = syncline("member", "list", endpoints=double.url)
        as_json = syncline("member", "list", "--json", endpoints=double.url)
    assert [line.split()[:3] for line in ran.text.splitlines()] == [
        ["NAME", "ROLE", "PEER"], ["a", "voter", "a:7100"], ["b", "learner", "b:7100"]
    ]  # fmt: skip
    assert as_json.json()["membership_index"] == 5


@pytest.mark.parametrize(
    ("code", "http_status", "status"), [("unknown_member", 404, 3), ("quorum_at_risk", 409, 1), ("no_leader", 503, 4)]
)
def test_a_refused_change_is_one_line(code: str, http_status: int, status: int) -> None:
    node = KeyDouble()
    node.answers["/raft/remove"] = error_reply(http_status, code, message="it can't be")
    with in_thread(node) as (double,):
        ran = syncline("member", "remove", "x", "--timeout", "300ms", endpoints=double.url)
    assert (ran.status, ran.error()) == (status, "syncline: it can't be")
