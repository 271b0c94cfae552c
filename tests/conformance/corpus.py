"""Where the recorded traces of etcd/raft are, and what it means if they are nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["VARIABLE", "corpus_folder", "missing_text", "must_be_here", "traces_in"]

VARIABLE = "SYNCLINE_CONFORMANCE"
"""Names another folder than the usual one."""

REPOSITORY = Path(__file__).parents[2]


def corpus_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder with etcd/raft's data files, whether it is there or not."""
    return Path(environment.get(VARIABLE) or REPOSITORY.parent / "shared" / "conformance" / "etcd-raft")


def traces_in(folder: Path) -> list[Path]:
    """The data files below a folder, sorted; none if there is no such folder."""
    return sorted(folder.rglob("*.txt")) if folder.is_dir() else []


def must_be_here(environment: Mapping[str, str] = os.environ, variable: str = VARIABLE) -> bool:
    """Whether a run without the outside's files fails: on the build machine, and if `variable` names their folder."""
    return environment.get("CI", "").lower() in ("1", "true") or bool(environment.get(variable))


def missing_text() -> str:
    """What to tell if they are not there."""
    folder = corpus_folder()
    return f"NOT CHECKED against etcd/raft's own traces: no data files in {folder} (set {VARIABLE} to their folder)"
