"""The examples of `docs/client.md` run as they stand there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.doc_examples import PYTHON
from tests.helpers.site_server import SiteServer

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "client.md").read_text()


async def test_docs_of_the_client_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    first, calls = PYTHON.findall(TEXT)
    names: dict[str, Callable[..., Any]] = {}
    body = "".join(f"    {line}\n" for line in first.splitlines() if not line.startswith("from"))
    start = "from syncline.client import AsyncClient\nasync def start(url: str) -> None:\n"
    urls = "http://10.0.0.1:8080,http://10.0.0.2:8080,http://10.0.0.3:8080"
    assert urls in body
    exec(compile(start + body.replace(f'"{urls}"', "url"), "docs/client.md", "exec"), names)
    exec(compile(calls, "docs/client.md", "exec"), names)
    async with SiteServer() as site:
        await names["start"](site.url)
        await names["main"](site.url)
        log = site.backend.store.get(b"log")
    assert log is not None
    assert log.value == b"line\n"
    assert capsys.readouterr().out.splitlines()[-2:] == ["{b'color': b'red', b'shape': b'round'}", "yours"]
