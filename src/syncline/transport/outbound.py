"""The outgoing link to one peer: dialled, kept alive, dialled again; and its queued messages.

WAITING ──timer──▶ DIALLING ──connected──▶ GREETING ──welcome──▶ UP
   ▲                  │                       │                  │
   └────── back-off ──┴───────────────────────┴──────────────────┘

A new address is dialled at once, unless the link is UP: that one is not moved. Each failed dial goes to the next
address (`Candidates`); the pause grows when all were tried.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Final

import msgspec

from syncline.consensus.types import Message, NodeId
from syncline.errors import FrameError
from syncline.transport.bulk import BulkChannel, is_bulk
from syncline.transport.candidates import Candidates
from syncline.transport.connection import Connection
from syncline.transport.dial_attempts import DialAttempts
from syncline.transport.dialling import Dialler, refuse_unknown_protocol
from syncline.transport.handshake import Purpose, Refusal, RefusedByPeer
from syncline.transport.messages import PeerAddress, PeerHandler, PeerMessage
from syncline.transport.notices import LOGGER, Notices
from syncline.transport.outbound_handshake import OutgoingHandshake
from syncline.transport.outbox import Outbox
from syncline.transport.pacing import FIRST_WINDOW_BYTES
from syncline.transport.stall import StallWatch
from syncline.transport.wire import Batch, decode_payload, is_sendable

__all__ = ["PeerLink", "State"]

RTT_SMOOTHING: Final = 0.125
"""Weight of a new sample of the round trip time, as in TCP's own estimate (RFC 6298)."""

_batch_decoder = msgspec.msgpack.Decoder(Batch)


class State(Enum):
    """See the diagram at the top."""

    WAITING = auto()
    DIALLING = auto()
    GREETING = auto()
    UP = auto()
    CLOSED = auto()


