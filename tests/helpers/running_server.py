"""A real server of one node on a thread of its own, for commands that run in the test's thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from syncline.server.app import KvServer
from syncline.server.config import ServerConfig

__all__ = ["running_server"]

START_S = 30.0


@contextmanager
def running_server(config: ServerConfig) -> Iterator[KvServer]:
    """Serve until the end of the block. What is called on the server from there must be safe from another thread."""
    opened, found, failures = threading.Event(), list[KvServer](), list[BaseException]()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        async with KvServer.open(config) as server:
            await server.raft.barrier()  # it leads
            found.append(server)
            opened.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            failures.append(error)
        finally:
            opened.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        assert opened.wait(START_S)
        if failures:
            raise failures[0]
        yield found[0]
    finally:
        if loops and not failures:
            loop, stop = loops[0]
            loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failures:
        raise failures[0]
