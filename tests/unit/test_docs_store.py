"""The examples of `docs/store.md`, and of the docstrings of `Store`, run as they stand there."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from pathlib import Path
from typing import Any, Final

import pytest

import syncline.client
from syncline import Store
from syncline.client import AsyncClient
from syncline.server import KvServer, ServerConfig
from tests.helpers.doc_examples import PYTHON
from tests.helpers.ports import free_block
from tests.helpers.store_node import store_cluster
from tests.unit.test_public_docstrings import example_in

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
TEXT: Final = (DOCS / "store.md").read_text()
ENGINES: Final = (DOCS / "engines.md").read_text()

EXAMPLES: Final = (
    "put", "get", "touch", "grant_lease", "keep_alive", "lease_details", "leases", "hold_lease", "revoke_lease",
    "lease", "list", "scan", "count", "txn", "batch", "increment", "get_many", "put_many", "update", "put_json",
    "get_json", "transaction", "delete", "watch", "watchers", "compact", "session", "raft",
    "replica", "close",
)  # fmt: skip
"""In the order in which they run, on one cluster."""

COMPILED: Final = {"open", "join"}
"""Examples that start nodes of their own."""


def names_of(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for code in PYTHON.findall(text):
        exec(compile("from __future__ import annotations\n" + code, "docs/store.md", "exec"), names)
    return names


async def test_docs_of_store_example_with_three_nodes_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await names_of(TEXT)["main"](str(tmp_path), free_block(3))
    assert "b'green'" in capsys.readouterr().out


async def test_docs_of_store_example_opens_the_directory_of_a_server(tmp_path: Path) -> None:
    address, folder = f"127.0.0.1:{free_block(1)}", str(tmp_path / "a")
    config = ServerConfig(
        name="a", data_dir=folder, http_listen="127.0.0.1:0", peer_listen=address, initial_cluster={"a": address}
    )
    async with KvServer.open(config) as server, AsyncClient(server.http_url) as kv:
        await kv.put("greeting", "hello")
    assert await names_of(TEXT)["reopen"](folder, address) == b"hello"


async def test_docs_of_store_example_runs_on_an_engine() -> None:
    assert await names_of(TEXT)["mode"]("memory:") == b"blue"


async def test_docs_of_engines_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    names = names_of(ENGINES)
    assert await names["add"]("memory:") == 1
    assert await names["agent"]("memory:", "10.0.0.1:80") > 0
    assert "['10.0.0.1:80']" in capsys.readouterr().out


def own_methods() -> set[str]:
    """Methods that are no word of coordination: those are tried on a client."""
    public = {name for name in dir(Store) if not name.startswith("_")}
    return {name for name in public if ".coordination" not in getattr(getattr(Store, name), "__module__", "")}


def wrapped(name: str) -> str:
    source = example_in(inspect.getdoc(inspect.getattr_static(Store, name)) or "")
    assert source, name
    return f"async def example():\n{textwrap.indent(source, '    ')}\n    return locals()"


def test_docstring_examples_of_store_all_run_or_are_named() -> None:
    assert set(EXAMPLES) | COMPILED == own_methods()
    for name in COMPILED:
        compile(wrapped(name), name, "exec")


async def test_docstring_examples_of_store_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with store_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        names: dict[str, Any] = {"asyncio": asyncio, **vars(syncline.client), "store": leader, "kv": leader}
        for name in EXAMPLES:
            space = dict(names)
            exec(compile(wrapped(name), name, "exec"), space)
            made = await space["example"]()
            names |= {shared: value for shared, value in made.items() if shared == "granted"}
    assert "b'good day'" in capsys.readouterr().out
