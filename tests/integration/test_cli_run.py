"""`syncline run`, `lock`, `elect` and `discover` as processes: who runs when, and what a crash leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.process_cluster import Cluster
from tests.helpers.programs import is_alive

DEADLINE_S = 30.0

SCRIPT = """
import os, signal, subprocess, sys, time
out, rival, *more = sys.argv[1:]
for number in (signal.SIGTERM, signal.SIGUSR1):
    def told(number, frame):
        with open(out, "a") as file:
            file.write(f"got {number}\\n")
        if number == signal.SIGTERM and "deaf" not in more:
            sys.exit(9)
    signal.signal(number, told)
child = subprocess.Popen(["sleep", "1000"]) if "child" in more else None
def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
rivals = []
if os.path.exists(rival):
    with open(rival) as file:
        rivals = [int(pid) for line in file if line.startswith("pids") for pid in line.split()[1:]]
with open(out, "a") as file:
    file.write(f"rivals {sum(map(alive, rivals))}\\n")
    file.write(f"token {os.environ['SYNCLINE_TOKEN']}\\n")
    file.write(f"pids {os.getpid()} {child.pid if child else ''}\\n")
if "end" in more:
    sys.exit(5)
while True:
    signal.pause()
"""
"""Notes whether processes of its rival live, its token, its own pids and the signals that it gets."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(str(tmp_path_factory.mktemp("node")), 1, {})
    made.start()
    try:
        asyncio.run(made.wait_ready())
        yield made
    finally:
        made.close()


