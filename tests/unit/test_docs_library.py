"""The examples of `docs/library.md` run as they stand there, and its tables name what exists."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Final

from examples.state_machine import accounts

import syncline
from syncline import Config, Raft, errors
from tests.helpers.doc_examples import PYTHON
from tests.helpers.ports import free_block

ROOT: Final = Path(__file__).resolve().parents[2]
TEXT: Final = (ROOT / "docs" / "library.md").read_text()
NAMES: dict[str, Any] = {"__name__": "docs_library"}
for block in PYTHON.findall(TEXT):
    exec(compile(block, "docs/library.md", "exec", dont_inherit=True), NAMES)


def config_in(folder: Path) -> Config:
    address = f"127.0.0.1:{free_block(1)}"
    return Config(name="a", data_dir=str(folder), listen=address, peers={"a": address}, election_s=0.2)


async def test_docs_of_the_library_calls_run(tmp_path: Path) -> None:
    config = config_in(tmp_path / "raw")
    assert await NAMES["run"](config) == 5
    counter = NAMES["BatchCounter"]()
    async with Raft.open(config, counter) as raft:
        following = asyncio.create_task(NAMES["follow"](raft))
        assert await NAMES["write"](raft) == [6, 8, 11]
        assert await NAMES["write_once"](raft) == 15
        assert await NAMES["read"](raft, counter) == (15, 15)
        assert await NAMES["ask"](raft) == b"the leader was asked something"
        assert await NAMES["grow_and_shrink"](raft) == ["a"]
    seen = await following
    assert "role: leader" in seen
    assert seen[-1] == "stopped: the node was closed"


async def test_docs_of_the_library_typed_machine_runs(tmp_path: Path) -> None:
    async with NAMES["Jobs"].open(config_in(tmp_path)) as jobs:
        assert await jobs.assign("t1", to="w3")
        assert not await jobs.assign("t1", to="w4")
        assert await jobs.worker("t1") == "w3"


async def test_docs_of_the_library_leadership_runs(tmp_path: Path) -> None:
    terms: list[int] = []

    async def work(term: int) -> None:
        terms.append(term)

    async with Raft.open(config_in(tmp_path), NAMES["Counter"]()) as raft:
        await NAMES["lead"](raft, work)
        await NAMES["remind"](raft, lambda: None)
        assert terms == [raft.stats().term]


def test_docs_of_the_library_tests_pass() -> None:
    NAMES["test_counter"]()
    assert NAMES["config_of"]("b", bytes(32)).name == "b"


def test_docs_of_the_library_snapshot_is_written() -> None:
    written: list[bytes] = []

    class Sink:
        def write(self, data: bytes, /) -> None:
            written.append(data)

    view = NAMES["Lines"]([b"one", b"two"])
    view.persist(Sink())
    view.release()
    assert written == [b"one\n", b"two\n"]


def test_docs_of_the_library_show_the_durable_example_as_it_is() -> None:
    (shown,) = re.findall(r"^```py\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    source = Path(accounts.__file__).read_text()
    for line in shown.splitlines():
        if line and not line.startswith("def "):
            assert f"    {line}\n" in source, line


def test_docs_of_the_library_name_errors_and_protocols_that_exist() -> None:
    table = TEXT.partition("## Errors")[2]
    for name in re.findall(r"`([A-Z]\w+)`", table):
        assert name in errors.__all__ or name in {"TimeoutError", "TypeError"}, name
    for name in re.findall(r"\(`([A-Z]\w+)`", TEXT):
        assert name in syncline.__all__, name
