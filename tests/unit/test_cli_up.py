"""`up`: what it plans, and how it looks after its nodes (here: stand-ins that only answer `/raft/status`)."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from syncline.cli.up.command import are_acquainted
from syncline.cli.up.live import LiveView
from syncline.cli.up.plan import command_line, free_ports_or_raise, make_plan, note_started, write_plan
from syncline.cli.up.supervisor import GUARDED, UpNode
from syncline.errors import ConfigError, StorageError
from syncline.platform.disk import OsDisk
from syncline.platform.memory import memory_bytes
from syncline.server.config import load_config
from syncline.storage.atomic_file import replace_file
from syncline.storage.datadir import Identity, encode_identity
from tests.helpers.command import syncline
from tests.helpers.ports import free_block

FAKE_NODE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "helpers", "fake_node.py")
RUN_UP = (
    "import sys; from syncline.cli.up import supervisor as up_supervisor; from syncline.cli.main import main;"
    f"up_supervisor.Supervisor.__init__.__kwdefaults__['program'] = (sys.executable, {FAKE_NODE!r});"
    "sys.exit(main(sys.argv[1:]))"
)
"""`syncline up` as it is, with another program for its nodes."""


# What it plans


def test_three_nodes_from_port_8080_unless_told_otherwise(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), nodes=None, port=None)
    assert [(node.name, node.http_url, node.peer_address) for node in plan.nodes] == [
        ("n1", "http://127.0.0.1:8080", "127.0.0.1:8180"),
        ("n2", "http://127.0.0.1:8081", "127.0.0.1:8181"),
        ("n3", "http://127.0.0.1:8082", "127.0.0.1:8182"),
    ]
    assert list(os.listdir(tmp_path)) == [], "planning writes nothing"


def test_each_nodes_settings_are_what_a_server_takes(tmp_path: Path) -> None:
    data_dir = str(tmp_path / 'a "b\\ ä')
    plan = make_plan(data_dir, nodes=2, port=9000)
    write_plan(plan, OsDisk())
    for node in plan.nodes:
        config = load_config(file=node.config_path, environment={})
        assert (config.name, config.data_dir, config.http_listen) == (node.name, node.data_dir, node.http_url[7:])
        assert config.initial_cluster == {"n1": "127.0.0.1:9100", "n2": "127.0.0.1:9101"}


def test_up_nodes_share_half_of_the_memory(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), nodes=3, port=9000)
    write_plan(plan, OsDisk())
    limits = [load_config(file=node.config_path, environment={}).max_store_bytes for node in plan.nodes]
    assert limits == [memory_bytes() // 2 // 3] * 3
    raised = load_config(file=plan.nodes[0].config_path, environment={"SYNCLINE_MAX_STORE_BYTES": "5"})
    assert raised.max_store_bytes == 5, "the environment goes before the file"


def test_started_again_it_is_the_same_cluster(tmp_path: Path) -> None:
    data_dir = str(tmp_path)
    first = make_plan(data_dir, nodes=5, port=9000)
    write_plan(first, OsDisk())
    assert make_plan(data_dir, nodes=None, port=None) == first
    assert make_plan(data_dir, nodes=5, port=9000) == first


def test_further_nodes_join_the_founders(tmp_path: Path) -> None:
    data_dir = str(tmp_path)
    write_plan(make_plan(data_dir, nodes=1, port=9000), OsDisk())
    plan = make_plan(data_dir, nodes=3, port=None)
    write_plan(plan, OsDisk())
    assert [node.join for node in plan.nodes] == [False, True, True]
    with open(plan.nodes[2].config_path, "rb") as file:
        settings = tomllib.load(file)
    assert settings["join"] == ["http://127.0.0.1:9000"]
    assert "initial_cluster" not in settings
    assert make_plan(data_dir, nodes=None, port=None) == plan


def test_a_founder_whose_data_is_gone_has_to_join_once_the_cluster_was_up(tmp_path: Path) -> None:
    data_dir = str(tmp_path)
    first = make_plan(data_dir, nodes=3, port=9000)
    write_plan(first, OsDisk())
    (tmp_path / "n1" / "identity").write_text("x")
    assert not any(node.join for node in make_plan(data_dir, nodes=None, port=None).nodes), "it never was up"
    note_started(first, OsDisk())
    (tmp_path / "n3" / "identity").write_text("x")
    again = make_plan(data_dir, nodes=None, port=None)
    write_plan(again, OsDisk())
    assert [node.join for node in again.nodes] == [False, True, False]
    config = load_config(file=again.nodes[1].config_path, environment={})
    assert (config.join, config.initial_cluster) == (("http://127.0.0.1:9000", "http://127.0.0.1:9002"), {})


@pytest.mark.parametrize(
    ("nodes", "port", "words"),
    [(2, None, "has 3 nodes"), (None, 9001, "ports from 9000"), (3, 9001, "ports from 9000")],
)
def test_wishes_that_do_not_fit_what_is_there_are_refused(
    tmp_path: Path, nodes: int | None, port: int | None, words: str
) -> None:
    write_plan(make_plan(str(tmp_path), nodes=3, port=9000), OsDisk())
    with pytest.raises(ConfigError, match=words):
        make_plan(str(tmp_path), nodes=nodes, port=port)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"port":1}',
        '{"port":0,"founders":1,"nodes":1}',
        '{"port":1,"founders":2,"nodes":1}',
        '{"port":1,"founders":1,"nodes":1000}',
    ],
)
def test_a_damaged_plan_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "up.json").write_text(content)
    with pytest.raises(StorageError, match=r"up\.json is damaged"):
        make_plan(str(tmp_path), nodes=None, port=None)


def test_ports_beyond_the_last_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="65535"):
        make_plan(str(tmp_path), nodes=3, port=65434)


def test_a_port_in_use_is_named_with_its_flag(tmp_path: Path) -> None:
    port = free_block(102)
    plan = make_plan(str(tmp_path), nodes=2, port=port)
    free_ports_or_raise(plan)
    for taken, use in ((port + 1, "clients"), (port + 100, "other nodes")):
        words = rf"port {taken} .*{use}.*--port"
        with socket.create_server(("127.0.0.1", taken)), pytest.raises(ConfigError, match=words):
            free_ports_or_raise(plan)


def test_a_port_in_use_ends_up_before_anything_is_written(tmp_path: Path) -> None:
    port = free_block(103)
    with socket.create_server(("127.0.0.1", port + 2)):
        failed = syncline("up", "--data-dir", str(tmp_path / "d"), "--port", str(port))
    assert failed.status == 2
    assert f"port {port + 2} (of n3, for clients) is in use" in failed.error()
    assert not (tmp_path / "d").exists()


def test_up_on_a_directory_that_can_not_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "d", Path("/proc/nope/d")):
        failed = syncline("up", "--data-dir", str(path))
        assert failed.status in {1, 2}
        assert str(path) in failed.error()
        assert "Errno" not in failed.error()
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("arguments", [("--nodes", "0"), ("--nodes", "10"), ("--port", "0"), ("--port", "x")])
def test_numbers_out_of_range_are_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    failed = syncline("up", "--data-dir", str(tmp_path), *arguments)
    assert failed.status == 2
    assert arguments[0] in failed.error()


def test_a_command_is_shown_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["./env/bin/syncline"])
    assert command_line("get", "a b") == "./env/bin/syncline get 'a b'"
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert command_line("get") == f"{sys.executable} -m syncline get"


def test_the_live_table_shows_every_node() -> None:
    out = io.StringIO()
    view = LiveView(Console(file=out, force_terminal=True, width=120, color_system=None))
    view.show([
        UpNode(name="n1", http="http://h:1", peer="h:2", state="leader", term=3, applied=9, pid=4711),
        UpNode(name="n2", http="http://h:3", peer="h:4", state="ended", note="killed"),
    ])  # fmt: skip
    view.ended("n2", "killed by SIGKILL", restart="syncline serve x", repair="")
    view.ended("n2", "is rotten", restart="", repair="syncline repair x")
    view.close()
    text = out.getvalue()
    told = ("n2 killed by SIGKILL", "to start it again: syncline serve x", "started again by itself: syncline repair x")
    for word in ("leader", "4711", "http://h:3", "ended", *told):
        assert word in text


# How it looks after its nodes


class Up:
    """A running `syncline up --json` with stand-ins for nodes."""

    def __init__(self, process: subprocess.Popen[str], data_dir: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.pids: dict[str, int] = {}
        self.endpoints = ""

    def wait_for(self, event: str) -> dict[str, object]:
        """The next event of a kind; the test's own time limit ends a wait for one that never comes."""
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            found = json.loads(line)
            seen.append(found)
            if found["event"] == event:
                return dict(found)
        raise AssertionError(f"no {event!r} among {seen}; {self.process.stderr and self.process.stderr.read()}")

    def wait_ready(self) -> None:
        event = self.wait_for("ready")
        nodes = event["nodes"]
        assert isinstance(nodes, list)
        self.pids = {node["name"]: node["pid"] for node in nodes if node["pid"]}
        self.endpoints = str(event["endpoints"])

    def journal(self) -> list[str]:
        return (self.data_dir / "journal").read_text().splitlines()


