"""A line between a client and a server of TCP that cuts connections after some bytes, or passes no more on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final, Literal

__all__ = ["Line", "line_to"]

Way = Literal["to server", "to client"]

CHUNK_BYTES: Final = 4096


class Line:
    """Passes each connection on to the server. Used on the event loop where it was started."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._left: dict[Way, int | None] = {"to server": None, "to client": None}
        self._opened: dict[Way, asyncio.Event] = {"to server": asyncio.Event(), "to client": asyncio.Event()}
        for way in self._opened.values():
            way.set()
        self.port = 0
        self.cuts = 0
        """How often the line was cut."""

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, back}
        self._writers |= both
        for way, source, target in (("to server", reader, back), ("to client", there, writer)):
            task = asyncio.ensure_future(self._pass_on(way, source, target, both))  # type: ignore[arg-type]
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, way: Way, source: asyncio.StreamReader, target: asyncio.StreamWriter, both: set[asyncio.StreamWriter]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await self._opened[way].wait()
                left = self._left[way]
                target.write(data if left is None else data[:left])
                if left is not None and len(data) >= left:
                    await target.drain()
                    self._left[way] = None
                    self.cut()
                    return
                if left is not None:
                    self._left[way] = left - len(data)
                await target.drain()
        for writer in both:
            writer.close()
        self._writers -= both

    def cut(self) -> None:
        """End all connections. What was passed on before still arrives."""
        self.cuts += 1
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    def cut_after(self, way: Way, size: int) -> None:
        """Cut once so many more bytes have passed: in the middle of a message."""
        self._left[way] = size

    def hold(self, way: Way) -> None:
        """Pass nothing on in one direction. The connections stay."""
        self._opened[way].clear()

    def release(self) -> None:
        """Pass on what was held."""
        for way in self._opened.values():
            way.set()

    async def close(self) -> None:
        self.release()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def line_to(port: int) -> AsyncIterator[Line]:
    """A line to a server on loopback."""
    line = Line(port)
    server = await line.serve()
    try:
        yield line
    finally:
        server.close()
        await line.close()
