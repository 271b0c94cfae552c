"""Make large answers a few per turn of the event loop.

A page takes some milliseconds to make. Reads that one quorum confirms are answered in one turn: pages for hundreds of
clients would hold the loop for seconds, and a leader that is silent for so long is replaced. So one turn makes
`TURN_BYTES`. The connections whose answers are still to be made follow in the next turns, in their order; heartbeats
and other requests come in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from syncline.server.api.errors import internal_error
from syncline.server.http.response import Deferred, Response

__all__ = ["TURN_BYTES", "Flushable", "Making"]

TURN_BYTES: Final = 1024 * 1024
"""When so much has been made, nothing more is made in the same turn: a page takes up to 10 ms to encode."""


class Flushable(Protocol):
    """A connection's output, as far as it is needed here."""

    flush_scheduled: bool

    def flush(self) -> None: ...


class Making:
    """What the connections of one server have made in this turn, and which of them wait for another one."""

    __slots__ = ("_bytes", "_scheduled", "_waiting")

    def __init__(self) -> None:
        self._bytes = 0
        self._scheduled = False
        self._waiting: deque[Flushable] = deque()

    @property
    def has_time(self) -> bool:
        """Whether another answer may be made in this turn."""
        return self._bytes <= TURN_BYTES

    def make(self, answer: Deferred) -> Response:
        """Make an answer now."""
        try:
            made = answer.make()
        except Exception as error:  # noqa: BLE001 - one answer's fault must not end the others'
            made = internal_error(error)
        self.count(len(made.body))
        return made

    def count(self, size_bytes: int) -> None:
        """Count what was made of a streamed answer."""
        self._bytes += size_bytes
        if self._bytes > TURN_BYTES:
            self._schedule()

    def later(self, connection: Flushable) -> None:
        """Flush this connection in a later turn, after those that were named before."""
        if not connection.flush_scheduled:
            connection.flush_scheduled = True
            self._waiting.append(connection)
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._scheduled, self._bytes = False, 0
        for _ in range(len(self._waiting)):
            if not self.has_time:
                break
            connection = self._waiting.popleft()
            connection.flush_scheduled = False
            connection.flush()
        if self._waiting:
            self._schedule()
