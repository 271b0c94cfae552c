"""`docs/internals/write-and-read.md` names each file that a write and a read pass: compared with the files that run."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import pytest

from syncline.server.app import KvServer
from syncline.server.config import ServerConfig
from tests.helpers.ports import free_block

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = str(ROOT / "src" / "syncline") + "/"
PAGE: Final = ROOT / "docs" / "internals" / "write-and-read.md"

ONLY_DATA: Final = {
    "transport/messages.py",
    "storage/wal/format.py",
    "server/http/request.py",
    "server/http/response.py",
}
"""Structures and constants: used on the way, without a function of theirs being called."""

REQUESTS: Final = 8
"""Files that each of so many requests passes are on its way; others may be a tick's, or somebody else's."""

MOST_ENTRIES: Final = 200
"""Of the log: the end of the attempts to tell one from the other."""

MOST_FILES: Final = {"The way of one write": 85, "The way of one linearizable read": 55}
"""Why there are so many stands at the end of the page."""

WRITE: Final = b"PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv"
READ: Final = b"GET /key/a HTTP/1.1\r\nHost: x\r\n\r\n"


class Tracer:
    """Collects the files of ours in which a function is called, on all threads that begin while it is there."""

    def __init__(self) -> None:
        self.files: set[str] | None = None

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        name = frame.f_code.co_filename
        if self.files is not None and event == "call" and name.startswith(SOURCE):
            self.files.add(name.removeprefix(SOURCE))

    @contextmanager
    def installed(self) -> Iterator[None]:
        before = sys.getprofile()
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(before)


def named(section: str) -> set[str]:
    text = PAGE.read_text()
    body = text.partition(f"## {section}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`([a-z0-9_/]+\.py)`", body))


async def start(tmp_path: Path) -> list[KvServer]:
    port = free_block(3)
    members = {name: f"127.0.0.1:{port + at}" for at, name in enumerate("abc")}
    return [
        await KvServer.open(
            ServerConfig(
                name=name, data_dir=str(tmp_path / name), http_listen="127.0.0.1:0", peer_listen=address,
                initial_cluster=members, heartbeat_s=0.2, election_s=0.8, reserve_bytes=0,
            )
        )
        for name, address in members.items()
    ]  # fmt: skip


async def settled(servers: list[KvServer]) -> None:
    """There is a leader, and the nodes have announced themselves: what runs from now on is asked for."""
    books = [server.raft._driver.parts.book.members for server in servers]
    while not all(member.directory for book in books for member in book.values()):
        await servers[0].raft._driver.running.wait(asyncio.get_running_loop().time() + 0.05)


async def passed(tracer: Tracer, follower: KvServer, request: bytes, keys: range) -> tuple[set[str], set[str]]:
    """The files that each of several requests has passed, and those that any has."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(follower.http_url.rpartition(":")[2]))
    each: list[set[str]] = []
    for key in keys:
        tracer.files = set()
        writer.write(request.replace(b"/key/a", b"/key/%d" % key))
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 200 OK")
        each.append(tracer.files)
        tracer.files = None
        await follower.raft.barrier()  # the followers are told of the commit, too
    writer.close()
    return set.intersection(*each), set.union(*each)


def test_ways_of_requests_do_not_pass_more_and_more_files() -> None:
    assert {section: len(named(section)) <= most for section, most in MOST_FILES.items()} == dict.fromkeys(
        MOST_FILES, True
    )


@pytest.mark.deadline(60.0)
@pytest.mark.parametrize(
    ("section", "request_bytes"), [("The way of one write", WRITE), ("The way of one linearizable read", READ)]
)
async def test_each_file_on_the_way_is_named(tmp_path: Path, section: str, request_bytes: bytes) -> None:
    tracer, text = Tracer(), named(section)
    with tracer.installed():
        servers = await start(tmp_path)
        try:
            await settled(servers)
            follower = next(server for server in servers if not server.raft.is_leader)
            if request_bytes == READ:
                await passed(tracer, follower, WRITE, range(REQUESTS))
            always, sometimes = await passed(tracer, follower, request_bytes, range(REQUESTS))
            while always - text and follower.raft.stats().commit < MOST_ENTRIES:  # a slow machine has many ticks
                more, _ = await passed(tracer, follower, request_bytes, range(REQUESTS))
                always &= more
        finally:
            for server in servers:
                await server.close()
    assert always - text == set(), "these are passed and not named"
    assert text - sometimes - ONLY_DATA == set(), "these are named and not passed"
