"""The limits of the transport, each with its reason. Sizes in bytes, times in seconds."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["HANDSHAKE_FRAME_BYTES", "TransportLimits"]

HANDSHAKE_FRAME_BYTES: Final = 4096
"""Before the handshake is done the other end may be any program: room for a greeting or a refusal, no more."""


class TransportLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the transport that are not addresses."""

    frame_bytes: int = 64 * 1024 * 1024
    """The largest frame, so the largest message. An entry may be this large, less some overhead; the receiver never
    holds more than this for one connection."""

    batch_bytes: int = 1024 * 1024
    """Messages gathered in one turn of the event loop go into frames of about this size: large enough to spare
    system calls, small enough that the receiver starts on the first while the next is on the wire."""

    send_buffer_bytes: int = 16 * 1024 * 1024
    """Waiting for one slow peer, on either of its connections. Beyond it messages are dropped: Raft sends them again
    when the peer answers. A larger single one is taken when nothing waits."""

    keepalive_interval_s: float = 1.0
    """Each outgoing link asks for an echo this often: the round trip time, and the sign of life of a quiet link. The
    time limits below are looked at as often, so they end up to this much later."""

    dial_timeout_s: float = 2.0
    """Seconds for a connection to come up: a retransmitted SYN (after 1 s) still counts, a dead host holds nothing
    up."""

    handshake_timeout_s: float = 5.0
    """Seconds for the whole handshake, as the dialler counts it, and for its end once the dialler has proved itself."""

    unproven_timeout_s: float = 2.0
    """Until a dialler has proved itself: a proof takes a round trip and some microseconds."""

    unproven_connections: int = 64
    """Connections at once whose other end has not proved itself. One more, and the oldest is closed: a
    program that holds them all can't lock a member out, because a member's proof takes milliseconds."""

    unproven_per_host: int = 8
    """Unproven connections from one address, by the same rule: a program at another address can't take the members'
    places."""

    introductions: int = 64
    """Connections at once whose other end has proved that it knows the secret, and was not welcomed yet. One more, and
    the oldest is closed: a member with a fault could hold all incoming connections."""

    introductions_per_node: int = 8
    """The same for connections under one node id. A member needs one at a time, and three after a restart."""

    unknown_links: int = 16
    """Nodes at a time that are admitted and dialled back although this node does not know them. A new node knows none
    of the members that dial it. One more, and the oldest is closed."""

    stall_timeout_s: float = 5.0
    """An outgoing link on which the peer took no byte, or did not answer to a keep-alive, for this long is reset:
    after a power loss at the other end nothing else would show it for many minutes."""

    bulk_stall_timeout_s: float = 30.0
    """The connection for appends is reset after so long without progress. The link beside it tells whether the peer is
    alive; here a single entry of a megabyte may take many seconds of a slow line."""

    idle_timeout_s: float = 15.0
    """An incoming link without a byte for this long is closed: the dialler sends a keep-alive every second."""

    backoff_first_s: float = 0.05
    """The first pause before a redial; it doubles up to `backoff_last_s`, each time less a random part of up to half,
    so that nodes do not dial in step."""

    backoff_last_s: float = 1.0
    """No longer than an election timeout: a peer that comes back must not wait for its link."""

    incoming_connections: int = 1024
    """Open at once, unproven ones included. One more is closed at once: memory and file descriptors are bounded."""

    snapshot_chunk_bytes: int = 256 * 1024
    """One frame of a snapshot: small beside `snapshot_window_bytes`, large beside its overhead."""

    snapshot_window_bytes: int = 2 * 1024 * 1024
    """Sent and not yet written down by the receiver: bounds the memory of both ends, and keeps a link of 1 Gbit/s and
    15 ms busy."""

    snapshot_stall_timeout_s: float = 30.0
    """A snapshot connection without progress for this long is given up and dialled again. Longer than a disk's worst
    sync; the check of a large snapshot at the end is covered by keep-alives of the receiver."""

    snapshot_attempts: int = 5
    """Connections in a row that brought no progress before a transfer fails. The core then tries again by itself."""
