"""gRPC over HTTP/2 for our own generator: calls of one message, and streams. Only what these need, written by hand.

What a server tells about its windows is not looked at: what is under way is far below the windows that every server
begins with. Header blocks of answers are not decoded. A call has succeeded if a message came before its end.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from bench.generators.h2load import grpc_body

DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM: Final = 1
END_HEADERS: Final = 4
ACK: Final = 1
FRAME_HEAD: Final = 9
MOST: Final = (1 << 31) - 1
"""The largest window: no run reads so much, so it is never renewed."""
FIRST_WINDOW: Final = 65_535


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


PREFACE: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(SETTINGS, 0, 0, b"\0\4" + MOST.to_bytes(4, "big"))
    + frame(WINDOW, 0, 0, (MOST - FIRST_WINDOW).to_bytes(4, "big"))
)


def headers(address: str, method: str) -> bytes:
    """The header block of a call: literals that enter no table (RFC 7541, 6.2.2)."""
    return b"".join(
        (
            b"\x83\x86",  # POST, http
            b"\x04" + _text(method),
            b"\x01" + _text(address),
            b"\x00" + _text("content-type") + _text("application/grpc"),
            b"\x00" + _text("te") + _text("trailers"),
        )
    )


def _text(value: str) -> bytes:
    raw = value.encode()
    assert len(raw) < 127, "a length of one byte"
    return bytes((len(raw),)) + raw


def data(stream: int, message: bytes, *, last: bool) -> bytes:
    """The frame of one message."""
    return frame(DATA, END_STREAM if last else 0, stream, grpc_body(message))


class Connection(asyncio.Protocol):
    """One connection, with one stream at a time. A subclass says what its frames mean."""

    def __init__(self) -> None:
        self._rest = b""
        self.lost: str = ""
        """Why the connection or a stream of it has ended before its time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(PREFACE)
        self.opened()

    def opened(self) -> None:
        """The connection can be written to."""

    def message(self) -> None:
        """A frame of data has come: a message, if it is a short one."""

    def ended(self) -> None:
        """The server has ended the stream."""

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = self.lost or f"the connection was lost: {error}"

    def data_received(self, received: bytes) -> None:
        if self._rest:
            received, self._rest = self._rest + received, b""
        at, size = 0, len(received)
        while size - at >= FRAME_HEAD:
            after = at + FRAME_HEAD + (received[at] << 16 | received[at + 1] << 8 | received[at + 2])
            if after > size:
                break
            kind, flags = received[at + 3], received[at + 4]
            if kind == DATA:
                self.message()
            elif kind in (SETTINGS, PING) and not flags & ACK:
                content = received[at + FRAME_HEAD : after] if kind == PING else b""
                self.transport.write(frame(kind, ACK, 0, content))
            elif kind in (RESET, GO_AWAY):
                self.lost = f"the server has ended it: {received[at:after]!r}"
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                self.ended()
            at = after
        self._rest = received[at:]
