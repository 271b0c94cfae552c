"""`health` and `status` against doubles of a cluster's nodes; `serve --help`; what a quick command may load."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from syncline.cli.main import cli
from syncline.cli.serve.command import serve
from syncline.server.config import ServerConfig
from tests.helpers.command import syncline
from tests.helpers.http_server import HttpDouble, KeyDouble, error_reply, in_thread, json_reply, refused_url
from tests.unit.test_cli_cluster import cluster, member, status


@contextmanager
def pair() -> Iterator[tuple[dict[str, KeyDouble], list[HttpDouble]]]:
    """Two members, a (leader) and b, that both answer."""
    nodes = {"a": KeyDouble(), "b": KeyDouble()}
    with in_thread(*nodes.values()) as doubles:
        for name, double, role in zip("ab", doubles, ("leader", "follower"), strict=True):
            members = [member(other, at.url, lag=0) for other, at in zip("ab", doubles, strict=True)]
            nodes[name].status = status(name, double.url, role, members)
        yield nodes, doubles


def test_health_of_a_healthy_cluster_is_status_0() -> None:
    with pair() as (_, doubles):
        ran = syncline("health", "--endpoints", doubles[1].url)
        as_json = syncline("health", "--json", "--endpoints", doubles[1].url)
    assert (ran.status, ran.text, ran.err) == (0, "healthy: a leads, 2 members\n", "")
    assert as_json.json() == {"health": "healthy", "leader": "a", "reasons": []}
    assert as_json.out.endswith(b"\n")


@pytest.mark.parametrize(("output", "why"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")])
def test_health_that_fails_tells_that_its_output_is_lost(output: str, why: str) -> None:
    """The interpreter would print a traceback at its exit, and end with a status of its own."""
    with cluster() as (_, doubles, _away):
        command = f"{sys.executable} -m syncline health --json --endpoints {doubles[0].url} {output}"
        ran = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert json.loads(ran.stderr)["error"]["message"] == f"the output can't be written: {why}"


def test_health_with_an_unreachable_member_is_status_1() -> None:
    with cluster() as (_, doubles, away):
        ran = syncline("health", "--endpoints", doubles[0].url)
        as_json = syncline("health", "--json", "--endpoints", doubles[0].url)
    assert (ran.status, ran.err) == (1, "")
    assert ran.text.splitlines() == ["degraded: a leads, 3 members", f"c: can't reach {away}: connection refused"]
    assert as_json.status == 1
    assert as_json.json()["reasons"] == [f"c: can't reach {away}: connection refused"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fault": "it has lost entries"}, "b: it has lost entries"),
        ({"active": False}, "b: the leader does not hear of it"),
        ({"lag": 10_001}, "b: it is 10001 entries behind"),
    ],
)
def test_health_with_a_members_fault_is_status_1(change: dict[str, object], words: str) -> None:
    with pair() as (nodes, doubles):
        members = nodes["a"].status["members"]
        assert isinstance(members, list)
        members[1] |= change
        ran = syncline("health", "--endpoints", doubles[0].url)
    assert (ran.status, ran.text.splitlines()[1:]) == (1, [words])


def test_health_with_a_full_disk_is_status_1() -> None:
    """Reads are answered, and writes are refused: a script must not take that for healthy."""
    full = "disk_full: the disk of /var/b is down to its reserve: puts are refused"
    with pair() as (nodes, doubles):
        nodes["b"].answers["/health"] = json_reply({"health": "true", "reason": "", "warnings": [full]})
        ran = syncline("health", endpoints=doubles[0].url)
    assert (ran.status, ran.text.splitlines()) == (1, ["degraded: a leads, 2 members", f"b: {full}"])


def test_health_asks_a_node_where_it_has_answered() -> None:
    """Behind mapped ports the addresses that nodes announce lead nowhere from here."""
    with pair() as (nodes, doubles):
        for node in nodes.values():
            node.status["http"] = refused_url()
        ran = syncline("health", endpoints=",".join(double.url for double in doubles))
    assert (ran.status, ran.text) == (0, "healthy: a leads, 2 members\n")


def test_health_with_states_that_differ_is_status_1() -> None:
    with pair() as (nodes, doubles):
        nodes["b"].status |= {"digest_agreement": "no_majority"}
        ran = syncline("health", "--endpoints", doubles[0].url)
    assert ran.status == 1
    assert "the voters' states differ" in ran.text


def test_health_without_a_leader_is_status_4() -> None:
    with pair() as (nodes, doubles):
        for node in nodes.values():
            node.status |= {"role": "candidate", "leader": None, "no_leader": "an election is held"}
        ran = syncline("health", "--endpoints", doubles[0].url)
    assert (ran.status, ran.text, ran.err) == (4, "no leader: an election is held\n", "")


def test_health_of_a_leader_without_a_quorum_is_status_4() -> None:
    """A leader that was cut off still says that it leads: only a read that asks the others tells."""
    with pair() as (nodes, doubles):
        nodes["a"].answers["/key/syncline-health"] = error_reply(503, "no_leader", message="no quorum")
        nodes["b"].answers["/key/syncline-health"] = error_reply(503, "no_leader", message="no quorum")
        ran = syncline("health", "--timeout", "300ms", "--endpoints", doubles[0].url)
    assert ran.status == 4
    assert ran.text.startswith("no leader: ")


def test_health_without_any_answer_is_status_4() -> None:
    ran = syncline("health", endpoints=refused_url())
    assert ran.status == 4
    assert "connection refused" in ran.error()


@pytest.mark.parametrize("command", ["health", "status"])
def test_health_without_a_credential_is_a_refusal(command: str) -> None:
    """A server that wants a credential has answered: nothing is unavailable, and a script must not wait for it."""
    with pair() as (nodes, doubles):
        for node in nodes.values():
            node.answers["/raft/status"] = error_reply(401, "unauthenticated", message="it needs a credential")
        endpoints = f"{refused_url()},{doubles[0].url}"
        ran = syncline(command, endpoints=endpoints)
        as_json = syncline(command, "--json", endpoints=endpoints)
    assert ran.status == as_json.status == 1
    assert ran.error().endswith(
        "it needs a credential. Give --user NAME, or --token-file FILE (or SYNCLINE_TOKEN_FILE)"
    )
    assert json.loads(as_json.err)["error"]["code"] == "unauthenticated"


def test_health_counts_no_address_that_no_member_announces() -> None:
    """Such as that of a member which was removed, and which still stands among the endpoints."""
    gone = refused_url()
    with pair() as (_, doubles):
        ran = syncline("health", endpoints=f"{doubles[0].url},{gone}")
    assert ran.status == 1
    assert ran.text.splitlines() == [
        "degraded: a leads, 2 members",
        f"{gone}: can't reach {gone}: connection refused. No member announces this address: is it an old endpoint?",
    ]


def test_status_table_fits_80_columns() -> None:
    """Numbers of an old cluster, and a host name that alone would fill the line."""
    long_url = "http://" + "a-very-long-name." * 5 + "example.com:8080"
    with pair() as (nodes, doubles):
        for node in nodes.values():
            node.status |= {"term": 12345, "lag": 123_456, "pid": 4_194_304, "revision": 10**9}
            members = node.status["members"]
            assert isinstance(members, list)
            members.append(member("gone", long_url, lag=123_456))
        ran = syncline("status", "--timeout", "2s", "--endpoints", doubles[0].url)
        wide = syncline("status", "--wide", "--timeout", "2s", "--endpoints", doubles[0].url)
    table, reason = ran.text.splitlines()[:4], ran.text.splitlines()[4]
    assert max(map(len, table)) <= 80
    assert "…" in table[3]
    assert reason.startswith(f"gone: can't reach {long_url}: "), "the reason names all of it, on one line"
    assert "DATA" in wide.text.splitlines()[0]
    assert long_url in wide.text


def test_status_shows_digests() -> None:
    with pair() as (nodes, doubles):
        nodes["b"].status |= {"digest": "fedcba98" * 4}
        ran = syncline("status", "--endpoints", doubles[0].url)
    assert [line.split()[5] for line in ran.text.splitlines()] == ["DIGEST", "01234567", "fedcba98"]


def test_status_watch_prints_again_until_ctrl_c() -> None:
    with pair() as (nodes, doubles):
        command = [sys.executable, "-m", "syncline", "status", "--watch", "--json", "--endpoints", doubles[0].url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            first = json.loads(watching.stdout.readline())
            nodes["b"].status |= {"term": 9}
            second = first
            while second == first:  # the next look may have begun before the change
                second = json.loads(watching.stdout.readline())
            watching.send_signal(signal.SIGINT)
            _, err = watching.communicate(timeout=30)
    assert [found["members"][1]["term"] for found in (first, second)] == [3, 9]
    assert (watching.returncode, err.lstrip()) == (130, "syncline: interrupted\n")


@pytest.mark.parametrize("code", ["membership", "bad_request"])
def test_member_add_with_wrong_arguments_is_a_usage_error(code: str) -> None:
    node = KeyDouble()
    node.answers["/raft/add"] = error_reply(400 if code == "bad_request" else 409, code, message="taken already")
    with in_thread(node) as (double,):
        ran = syncline("member", "add", "b", "b:7100", endpoints=double.url)
        as_json = syncline("member", "add", "b", "b:7100", "--json", endpoints=double.url)
    assert (ran.status, ran.error()) == (2, "syncline: taken already")
    assert as_json.status == 2
    assert json.loads(as_json.err)["error"]["code"] == code


def test_other_changes_that_are_refused_stay_failures() -> None:
    node = KeyDouble()
    node.answers["/raft/remove"] = error_reply(409, "membership", message="it is the last voter")
    with in_thread(node) as (double,):
        assert syncline("member", "remove", "b", endpoints=double.url).status == 1


def test_json_answers_end_with_a_line_feed() -> None:
    node = KeyDouble()
    node.answers["/raft/members"] = json_reply({"membership_index": 5, "joint": False, "leader": None, "members": []})
    with in_thread(node) as (double,):
        for arguments in (("put", "k", "v"), ("get", "k"), ("list",), ("member", "list"), ("del", "k")):
            ran = syncline(*arguments, "--json", endpoints=double.url)
            assert ran.status == 0, (arguments, ran)
            assert ran.out.endswith(b"}\n"), arguments
        absent = syncline("get", "absent", "--json", endpoints=double.url)
    assert absent.err.endswith("}\n")


def test_serve_help_describes_every_setting_with_its_default() -> None:
    text = CliRunner().invoke(serve, ["--help"], env={"COLUMNS": "300"}, terminal_width=300).output
    options = dict(re.findall(r"^  (--[a-z-]+)(?: VALUE)? +(\S.*)$", text, re.MULTILINE))
    for name in ServerConfig.__struct_fields__:
        flag = "--" + name.replace("_", "-")
        if name != "peer_secret":  # it must not be seen by every user of the machine
            assert len(options.get(flag, "")) > 10, flag
    assert options["--election-s"].endswith("[default: 1.0 s]")
    assert options["--reserve-bytes"].endswith("[default: 67108864 bytes]")
    assert "--peer-secret" not in options
    assert options["--max-store-bytes"].endswith("[default: half of this machine's memory, or of its control group's]")
    for name, told in options.items():
        assert told.count("[default") <= 1, name


def test_get_loads_nothing_that_it_does_not_need() -> None:
    """A shell loop feels each millisecond: what `get` imports is most of its time."""
    code = (
        "import sys; from syncline.cli.main import main; main(['get', 'k', '--endpoints', 'http://127.0.0.1:1'])\n"
        "heavy = ('rich', 'syncline.node', 'syncline.server', 'syncline.storage', 'syncline.kv', 'syncline.consensus',"
        " 'syncline.transport', 'uvloop', 'json', 'difflib', 'tomllib', 'multiprocessing', 'email', 'urllib.request')\n"
        "sys.exit(repr([name for name in heavy if name in sys.modules]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert ran.stderr.splitlines()[-1] == "[]"


def test_every_command_is_named_in_its_groups_help() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    for name in ("health", "down", "logs", "up", "status"):
        assert re.search(rf"^  {name} +\S", text, re.MULTILINE), name
