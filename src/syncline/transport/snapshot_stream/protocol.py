"""The snapshot transfer: a connection of its own, in chunks, resumed at the receiver's offset.

    sender   → Offer(message, manifest, size)
    receiver → Accept(offset)  or  Reject(reason)
    sender   → Chunk(offset, data) …               at most a window ahead of the bytes that the receiver has written
    receiver → Ack(offset) …                       written up to there; repeated as a sign of life while it works
    sender   → End
    receiver → Done  or  Reject(reason)            durable and verified, or not

Each frame's checksum guards its chunk; storage checks the whole snapshot (`IncomingSnapshot.finish`). A lost connection
costs the bytes in flight: the sender dials again and the receiver names the offset to continue from.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, TypeAlias, TypeVar

import msgspec

from syncline.consensus.types import Message, MessageType
from syncline.errors import FrameError, TransportError
from syncline.transport.connection import Connection, Established
from syncline.transport.limits import TransportLimits
from syncline.transport.wire import decode_payload

__all__ = [
    "Accept",
    "Ack",
    "Chunk",
    "StreamInterrupted",
    "Done",
    "End",
    "FromReceiver",
    "FromSender",
    "Offer",
    "Reject",
    "SnapshotStream",
    "check_offer",
]

HELD_FRAME_BYTES: Final = 256
"""Memory that a frame takes beside its payload while it waits: without it tiny ones would take a hundred times the
window."""


class Offer(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """The sender's snapshot. `message` is the core's `SNAP`; `manifest` is opaque here."""

    message: Message
    manifest: bytes
    size_bytes: int


class Chunk(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """The next bytes."""

    offset: int
    data: bytes


class End(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """All bytes were sent."""


class Accept(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """Go on from `offset`."""

    offset: int


class Ack(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """All before `offset` is written."""

    offset: int


class Done(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """The snapshot is verified and durable."""


class Reject(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """The receiver does not take it, or could not."""

    reason: str


FromSender: TypeAlias = Offer | Chunk | End
FromReceiver: TypeAlias = Accept | Ack | Done | Reject

Value = TypeVar("Value", FromSender, FromReceiver)


class StreamInterrupted(TransportError):
    """The connection of a transfer went down: try again on another."""


class SnapshotStream(Established):
    """One end of a snapshot connection after its greeting: frames in, frames out, one task that uses it.

    At most `snapshot_window_bytes` (and one frame) wait to be taken; then the connection is not read any more.
    """

    def __init__(self, connection: Connection, limits: TransportLimits) -> None:
        self.connection = connection
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._payloads: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._lost: str | None = None
        self._wakeup: asyncio.Future[None] | None = None

    def write(self, value: FromSender | FromReceiver) -> None:
        """Send; raises `StreamInterrupted` if the connection is gone."""
        if self._lost is not None or not self.connection.open:
            raise StreamInterrupted(self._lost or "closing")
        self.connection.send(value)

    async def read(self, decoder: msgspec.msgpack.Decoder[Value]) -> Value:
        """The next value. Raises `FrameError`, or `StreamInterrupted` (also if none came in the time limit)."""
        if not self._payloads:
            await self._wait()
            if not self._payloads:
                raise StreamInterrupted(self._lost or "closed")
        payload = self._payloads.popleft()
        self._waiting_bytes -= len(payload) + HELD_FRAME_BYTES
        if self._paused and self._waiting_bytes <= self._limits.snapshot_window_bytes // 2:
            self._paused = False
            self.connection.resume_reading()
        return decode_payload(decoder, payload)

    def drop(self, reason: str) -> None:
        """End the connection; a waiting read raises `StreamInterrupted`."""
        self.connection.reset(reason)
        self._end(reason)

    async def _wait(self) -> None:
        if self._lost is not None:
            raise StreamInterrupted(self._lost)
        assert self._wakeup is None, "one task at a time reads from a snapshot connection"
        self._wakeup = self._loop.create_future()
        timer = self._loop.call_later(self._limits.snapshot_stall_timeout_s, self._stalled)
        try:
            await self._wakeup
        finally:
            timer.cancel()
            self._wakeup = None

    def _stalled(self) -> None:
        self.drop(f"no progress for {self._limits.snapshot_stall_timeout_s:g} s")

    def _end(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    # -- the connection's owner

    def on_frames(self, connection: Connection, payloads: list[memoryview]) -> None:
        for payload in payloads:
            self._payloads.append(payload)
            self._waiting_bytes += len(payload) + HELD_FRAME_BYTES
        if not self._paused and self._waiting_bytes > self._limits.snapshot_window_bytes:
            self._paused = True
            connection.pause_reading()
        self._wake()

    def on_lost(self, connection: Connection, reason: str) -> None:  # noqa: ARG002 - it is ours
        self._end(reason)

    def overdue(self, connection: Connection, now_s: float) -> str | None:  # noqa: ARG002 - `_wait` has the limit
        return None


def check_offer(offer: Offer, sender: int, node_id: int) -> None:
    """Raises `FrameError` if the offer is not one that `sender` may make to `node_id`."""
    message = offer.message
    if message.type is not MessageType.SNAP or message.snapshot is None or message.entries or message.responses:
        raise FrameError(f"a snapshot offer carries a {message.type.name} message, not a SNAP")
    if message.sender != sender or message.to != node_id or offer.size_bytes < 0:
        raise FrameError(f"a snapshot offer from {message.sender:016x} to {message.to:016x} came from {sender:016x}")