class PeerLink:
    """The outgoing link to one peer."""

    def __init__(self, peer: NodeId, dialler: Dialler, handler: PeerHandler, notices: Notices) -> None:
        self.peer = peer
        self.candidates: Candidates = Candidates()
        self._address: PeerAddress | None = None
        self.state: State = State.WAITING
        self.up_since_s: float | None = None
        self.contact_s: float | None = None
        self.dropped_messages: int = 0
        self.reconnects: int = 0
        self.rtt_s: float | None = None
        self.last_error: str | None = None
        self.last_refusal: Refusal | None = None
        """The peer's last refusal of this node, until the link is up again."""
        self._dialler = dialler
        self._limits = dialler.limits
        self._handler = handler
        self._notices = notices
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._handshake: OutgoingHandshake | None = None
        self.dialling: DialAttempts = DialAttempts(dialler, self, f"dial {peer:016x}", self._not_connected)
        self._failures = 0
        self._was_up = False
        self.peer_directory: int = 0
        """The id of the data directory with which the peer has answered last."""
        self._peer_incarnation = 0
        self._given_up_for = 0
        """The newest incarnation of the peer for which a greeting was cancelled: once for each."""
        self._earlier_bytes = 0
        self._outbox = Outbox(self._limits, self._too_large)
        self.bulk: BulkChannel = BulkChannel(
            peer,
            dialler,
            room=self._bulk_room,
            lost=lambda: handler.on_appends_lost(peer),
            failed=self._bulk_failed,
            too_large=self._too_large,
        )
        self._carries_bulk = False
        """Whether this connection has carried bulk messages that the peer may not have received yet."""
        self._ping = 0
        self._pinged_s: float | None = None
        self._stall = StallWatch()

    # -- dialling

    def dial(self) -> None:
        """Dial now, unless a connection is there or on its way."""
        if self.state is not State.WAITING:
            return
        address = self.candidates.current
        assert address is not None, "a link is made for an address"
        self._address = address
        self.state = State.DIALLING
        self.dialling.start(address)

    @property
    def was_dialled(self) -> bool:
        """Whether the link has dialled once; it then dials again by itself."""
        return self._address is not None

    @property
    def address(self) -> PeerAddress:
        """The address that was dialled last: while the link is up, the one where the peer answered."""
        address = self._address or self.candidates.current
        assert address is not None, "a link is made for an address"
        return address

    def redial(self) -> None:
        """Dial an address that has just been learned. A link that is up stays as it is."""
        if self.was_dialled and self.state in (State.WAITING, State.DIALLING, State.GREETING):
            self._failures = 0
            self._leave("another address of the peer is known", gently=False)
            self.dial()

    def close(self, reason: str, *, gently: bool, silently: bool = False) -> None:
        """End permanently. `gently`: bytes already written still go out. `silently`: the handler is not called."""
        self._leave(reason, gently=gently, silently=silently)
        self.state = State.CLOSED

    def peer_seen(self, incarnation: int, address: PeerAddress | None = None) -> None:
        """The peer has dialled this node: dial at once, and leave connections to its earlier start.

        `address` is the address that it announced.
        """
        if address is not None and self.candidates.greet(address):
            self.redial()
        connection = self._connection
        if connection is not None and self.state is State.UP and incarnation != self._peer_incarnation:
            connection.reset("the peer was restarted")
        elif connection is not None and self.state is State.GREETING and incarnation != self._given_up_for:
            # The greeting may have gone to an earlier incarnation, which lost its power and can't answer. A live peer
            # answers soon. If both ends are new, both greetings are under way: each is cancelled once at most.
            left_s = self._limits.backoff_first_s - connection.waited_s(connection.opened_s, self._loop.time())
            if left_s > 0:
                self._loop.call_later(left_s, self._give_up_greeting, connection, incarnation)
            else:
                self._give_up_greeting(connection, incarnation)
        self.dial()

    def leave_other_starts(self, incarnation: int, reason: str) -> None:
        """End the connection if it is with another start of the peer than this one."""
        if self._connection is not None and self.state is State.UP and self._peer_incarnation != incarnation:
            self._connection.reset(reason)

    def _give_up_greeting(self, connection: Connection, incarnation: int) -> None:
        """Cancel an unanswered greeting because the peer has dialled from a newer start."""
        if connection is self._connection and self.state is State.GREETING and incarnation != self._given_up_for:
            self._given_up_for = incarnation
            connection.reset("the peer was restarted, it seems: it dials, and does not answer")

    def _not_connected(self, reason: str) -> None:
        if self.state is State.DIALLING:
            self._down(reason)

    def _leave(self, reason: str, *, gently: bool, silently: bool = False) -> None:
        """Drop the connection, the dial or the timer, whichever exists. The handler is called in a turn of its own."""
        self.dialling.cancel()
        connection, was_up = self._connection, self.state is State.UP
        self.dropped_messages += self.bulk.close(reason, gently=gently)
        if connection is not None:
            if gently and was_up:
                self._outbox.flush(connection)
                connection.close(reason)
            else:
                connection.reset(reason)
            self._forget_connection(connection)
        self.state = State.WAITING
        if was_up:
            self.last_error = reason
        if was_up and not silently:
            self._loop.call_soon(self._handler.on_peer_down, self.peer, reason)

    def _forget_connection(self, connection: Connection) -> None:
        self._earlier_bytes += connection.sent_bytes
        self._connection = None
        self.up_since_s = None
        self._pinged_s = None
        self.dropped_messages += self._outbox.clear()

    def _down(self, reason: str) -> None:
        """A dial, a greeting or the link failed: log it, and dial again later."""
        was_up = self.state is State.UP
        self.dropped_messages += self.bulk.close(reason, gently=False)
        self.state = State.WAITING
        self.last_error = reason
        subject = f"no link to {self._dialler.label(self.peer)}"
        self._notices.warn(f"link {self.peer}", subject, reason, self._loop.time())
        failures = 0
        if was_up or self.candidates.current != self._address or self.candidates.failed():
            failures, self._failures = self._failures, self._failures + 1  # else the next address is tried soon
        self.dialling.later(self._dialler.backoff_s(failures), self.dial)
        if was_up:
            self._handler.on_peer_down(self.peer, reason)

    # -- the connection's owner

    def on_made(self, connection: Connection) -> None:
        if self.state is not State.DIALLING or not self.dialling.has_made(connection):
            connection.reset("not needed any more")
            return
        self._connection = connection
        self.state = State.GREETING
        self._handshake = self._dialler.handshake(connection, self.peer, Purpose.MESSAGES)

    def on_stranger(self, connection: Connection, received: bytes) -> None:
        refuse_unknown_protocol(connection, received)

    def on_greeting(self, connection: Connection, payload: memoryview) -> None:
        if connection is not self._connection or self._handshake is None:
            return
        try:
            welcome = self._handshake.take(connection, payload)
        except RefusedByPeer as error:
            self.last_refusal = error.refusal
            raise
        if welcome is None:
            return
        now_s = self._loop.time()
        self.state = State.UP
        self.up_since_s = self.contact_s = now_s
        self._stall.start(now_s)
        self.last_error = None
        self.last_refusal = None
        self._carries_bulk = False
        self._peer_incarnation = welcome.incarnation
        self.peer_directory = welcome.directory
        self.reconnects += self._was_up
        self._was_up = True
        self._notices.forget(f"link {self.peer}")
        LOGGER.info("link to node %016x at %s is up", self.peer, self.address)
        self.bulk.open(self.address, welcome.incarnation)
        self._handler.on_peer_up(self.peer)

    def on_frames(self, connection: Connection, payloads: list[memoryview]) -> None:
        now_s = connection.received_s
        self.contact_s = self._stall.heard_s = now_s
        for payload in payloads:
            answer = decode_payload(_batch_decoder, payload)
            if len(answer.items()):
                raise FrameError("the peer sent messages on the connection that it was dialled on")
            if answer.pong == self._ping and self._pinged_s is not None:
                sample_s = now_s - self._pinged_s
                self._pinged_s = None
                self.rtt_s = sample_s if self.rtt_s is None else self.rtt_s + RTT_SMOOTHING * (sample_s - self.rtt_s)
                self.bulk.release()

    def on_lost(self, connection: Connection, reason: str) -> None:
        if connection is not self._connection:
            return
        if self.up_since_s is not None and self._loop.time() - self.up_since_s > self._limits.backoff_last_s:
            self._failures = 0  # the link was up before: the first redial may come soon
        self._forget_connection(connection)
        self._down(reason if self.state is State.UP else f"{self.address}: {reason}")

    def overdue(self, connection: Connection, now_s: float) -> str | None:
        if connection is not self._connection:
            return None
        if self.state is State.GREETING:
            return self._dialler.greeting_overdue(connection, now_s)
        if self._stall.silent_s(connection, now_s) > self._limits.stall_timeout_s:
            return f"no sign of life for {self._limits.stall_timeout_s:g} s"
        if self._pinged_s is None:
            self._ask_for_echo(connection, now_s)
        return None

    def _ask_for_echo(self, connection: Connection, now_s: float) -> None:
        self._ping += 1
        self._pinged_s = now_s
        connection.send(Batch(ping=self._ping))

    # -- sending

    @property
    def sent_bytes(self) -> int:
        """On all connections so far."""
        own = self._connection.sent_bytes if self._connection is not None else 0
        return self._earlier_bytes + own + self.bulk.sent_bytes

    @property
    def sent_messages(self) -> int:
        """On all connections so far."""
        return self._outbox.sent_messages + self.bulk.sent_messages

    @property
    def room_bytes(self) -> int:
        """How many more bytes of appends may be sent now without filling the line."""
        if self.bulk.up:
            return self.bulk.room_bytes
        if self.state is not State.UP or self._connection is None:
            return 0
        return max(0, FIRST_WINDOW_BYTES - self._outbox.queued_bytes - self._connection.unsent_bytes)

    def send(self, message: PeerMessage) -> bool:
        """Queue for the next `flush`; False: dropped."""
        if self.state is not State.UP or self._connection is None:
            self.dropped_messages += 1
            return False
        assert not isinstance(message, Message) or is_sendable(message), f"{message.type.name} can't go in a batch"
        bulk = self.bulk
        if not bulk.up:
            taken = self._outbox.add(message, self._connection.unsent_bytes)
            self._carries_bulk |= is_bulk(message)
        elif is_bulk(message):
            taken = bulk.send(message)
        else:
            taken = self._outbox.add(message, self._connection.unsent_bytes)
        if not taken:
            self.dropped_messages += 1
        return taken

    def flush(self) -> None:
        """Write the queued messages, small ones first."""
        if self._connection is not None:
            if self._outbox.queued_bytes:
                self._outbox.flush(self._connection)
            self.bulk.flush()

    def _bulk_room(self) -> None:
        """The second connection is up, or takes more. Bulk messages that the link has carried must not be overtaken."""
        if self._carries_bulk and self._connection is not None:
            self._carries_bulk = False
            self.bulk.hold()
            self._outbox.flush(self._connection)
            self._ask_for_echo(self._connection, self._loop.time())
        self._handler.on_room(self.peer)

    def _bulk_failed(self, reason: str) -> None:
        what = f"no connection for appends to {self._dialler.label(self.peer)}, they share the link"
        self._notices.warn(f"bulk {self.peer}", what, reason, self._loop.time())

    def _too_large(self, error: FrameError) -> None:
        """A message is above the limit on a frame."""
        self.dropped_messages += 1
        self.last_error = str(error)
        subject = f"message to {self._dialler.label(self.peer)}"
        self._notices.warn(f"size {self.peer}", subject, str(error), self._loop.time())
