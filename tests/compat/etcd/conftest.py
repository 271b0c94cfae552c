"""Fixtures of the tests with etcd's clients. They are collected only if the clients are installed: `make compat`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from syncline.testing.process_cluster import ProcessCluster
from tests.compat.etcd.corpus import missing_clients, missing_text
from tests.compat.etcd.real_etcd import real_etcd

collect_ignore_glob = ["test_*.py"] if missing_clients() else []


@pytest.fixture
def follower(syncline_cluster: ProcessCluster) -> str:
    """The URL of a node that does not lead: the longer way of each request."""
    return syncline_cluster.endpoints[(syncline_cluster.leader() + 1) % 3]


@pytest.fixture
def etcdctl() -> str:
    """The path of etcdctl."""
    found = shutil.which("etcdctl")
    if found is None:
        pytest.skip("etcdctl is not installed")
    return found


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real etcd with one node, for copies and mirrors."""
    program = shutil.which("etcd")
    if program is None:
        pytest.skip("etcd is not installed")
    with real_etcd(program, tmp_path_factory.mktemp("etcd")) as url:
        yield url


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, in red, what was not checked: a skipped test is seen by nobody."""
    if not missing_clients() and (text := missing_text()):
        terminalreporter.section("not all of etcd's clients were checked", sep="!", red=True, bold=True)
        terminalreporter.line(text, red=True)
