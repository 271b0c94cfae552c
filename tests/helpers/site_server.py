"""The real routes and the real HTTP server on a port, over a fake node: for tests of the client and the command."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from syncline.platform.network import TcpNetwork
from syncline.server.api.site import Site
from syncline.server.http.server import HttpServer
from tests.helpers.kv_node import FakeBackend
from tests.helpers.steady_loop import new_steady_loop

LIMIT_S = 10.0


class SiteServer:
    """A server with a store and no cluster. `backend` is the node behind it."""

    def __init__(self, *, max_value_bytes: int = 1000) -> None:
        self.backend = FakeBackend()
        self.site = Site(self.backend, name="a", max_key_bytes=100, max_value_bytes=max_value_bytes)
        self.url = ""
        self._server = HttpServer(self.site)

    async def start(self) -> None:
        host, port = await self._server.start(TcpNetwork(), "127.0.0.1", 0, tls=None)
        self._server.serve(self.site.router.handle, self.site.fast_get)
        self.url = f"http://{host}:{port}"

    async def close(self) -> None:
        await self._server.close(drain_s=0)
        await self.site.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@contextmanager
def site_in_thread() -> Iterator[SiteServer]:
    """A server on a loop and thread of its own: for tests of code that runs a loop itself."""
    loop = new_steady_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = SiteServer()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(LIMIT_S)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(LIMIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT_S)
        loop.close()
