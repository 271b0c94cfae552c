"""The traces under pytest: etcd/raft's, where they are, and ours, always."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conformance.runner import find_files, run_file

OWN = Path(__file__).with_name("traces")
REPOSITORY = Path(__file__).parents[2]
ETCD = Path(os.environ.get("SYNCLINE_CONFORMANCE") or REPOSITORY.parent / "shared" / "conformance" / "etcd-raft")
"""Where etcd/raft's data files are; the environment variable SYNCLINE_CONFORMANCE names another folder."""


def _files(folder: Path) -> list[Path]:
    return find_files([str(folder)]) if folder.is_dir() else []


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", _files(OWN), ids=_name)
def test_own_trace(path: Path) -> None:
    verdict = run_file(path)
    assert not verdict.failure, f"\n{verdict.failure}"


@pytest.mark.parametrize("path", _files(ETCD), ids=_name)
def test_trace_of_etcd_raft(path: Path) -> None:
    verdict = run_file(path)
    assert not verdict.failure, f"\n{verdict.failure}"


def test_the_traces_of_etcd_raft_are_here() -> None:
    if "SYNCLINE_CONFORMANCE" in os.environ:
        assert _files(ETCD), f"SYNCLINE_CONFORMANCE is {ETCD}, where there are no data files"
    if not _files(ETCD):
        pytest.skip(f"NOT CHECKED against etcd/raft's own traces: no data files in {ETCD} (set SYNCLINE_CONFORMANCE)")


def test_our_traces_are_here_and_named_by_sentences() -> None:
    files = _files(OWN)
    assert files
    for path in files:
        assert len(path.stem.split("_")) >= 4, f"{path.name}: not a sentence"
