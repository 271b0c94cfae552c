"""Fixtures of the tests with etcd's clients. They are collected only if the clients are installed: `make compat`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from urllib.error import URLError

import pytest

from syncline.testing.process_cluster import ProcessCluster
from tests.compat.etcd.corpus import missing_clients, missing_text
from tests.compat.waiting import until
from tests.helpers.ports import free_block

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
    directory = tmp_path_factory.mktemp("etcd")
    port = free_block(2)
    url, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [
                *(program, "--name", "n", "--data-dir", str(directory / "data"), "--log-level", "error"),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"n={peer}"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        until("etcd serves", lambda: healthy(url))
        yield url
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
            return bool(json.load(answer)["health"] == "true")
    except (URLError, OSError):
        return False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, in red, what was not checked: a skipped test is seen by nobody."""
    if not missing_clients() and (text := missing_text()):
        terminalreporter.section("not all of etcd's clients were checked", sep="!", red=True, bold=True)
        terminalreporter.line(text, red=True)
