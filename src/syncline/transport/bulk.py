"""The second connection to a peer: appends and forwarded proposals, apart from messages that must be prompt.

A heartbeat or a vote behind megabytes of entries comes too late on a slow line, and costs a leader its place. On a
connection of its own it overtakes the data here, in the kernel's buffer too. All appends use one connection, so they
keep their order; between an append and a heartbeat no order is needed (see `PeerMessage`).

The channel lives with its link: it is dialled when the link is up, at the same address, and closed with it. While it
is not up, the link carries everything. Messages of this kind that the link has carried must not be overtaken: a new
channel holds its messages until the peer has received those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import msgspec

from syncline.consensus.types import Message, MessageType, NodeId
from syncline.errors import FrameError, HandshakeRefused
from syncline.transport.connection import Connection
from syncline.transport.dial_attempts import DialAttempts
from syncline.transport.dialling import Dialler, refuse_unknown_protocol
from syncline.transport.handshake import Purpose
from syncline.transport.messages import Ask, AskReply, Forward, ForwardReply, PeerAddress, PeerMessage
from syncline.transport.outbound_handshake import OutgoingHandshake
from syncline.transport.outbox import Outbox
from syncline.transport.pacing import Pacer
from syncline.transport.stall import StallWatch
from syncline.transport.wire import Batch, decode_payload

__all__ = ["BulkChannel", "is_bulk"]

_batch_decoder: Final = msgspec.msgpack.Decoder(Batch)


def is_bulk(message: PeerMessage) -> bool:
    """Whether a message may be large, and goes on the second connection.

    The answer to forwarded proposals goes with the append that has them, in one frame: before that it is useless.
    """
    if isinstance(message, Message):
        return message.type is MessageType.APP
    return isinstance(message, Forward | ForwardReply | Ask | AskReply)


class _State(Enum):
    CLOSED = auto()
    WAITING = auto()
    DIALLING = auto()
    GREETING = auto()
    UP = auto()


class BulkChannel:
    """The channel to one peer.

    `room` is called when more may be sent, `lost` when sent messages may not have arrived. `failed` is called with the
    reason why it did not come up, `too_large` with a message above the limit on a frame.
    """

    def __init__(
        self,
        peer: NodeId,
        dialler: Dialler,
        *,
        room: Callable[[], None],
        lost: Callable[[], None],
        failed: Callable[[str], None],
        too_large: Callable[[FrameError], None],
    ) -> None:
        self.last_error: str | None = None
        self.dialling: DialAttempts = DialAttempts(dialler, self, f"dial bulk {peer:016x}", self._not_connected)
        self._peer = peer
        self._dialler = dialler
        self._limits = dialler.limits
        self._room = room
        self._lost = lost
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._state = _State.CLOSED
        self.up: bool = False
        """Whether the channel carries messages. Kept, because it is asked for several times for each message."""
        self._address: PeerAddress | None = None
        self._incarnation = 0
        self._connection: Connection | None = None
        self._handshake: OutgoingHandshake | None = None
        self._failures = 0
        self._earlier_bytes = 0
        self._echo = 0
        self._append_queued = False
        self._appends_end = 0
        """The end of the last append, in bytes that the pacer has counted."""
        self._pacer = Pacer(self._loop.time())
        self._outbox = Outbox(self._limits, too_large, self._echo_for)
        self._stall = StallWatch()
        self._held = False

    # -- for the link

    def open(self, address: PeerAddress, incarnation: int) -> None:
        """Dial the peer's present start: the link is up."""
        self.close("the link is new", gently=False)
        self._address, self._incarnation, self._failures = address, incarnation, 0
        self._state = _State.WAITING
        self._dial()

    def close(self, reason: str, *, gently: bool) -> int:
        """Close: the link is down. `gently`: bytes already written still go out. Returns how many messages are
        dropped.
        """
        self.dialling.cancel()
        connection, was_up = self._connection, self.up
        self._state, self.up = _State.CLOSED, False
        if connection is None:
            return 0
        if gently and was_up:
            self._outbox.flush(connection)
            connection.close(reason)
        else:
            connection.reset(reason)
        return self._forget(connection)

    @property
    def room_bytes(self) -> int:
        """How much more the line takes at present; 0 while the channel is not up."""
        return self._pacer.room_bytes(self._outbox.queued_bytes) if self.up else 0

    @property
    def in_transit(self) -> bool:
        """Whether an append was sent that is not known to have arrived.

        Messages sent after it do not count: with them, forwarded proposals would keep a lost append waiting without
        end.
        """
        return self.up and (self._append_queued or self._appends_end > self._pacer.confirmed_bytes)

    @property
    def sent_bytes(self) -> int:
        return self._earlier_bytes + (self._connection.sent_bytes if self._connection is not None else 0)

    @property
    def sent_messages(self) -> int:
        return self._outbox.sent_messages

    def send(self, message: PeerMessage) -> bool:
        """Queue for the next `flush`; False: there is no room. Only while the channel is up."""
        assert self._connection is not None, "the channel is up"
        taken = self._outbox.add(message, self._connection.unsent_bytes)
        if taken and isinstance(message, Message):
            self._append_queued = True
        return taken

    def flush(self) -> None:
        if not self._outbox.queued_bytes or self._held or self._connection is None or not self.up:
            return
        self._outbox.flush(self._connection)
        if self._append_queued:
            self._append_queued = False
            self._appends_end = self._pacer.sent_bytes

    def hold(self) -> None:
        """Send nothing until `release`: earlier messages are on their way on the link."""
        self._held = True

    def release(self) -> None:
        """Send again: the peer has received the earlier messages."""
        if self._held:
            self._held = False
            self.flush()

    # -- dialling

    def _dial(self) -> None:
        self._state = _State.DIALLING
        assert self._address is not None
        self.dialling.start(self._address)

    def _not_connected(self, reason: str) -> None:
        if self._state is _State.DIALLING:
            self._down(reason, was_up=False)

    def _down(self, reason: str, *, was_up: bool) -> None:
        self._state, self.up = _State.WAITING, False
        self.last_error = reason
        if not was_up:
            self._failed(reason)
        pause_s = self._dialler.backoff_s(self._failures)
        self._failures += 1
        self.dialling.later(pause_s, self._dial)

    def _forget(self, connection: Connection) -> int:
        self._earlier_bytes += connection.sent_bytes
        self._connection = None
        self._append_queued = False
        return self._outbox.clear()

    def _echo_for(self, size_bytes: int) -> int:
        now_s = self._loop.time()
        if not self._pacer.sending(size_bytes, now_s):
            return 0
        self._echo += 1
        self._pacer.asked(self._echo, now_s)
        return self._echo

    # -- the connection's owner

    def on_made(self, connection: Connection) -> None:
        if self._state is not _State.DIALLING or not self.dialling.has_made(connection):
            connection.reset("not needed any more")
            return
        self._connection = connection
        self._state = _State.GREETING
        self._handshake = self._dialler.handshake(connection, self._peer, Purpose.BULK)

    def on_stranger(self, connection: Connection, received: bytes) -> None:
        refuse_unknown_protocol(connection, received)

    def on_greeting(self, connection: Connection, payload: memoryview) -> None:
        if connection is not self._connection or self._handshake is None:
            return
        welcome = self._handshake.take(connection, payload)
        if welcome is None:
            return
        if welcome.incarnation != self._incarnation:
            raise HandshakeRefused("another start of the peer answers than on the link")
        self._state, self.up = _State.UP, True
        self._failures = 0
        self.last_error = None
        self._held = False
        now_s = self._loop.time()
        self._stall.start(now_s)
        self._pacer = Pacer(now_s)
        self._appends_end = 0
        self._room()

    def on_frames(self, connection: Connection, payloads: list[memoryview]) -> None:
        if connection is not self._connection:
            return
        self._stall.heard_s = now_s = connection.received_s
        news = False
        for payload in payloads:
            answer = decode_payload(_batch_decoder, payload)
            if len(answer.items()):
                raise FrameError("the peer sent messages on the connection that it was dialled on")
            news |= self._pacer.echoed(answer.pong, now_s)
        if news and self._pacer.refused:
            self._pacer.refused = False
            self._room()

    def on_lost(self, connection: Connection, reason: str) -> None:
        if connection is not self._connection:
            return
        was_up = self.up
        self._forget(connection)
        self._down(reason, was_up=was_up)
        if was_up:
            self._lost()

    def overdue(self, connection: Connection, now_s: float) -> str | None:
        if connection is not self._connection:
            return None
        if self._state is _State.GREETING:
            return self._dialler.greeting_overdue(connection, now_s)
        if self._stall.silent_s(connection, now_s) > self._limits.bulk_stall_timeout_s:
            return f"no progress for {self._limits.bulk_stall_timeout_s:g} s"
        if not self._pacer.awaits_echo:  # a keep-alive, which also asks for an echo after too few bytes for one
            self._echo += 1
            self._pacer.asked(self._echo, now_s)
            connection.send(Batch(ping=self._echo))
        return None
