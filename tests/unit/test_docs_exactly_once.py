"""The examples of `docs/exactly-once.md` run as they stand there: requests, the client, and the library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncline import Config, Raft
from tests.helpers.doc_examples import BLOCK, PYTHON, send_request
from tests.helpers.ports import free_block
from tests.helpers.site_server import SiteServer, site_in_thread

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "exactly-once.md").read_text()


def test_docs_of_exactly_once_requests_do_what_they_say() -> None:
    blocks = BLOCK.findall(TEXT)
    assert len(blocks) == 3
    with site_in_thread() as site:
        for _, text in blocks:
            send_request(text, site.url)


async def test_docs_of_exactly_once_python_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client, library = PYTHON.findall(TEXT)
    names: dict[str, Callable[..., Any]] = {}
    exec(compile("from __future__ import annotations\n" + client + library, "docs/exactly-once.md", "exec"), names)
    async with SiteServer() as site:
        await names["main"](site.url)
        assert site.backend.store.get(b"order/8") is not None
    assert capsys.readouterr().out == "1\n"
    address = f"127.0.0.1:{free_block(1)}"
    config = Config(name="a", data_dir=str(tmp_path / "a"), listen=address, peers={"a": address}, election_s=0.2)
    async with Raft.open(config, names["Counter"]()) as raft:
        assert await names["count"](raft) == 3
