"""The checks that were written outside of this project, each of which passes on a real etcd."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from syncline.testing.process_cluster import ProcessCluster
from tests.compat.etcd.corpus import VARIABLE, checks_folder, missing_checks, missing_text
from tests.conformance.corpus import must_be_here

CHECK_S = 240.0
SUITE_S = 900.0
ETCDCTL_LIMIT = "30s"
"""In place of 5 s: on a loaded machine the check of a password alone takes seconds."""

PYTHON_CHECKS = {
    "gateway/gateway_check.py": 69,
    "etcd3gw_check.py": 16,
    "tooz_check.py": 8,
    "patroni_check.py": 13,
    "aetcd_check.py": 9,
}
"""Each with the number of its checks."""

SUITES = {"etcd3gw": 23, "tooz": 70, "aetcd": 68}
"""The clients' own tests, by client."""

pytestmark = pytest.mark.timeout(CHECK_S + 60)


def passes(command: list[str], expected: int, limit_s: float = CHECK_S) -> None:
    """Run a check. All must pass, and there must be as many as there were."""
    ran = subprocess.run(
        command,
        env={**os.environ, "ETCDCTL_COMMAND_TIMEOUT": ETCDCTL_LIMIT},
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    lines = ran.stdout.splitlines()
    failed = "\n".join(line for line in lines if not line.startswith("ok "))
    found = re.fullmatch(r"(\d+) passed, (\d+) failed", lines[-1] if lines else "")
    assert found is not None, f"{ran.stdout}\n{ran.stderr}"
    assert (int(found[1]), int(found[2]), ran.returncode) == (expected, 0, 0), f"{failed}\n{ran.stderr[-2000:]}"


def script(name: str) -> str:
    if missing_checks():
        pytest.skip(missing_text())
    return str(checks_folder() / name)


def test_outside_checks_are_here() -> None:
    if missing_checks():
        if must_be_here(variable=VARIABLE):
            pytest.fail(missing_text())
        pytest.skip(missing_text())


@pytest.mark.parametrize("name", PYTHON_CHECKS)
def test_client_passes_its_checks(name: str, follower: str) -> None:
    passes([sys.executable, script(name), "--endpoint", follower], PYTHON_CHECKS[name])


def test_gateway_passes_its_checks_on_the_leader(syncline_cluster: ProcessCluster) -> None:
    leader = syncline_cluster.endpoints[syncline_cluster.leader()]
    passes([sys.executable, script("gateway/gateway_check.py"), "--endpoint", leader], 69)


def test_etcdctl_passes_its_checks(etcdctl: str, syncline_cluster: ProcessCluster, follower: str) -> None:
    """With the users: authentication is on for a part of them."""
    del etcdctl
    syncline_cluster.clear()
    passes(["bash", script("etcdctl_check.sh"), "--endpoint", follower, "--auth"], 49)


def test_etcdctl_passes_its_checks_of_a_cluster(etcdctl: str, syncline_cluster: ProcessCluster) -> None:
    del etcdctl
    endpoints = ",".join(syncline_cluster.endpoints)
    passes(["bash", script("cluster_check.sh"), "--endpoints", endpoints, "--member"], 12)


@pytest.mark.slow
@pytest.mark.timeout(SUITE_S + 60)
@pytest.mark.parametrize("client", SUITES)
def test_client_passes_its_own_suite(
    client: str, syncline_cluster: ProcessCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The tests that the client ships, unchanged, in an environment of their own."""
    syncline_cluster.clear()
    cache = f"{sys.prefix}/suites"
    command = [sys.executable, script("suite_check.py"), "--client", client, "--cache", cache]
    passes([*command, "--endpoint", syncline_cluster.endpoints[0]], SUITES[client], SUITE_S)
