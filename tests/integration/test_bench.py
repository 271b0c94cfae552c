"""The bench runs: ours alone, at tiny sizes, with what is installed everywhere."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from bench.results import load

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def bench(directory: str, *arguments: str, module: str = "bench", seconds: str = "1") -> str:
    """Run it; its output."""
    command = [sys.executable, "-m", module, "--directory", directory, "--seconds", seconds, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.slow
def test_ours_alone(tmp_path: object) -> None:
    kept, pages = f"{tmp_path}/results.json", f"{tmp_path}/pages"
    where = ["--results", kept, "--page", pages]
    cells = ["--only", "writes,reads,mixed", "--clients", "2", "--peers", "syncline,library,bare", "--repeats", "1"]
    output = bench(str(tmp_path), *cells, *where)
    assert "written:" in output
    found = load(kept)
    assert {(row.system, row.workload) for row in found.rows} == {
        ("syncline", "writes"),
        ("library", "writes"),
        ("bare", "writes"),
        ("syncline", "reads"),
        ("bare", "reads"),
        ("syncline", "mixed"),
    }
    for row in found.rows:
        assert row.median("per_s") > 0
        assert row.median("p50_ms") <= row.median("p99_ms")
        assert row.values("errors") == [0]
    assert {name for name in os.listdir(pages) if name.endswith(".md")} == {f"{found.date}.md"}


def test_a_failover_and_a_thousand_keys(tmp_path: object) -> None:
    kept = f"{tmp_path}/results.json"
    bench(str(tmp_path), "--only", "failover,million", "--failovers", "1", "--keys", "1000", "--results", kept)
    found = load(kept)
    keys = ("failover.median", "memory.restarted", "pause.stale reads", "restart", "catch-up")
    for key in keys:
        figure = found.figure(key)
        assert figure is not None, key
        assert 0 < figure.value < 100_000, figure
    assert sorted(os.listdir(str(tmp_path))) == ["results.json"], "the data is removed"


@pytest.mark.slow
def test_bench_paired_runs_two_trees_with_secret_and_mac(tmp_path: object) -> None:
    """The tree beside itself. So the ratios say nothing, but each step is taken."""
    output = bench(str(tmp_path), "--base", ROOT, "--only", "mac", "--turns", "2", module="bench.paired", seconds="0.2")
    lines = output.splitlines()
    assert sum(line.startswith("started first: base ") for line in lines) == 1
    assert sum(line.startswith("started first: now ") for line in lines) == 1
    result = next(line for line in lines if line.startswith("writes, 64 clients, 256 B, secret and MAC"))
    assert "knows no secret" not in output
    assert result.removesuffix("   LOSS").removesuffix("   UNSURE").split()[-1] == "0", "no request failed"
    assert not os.listdir(str(tmp_path)), "the data is removed"
