"""Accepted connections with TLS, over OpenSSL in memory.

The event loops' own TLS calls `connection_made` after the handshake: until then the owner of a listening port could
neither count a connection nor close it. They also end a failed handshake without OpenSSL's alert, so the other end
would not learn why. And they read until OpenSSL says that there is nothing, which costs as much as the read itself: for
requests of a hundred bytes their TLS costs as much as all the rest. So this is done here.

    socket ── data_received ──> incoming ──> OpenSSL ──> data_received of the owner
    socket <── write ───────── outgoing <── OpenSSL <── write of the owner

A handshake takes a millisecond or two, with a key of RSA and 4,096 bits eight. Hundreds of clients may begin theirs in
the same turn of the event loop. So a turn has a budget for all of a port; the other handshakes wait for a later one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Final, cast

from syncline.platform.tls import ALERT_TIMEOUT_S, RECORD_BYTES, NotTls, TlsContext, begins_as_tls, is_alert
from syncline.platform.turn_budget import TurnBudget

__all__ = ["HandshakeTurns", "TlsAccept", "TlsAware"]

TURN_S: Final = 0.01
"""Of handshakes in one turn of the event loop, and what the last one took: elections are timed in hundreds of
milliseconds."""
COST_S: Final = 1e-5
"""What 1 of the budget stands for."""

MAX_UNREAD_ANSWERS_BYTES: Final = 64 * 1024
"""Answers to changes of the key: OpenSSL answers each one that the other end asks for, whether or not that reads."""

HANDSHAKE: Final = 0
OPEN: Final = 1
FAILED: Final = 2
"""The alert or the answer has left. What still comes is thrown away, until the other end has closed."""


class TlsAware(asyncio.Protocol):
    """A protocol that is called when the TLS handshake of its connection begins or fails."""

    @abstractmethod
    def tls_begins(self, transport: asyncio.Transport) -> None:
        """A connection was accepted. To abort `transport` ends its handshake."""

    @abstractmethod
    def tls_failed(self, error: Exception | None) -> None:
        """The handshake failed: `connection_made` and `connection_lost` are not called."""


class HandshakeTurns(TurnBudget):
    """The budget of the handshakes of one port. `clock` gives the processor time of this thread, in seconds."""

    __slots__ = ("clock",)

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        super().__init__(round(TURN_S / COST_S))
        self.clock: Callable[[], float] = clock

    def took(self, seconds: float) -> None:
        """A part of a handshake has taken this time."""
        self.spend(1 + round(seconds / COST_S))


class TlsAccept(asyncio.Protocol, asyncio.Transport):
    """One accepted connection: the protocol of its TCP transport, and the transport of its owner `inner`.

    `turns` is shared by the connections of one port. `answer` makes the last bytes for an end that speaks no TLS, from
    its first bytes.

    The contexts of `tls` must forbid renegotiation (`ssl.OP_NO_RENEGOTIATION`): a write never waits for a read.
    """

    def __init__(
        self,
        inner: TlsAware,
        tls: TlsContext,
        timeout_s: float,
        turns: HandshakeTurns,
        answer: Callable[[bytes], bytes] | None = None,
    ) -> None:
        asyncio.Transport.__init__(self)
        self._owner = inner
        self._inner: asyncio.Protocol = inner
        self._tls = tls
        self._timeout_s = timeout_s
        self._turns = turns
        self._early = b""
        """What has come of the handshake and waits for its turn. Meanwhile nothing is read."""
        self._answer = answer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._stage = HANDSHAKE
        self._looked = False
        self._closing = False
        self._unread_answers = 0
        """Bytes of answers to changes of the key, since the other end has last taken all that was written."""
        self._failure: Exception | None = None
        """Why the handshake or the connection failed. The transport knows only that it has ended."""
        self._timer: asyncio.TimerHandle | None = None
        self._raw: asyncio.Transport
        self._object: ssl.SSLObject
        self._context: ssl.SSLContext

    # --- the protocol of the TCP transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = raw = cast("asyncio.Transport", transport)
        self._context = self._tls.current
        self._object = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._too_late)
        self._owner.tls_begins(raw)

    def data_received(self, data: bytes) -> None:
        if self._stage == OPEN:
            if not self._closing:
                self._read(data)
        elif self._stage == HANDSHAKE and not self._raw.is_closing():
            if self._turns.left > 0:
                self._shake_hands_now(data)
            else:
                self._early = data
                self._raw.pause_reading()
                self._turns.wait(self._go_on)

    def eof_received(self) -> bool:
        """The other end has closed its side, with or without the end of TLS. There is no half-closed TLS."""
        if self._stage == OPEN and not self._closing:
            self._inner.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._stage == OPEN:
            self._inner.connection_lost(self._failure or exc)
        else:
            early = ConnectionAbortedError("closed before the TLS handshake was over")
            self._owner.tls_failed(self._failure or exc or early)

    def pause_writing(self) -> None:
        if self._stage == OPEN:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._stage == OPEN:
            self._inner.resume_writing()

    # --- the handshake

    def _go_on(self) -> None:
        data, self._early = self._early, b""
        if self._stage == HANDSHAKE and not self._raw.is_closing():
            self._raw.resume_reading()
            self._shake_hands_now(data)

    def _shake_hands_now(self, data: bytes) -> None:
        clock = self._turns.clock
        began_s = clock()
        try:
            self._shake_hands(data)
        finally:
            self._turns.took(clock() - began_s)

    def _shake_hands(self, data: bytes) -> None:
        if not self._looked and not begins_as_tls(data):
            self._refuse(data)
            return
        self._looked = True
        self._incoming.write(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._send()
        assert self._timer is not None
        self._timer.cancel()
        self._timer = None
        self._stage = OPEN
        self._inner.connection_made(self)
        if self._incoming.pending:  # what came with the last part of the handshake
            self._read(b"")

    def _refuse(self, first: bytes) -> None:
        """End a connection that begins otherwise than TLS does."""
        if self._answer is not None:
            self._raw.write(self._answer(first))
        self._fail(NotTls.of(first))

    def _fail(self, error: ssl.SSLError) -> None:
        """Send the alert, and wait a moment for the other end to close: to close at once could lose the alert."""
        self._stage, self._failure = FAILED, error
        self._send()
        if is_alert(error):  # the other end has ended it, and waits for none
            self._raw.close()
        else:
            asyncio.get_running_loop().call_later(ALERT_TIMEOUT_S, self._raw.close)

    def _too_late(self) -> None:
        if self._stage == HANDSHAKE:
            self._failure = ConnectionAbortedError(f"the TLS handshake took longer than {self._timeout_s:g} s")
            self._raw.abort()

    # --- data

    def _read(self, data: bytes) -> None:
        """Decrypt what has come, and give it to the owner in one piece."""
        incoming, tls = self._incoming, self._object
        incoming.write(data)
        pieces: list[bytes] = []
        ended = False
        try:
            # What is decrypted is shorter; there is more than that only if a part of its record came before. The memory
            # of a whole record, for each read, would take longer than the decryption.
            piece = tls.read(len(data) or RECORD_BYTES)
            while piece and (incoming.pending or tls.pending()):
                pieces.append(piece)
                piece = tls.read(RECORD_BYTES)
            pieces.append(piece)
            ended = not piece  # the end of TLS reads as nothing, whatever comes behind it
        except ssl.SSLWantReadError:
            ended = False  # a part of a record, or nothing for the owner
        except ssl.SSLError as error:
            self._failure = self._failure or error
            ended = True
        if self._outgoing.pending:  # alerts, and answers to changes of the key
            self._send_answers()
        received = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if received and not self._closing:
            self._inner.data_received(received)
        if ended and not self._closing:
            if self._failure is None:
                self._inner.eof_received()
            self.close()

    def _send_answers(self) -> None:
        """End the connection instead if the other end asks for answers without an end and reads none."""
        before = self._unread_answers if self._raw.get_write_buffer_size() else 0
        self._unread_answers = before + self._outgoing.pending
        if self._unread_answers <= MAX_UNREAD_ANSWERS_BYTES:
            self._send()
            return
        self._failure = self._failure or ConnectionAbortedError("it asks for new keys and does not read the answers")
        self.abort()

    def _send(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    # --- the transport of the owner

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._closing:
            self._object.write(data)
            self._raw.write(self._outgoing.read())

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send the end of TLS and of the TCP stream. What still comes is given to the owner."""
        if not self._closing:
            self._end()
            self._raw.write_eof()

    def close(self) -> None:
        """Send what is buffered and the end of TLS, then close."""
        if self._closing:
            return
        self._closing = True
        if self._failure is None:
            self._end()
        self._raw.close()

    def _end(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # it waits for the other end's, which is not needed (RFC 8446, 6.1)
            self._object.unwrap()
        self._send()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """As the event loops' own TLS: `sslcontext`, `ssl_object`, `peercert`, `cipher`; else the TCP transport's."""
        if name == "sslcontext":
            return self._context
        if name == "ssl_object":
            return self._object
        if name == "peercert":
            return self._object.getpeercert()
        if name == "cipher":
            return self._object.cipher()
        return cast("object", self._raw.get_extra_info(name, default))

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._raw.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner
