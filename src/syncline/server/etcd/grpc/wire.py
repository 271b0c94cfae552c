"""gRPC over HTTP/2: header blocks, trailers, messages (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from syncline.server.http.limits import MIB
from syncline.server.http2.header_blocks import field, status

__all__ = [
    "MAX_MESSAGE_BYTES",
    "OK",
    "PREFIX_BYTES",
    "RESPONSE_HEAD",
    "error_block",
    "http_error_block",
    "message",
    "parse_timeout",
    "trailers_of",
]

MAX_MESSAGE_BYTES: Final = 2 * MIB
"""The longest message of a client: etcd takes its request limit of 1.5 MiB and 512 KiB more."""
PREFIX_BYTES: Final = 5
"""Before each message: whether it is compressed, and its length."""
MAX_TEXT_BYTES: Final = 2048
"""Of the text of a status: clients limit the size of a header."""

_CONTENT_TYPE: Final = field(b"content-type", b"application/grpc")

RESPONSE_HEAD: Final = status(200) + _CONTENT_TYPE
"""The header block of an answer with messages."""
OK: Final = field(b"grpc-status", b"0")
"""The trailers of a call that has succeeded."""

_UNIT_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNESCAPED: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def trailers_of(code: int, text: str) -> bytes:
    """The trailers of a call that has failed after its head was sent."""
    escaped = quote(text, safe=_UNESCAPED).encode()[:MAX_TEXT_BYTES].strip()  # no value has spaces around it
    return field(b"grpc-status", b"%d" % code) + field(b"grpc-message", escaped)


def error_block(code: int, text: str, *, extra: bytes = b"") -> bytes:
    """The only header block of a call that has failed before a message was sent. `extra`: further fields."""
    return RESPONSE_HEAD + trailers_of(code, text) + extra


def http_error_block(code: int, *fields: bytes) -> bytes:
    """The only header block for a request that is not gRPC."""
    return status(code) + b"".join(fields)


def message(data: bytes) -> bytes:
    """A message with its prefix, not compressed."""
    return b"\0%b%b" % (len(data).to_bytes(4, "big"), data)


def parse_timeout(raw: bytes) -> float | None:
    """Seconds of a `grpc-timeout`, such as `5S` or `4999998u`; None if it is malformed."""
    found = _TIMEOUT.fullmatch(raw.decode("latin-1"))
    return int(found[1]) * _UNIT_S[found[2]] if found else None
