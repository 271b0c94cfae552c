"""Frames of HTTP/2 (RFC 9113, sections 4, 6 and 7): their numbers and their form."""

from __future__ import annotations

from struct import Struct
from typing import Final

__all__ = [
    "ACK",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "ENHANCE_YOUR_CALM",
    "FLOW_CONTROL_ERROR",
    "FRAME_BYTES",
    "FRAME_HEAD",
    "FRAME_SIZE_ERROR",
    "GOAWAY",
    "HEADERS",
    "HEAD_BYTES",
    "HTTP_1_1_REQUIRED",
    "INTERNAL_ERROR",
    "LARGEST_WINDOW",
    "NO_ERROR",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_FLAG",
    "PROTOCOL_ERROR",
    "PUSH_PROMISE",
    "REFUSED_STREAM",
    "RST_STREAM",
    "SETTINGS",
    "STREAM_CLOSED",
    "WINDOW_UPDATE",
    "ConnectionFault",
    "StreamFault",
    "frame",
    "goaway",
    "settings",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (3.4)."""

FRAME_HEAD: Final = Struct(">HBBBI")
"""Length (in two parts), type, flags, stream."""
HEAD_BYTES: Final = FRAME_HEAD.size
FRAME_BYTES: Final = 16_384
"""The longest payload of a frame, unless the receiver allows more (4.2). This server does not."""
LARGEST_WINDOW: Final = (1 << 31) - 1

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11
HTTP_1_1_REQUIRED: Final = 13


class ConnectionFault(Exception):
    """The connection can't go on: it ends with a GOAWAY of this error code, and the reason as text."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamFault(Exception):
    """One stream ends with a RST_STREAM of this error code; the others go on."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    length = len(payload)
    return FRAME_HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def goaway(last_stream: int, code: int, reason: str) -> bytes:
    """The frame that ends a connection (6.8): streams above `last_stream` were not looked at."""
    text = reason.encode("ascii", "replace")[:1024]
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + text)


def settings(values: dict[int, int]) -> bytes:
    """A frame of settings (6.5)."""
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())
    return frame(SETTINGS, 0, 0, payload)