@contextmanager
def running(data_dir: Path, *arguments: str, port: int = 0, **environment: str) -> Iterator[Up]:
    command = [sys.executable, "-c", RUN_UP, "up", "--json", "--data-dir", str(data_dir), "--port",
               str(port or free_block(103)), *arguments]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    up = Up(process, data_dir)
    try:
        yield up
    finally:
        process.kill()
        process.communicate()
        for pid in up.pids.values():
            _gone(pid)


def _gone(pid: int) -> None:
    """Wait for the end of a process that is not ours: its pidfd becomes readable then."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert _readable(descriptor), f"process {pid} still runs"
    finally:
        os.close(descriptor)


def _readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 10.0)[0])


def test_ctrl_c_stops_the_nodes_in_order_the_leader_last(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        up.wait_ready()
        assert set(up.pids) == {"n1", "n2", "n3"}
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(20) == 0
        journal = up.journal()
        assert sorted(journal[:3]) == ["n1 drained", "n2 drained", "n3 drained"], "while all can still commit"
        assert sorted(journal[3:5]) == ["n2 stopped", "n3 stopped"]
        assert journal[5:] == ["n1 stopped"]


def test_nodes_that_need_a_credential_are_up_and_rarely_asked_again(tmp_path: Path) -> None:
    """Each refusal is a line of their audit logs."""
    with running(tmp_path, FAKE_NODE_GUARDED="1") as up:
        up.wait_ready()
        assert set(up.pids) == {"n1", "n2", "n3"}
        os.kill(up.pids["n3"], signal.SIGKILL)
        up.wait_for("ended")
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(20) == 0
        assert up.journal().count("n1 refused") == 1


def test_the_nodes_do_not_see_the_terminals_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        up.wait_ready()
        assert all(os.getpgid(pid) != os.getpgid(up.process.pid) for pid in up.pids.values())


def test_up_interrupted_before_any_node_serves_leaves_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "d"
    with running(data_dir, "--restart", FAKE_NODE_FAIL="n1,n2,n3") as up:
        up.wait_for("ended")
        up.process.send_signal(signal.SIGINT)
        assert "nothing was kept of this start" in str(up.wait_for("note")) + str(up.wait_for("note"))
        assert up.process.wait(20) == 0
    assert list(tmp_path.iterdir()) == []


def test_up_started_on_data_keeps_them_if_its_nodes_fail(tmp_path: Path) -> None:
    """What an earlier start has made is not this one's to remove."""
    with running(tmp_path) as up:
        up.wait_ready()
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(20) == 0
    before = sorted(os.listdir(tmp_path))
    kept = json.loads((tmp_path / "up.json").read_text())
    with running(tmp_path, FAKE_NODE_FAIL="n1,n2,n3", port=kept["port"]) as up:
        assert up.process.wait(20) == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_a_second_ctrl_c_kills(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_NODE_HANG="n2") as up:
        up.wait_ready()
        up.process.send_signal(signal.SIGINT)
        up.wait_for("note")
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(20) == 130


