"""The traces under pytest: etcd/raft's, where they are, and ours, always."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.corpus import VARIABLE, corpus_folder, missing_text, must_be_here, traces_in
from tests.conformance.runner import run_file

OWN = Path(__file__).with_name("traces")


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", traces_in(OWN), ids=_name)
def test_own_trace(path: Path) -> None:
    verdict = run_file(path)
    assert not verdict.failure, f"\n{verdict.failure}"


@pytest.mark.parametrize("path", traces_in(corpus_folder()), ids=_name)
def test_trace_of_etcd_raft(path: Path) -> None:
    verdict = run_file(path)
    assert not verdict.failure, f"\n{verdict.failure}"


def test_the_traces_of_etcd_raft_are_here() -> None:
    if traces_in(corpus_folder()):
        return
    if must_be_here():
        pytest.fail(missing_text())
    pytest.skip(missing_text())


@pytest.mark.parametrize(
    ("environment", "required"),
    [
        ({}, False),
        ({"CI": "1"}, True),
        ({"CI": "true"}, True),
        ({"CI": "True"}, True),
        ({"CI": ""}, False),
        ({"CI": "0"}, False),
        ({"SYNCLINE_CONFORMANCE": "/somewhere"}, True),
    ],
)
def test_missing_traces_on_a_build_machine_are_a_failure(environment: dict[str, str], required: bool) -> None:
    """A run that checks nothing against etcd/raft looks like one that does, where nobody reads what was skipped."""
    assert must_be_here(environment) is required


def test_run_without_traces_says_so_at_its_end(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """Three lines among thousands of dots are not seen."""
    command = [sys.executable, "-m", "pytest", "-q", str(Path(__file__)), "-k", "etcd_raft_are_here"]
    without = {name: value for name, value in os.environ.items() if name not in ("CI", VARIABLE)}
    nowhere = {**without, VARIABLE: str(tmp_path)}
    run = subprocess.run(
        command, env=nowhere, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert run.stdout.count("NOT CHECKED against etcd/raft") >= 2


def test_our_traces_are_here_and_named_by_sentences() -> None:
    files = traces_in(OWN)
    assert files
    for path in files:
        assert len(path.stem.split("_")) >= 4, f"{path.name}: not a sentence"