class Runs:
    """Processes of `syncline` and what their commands have noted."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._folder = folder
        self._environment = {**os.environ, "SYNCLINE_ENDPOINTS": ",".join(cluster.endpoints)}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "syncline", *arguments],
            env=self._environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        return process

    def run(self, name: str, *options: str, rival: str = "", more: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Run the script under `run`, and have it write to the file `name`."""
        script = [sys.executable, "-c", SCRIPT, str(self._folder / name), str(self._folder / (rival or "none")), *more]
        return self.start("run", *options, "--", *script)

    def notes(self, name: str) -> list[str]:
        path = self._folder / name
        return path.read_text().splitlines() if path.exists() else []

    def begun(self, name: str, times: int = 1) -> None:
        until(lambda: sum(line.startswith("pids") for line in self.notes(name)) >= times, f"{name} has begun")

    def pids(self, name: str) -> list[int]:
        return [int(pid) for line in self.notes(name) if line.startswith("pids") for pid in line.split()[1:]]

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait(DEADLINE_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture
def runs(cluster: Cluster, tmp_path: Path) -> Iterator[Runs]:
    made = Runs(cluster, tmp_path)
    try:
        yield made
    finally:
        made.close()


def until(holds: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)  # a poll of a child process


def status(process: subprocess.Popen[bytes]) -> int:
    return process.wait(DEADLINE_S)


def test_run_under_a_lock_passes_signals_statuses_and_the_token(runs: Runs) -> None:
    first = runs.run("first", "--lock", "signals", more=("child",))
    runs.begun("first")
    assert status(runs.run("late", "--lock", "signals", "--wait", "0")) == 124
    second = runs.run("second", "--lock", "signals", rival="first", more=("end",))
    first.send_signal(signal.SIGUSR1)
    until(lambda: f"got {signal.SIGUSR1:d}" in runs.notes("first"), "the command got the signal")
    first.send_signal(signal.SIGTERM)
    assert status(first) == 9
    assert status(second) == 5
    assert runs.notes("late") == []
    assert runs.notes("second")[0] == "rivals 0", "what the first command had started has ended, too"
    tokens = [int(runs.notes(name)[1].split()[1]) for name in ("first", "second")]
    assert tokens == sorted(set(tokens))


def test_run_that_is_killed_leaves_no_process_of_its_command(runs: Runs) -> None:
    first = runs.run("first", "--lock", "killed", "--ttl", "2s", more=("child", "deaf"))
    runs.begun("first")
    second = runs.run("second", "--lock", "killed", rival="first", more=("end",))
    first.kill()
    until(lambda: not any(map(is_alive, runs.pids("first"))), "the command and its child have ended")
    assert second.poll() is None, "long before the lease is over"
    assert status(second) == 5
    assert runs.notes("second")[0] == "rivals 0"


def test_run_that_is_stopped_does_not_outlast_its_lease(runs: Runs) -> None:
    """SIGSTOP: the process can't see that its lease ends. Its guard kills the command before another one begins."""
    first = runs.run("first", "--lock", "stopped", "--ttl", "2s", more=("child", "deaf"))
    runs.begun("first")
    first.send_signal(signal.SIGSTOP)
    second = runs.run("second", "--lock", "stopped", rival="first", more=("end",))
    assert status(second) == 5
    assert runs.notes("second")[0] == "rivals 0"
    first.send_signal(signal.SIGCONT)
    assert status(first) == 123
    assert first.stderr is not None
    assert b"the lock stopped is lost" in first.stderr.read()


async def depose(cluster: Cluster, name: str) -> bytes:
    """Delete the key of a leader; what its value was."""
    async with cluster.client() as kv:
        leader = await kv.leader(name)
        assert leader is not None
        await kv.delete(leader.key)
        return leader.value


def test_run_as_leader_runs_again_in_its_next_term(runs: Runs, cluster: Cluster) -> None:
    first = runs.run("first", "--leader", "ha", "--value", "box 1")
    runs.begun("first")

    assert asyncio.run(depose(cluster, "ha")) == b"box 1"
    runs.begun("first", times=2)
    tokens = [int(line.split()[1]) for line in runs.notes("first") if line.startswith("token")]
    assert tokens == sorted(set(tokens))
    assert not is_alive(runs.pids("first")[0])
    first.send_signal(signal.SIGINT)
    assert status(first) == 128 + signal.SIGINT


def test_run_stops_its_command_before_a_lost_lease_is_over(tmp_path: Path) -> None:
    """The only node is paused: no keep-alive is answered. TERM comes first, and KILL while the lease still lasts."""
    cluster = Cluster(str(tmp_path), 1, {})
    cluster.start()
    runs = Runs(cluster, tmp_path)
    try:
        asyncio.run(cluster.wait_ready())
        first = runs.run("first", "--lock", "a", "--ttl", "3s", "--grace", "500ms", more=("deaf",))
        runs.begun("first")
        cluster.nodes[0].pause()
        assert status(first) == 123, "it waits for the end of the lease for a limited time"
        assert runs.notes("first")[-1] == f"got {signal.SIGTERM:d}"
        assert not any(map(is_alive, runs.pids("first")))
    finally:
        runs.close()
        cluster.close()


def test_run_once_runs_once(runs: Runs) -> None:
    begun = [runs.start("run", "--once", "report", "--", "echo", "ran") for _ in range(3)]
    outputs = [process.communicate(timeout=DEADLINE_S) for process in begun]
    assert [process.returncode for process in begun] == [0, 0, 0]
    assert sorted(out for out, _ in outputs) == [b"", b"", b"ran\n"]
    assert sum(b"was run by another process" in err for _, err in outputs) == 2


def test_lock_and_elect_hold_until_their_input_ends(runs: Runs, cluster: Cluster) -> None:
    held = runs.start("lock", "shell", "--json", stdin=subprocess.PIPE)
    assert held.stdout is not None
    told = json.loads(held.stdout.readline())
    assert told["name"] == "shell"
    assert told["key"].startswith("locks/shell/")
    assert status(runs.start("lock", "shell", "--wait", "0")) == 124
    observer = runs.start("elect", "shell", "--observe")
    assert observer.stdout is not None
    assert observer.stdout.readline() == b"-\n"
    leading = runs.start("elect", "shell", "--value", "me", stdin=subprocess.PIPE)
    assert leading.stdout is not None
    token = leading.stdout.readline().strip()
    assert observer.stdout.readline() == token + b"\tme\n"
    assert held.stdin is not None
    held.stdin.close()
    assert status(held) == 0
    asyncio.run(depose(cluster, "shell"))
    assert int(leading.stdout.readline()) > int(token)
    leading.send_signal(signal.SIGTERM)
    assert status(leading) == 0
    while observer.stdout.readline() != b"-\n":
        assert observer.poll() is None


def test_discover_prints_instances_as_they_come_and_go(runs: Runs, cluster: Cluster) -> None:
    assert status(runs.start("discover", "api")) == 3
    following = runs.start("discover", "api", "--watch")
    assert following.stdout is not None
    out = following.stdout

    async def register() -> None:
        async with cluster.client() as kv, kv.register("api", "10.0.0.1:80", meta={"zone": "a"}):
            assert await asyncio.to_thread(out.readline) == b"+ 10.0.0.1:80\tzone=a\n"
            shown = runs.start("discover", "api", "--json")
            [found] = json.loads((await asyncio.to_thread(shown.communicate))[0])["instances"]
            assert (found["address"], found["meta"]) == ("10.0.0.1:80", {"zone": "a"})

    asyncio.run(register())
    assert out.readline() == b"- 10.0.0.1:80\tzone=a\n"
