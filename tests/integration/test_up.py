"""`syncline up` with real nodes: the demonstration that the README gives, as a user would type it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.command import syncline
from tests.helpers.ports import free_block

SYNCLINE = (sys.executable, "-m", "syncline")
QUICK = {"SYNCLINE_ELECTION_S": "0.5", "SYNCLINE_HEARTBEAT_S": "0.05"}
LIMIT_S = 60.0


class Up:
    """A running `syncline up --json`, and a shell beside it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.endpoints = ""
        self._ready: dict[str, object] | None = None

    def wait_for(self, event: str, **fields: object) -> dict[str, object]:
        """The next event of a kind whose node has these fields; the test's time limit bounds the wait."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = json.loads(line)
            if found["event"] == "ready":
                self._ready = found
            node = found.get("node", found)
            if found["event"] == event and all(node.get(name) == value for name, value in fields.items()):
                return dict(found)
        raise AssertionError(f"it ended before {event!r} {fields}")

    def wait_ready(self) -> dict[str, int]:
        """What is told once, when all nodes have answered or ended: before or after what else was waited for."""
        event = self._ready or self.wait_for("ready")
        self.endpoints = str(event["endpoints"])
        nodes = event["nodes"]
        assert isinstance(nodes, list)
        return {node["name"]: node["pid"] for node in nodes}

    def run(self, *arguments: str, endpoints: str | None = None) -> str:
        """What a command prints. It runs in this process, as its start takes most of its time."""
        ran = syncline(*arguments, endpoints=endpoints or self.endpoints)
        assert (ran.status, ran.err) == (0, ""), ran
        return ran.text

    def members(self) -> dict[str, dict[str, object]]:
        found = json.loads(self.run("status", "--json"))
        return {member["name"]: member for member in found["members"]}

    def state_told_of(self, name: str) -> object:
        """What the node has become, when it becomes something else."""
        node = self.wait_for("node", name=name)["node"]
        assert isinstance(node, dict)
        return node["state"]

    def order(self, action: str, node: str) -> None:
        """Give the lab an order, as the console's page does."""
        console, _, token = str((self._ready or {})["console"]).partition("#lab=")
        with urllib.request.urlopen(console.replace("/console/", "/console-settings")) as settings:
            door = json.load(settings)["lab"]
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{door}/lab/{action}/{node}", method="POST", headers=headers)
        urllib.request.urlopen(request).close()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == 0, out


@contextmanager
def running(data_dir: Path, *arguments: str) -> Iterator[Up]:
    command = [*SYNCLINE, "up", "--json", "--data-dir", str(data_dir), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **QUICK}
    )
    try:
        yield Up(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("ready_first", [False, True])
def test_a_damaged_node_may_be_told_before_the_others_are_ready_and_after(ready_first: bool) -> None:
    """Nothing is promised of the two: `up` has each from a task of its own."""
    ended = {"event": "ended", "name": "n2"}
    ready = {"event": "ready", "endpoints": "http://n1", "nodes": [{"name": "n1", "pid": 5}]}
    told = [json.dumps(event) for event in ([ready, ended] if ready_first else [ended, ready])]
    with subprocess.Popen(["echo", "\n".join(told)], stdout=subprocess.PIPE, text=True) as process:
        up = Up(process)
        assert up.wait_for("ended", name="n2") == ended
        assert up.wait_ready() == {"n1": 5}
        assert up.endpoints == "http://n1"


def test_cluster_survives_a_killed_leader_a_restart_and_a_join(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with running(data_dir, "--port", str(free_block(104))) as up:
        pids = up.wait_ready()
        up.run("put", "greeting", "hello")
        for url in up.endpoints.split(","):
            assert up.run("get", "greeting", endpoints=url) == "hello"

        members = up.members()
        assert {str(member["pid"]) for member in members.values()} == {str(pid) for pid in pids.values()}
        leader = next(name for name, member in members.items() if member["role"] == "leader")
        os.kill(pids[leader], signal.SIGKILL)
        ended = up.wait_for("ended", name=leader)
        up.run("put", "greeting", "hello again", "--timeout", "20s")
        assert up.members()[leader]["reachable"] is False

        command = shlex.split(str(ended["restart"]))
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, **QUICK}) as by_hand:
            seen = up.wait_for("node", name=leader, state="follower")["node"]
            assert isinstance(seen, dict)
            assert (seen["pid"], seen["by_hand"]) == (by_hand.pid, True)
            url = str(up.members()[leader]["http"])
            assert up.run("get", "greeting", endpoints=url) == "hello again"
            by_hand.terminate()
            assert by_hand.wait(LIMIT_S) == 0
        up.stop()

    with running(data_dir, "--nodes", "4") as up:
        pids = up.wait_ready()
        assert sorted(pids) == ["n1", "n2", "n3", "n4"]
        fourth = up.endpoints.split(",")[3]
        assert up.run("get", "greeting", endpoints=fourth) == "hello again"
        assert (data_dir / "n4" / "log").exists()
        up.stop()

    # Without its log n2 is not n2 any more: it may not go on as if it still knew what it had promised.
    shutil.rmtree(data_dir / "n2")
    repaired(data_dir, "n2")


def test_leader_that_is_cut_off_steps_down_and_catches_up(tmp_path: Path) -> None:
    """A partition of one node: it refuses writes, the others go on, and it follows them when it is connected again."""
    with running(tmp_path / "data", "--port", str(free_block(103))) as up:
        up.wait_ready()
        up.run("put", "greeting", "before")
        members = up.members()
        old = next(name for name, member in members.items() if member["role"] == "leader")
        url = str(members[old]["http"])
        up.order("cut", old)
        while up.state_told_of(old) not in {"follower", "candidate"}:
            pass
        refused = syncline("put", "greeting", "lost", "--timeout", "1s", endpoints=url)
        assert refused.status != 0
        assert syncline("get", "greeting", "--timeout", "1s", endpoints=url).status != 0
        others = ",".join(str(member["http"]) for name, member in members.items() if name != old)
        up.run("put", "greeting", "meanwhile", "--timeout", "20s", endpoints=others)
        up.order("connect", old)
        assert up.run("get", "greeting", "--timeout", "20s", endpoints=url) == "meanwhile"
        up.stop()


def repaired(data_dir: Path, name: str) -> None:
    """Bring the cluster up, type what is told for the damaged node, and see it come back as a new member."""
    with running(data_dir) as up:
        command = shlex.split(str(up.wait_for("ended", name=name)["repair"]))
        up.wait_ready()
        old_id = up.members()[name]["id"]
        ran = subprocess.run([*command, "--yes"], capture_output=True, timeout=LIMIT_S, check=False)
        assert (ran.returncode, ran.stderr) == (0, b""), ran
        up.wait_for("node", name=name, state="follower", by_hand=False)
        member = up.members()[name]
        assert member["id"] != old_id
        assert up.run("get", "greeting", endpoints=str(member["http"])) == "hello again"
        up.stop()
