"""The tests of `syncline.contrib` need its frameworks: they are collected only in the environment of `make compat`."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.compat.contrib.sources import missing_frameworks, missing_sources

collect_ignore_glob = ["test_*.py"] if missing_frameworks() else []


@pytest.fixture(autouse=True)
def _level_of_the_log_as_before() -> Iterator[None]:
    """A worker of Celery sets the level of the root logger. Later tests look for warnings."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, in red, which of the frameworks' own tests did not run."""
    if not missing_frameworks() and (missing := missing_sources()):
        terminalreporter.section("not all of the frameworks' own tests ran", sep="!", red=True, bold=True)
        terminalreporter.line(f"NOT CHECKED, no source distribution of: {', '.join(missing)}", red=True)
