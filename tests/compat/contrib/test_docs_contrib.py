"""The programs of `docs/contrib` run as they stand there, with the cluster's URL in place of the one on the page."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

from syncline import Config
from syncline.client import Client
from syncline.testing.process_cluster import ProcessCluster
from tests.compat.waiting import until
from tests.helpers.doc_examples import PYTHON
from tests.helpers.ports import free_block

DOCS: Final = Path(__file__).resolve().parents[3] / "docs" / "contrib"
URL: Final = "http://127.0.0.1:8080"


def program(page: str, cluster: ProcessCluster) -> str:
    """The first program of a page."""
    code: str = PYTHON.findall((DOCS / f"{page}.md").read_text())[0]
    return code.replace(URL, ",".join(cluster.endpoints))


def test_docs_of_celery_program_is_a_beat(tmp_path: Path, kv: Client, syncline_cluster: ProcessCluster) -> None:
    (tmp_path / "app.py").write_text(program("celery", syncline_cluster))
    command = [sys.executable, "-m", "celery", "-A", "app", "beat", "--pidfile="]
    with open(tmp_path / "log", "wb") as log:
        beat = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        until("beat runs", lambda: kv.get("beat/beat/owner"))
        owner = kv.get("beat/beat/owner")
        assert owner is not None
        assert owner.value.endswith(b":%d" % beat.pid)
        assert kv.get("beat/beat/entries/report") is not None
    finally:
        beat.terminate()
        assert beat.wait(30) == 0, (tmp_path / "log").read_text()


def test_docs_of_apscheduler_program_has_a_job(kv: Client, syncline_cluster: ProcessCluster) -> None:
    names: dict[str, Any] = {}
    exec(program("apscheduler", syncline_cluster), names)
    scheduler = names["scheduler"]
    assert scheduler.get_job("report").args == ("sent",)
    assert kv.get("apscheduler/default/jobs/report") is not None
    until("it has the lock", lambda: kv.count("locks/apscheduler/default/"))
    scheduler.shutdown()
    assert kv.count("locks/apscheduler/default/") == 0


def test_docs_of_django_program_runs(tmp_path: Path, kv: Client, syncline_cluster: ProcessCluster) -> None:
    del kv
    path = tmp_path / "program.py"
    path.write_text(program("django", syncline_cluster))
    command = [sys.executable, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert ran.stderr == ""
    value, added, token = ran.stdout.split()
    assert (value, added) == ("hello", "False")
    assert int(token) > 0


def test_docs_of_metrics_program_runs(tmp_path: Path, syncline_cluster: ProcessCluster) -> None:
    names: dict[str, Any] = {}
    exec(program("metrics", syncline_cluster), names)
    address = f"127.0.0.1:{free_block(1)}"
    config = Config(name="a", data_dir=str(tmp_path), listen=address, peers={"a": address})
    with redirect_stdout(io.StringIO()) as output:
        asyncio.run(names["main"](config))
    assert 'syncline_node_up{node="a"} 1.0' in output.getvalue()
