"""The examples of typed machines behind web servers, as they stand in `examples/machines`."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ports import free_block
from tests.helpers.prefork import serving
from tests.unit.test_machine_nodes import called

ANSWER_S = 20.0


def write_settings(folder: Path) -> None:
    address = f"127.0.0.1:{free_block(1)}"
    (folder / "cluster.toml").write_text(
        f'data_dir = "{folder}/data"\npeer_listen = "{address}"\nelection_s = 0.3\n[initial_cluster]\na = "{address}"\n'
    )


def asked(method: str, url: str) -> Any:
    request = urllib.request.Request(url, b"" if method == "POST" else None, method=method)
    with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
        return json.loads(response.read())


def test_flask_example_serves_threads_and_keeps_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real gunicorn with eight threads; it closes the node at SIGTERM, and a second run has the jobs."""
    write_settings(tmp_path)
    monkeypatch.setenv("SYNCLINE_NAME", "a")
    arguments = ("examples.machines.flask_jobs:app", "--threads", "8", "--chdir", str(tmp_path))
    with serving(*arguments, endpoints=[]) as url:
        with ThreadPoolExecutor(8) as threads:
            waits = list(threads.map(lambda number: asked("POST", f"{url}/put/t{number}")["waits"], range(40)))
            assert waits == [True] * 40
            taken = list(threads.map(lambda number: asked("POST", f"{url}/take/w{number}")["job"], range(40)))
        assert sorted(taken) == sorted(f"t{number}" for number in range(40)), "each job went to one worker"
    with serving(*arguments, endpoints=[]) as url:
        assert len(asked("GET", f"{url}/jobs")) == 40
        assert asked("POST", f"{url}/take/w")["job"] is None


async def test_fastapi_example_switches_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings(tmp_path)
    monkeypatch.setenv("SYNCLINE_NAME", "a")
    monkeypatch.chdir(tmp_path)
    from examples.machines import fastapi_flags  # here: collecting the tests shall not load FastAPI

    app: Any = fastapi_flags.app
    async with app.router.lifespan_context(app):
        assert await called(app, "PUT", "/flags/new", "on=true") == (200, {"before": None})
        assert await called(app, "PUT", "/flags/new", "on=false") == (200, {"before": True})
        assert await called(app, "GET", "/flags") == (200, {"new": False})
        assert (await called(app, "PUT", "/flags/new", "on=perhaps"))[0] == 422
    status, answer = await called(app, "PUT", "/flags/new", "on=true")
    assert (status, answer["outcome"]) == (503, "not_applied")
