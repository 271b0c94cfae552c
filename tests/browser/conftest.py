"""Fixtures of the tests of the console in Chromium: collected only if Playwright is installed (`make browser`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from syncline.testing.process_cluster import ProcessCluster
from tests.browser.beside import running_nodes
from tests.browser.chromium import MISSING, find_chromium

if find_spec("playwright"):
    from tests.browser.console import Browser, Page, open_browser
else:
    collect_ignore_glob = ["test_*.py", "console.py"]

PICTURES = Path(os.environ.get("SYNCLINE_PICTURES", ""))
"""Where a failed test leaves a picture of the page, if the variable names a directory."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    program = find_chromium()
    if program is None:
        pytest.skip(MISSING)
    with open_browser(program) as found:
        yield found


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page at a desktop's size. Afterwards: no script failed, and no key or value was run."""
    found = browser.page()
    yield found
    if os.environ.get("SYNCLINE_PICTURES"):
        found.picture(str(PICTURES / f"{request.node.name}.png"))
    found.close()
    assert found.faults == []


@pytest.fixture(scope="session")
def _single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with running_nodes(str(tmp_path_factory.mktemp("single")), nodes=1) as running:
        yield running


@pytest.fixture(scope="session")
def _three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with running_nodes(str(tmp_path_factory.mktemp("three"))) as running:
        yield running


@pytest.fixture
def node(_single: ProcessCluster) -> ProcessCluster:
    """A cluster of one node, without keys."""
    _single.clear()
    return _single


@pytest.fixture
def nodes(_three: ProcessCluster) -> Iterator[ProcessCluster]:
    """Three nodes, without keys, and all of them up again afterwards."""
    _three.clear()
    yield _three
    _three.heal()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, in red, that the console was not tried: a skipped test is seen by nobody."""
    if find_spec("playwright") and find_chromium() is None:
        terminalreporter.section("the console was not tried", sep="!", red=True, bold=True)
        terminalreporter.line(MISSING, red=True)
