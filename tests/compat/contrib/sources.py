"""Where the frameworks' source distributions are: their tests are in no wheel. `make compat` downloads them."""

from __future__ import annotations

import os
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

__all__ = ["FRAMEWORKS", "SOURCES", "VARIABLE", "missing_frameworks", "missing_sources", "unpacked"]

FRAMEWORKS: Final = ("apscheduler", "celery", "django", "opentelemetry", "prometheus_client")
SOURCES: Final = ("apscheduler-3.11.3", "celery-5.7.0", "django-5.2.19")

VARIABLE: Final = "SYNCLINE_SOURCES"
"""Names another folder than the usual one, `sources` in the environment of `make compat`."""


def folder() -> Path:
    return Path(os.environ.get(VARIABLE) or Path(sys.prefix) / "sources")


def missing_frameworks() -> list[str]:
    """Frameworks that are not installed: this is not the environment of `make compat`."""
    return [name for name in FRAMEWORKS if find_spec(name) is None]


def missing_sources() -> list[str]:
    """Distributions that were not downloaded."""
    return [name for name in SOURCES if not (folder() / f"{name}.tar.gz").is_file()]


def unpacked(name: str, target: Path) -> Path:
    """Unpack a distribution below `target`; the folder that it has become."""
    with tarfile.open(folder() / f"{name}.tar.gz") as archive:
        archive.extractall(target, filter="data")
    return target / name
