"""The simulator itself: one seed decides everything, and a quick set of seeds holds."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from syncline.testing.sim.seeds import Options, run_seed
from syncline.testing.simulate import main

QUICK_SEEDS = 20
REPLAY = """
from syncline.testing.sim.seeds import Options, run_seed
report = run_seed(13, Options(nodes=3, sim_seconds=2.0, faults=("cut", "kill", "power"), trace=True))
print(*report.trace, report.failure, report.steps, report.sim_s, *report.history, sep=chr(10))
"""


def replay(hash_seed: str) -> bytes:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", REPLAY], env=environment, capture_output=True, check=True, timeout=60)
    return run.stdout


def test_one_seed_gives_one_trace_in_any_process() -> None:
    one, other = replay("1"), replay("4000000000")
    assert one == other
    assert len(one.splitlines()) > 500
    assert b"leader" in one
    assert b"kill" in one


def test_different_seeds_give_different_traces() -> None:
    options = Options(nodes=3, sim_seconds=1.0, faults=(), trace=True)
    assert run_seed(1, options).trace != run_seed(2, options).trace


@pytest.mark.parametrize("seed", range(1, QUICK_SEEDS + 1))
def test_quick_seeds_hold(seed: int) -> None:
    report = run_seed(seed, Options(sim_seconds=2.0))
    assert report.failure is None, report.failure
    assert report.steps > 100


def test_the_example_of_the_guide_runs() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", guide, re.DOTALL):
        exec(compile(example, "docs/simulator.md", "exec"), names)
    assert names["report"].steps > 100
    assert names["report"].failure is None


def test_the_command_runs_a_seed_and_says_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger("syncline").level
    assert main(["--seed", "3", "--sim-seconds", "1", "--nodes", "3", "--faults", "none"]) == 0
    assert logging.getLogger("syncline").level == before, "the caller's logs are as they were"
    assert "seed 3 holds" in capsys.readouterr().out
