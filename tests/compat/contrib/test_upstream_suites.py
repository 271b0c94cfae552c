"""The frameworks' own tests, on a cluster of ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from syncline.testing.process_cluster import ProcessCluster
from tests.compat.contrib.sources import missing_sources, unpacked

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[2]
SUITE_S: Final = 240.0

pytestmark = pytest.mark.timeout(SUITE_S + 60)


def unpack(name: str, path: Path) -> Path:
    if name in missing_sources():
        pytest.skip(f"no source distribution of {name}")
    return unpacked(name, path)


def run(arguments: list[str], folder: Path, cluster: ProcessCluster, **more: str) -> str:
    """Run a suite in a process of its own; its output."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]),
        "SYNCLINE_ENDPOINTS": ",".join(cluster.endpoints),
        **more,
    }
    ran = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SUITE_S,
        check=False,
    )
    return f"{ran.stdout}\n{ran.stderr}"


def counts(output: str) -> dict[str, int]:
    """The numbers of pytest's last line."""
    found = re.findall(r"(\d+) (passed|failed|errors?|skipped)", output)
    assert found, output[-3000:]
    return {name: int(number) for number, name in found}


def suite(test: str, plugin: str, *arguments: str) -> list[str]:
    own = ["-p", plugin, "-p", "no:cacheprovider", "-o", "addopts="]
    return ["-m", "pytest", "-q", *own, *arguments, test]


def test_celery_passes_its_tests_of_beat(tmp_path: Path, syncline_cluster: ProcessCluster) -> None:
    """But for one, which `celery_plugin` leaves out."""
    folder = unpack("celery-5.7.0", tmp_path)
    output = run(suite("t/unit/app/test_beat.py", "celery_plugin"), folder, syncline_cluster)
    found = counts(output)
    assert (found["passed"], found.get("failed", 0) + found.get("error", 0)) == (166, 0), output[-3000:]


def test_apscheduler_passes_its_tests_of_job_stores(tmp_path: Path, syncline_cluster: ProcessCluster) -> None:
    folder = unpack("apscheduler-3.11.3", tmp_path)
    command = suite("tests/test_jobstores.py", "apscheduler_plugin", "-k", "etcd-")
    output = run(command, folder, syncline_cluster, JOBS_PICKLED="1")
    assert counts(output) == {"passed": 46}, output[-3000:]


def test_apscheduler_passes_its_tests_with_jobs_as_json(tmp_path: Path, syncline_cluster: ProcessCluster) -> None:
    """But for two: an object as a job's argument can't be written as JSON."""
    folder = unpack("apscheduler-3.11.3", tmp_path)
    command = suite("tests/test_jobstores.py", "apscheduler_plugin", "-k", "etcd- and not callable_instance")
    output = run(command, folder, syncline_cluster)
    assert counts(output) == {"passed": 44}, output[-3000:]


def test_django_passes_its_tests_of_caches(tmp_path: Path, syncline_cluster: ProcessCluster) -> None:
    """Three skip themselves: they are for caches that evict."""
    folder = unpack("django-5.2.19", tmp_path)
    url = ",".join(syncline_cluster.endpoints)
    output = run(
        ["-m", "tests.compat.contrib.django_suite", str(folder / "tests"), url],
        tmp_path,
        syncline_cluster,
    )
    assert "54 0 3" in output.splitlines(), output[-3000:]