def test_a_killed_node_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        up.wait_ready()
        os.kill(up.pids["n1"], signal.SIGKILL)
        event = up.wait_for("ended")
        assert (event["name"], event["reason"]) == ("n1", f"killed by SIGKILL (log: {tmp_path}/n1/log)")
        assert str(event["restart"]).endswith(f"serve --config {tmp_path}/n1/node.toml")
        os.kill(up.pids["n2"], 0)


def test_a_node_started_again_by_hand_is_seen(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        up.wait_ready()
        os.kill(up.pids["n3"], signal.SIGKILL)
        up.wait_for("ended")
        arguments = [sys.executable, FAKE_NODE, "serve", "--config", str(tmp_path / "n3" / "node.toml")]
        with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as by_hand:
            node = _next_state(up, "n3", "follower")
            assert (node["pid"], node["by_hand"]) == (by_hand.pid, True)
            up.process.send_signal(signal.SIGINT)
            out, _ = up.process.communicate(timeout=20)
            by_hand.terminate()
            assert "started by hand and still runs" in out


def _next_state(up: Up, name: str, state: str) -> dict[str, object]:
    while True:
        node = up.wait_for("node")["node"]
        assert isinstance(node, dict)
        if (node["name"], node["state"]) == (name, state):
            return node


def test_a_node_is_started_again_if_that_was_asked_for(tmp_path: Path) -> None:
    with running(tmp_path, "--restart") as up:
        up.wait_ready()
        os.kill(up.pids["n2"], signal.SIGKILL)
        assert up.wait_for("ended")["restart"] == ""
        node = _next_state(up, "n2", "follower")
        assert node["pid"] != up.pids["n2"]
        assert node["by_hand"] is False


def test_a_node_that_fails_at_its_start_is_reported_with_its_reason(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_NODE_FAIL="n2") as up:
        assert up.wait_for("ended")["reason"] == f"ended with status 1: n2 is broken (log: {tmp_path}/n2/log)"
        up.wait_ready()


@pytest.mark.parametrize("restart", [False, True])
def test_a_node_whose_data_is_damaged_waits_for_its_repair(tmp_path: Path, restart: bool) -> None:
    ran = Identity(1, 2, "n2", started=True)
    (tmp_path / "n2").mkdir()
    identity = tmp_path / "n2" / "identity"
    identity.write_bytes(encode_identity(ran))
    with running(tmp_path, *["--restart"][:restart], FAKE_NODE_ROT="n2") as up:
        event = up.wait_for("ended")
        assert event["reason"] == f"ended with status 7: n2 is rotten (log: {tmp_path}/n2/log)"
        assert event["restart"] == ""
        command = str(event["repair"])
        up.wait_ready()
        n1, _, n3 = up.endpoints.split(",")
        assert command.endswith(f"syncline repair --data-dir {tmp_path}/n2 --endpoints {n1},{n3}")
        (tmp_path / "rot is gone").touch()
        replace_file(OsDisk(), str(identity), encode_identity(Identity(1, 3, "n2")))  # as a repair leaves it
        assert _next_state(up, "n2", "follower")["by_hand"] is False


def test_a_founder_whose_directory_is_lost_is_told_how_it_is_replaced(tmp_path: Path) -> None:
    first = make_plan(str(tmp_path), nodes=3, port=free_block(103))
    write_plan(first, OsDisk())
    note_started(first, OsDisk())
    for name in ("n1", "n3"):
        (tmp_path / name / "identity").write_bytes(encode_identity(Identity(1, 2, name)))
    with running(tmp_path, FAKE_NODE_FAIL="n2", port=first.port) as up:
        command = str(up.wait_for("ended")["repair"])
        assert f"repair --data-dir {tmp_path}/n2" in command
        assert command.endswith("--name n2")
        assert first.nodes[1].http_url not in command
        up.wait_ready()


def test_up_of_one_node_names_a_repair_without_endpoints(tmp_path: Path) -> None:
    with running(tmp_path, "--nodes", "1", FAKE_NODE_ROT="n1") as up:
        assert str(up.wait_for("ended")["repair"]).endswith(f"repair --data-dir {tmp_path}/n1 --name n1")


def test_up_with_tls_makes_the_authority_before_it_trusts_it(tmp_path: Path) -> None:
    with running(tmp_path, "--tls", "--nodes", "1", FAKE_NODE_FAIL="n1") as up:
        assert up.wait_for("ended")["name"] == "n1"


def test_the_end_of_all_nodes_ends_up(tmp_path: Path) -> None:
    with running(tmp_path, "--nodes", "1") as up:
        up.wait_ready()
        os.kill(up.pids["n1"], signal.SIGKILL)
        _, err = up.process.communicate(timeout=20)
        assert up.process.returncode == 1
        assert "every node has ended" in err


def test_no_node_outlives_up_however_it_ends(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        up.wait_ready()
        up.process.send_signal(signal.SIGKILL)
        for pid in up.pids.values():
            _gone(pid)
        assert sorted(up.journal()) == ["n1 stopped", "n2 stopped", "n3 stopped"]


def test_a_second_up_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        up.wait_ready()
        failed = syncline("up", "--data-dir", str(tmp_path))
        assert failed.status == 1
        assert f"another 'syncline up' (pid {up.process.pid}) runs on" in failed.error()


def test_without_a_terminal_lines_are_printed_when_it_is_ready(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN_UP, "up", "--data-dir", str(tmp_path), "--port", str(free_block(103))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.endswith("status\n"):
                process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert re.fullmatch(r"console: http://127\.0\.0\.1:\d+/console/#lab=[\w-]{22}", lines[0])
    assert lines[1].startswith("n1   leader    http://127.0.0.1:")
    assert lines[4].startswith("ready: 3 nodes")
    assert any(line.strip().startswith("export SYNCLINE_ENDPOINTS=") for line in lines)
    assert lines[-3:] == [
        "stopping all nodes (Ctrl-C again kills them)",
        f"the data are in {tmp_path}",
        f"to start it again: {sys.executable} -m syncline up --data-dir {tmp_path}",
    ]


def test_up_waits_until_the_nodes_know_the_urls_of_all() -> None:
    """The console's page may ask the nodes whose URLs its own node had when it was loaded."""
    nodes = [UpNode(name=name, http="", peer="", state=state) for name, state in (("a", "leader"), ("b", "follower"))]
    assert are_acquainted(nodes, {}), "nodes that tell of no member are not waited for"
    assert not are_acquainted(nodes, {"a": {"a", "b"}, "b": {"b"}})
    assert are_acquainted(nodes, {"a": {"a", "b"}, "b": {"b", "a"}})
    ended = UpNode(name="c", http="", peer="", state="ended")
    guarded = UpNode(name="a", http="", peer="", state=GUARDED)
    assert are_acquainted([*nodes, ended], {"a": {"a", "b"}, "b": {"b", "a"}})
    assert are_acquainted([guarded, ended], {}), "a node that needs a credential can't be asked"
