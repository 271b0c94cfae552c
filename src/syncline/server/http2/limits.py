"""What a client may ask of one HTTP/2 connection at most. Each limit has its reason."""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.server.http.limits import KIB, MIB

__all__ = ["MAX_HEADER_FIELDS", "PAUSE_COST", "Http2Limits"]

PAUSE_COST: Final = 256
"""Of what is read of one connection in one turn of the event loop, or a little more: one client must not have the loop
to itself. A frame costs 1; a header and a message cost more, as they take longer (`InputTurns`)."""

MAX_HEADER_FIELDS: Final = 100
"""Fields of one header, as with HTTP/1.1. In a header of this protocol a field can take one byte and 15 us."""


class Http2Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one connection: sizes in bytes, times in seconds."""

    max_streams: int = 2_048
    """Open streams, announced to the client. Clients wait for a stream if there are too many, so long-lived ones (a
    thousand watches) must have room. Each takes some KiB."""
    max_total_streams: int = 20_000
    """The same of all connections together; further ones are refused, and may be tried again at another node. The
    connections of one network have as many as are free, so half of them at most (`StreamShare`)."""
    max_header_bytes: int = 16 * KIB
    """Names and values of one header, and 32 bytes for each field, as HTTP/1.1 has it here."""
    stream_window_bytes: int = 2 * MIB + 64 * KIB
    """What a client may send on a stream before it is taken: more than the longest message, so none has to wait."""
    connection_window_bytes: int = 8 * MIB
    """The same for all streams: what is on its way at a time. What has arrived counts as held instead."""
    max_held_bytes: int = 32 * MIB
    """Requests and answers of one connection in memory: 16 of the longest messages. Above it no request is taken."""
    max_deferred: int = 256
    """Answers that are not made yet, since there is no room: further ones are refused. Each refers to its values, and
    all together to `max_held_bytes`."""
    high_water_bytes: int = 64 * KIB
    """Of a stream's messages that wait for the client: above it the sender waits."""
    abuse_budget: int = 4_096
    """Resets and frames without use, such as empty ones, before the connection is ended (CVE-2023-44487, CVE-2019-9518
    and their like). More than all streams of one connection, which a client may reset at once."""
    abuse_refill_per_s: int = 200
    """How much of the budget comes back in a second: clients that cancel calls all the time are no attack."""
    header_timeout_s: float = 10.0
    """From the first frame of a header to its last: against slow-header attacks."""
    body_timeout_s: float = 30.0
    """For each part of a message: as many bytes as `least_bytes_per_s` moves in this time, or the rest."""
    least_bytes_per_s: int = KIB
    """Of a client that sends a message or reads an answer, as HTTP/1.1 has it here."""
    idle_timeout_s: float = 600.0
    """Without a request and without a frame. Clients with keep-alive ping sooner; others connect again."""
    write_timeout_s: float = 60.0
    """How long a client may leave a full send buffer or an answer unread, or a part of it: what `least_bytes_per_s`
    moves in it."""
    linger_timeout_s: float = 5.0
    """After the last frame: time to read it before the connection is reset."""

    @property
    def least_received_bytes(self) -> float:
        """Of a message, in `body_timeout_s`."""
        return self.least_bytes_per_s * self.body_timeout_s

    @property
    def least_taken_bytes(self) -> float:
        """Of answers, in `write_timeout_s`."""
        return self.least_bytes_per_s * self.write_timeout_s
