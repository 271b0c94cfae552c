"""A connection whose answer is read piece by piece, as it comes: for watches."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import httptools

from syncline.client.connection import BadAnswer, ClientConnection, ClientResponse, ConnectionLost

__all__ = ["StreamConnection"]

BUFFER_BYTES: Final = 1024 * 1024
"""Read ahead and not taken yet: above it nothing more is read, so that the server sees a slow reader."""
OK: Final = 200


class StreamConnection(ClientConnection):
    """A connection for one request. An answer with status 200 is given without its body, which `read` then gives."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._streaming = False
        self._complete_body = False
        self._lost: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False

    async def read(self) -> bytes:
        """The next piece of the body; empty at its end.

        Raises `ConnectionLost` and `BadAnswer`. What came before is given first.
        """
        while not self._pieces:
            if self._complete_body:
                return b""
            if self._lost is not None:
                raise self._lost
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        piece = self._pieces.popleft()
        self._buffered_bytes -= len(piece)
        if self._paused and self._buffered_bytes < BUFFER_BYTES // 2 and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return piece

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if not self._streaming:
            super().data_received(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(BadAnswer(f"the answer is not HTTP ({error})"))

    def connection_lost(self, exc: Exception | None) -> None:
        complete = exc is None and self._streaming and self._has_no_length()
        super().connection_lost(exc)
        if complete:
            self._complete_body = True
        self._end(ConnectionLost(f"the connection was lost in the middle of the answer{f' ({exc})' if exc else ''}"))

    # httptools callbacks

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._parser.get_status_code() == OK and self._answer is not None and not self._answer.done():
            self._streaming = True
            self._answer.set_result(ClientResponse(status=OK, headers=self._headers, body=b""))

    def on_body(self, body: bytes) -> None:
        if not self._streaming:
            super().on_body(body)
            return
        self._pieces.append(body)
        self._buffered_bytes += len(body)
        if self._buffered_bytes > BUFFER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if not self._streaming:
            super().on_message_complete()
            return
        self._complete_body = True
        self._wake()

    def _has_no_length(self) -> bool:
        """Whether the end of the connection is the end of the body (RFC 9112, 6.3)."""
        return not {"content-length", "transfer-encoding"} & self._headers.keys()

    def _end(self, error: Exception) -> None:
        if self._lost is None:
            self._lost = error
        self._wake()
        self.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
