"""The examples of `docs/batches.md` run as they stand there: commands, requests and Python."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.helpers.doc_examples import BLOCK, PYTHON, run_commands, send_request
from tests.helpers.site_server import SiteServer, site_in_thread

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "batches.md").read_text()


def test_docs_of_batches_commands_and_requests_do_what_they_say() -> None:
    blocks = BLOCK.findall(TEXT)
    assert len(blocks) > 6
    with site_in_thread() as site:
        for kind, text in blocks:
            if kind == "console":
                run_commands(text, site.url)
            else:
                send_request(text, site.url)


async def test_docs_of_batches_python_runs() -> None:
    (code,) = PYTHON.findall(TEXT)
    names: dict[str, Callable[[str], Awaitable[None]]] = {}
    exec(compile(code, "docs/batches.md", "exec"), names)
    async with SiteServer() as site:
        await names["main"](site.url)
        assert site.backend.store.oldest == site.backend.store.revision - 1
