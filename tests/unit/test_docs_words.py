"""The Python of the guides to services, queues and shared state runs as it stands there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.doc_examples import PYTHON
from tests.helpers.site_server import SiteServer

DOCS = Path(__file__).resolve().parents[2] / "docs"


def names_of(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for code in PYTHON.findall((DOCS / page).read_text()):
        exec(compile(code, page, "exec"), names)
    return names


async def test_docs_of_services_run(capsys: pytest.CaptureFixture[str]) -> None:
    names = names_of("services.md")
    async with SiteServer() as site:
        following = asyncio.create_task(names["follow"](site.url))
        await names["main"](site.url)
        await following
        await asyncio.to_thread(names["register"], site.url)
    assert "10.0.0.1:80 {'zone': 'a'}" in capsys.readouterr().out


async def test_docs_of_queues_run() -> None:
    names = names_of("queues.md")
    async with SiteServer() as site:
        await names["main"](site.url)
        await asyncio.to_thread(names["work"], site.url)
        await names["clean_up"](site.url)
        assert site.backend.store.revision > 0


async def test_docs_of_shared_state_run(capsys: pytest.CaptureFixture[str]) -> None:
    names = names_of("shared-state.md")
    async with SiteServer() as site:
        for name in ("main", "settings", "count"):
            await names[name](site.url)
    await asyncio.to_thread(names["kv"].close)
    assert "{'mode': b'blue', 'size': b'3'}" in capsys.readouterr().out
