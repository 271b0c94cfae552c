"""Reads a streamed answer in a simulation: inside the server's process, and tells what it reads to a client outside."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Protocol

from syncline.kv.machine import KvMachine
from syncline.server.http.stream import StreamSource
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.server import SimServer

__all__ = ["StreamListener", "StreamReader"]


class StreamListener(Protocol):
    """A client that reads streams."""

    record: ChangeRecord

    def received(self, connection: StreamReader, piece: bytes, applied: int, before: int, written: int) -> None:
        """A piece of the body.

        `applied`: the node's revision when it gave it. `written`: the highest revision anywhere when this node began
        to watch, or woke the reader; `before`: the same when the mark before was given.
        """
        ...


class StreamReader:
    """One answer of a server: reads the body inside its process, sometimes slowly, and delivers it outside.

    `pause_s`: seconds between two pieces, by the server's clock; 0: everything that is there is read at once.
    """

    def __init__(self, listener: StreamListener, server: SimServer, source: StreamSource, pause_s: float) -> None:
        self.server = server
        self.life: int = server.lives
        self._listener = listener
        self._source = source
        self._pause_s = pause_s
        self._outside = contextvars.copy_context()
        self._scheduled = False
        self._over = False
        self._written = 0
        """The highest revision anywhere when this node began to watch, or woke the reader."""
        self._before = 0
        """The same when the mark before was given."""

    @property
    def is_up(self) -> bool:
        return not self._over and self.server.running and self.server.lives == self.life

    def begin(self) -> None:
        """Inside the process: start."""
        self._before = self._written = self._listener.record.revision
        self._source.start(self._wake)
        self._pump()

    def read_without_pauses(self) -> None:
        """From outside: read everything that is there at once, from the next piece on.

        Call it when a time limit for the server begins: else the pauses of the reader count against the server.
        """
        self._pause_s = 0.0

    def close(self) -> None:
        """From outside: leave."""
        if self.is_up:
            self._over = True
            self.server.call(self._source.close)

    def _wake(self) -> None:
        self._written = self._listener.record.revision
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(self._pause_s, self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        loop = asyncio.get_running_loop()
        while not self._over:
            piece = self._source.read()
            if piece is None:
                self._over = True
                self._source.close()
                return
            if not piece:
                return
            assert isinstance(self.server.machine, KvMachine)
            applied = self.server.machine.store.revision
            loop.call_soon(
                self._listener.received, self, piece, applied, self._before, self._written, context=self._outside
            )
            if self._pause_s:
                self._scheduled = True
                loop.call_later(self._pause_s, self._pump)
                return

    def marked(self, written: int) -> None:
        """A mark was given when `written` was the highest revision."""
        self._before = max(self._before, written)
