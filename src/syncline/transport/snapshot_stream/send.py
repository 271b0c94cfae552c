"""Sending one snapshot to one peer, over as many connections as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.consensus.types import NodeId
from syncline.errors import FrameError, HandshakeRefused, TransportError
from syncline.transport.connection import Connection
from syncline.transport.dialling import Dialler, refuse_unknown_protocol
from syncline.transport.handshake import Purpose, printable
from syncline.transport.messages import OutgoingSnapshot, PeerAddress
from syncline.transport.outbound_handshake import OutgoingHandshake
from syncline.transport.snapshot_stream.protocol import (
    Accept,
    Ack,
    Chunk,
    Done,
    End,
    FromReceiver,
    Offer,
    Reject,
    SnapshotStream,
    StreamInterrupted,
)

__all__ = ["SnapshotSender"]

_decoder: Final[msgspec.msgpack.Decoder[FromReceiver]] = msgspec.msgpack.Decoder(FromReceiver)


class _Greeter:
    """The owner of a snapshot connection until the peer has said welcome."""

    def __init__(self, dialler: Dialler, peer: NodeId) -> None:
        self._dialler = dialler
        self._peer = peer
        self._handshake: OutgoingHandshake | None = None
        self.incarnation = 0
        """The peer's, once it has said welcome."""
        self.stream: asyncio.Future[SnapshotStream] = asyncio.get_running_loop().create_future()

    def on_made(self, connection: Connection) -> None:
        self._handshake = self._dialler.handshake(connection, self._peer, Purpose.SNAPSHOT)

    def on_stranger(self, connection: Connection, received: bytes) -> None:
        refuse_unknown_protocol(connection, received)

    def on_greeting(self, connection: Connection, payload: memoryview) -> None:
        assert self._handshake is not None, "the handshake begins when the connection is made"
        welcome = self._handshake.take(connection, payload)
        if welcome is None:
            return
        self.incarnation = welcome.incarnation
        if self.stream.done():  # cancelled meanwhile
            connection.reset("not needed any more")
            return
        connection.owner = stream = SnapshotStream(connection, self._dialler.limits)
        self.stream.set_result(stream)

    def on_frames(self, connection: Connection, payloads: list[memoryview]) -> None:
        raise FrameError(f"{connection.remote} sent {len(payloads)} frames before a snapshot was offered")

    def on_lost(self, connection: Connection, reason: str) -> None:
        if not self.stream.done():
            refused = isinstance(connection.failure, HandshakeRefused)
            self.stream.set_exception(HandshakeRefused(reason) if refused else StreamInterrupted(reason))

    def overdue(self, connection: Connection, now_s: float) -> str | None:
        return self._dialler.greeting_overdue(connection, now_s)


class SnapshotSender:
    """One transfer. `address` is asked at each dial, since a peer may move."""

    def __init__(
        self, dialler: Dialler, peer: NodeId, address: Callable[[], PeerAddress], offer: Offer, source: OutgoingSnapshot
    ) -> None:
        self.peer = peer
        self._dialler = dialler
        self._limits = dialler.limits
        self._address = address
        self._offer = offer
        self._source = source
        self._acked = -1
        self._stream: SnapshotStream | None = None
        self._incarnation = 0
        """Incarnation of the peer at the other end of the stream."""

    def peer_seen(self, incarnation: int) -> None:
        """The peer has dialled this node. If it was restarted, end the stream to its earlier start.

        After a power loss only the time limit of a transfer without progress would end it.
        """
        if self._stream is not None and incarnation != self._incarnation:
            self._stream.drop("the peer was restarted")

    async def run(self) -> None:
        """Done when the receiver has the snapshot durably. Raises `TransportError`, or `OSError` from the source."""
        failures = 0
        while True:
            acked_before = self._acked
            try:
                await self._attempt()
            except StreamInterrupted as error:
                failures = 1 if self._acked > acked_before else failures + 1
                if failures >= self._limits.snapshot_attempts:
                    raise TransportError(
                        f"snapshot to node {self.peer:016x}: no progress in {failures} attempts: {error}"
                    ) from error
            else:
                return
            await asyncio.sleep(self._dialler.backoff_s(failures - 1))

    async def _attempt(self) -> None:
        self._stream = stream = await self._open()
        try:
            stream.write(self._offer)
            await self._transfer(stream, await self._accepted_offset(stream))
        except FrameError as error:
            raise StreamInterrupted(str(error)) from error
        finally:
            self._stream = None
            stream.connection.reset("the transfer is over")

    async def _open(self) -> SnapshotStream:
        greeter = _Greeter(self._dialler, self.peer)
        address = self._address()
        connections: list[Connection] = []

        try:
            try:
                await self._dialler.connect(greeter, address, connections.append)
            except OSError as error:
                raise StreamInterrupted(f"can't connect to {address}: {error.strerror or error}") from error
            stream = await greeter.stream
            self._incarnation = greeter.incarnation
            return stream
        except BaseException:  # a cancelled transfer must not leave a connection behind, either
            if not greeter.stream.cancel() and not greeter.stream.cancelled():
                greeter.stream.exception()  # seen: another error is on its way already
            for connection in connections:
                connection.reset("the transfer was given up")
            raise

    async def _accepted_offset(self, stream: SnapshotStream) -> int:
        while True:
            answer = await stream.read(_decoder)
            if isinstance(answer, Accept):
                if not 0 <= answer.offset <= self._offer.size_bytes:
                    raise FrameError(f"the receiver asks for offset {answer.offset} of {self._offer.size_bytes}")
                return answer.offset
            if isinstance(answer, Reject):
                raise self._rejected(answer)
            if not isinstance(answer, Ack):  # that is a sign of life: the receiver is not ready yet
                raise FrameError(f"a {type(answer).__name__} in answer to the offer of a snapshot")

    async def _transfer(self, stream: SnapshotStream, start: int) -> None:
        size = self._offer.size_bytes
        position = acked = start
        ended = False
        while True:
            while position < size and position - acked < self._limits.snapshot_window_bytes:
                position += await self._send_chunk(stream, position)
            if position == size and not ended:
                stream.write(End())
                ended = True
            answer = await stream.read(_decoder)
            if isinstance(answer, Ack) and acked <= answer.offset <= position:
                acked = answer.offset
                self._acked = max(self._acked, acked)
            elif isinstance(answer, Reject):
                raise self._rejected(answer)
            elif isinstance(answer, Done) and ended:
                return
            else:
                raise FrameError(f"unexpected answer of the receiver at offset {position}: {answer}")

    async def _send_chunk(self, stream: SnapshotStream, position: int) -> int:
        wanted = min(self._limits.snapshot_chunk_bytes, self._offer.size_bytes - position)
        data = await self._source.read(position, wanted)
        if not data:
            raise OSError(f"the snapshot ends at byte {position}; its size should be {self._offer.size_bytes}")
        stream.write(Chunk(position, data))
        return len(data)

    def _rejected(self, answer: Reject) -> TransportError:
        return TransportError(f"node {self.peer:016x} refused the snapshot: {printable(answer.reason)}")
