"""Where the outside's checks of etcd's clients are, and what it means if they are absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

__all__ = ["CLIENTS", "VARIABLE", "checks_folder", "missing_checks", "missing_clients", "missing_text"]

VARIABLE: Final = "SYNCLINE_COMPAT"
"""Names another folder than the usual one."""

REPOSITORY: Final = Path(__file__).resolve().parents[3]
CLIENTS: Final = ("aetcd", "etcd3gw", "patroni", "tooz")


def checks_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder with the checks, whether it is there or not."""
    return Path(environment.get(VARIABLE) or REPOSITORY.parent / "shared" / "compat")


def missing_clients() -> list[str]:
    """Python clients that are not installed: this is not the environment of `make compat`."""
    return [name for name in CLIENTS if find_spec(name) is None]


def missing_checks() -> bool:
    """Whether the checks are not there."""
    return not (checks_folder() / "README.md").is_file()


def missing_text() -> str:
    """What to tell if something is not there; empty if all is."""
    texts = []
    if missing_checks():
        folder = checks_folder()
        texts.append(f"NOT CHECKED by the outside's scripts: none in {folder}; name their folder in {VARIABLE}")
    if shutil.which("etcdctl") is None:
        texts.append("NOT CHECKED with etcdctl: install Debian's etcd-client")
    if shutil.which("etcd") is None:
        texts.append("NOT CHECKED beside a real etcd: install Debian's etcd-server")
    return "\n".join(texts)
