"""What `docs/tls.md` shows works: its five commands start three nodes with TLS, and clients reach them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.helpers.ports import free_block

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "tls.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PORTS = re.compile(r"\b(?:808|710)([123])\b")


def commands(block: str, first_port: int) -> list[str]:
    """The commands of a block, on ports that are free."""

    def other(match: re.Match[str]) -> str:
        return str(first_port + int(match[1]) + (3 if match[0].startswith("7") else 0))

    return [PORTS.sub(other, line.removeprefix("$ ")) for line in block.splitlines()]


async def start(command: str, cwd: Path, variables: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *shlex.split(command)),
        cwd=cwd,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ran(command: str, cwd: Path, variables: dict[str, str]) -> str:
    child = await start(command, cwd, variables)
    out, err = await child.communicate()
    assert child.returncode == 0, f"{command}: {err.decode()}"
    return out.decode().strip()


@contextlib.asynccontextmanager
async def serving(serves: list[str], cwd: Path) -> AsyncIterator[None]:
    children = [await start(command, cwd, {}) for command in serves]
    try:
        for child in children:
            assert child.stderr is not None
            async for line in child.stderr:
                if line.startswith(b"syncline: node "):
                    assert b" serves https://127.0.0.1:" in line
                    break
        yield
    finally:
        for child in children:
            if child.returncode is None:
                child.terminate()
        for child in children:
            await child.communicate()


@pytest.mark.deadline(60.0)
async def test_tls_guide_five_commands_start_three_nodes(tmp_path: Path) -> None:
    first_port = free_block(8)
    start_up, use = (commands(block, first_port) for block in BLOCKS)
    assert len(start_up) == 5
    makes, serves = start_up[:2], start_up[2:]
    for command in makes:
        await ran(command, tmp_path, {})
    async with serving(serves, tmp_path):
        export, *rest = use
        variables = dict(part.split("=", 1) for part in export.removeprefix("export ").split())
        for command in rest:
            shown = await ran(command, tmp_path, variables)
        assert shown == "hello"
        space: dict[str, object] = {}
        [source] = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
        exec(source, space)
        greet = space["greet"]
        assert callable(greet)
        authority = str(tmp_path / variables["SYNCLINE_CACERT"])
        assert await greet(authority, variables["SYNCLINE_ENDPOINTS"]) == b"hello"
