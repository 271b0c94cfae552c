"""Beat loses and doubles no run: real beats, a real worker, kill -9 at the worst moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest
from celery import Celery

from syncline.client import Client
from syncline.contrib.celery.beat import RUN_HEADER
from syncline.testing.process_cluster import ProcessCluster
from tests.compat.waiting import until

HERE: Final = Path(__file__).resolve().parent
KILLS: Final = 20
FEW: Final = 3
MOMENTS: Final = ("die-before", "die-after", "any")
LIMIT_S: Final = 90.0
ENTRY: Final = "beat/beat/entries/tick"

pytestmark = pytest.mark.timeout(900)


class Beats:
    """Beats and a worker as processes, and what their task has written down."""

    def __init__(self, folder: Path, cluster: ProcessCluster) -> None:
        self.folder = folder
        self.cluster = cluster
        self.kv: Client = cluster.client(timeout=30)
        for name in ("queue", "control"):
            (folder / name).mkdir()
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        self._environment = {
            **os.environ,
            "PYTHONPATH": path,
            "BEAT_FOLDER": str(folder),
            "SYNCLINE_ENDPOINTS": ",".join(cluster.endpoints),
        }
        self.beats: list[subprocess.Popen[bytes]] = []
        self.worker = self.start("worker", "--pool", "solo", "--without-mingle", "--without-gossip")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "beat_app", *arguments, "--loglevel", "INFO"],
                env=self._environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    def start_beat(self) -> None:
        self.beats.append(self.start("beat", "--pidfile="))

    def owner(self) -> int:
        """The process of the beat that runs; 0: there was none yet."""
        found = self.kv.get("beat/beat/owner")
        return 0 if found is None else int(found.value.rpartition(b":")[2])

    def sent(self) -> int:
        """How many runs there were."""
        found = self.kv.get(ENTRY)
        return 0 if found is None else int(msgspec.json.decode(found.value).get("total_run_count", 0))

    def runs(self) -> list[str]:
        path = self.folder / "runs"
        return path.read_text().split() if path.exists() else []

    def wait_for(self, more: int) -> None:
        """Wait until there are more runs."""
        expected = self.sent() + more
        until(f"run {expected}", lambda: self.sent() >= expected, deadline_s=LIMIT_S)

    def kill_at(self, moment: str, wait: random.Random) -> None:
        """Kill the beat that runs, at this moment, and put another one in its place."""
        owner = self.owner()
        if moment == "any":
            deadline_s = time.monotonic() + wait.random()
            until("the moment", lambda: time.monotonic() > deadline_s)
            os.kill(owner, signal.SIGKILL)
        else:
            (self.folder / moment).touch()
        [dead] = [beat for beat in self.beats if beat.pid == owner]
        assert dead.wait(60) == -signal.SIGKILL
        self.beats.remove(dead)
        self.start_beat()
        until("another beat runs", lambda: self.owner() != owner, deadline_s=LIMIT_S)

    def stop_all(self) -> None:
        """Stop all beats in order."""
        for beat in self.beats:
            beat.send_signal(signal.SIGTERM)
        ends = {beat.wait(30) for beat in self.beats}
        assert ends <= {0, -signal.SIGTERM}  # one that has just been started has no handler yet
        self.beats.clear()

    def end(self) -> None:
        for process in (*self.beats, self.worker):
            process.kill()
            process.wait()

    def check(self) -> None:
        """Each run that was ever begun was carried out, and once."""
        self.stop_all()
        state = msgspec.json.decode(self._state())
        sent = self.sent() - ("sending" in state)  # beat was stopped before it could send this one
        until("all runs", lambda: len(self.runs()) >= sent)
        runs = self.runs()
        assert len(runs) == len(set(runs)), "a run was doubled"
        assert sent <= len(runs) <= self.sent(), "a run was lost"

    def _state(self) -> bytes:
        found = self.kv.get(ENTRY)
        assert found is not None
        return found.value


@pytest.fixture
def beats(tmp_path: Path, kv: Client, syncline_cluster: ProcessCluster) -> Iterator[Beats]:
    del kv  # it has emptied the store
    made = Beats(tmp_path, syncline_cluster)
    try:
        made.start_beat()
        made.start_beat()
        made.wait_for(1)
        yield made
    except BaseException:
        print((tmp_path / "log").read_text()[-10_000:])
        raise
    finally:
        made.end()


def kill_and_count(beats: Beats, kills: int) -> None:
    chance = random.Random(26)
    for at in range(kills):
        beats.kill_at(MOMENTS[at % len(MOMENTS)], chance)
        beats.wait_for(1)
    beats.check()


def test_beat_killed_loses_and_doubles_no_run(beats: Beats) -> None:
    """Before a message is sent, after that, and at any moment."""
    kill_and_count(beats, FEW)


@pytest.mark.slow
def test_beat_killed_twenty_times_loses_and_doubles_no_run(beats: Beats) -> None:
    kill_and_count(beats, KILLS)


@pytest.mark.slow
def test_beat_loses_and_doubles_no_run_while_twenty_leaders_are_killed(beats: Beats) -> None:
    """Each kill takes the node that leads. Every fifth one takes all nodes at once: nothing answers for a while."""
    cluster = beats.cluster
    for at in range(KILLS):
        everyone = range(len(cluster.endpoints))
        for node in everyone if at % 5 == 4 else [cluster.leader()]:
            cluster.kill(node)
        cluster.heal()
        beats.wait_for(1)
    beats.check()


@pytest.mark.slow
def test_beat_restarted_twenty_times_loses_and_doubles_no_run(beats: Beats) -> None:
    """All beats stop in order, at any moment, and one begins again."""
    for _ in range(KILLS):
        beats.stop_all()
        beats.start_beat()
        beats.wait_for(1)
    beats.check()


def test_beat_goes_on_when_the_leading_node_is_killed(beats: Beats) -> None:
    leader = beats.cluster.leader()
    beats.cluster.kill(leader)
    beats.wait_for(3)
    beats.cluster.restart(leader)
    beats.wait_for(1)
    beats.check()


def test_beat_that_was_paused_and_wakes_up_doubles_no_run(beats: Beats) -> None:
    """It believes that it has the lock, and knows an old schedule."""
    beats.wait_for(1)
    owner = beats.owner()
    [paused] = [beat for beat in beats.beats if beat.pid == owner]
    paused.send_signal(signal.SIGSTOP)
    try:
        until("another beat runs", lambda: beats.owner() != owner, deadline_s=LIMIT_S)
        beats.wait_for(2)
    finally:
        paused.send_signal(signal.SIGCONT)
    beats.wait_for(3)
    assert beats.owner() != owner
    beats.check()


def test_beat_restart_goes_on_with_the_stored_schedule(beats: Beats) -> None:
    """All beats stop, and begin again: the count goes on, and the next beat has the lock at once."""
    before = beats.sent()
    beats.stop_all()
    assert not beats.kv.list("locks/beat/").items
    beats.start_beat()
    beats.wait_for(2)
    assert beats.sent() > before
    beats.check()


def test_once_task_of_a_message_that_comes_twice_runs_once(beats: Beats) -> None:
    """Two messages of one run, and one of another: each run is carried out once, and a message of no run each time."""
    app = Celery(broker="filesystem://")
    queue = str(beats.folder / "queue")
    app.conf.broker_transport_options = {
        "data_folder_in": queue,
        "data_folder_out": queue,
        "control_folder": str(beats.folder / "control"),
    }
    for run in ("first", "first", "second"):
        app.send_task("tick", task_id=run, headers={RUN_HEADER: run})
    for _ in range(2):
        app.send_task("tick", task_id="plain")
    until("all messages are worked on", lambda: {"second", "plain"} <= set(beats.runs()))
    app.send_task("tick", task_id="last")
    until("the last message is worked on", lambda: "last" in beats.runs())
    runs = beats.runs()
    assert [runs.count(name) for name in ("first", "second", "plain")] == [1, 1, 2]
