"""Real chaos, as it is run from the command line: a minute in `make test`, more of it in `make soak`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import sandbox

MINUTE_SEED = 1987
"""Early in it the leader is killed, isolated, deaf and mute, all are killed, a member is replaced, and more."""
PLANTED = {
    "stale-reads": "deaf,partition,isolate-leader",
    "early-acknowledgement": "kill-all",
    "double-apply": "transfer",
    "false-refusal": "slow,flap",
}


def start(evidence: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run in a process group of its own, whose nodes have their data beside the evidence."""
    command = [sys.executable, "-m", "tests.chaos", "--artifacts", str(evidence), *arguments]
    environment = {**os.environ, "TMPDIR": str(evidence.parent)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def ended(process: subprocess.Popen[str], limit_s: float) -> tuple[str, str]:
    try:
        return process.communicate(timeout=limit_s)
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(200)
def test_half_a_minute_of_chaos_leaves_nothing_to_complain_of(tmp_path: Path) -> None:
    process = start(tmp_path / "evidence", "--minutes", "0.4", "--seed", str(MINUTE_SEED))
    out, err = ended(process, limit_s=180)
    assert process.returncode == 0, out + err
    assert "anomalies         0" in out, out
    assert not (tmp_path / "evidence").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_minutes_of_chaos_on_five_nodes(tmp_path: Path) -> None:
    process = start(tmp_path / "evidence", "--minutes", "5", "--nodes", "5")
    out, err = ended(process, limit_s=580)
    assert process.returncode == 0, out + err


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found(planted: str, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    faults = PLANTED[planted]
    process = start(evidence, "--json", "--minutes", "0.5", "--seed", "1", "--planted", planted, "--faults", faults)
    out, err = ended(process, limit_s=280)
    assert process.returncode == 1, out + err
    assert json.loads(out)["anomalies"]
    assert {"history.jsonl", "schedule.json", "report.json", "n1.log", "n2.log", "n3.log"} <= {
        path.name for path in evidence.iterdir()
    }


@pytest.mark.skipif(sandbox.why_not() is not None, reason="no namespaces can be made here: nothing to look at")
def test_a_cut_is_one_way_and_ends() -> None:
    command = [*sandbox.command(), sys.executable, "-m", "tests.chaos.lan_probe"]
    probe = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert probe.returncode == 0, probe.stderr
    whole = {"n1": ["n2", "n3"], "n2": ["n1", "n3"], "n3": ["n1", "n2"]}
    assert json.loads(probe.stdout) == {
        "whole": whole,
        "n1 cut from n2": {**whole, "n2": ["n3"]},
        "n1 mended and slow, n3 unplugged": {"n1": ["n2"], "n2": ["n1"], "n3": []},
        "healed": whole,
    }


@pytest.mark.parametrize(
    ("number", "network"),
    [
        (signal.SIGINT, "--seed=1"),
        pytest.param(signal.SIGTERM, "--seed=1", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "--no-netns", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_broken_off_ends_its_nodes(number: signal.Signals, network: str, tmp_path: Path) -> None:
    with start(tmp_path / "evidence", "--minutes", "5", network, "--faults", "snapshot") as process:
        poll_until(lambda: len(nodes_with_data_in(tmp_path)) == 3)
        os.killpg(process.pid, number)  # as a terminal does
        out, err = ended(process, limit_s=30)
    assert process.returncode == 130, out + err
    assert "broken off" in err
    assert "Traceback" not in err
    assert (tmp_path / "evidence" / "history.jsonl").exists()
    assert not nodes_with_data_in(tmp_path)


@pytest.mark.skipif(sandbox.why_not() is not None, reason="on loopback nobody can clean up after a killed run")
def test_a_killed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with start(tmp_path / "evidence", "--minutes", "5", "--faults", "snapshot") as process:
        poll_until(lambda: len(nodes_with_data_in(tmp_path)) == 3)
        process.kill()
    poll_until(lambda: not nodes_with_data_in(tmp_path))


def poll_until(condition: Callable[[], bool], deadline_s: float = 30.0) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)  # poll: the nodes are no children of this process


def nodes_with_data_in(directory: Path) -> list[str]:
    """The nodes that run now with their data below this directory, by the kernel's account."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            commands.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [command for command in commands if f"--data-dir {directory}" in command]
