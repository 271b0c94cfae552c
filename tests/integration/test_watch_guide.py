"""What `docs/watches.md` shows works: its commands print what is shown, and its program does what it tells."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from syncline.server.app import KvServer
from tests.helpers.node_cluster import until
from tests.unit.test_server_app import settings

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "watches.md").read_text()
SHOWN_URL = "http://127.0.0.1:8080"
ENDLESS = re.compile(r"^(syncline watch|curl -N) ")


def transcript() -> Iterator[tuple[str, str]]:
    """The commands of the page, each with the output that is shown."""
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


@asynccontextmanager
async def running(command: str, url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    script = command.replace(SHOWN_URL, url).replace("curl ", "curl -sS ")
    script = re.sub(r"^syncline ", f"{sys.executable} -m syncline ", script)
    child = await asyncio.create_subprocess_shell(
        f"exec {script}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "SYNCLINE_ENDPOINTS": url},
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


@pytest.mark.deadline(60.0)
async def test_watch_guide_commands_print_what_is_shown(tmp_path: Path) -> None:
    async with KvServer.open(settings(tmp_path)) as server:
        for command, shown in transcript():
            async with running(command, server.http_url) as child:
                assert child.stdout is not None
                if ENDLESS.match(command):
                    printed = await child.stdout.readexactly(len(shown.encode()))
                else:
                    printed = await child.stdout.read()
                assert printed.decode().rstrip("\n") == shown.rstrip("\n"), command
    assert len([*transcript()]) > 5


async def test_watch_guide_program_keeps_a_copy(tmp_path: Path) -> None:
    [source] = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    space: dict[str, object] = {}
    exec(source, space)
    copy: dict[bytes, bytes] = {}
    async with KvServer.open(settings(tmp_path)) as server, AsyncClient(server.http_url) as kv:
        await kv.put("config/a", "1")
        task = asyncio.create_task(space["mirror"](kv, "config/", copy))  # type: ignore[operator]
        for key, value in ((b"config/b", b"2"), (b"config/a", b"3")):
            await kv.put(key, value)
        await kv.delete("config/b")
        await until(server.raft, lambda: copy == {b"config/a": b"3"})
        task.cancel()
