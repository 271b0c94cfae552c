"""Receiving one snapshot from one peer, on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from syncline.consensus.types import NodeId
from syncline.errors import FrameError, SynclineError
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import IncomingSnapshot, PeerHandler
from syncline.transport.notices import Notices
from syncline.transport.snapshot_stream.protocol import (
    Accept,
    Ack,
    Chunk,
    Done,
    End,
    FromSender,
    Offer,
    Reject,
    SnapshotStream,
    StreamInterrupted,
    check_offer,
)

__all__ = ["SnapshotReceiver"]

_decoder: Final[msgspec.msgpack.Decoder[FromSender]] = msgspec.msgpack.Decoder(FromSender)

MAX_UNSENT_ANSWER_BYTES: Final = 64 * 1024
"""Of a sender that does not read the answers. One takes some bytes, and a window has few chunks."""


class SnapshotReceiver:
    """One incoming transfer. Its task ends by itself; the sink keeps the bytes that were written before a loss.

    `others` are the latest transfers of all senders, this one among them as soon as it is made. Only one at a time
    uses the sink. The transfer of a leader ends those of earlier terms, whose senders may be dead without a closed
    connection. `previous` is an earlier one of the same sender.
    """

    def __init__(
        self,
        stream: SnapshotStream,
        sender: NodeId,
        node_id: NodeId,
        handler: PeerHandler,
        notices: Notices,
        limits: TransportLimits,
        previous: SnapshotReceiver | None,
        others: Mapping[NodeId, SnapshotReceiver],
    ) -> None:
        self.term: int = 0
        """Term of the leader that sends it; 0 until that is known."""
        self.bad_frames: int = 0
        self._stream = stream
        self._sender = sender
        self._node_id = node_id
        self._handler = handler
        self._notices = notices
        self._limits = limits
        self._others = others
        self._received = 0
        self._working = False
        self._outlasts: asyncio.Task[None] | None = None
        """The transfer that uses the sink, if this one waits for its end."""
        self._loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] = self._loop.create_task(self._run(previous), name=f"snapshot from {sender:016x}")

    def keep_alive(self) -> None:
        """Send a sign of life. Called at intervals, because the check of a large snapshot takes long."""
        if self._working and self._stream.connection.open and not self._is_unread():
            self._stream.write(Ack(self._received))

    def _is_unread(self) -> bool:
        return self._stream.connection.unsent_bytes > MAX_UNSENT_ANSWER_BYTES

    async def _run(self, previous: SnapshotReceiver | None) -> None:
        try:
            if previous is not None:
                await self._outlast(previous, "the sender started again")
            await self._receive()
        except StreamInterrupted as error:
            subject = f"snapshot from node {self._sender:016x} interrupted at byte {self._received}"
            self._notices.inform(f"interrupted {self._sender}", subject, str(error), self._loop.time())
        except FrameError as error:
            self.bad_frames += 1
            self._warn(str(error))
        finally:
            self._stream.connection.close("the transfer is over")

    async def _outlast(self, previous: SnapshotReceiver, reason: str) -> None:
        """Wait until another transfer, which receives nothing more, has released the sink."""
        self._working = True
        self._outlasts = previous._superseded(reason)
        await asyncio.wait({self._outlasts})
        self._outlasts = None
        self._working = False

    def _superseded(self, reason: str) -> asyncio.Task[None]:
        """End; return the task after whose end the sink is free.

        A transfer that still waits for the sink ends at once. Else a sender that dials again and again would pile up
        transfers while a disk stands still.
        """
        self._stream.drop(reason)
        waited = self._outlasts
        if waited is None:
            return self.task
        self.task.cancel()
        return waited

    async def _receive(self) -> None:
        offer = await self._stream.read(_decoder)
        if not isinstance(offer, Offer):
            raise FrameError(f"a {type(offer).__name__} where the offer of a snapshot was due")
        check_offer(offer, self._sender, self._node_id)
        self.term = offer.message.term
        for other in list(self._others.values()):
            if 0 < other.term < self.term:
                await self._outlast(other, "a later leader sends its own")
        self._working = True
        try:
            sink = await self._handler.on_snapshot(self._sender, offer.message, offer.manifest)
        except (SynclineError, OSError) as error:
            self._reject(f"{error}")
            return
        self._working = False
        await self._take(sink, offer.size_bytes)

    async def _take(self, sink: IncomingSnapshot, size_bytes: int) -> None:
        finished = False
        try:
            if not 0 <= sink.offset <= size_bytes:
                raise FrameError(f"{sink.offset} bytes are held of a snapshot of {size_bytes}")
            self._received = sink.offset
            self._stream.write(Accept(sink.offset))
            await self._fill(sink, size_bytes)
            finished = True
        except (StreamInterrupted, FrameError):
            raise
        except (SynclineError, OSError) as error:
            self._reject(f"{error}")
        finally:
            self._working = False
            if not finished:
                await sink.abort()
        if finished:
            self._stream.write(Done())

    async def _fill(self, sink: IncomingSnapshot, size_bytes: int) -> None:
        while True:
            self._working = False
            item = await self._stream.read(_decoder)
            self._working = True
            if isinstance(item, Chunk):
                end = item.offset + len(item.data)
                if item.offset != self._received or not item.data or end > size_bytes:
                    raise FrameError(f"a chunk from {item.offset} to {end}, at byte {self._received} of {size_bytes}")
                await sink.write(item.data)
                self._received = end
                if self._is_unread():
                    raise FrameError("the sender does not read the answers")
                self._stream.write(Ack(end))
            elif isinstance(item, End):
                if self._received != size_bytes:
                    raise FrameError(f"the snapshot ended at byte {self._received} of {size_bytes}")
                await sink.finish()
                return
            else:
                raise FrameError("a second offer in one transfer")

    def _reject(self, reason: str) -> None:
        self._warn(f"refused: {reason}")
        self._stream.write(Reject(reason))

    def _warn(self, fault: str) -> None:
        subject = f"snapshot from node {self._sender:016x}"
        self._notices.warn(f"snapshot {self._sender}", subject, fault, self._loop.time())
