"""What a client may ask of the HTTP server at most. Each limit has its reason; all can be set."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["KIB", "MIB", "HttpLimits"]

KIB: Final = 1024
MIB: Final = 1024 * 1024


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one HTTP server: sizes in bytes, times in seconds."""

    max_url_bytes: int = 8 * KIB
    """The request target. A key of 1 KiB is 3 KiB when every byte is percent-encoded."""
    max_header_bytes: int = 16 * KIB
    """Names and values of one request's header together: the precedent of most servers is 8 to 64 KiB."""
    max_headers: int = 100
    """Fields of one header, for the same reason as Apache's: each costs an object."""
    max_body_bytes: int = 4 * MIB
    """A body, whole in memory before it is handled. Single routes may take less."""
    max_connections: int = 10_000
    """A further one takes the place of one without a request under way, or with an incomplete one. If there is none,
    it gets 503 and is closed. Files and peers need descriptors too."""
    vital_connections: int = 32
    """Above `max_connections`, for health, metrics, version and status alone. A node whose
    connections are all watches is alive, and must not be restarted for want of an answer."""
    refused_connections: int = 64
    """Above both, those that are being told 503: the oldest is closed for another one. Each has a descriptor until its
    client closes it, or `linger_timeout_s` has passed."""
    max_in_flight: int = 64
    """Requests of one connection that are being answered at a time; further pipelined ones wait unread."""
    max_held_bytes: int = 4 * MIB
    """Bodies and finished answers of one connection in memory; above it no further request of it is started."""
    max_total_held_bytes: int = 256 * MIB
    """The same of all connections together, bodies that are being read included; above it requests are refused."""
    max_requests: int = 5_000
    """Requests in work, of all connections together; above it they are refused at once. At 5,000 requests a second the
    last one waits a second; callers give up after five by default."""
    vital_bytes: int = 16 * MIB
    """Above `max_total_held_bytes`, for health, metrics, version and status alone: hundreds of such answers."""
    vital_requests: int = 1_000
    """The same above `max_requests`: a readiness check waits for a quorum, and needs no credential."""

    header_timeout_s: float = 10.0
    """From a request's first byte (or the connection's start) to the end of its header: against slow-header attacks."""
    body_timeout_s: float = 30.0
    """For each part of a body: as many bytes as `least_bytes_per_s` moves in this time, or the rest."""
    least_bytes_per_s: int = KIB
    """Of a client that sends a body or reads an answer. A modem of the 1990s has three times as much; a client that
    is slower on purpose holds a connection and memory for hours."""
    idle_timeout_s: float = 75.0
    """Between requests. Longer than the 60 s of common proxies, so that they close first and no request is lost."""
    write_timeout_s: float = 60.0
    """How long a client may leave a full send buffer unread, or a part of it: what `least_bytes_per_s` moves in it."""
    linger_timeout_s: float = 5.0
    """After a refusal in the middle of a request: time to read the answer before the connection is reset."""
