"""Streamed answers: a body that comes in pieces, from a source that is read as fast as the client reads.

A route answers with a `Stream` in place of a `Response`:

    respond(Stream.of(200, NDJSON, pieces()))                  # `pieces` is a generator of bytes
    respond(Stream(200, head, source=source, live=True))       # a source that waits for events

The connection calls the source when the answer's turn has come, and then whenever the client has taken what was
written. So a stream holds one piece and a send buffer, whatever its length. The body is chunked for HTTP/1.1, and ends
with the connection for HTTP/1.0. HEAD reads nothing of it.

If `read` raises, the connection is cut off: the client sees that the body is incomplete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from syncline.server.http.limits import KIB
from syncline.server.http.response import NO_STORE, Response, status_line

__all__ = ["CHUNKED", "WRITE_BYTES", "Stream", "StreamSource", "StreamUnderWay"]

CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"

WRITE_BYTES: Final = 64 * KIB
"""When so much of one stream was read, it is written, and the rest waits for the next turn of the event loop: one
client must not have the loop to itself."""


class StreamSource(Protocol):
    """Gives the body of a streamed answer. It is called on the event loop, and must not block."""

    @property
    def has_more(self) -> bool:
        """Whether the next `read` has something at once, the end included; true if it is not known. It spares a call
        of `read` behind each piece."""
        ...

    def start(self, wake: Callable[[], None]) -> None:
        """The answer's turn has come: `read` is called from now on.

        Call `wake` when `read` has something after it had nothing. It only schedules, so it may be called at any time.
        """
        ...

    def read(self) -> bytes | None:
        """Return the next piece; empty if there is none yet, None at the end. A piece that is made for this call has
        some tens of KiB at most."""
        ...

    def close(self) -> None:
        """Release everything. It is called exactly once: after the end, if the client leaves, or if it wants no body;
        `start` and `read` may never have been called. It must not raise."""
        ...


class Stream(Response, kw_only=True, eq=False, gc=False):
    """An answer whose body comes from a source. `head` has no length."""

    source: StreamSource
    live: bool = False
    """It has no end of its own: if the client ends its input, it has left. Its pieces are there when they are read, so
    they take nothing of what may be made in one turn."""

    @classmethod
    def of(cls, status: int, fields: bytes, pieces: Iterator[bytes]) -> Stream:
        """An answer with the header lines `fields`, that no cache may keep, and these pieces (none of them empty).

        They are drawn one by one as the client reads. A generator is closed if the client leaves.
        """
        return cls(status, b"%s%s%s" % (status_line(status), fields, NO_STORE), source=_Pieces(pieces))


class _Pieces:
    """The pieces of an iterator."""

    has_more: Final = True

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def start(self, wake: Callable[[], None]) -> None:
        """There is always something to read."""

    def read(self) -> bytes | None:
        return next(self._pieces, None)

    def close(self) -> None:
        if (end := getattr(self._pieces, "close", None)) is not None:
            end()


class StreamUnderWay:
    """A streamed answer whose head was written. Reads its source and makes chunks of the pieces."""

    __slots__ = ("_chunked", "ended", "last", "live", "more", "source")

    def __init__(self, stream: Stream, *, chunked: bool) -> None:
        self.source: StreamSource = stream.source
        self.live: bool = stream.live
        self._chunked = chunked
        self.more: bool = False
        """The source may have more at once."""
        self.last: bool = False
        """It ends when it has given what its source has: too much waits behind it."""
        self.ended: bool = False

    def finish(self) -> bytes:
        """End the stream here; return the bytes that complete its body."""
        self.more, self.ended = False, True
        return _LAST_CHUNK if self._chunked else b""

    def take(self) -> bytes:
        """The next bytes to be written; empty if there is nothing yet. Raises what the source raises."""
        source, chunked = self.source, self._chunked
        piece = source.read()
        if piece and not source.has_more:  # one event, most often
            self.more = False
            return b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
        parts: list[bytes] = []
        left = WRITE_BYTES
        while piece:
            parts.append(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            left -= len(piece)
            if left <= 0:
                self.more = True
                return b"".join(parts)
            piece = source.read()
        self.more = False
        if piece is None:
            parts.append(self.finish())
        return b"".join(parts)
