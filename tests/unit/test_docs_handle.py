"""The examples of `docs/handle.md` run as they stand there, and its tables are complete."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from syncline import Config
from syncline.node.reload import RELOADABLE
from tests.helpers.doc_examples import PYTHON
from tests.helpers.node_cluster import cluster, until

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "handle.md").read_text()


def section(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


async def test_docs_of_the_handle_python_runs(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "docs_handle"}
    for code in PYTHON.findall(TEXT):
        exec(compile(code, "docs/handle.md", "exec"), names)
    async with cluster(tmp_path) as nodes:
        await nodes.announced()
        leader = await nodes.leader()
        done = asyncio.Event()
        assert await names["lead"](leader, done) == leader.stats().term
        done.clear()
        await names["serve"](leader, done)
        assert await names["on_a_thread"](leader) == len(nodes.machine(leader).items)
        assert names["tune"](leader) == ("election_s", "snapshot_entries")
        if leader.config.name == "c":
            await leader.transfer_leadership("a")
            leader = nodes.rafts["a"]
        c = nodes.rafts["c"].node_id
        await nodes.stop("c")
        await until(leader, lambda: not leader.peers()[c].connected)
        assert await names["replace"](leader, nodes.address("g")) in leader.membership().members
        assert c not in leader.membership().members


def test_docs_of_the_handle_name_each_setting() -> None:
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", section("Other settings while it runs"), re.MULTILINE)
    named = {name: text for names, text in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(named) == set(Config.__struct_fields__)
    fixed = {name for name, text in named.items() if text.startswith(("never", "not while"))}
    assert fixed == set(Config.__struct_fields__) - set(RELOADABLE)
