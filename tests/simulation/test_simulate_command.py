"""`python -m syncline.testing.simulate`: its arguments, and what a signal leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from syncline.testing.simulate import main
from tests.helpers.programs import is_alive

DEADLINE_S = 60.0
COMMAND = ("-m", "syncline.testing.simulate", "--seeds", "1-100000", "--jobs", "2", "--sim-seconds", "0.1")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--seeds 5-1", "'5-1' has no seed: the first one is above the last one"),
        ("--seeds x", "'x': write the first and the last seed, as in 1-1000"),
        ("--seeds 1-", "'1-': write the first and the last seed, as in 1-1000"),
        ("--seeds 1-2 --jobs 0", "0: there must be at least 1 process"),
        ("--seed 1 --sim-seconds nan", "nan is no time that clients and faults can go on"),
        ("--seed 1 --sim-seconds -1", "-1 is no time that clients and faults can go on"),
        ("--seed 1 --clients x", "argument --clients: invalid"),
        ("--seed 1 --faults kil", "no such faults: kil; there are kill, power"),
        ("--seed 1 --without kil", "no such faults: kil; there are kill, power"),
        ("--seed 1 --pending kept", "no such pending invariants: kept; there are"),
    ],
)
def test_simulate_with_a_wrong_argument_ends_with_status_2(
    arguments: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 is for a seed that fails. A range without seeds ended with 0: nothing had run, and nothing failed."""
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc, to find the other processes")
def test_simulate_that_a_signal_ends_leaves_no_process() -> None:
    """SIGINT takes the same way; but a test that runs in the background of a shell can't send it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    end_s = time.monotonic() + DEADLINE_S
    with subprocess.Popen([sys.executable, *COMMAND], env=environment, stdout=subprocess.PIPE, text=True) as program:
        try:
            while len(found := children(program.pid)) < 3:  # two for the seeds, and one of `multiprocessing`
                assert program.poll() is None
                assert time.monotonic() < end_s, f"it has the processes {found}"
                time.sleep(0.02)  # a poll of a child process
            program.send_signal(signal.SIGTERM)
            output, _ = program.communicate(timeout=DEADLINE_S)
        finally:
            program.kill()
    assert program.returncode == 128 + signal.SIGTERM
    assert output.startswith("interrupted, of 100000 seeds:")
    while living := list(filter(is_alive, found)):
        assert time.monotonic() < end_s + DEADLINE_S, f"the processes {living} are left"
        time.sleep(0.02)  # a poll of a child process
