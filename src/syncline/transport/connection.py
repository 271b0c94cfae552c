"""One connection: bytes to frames, and frames to bytes. Its owner decides about the other end.

opened ──handshake──▶ established ──frames──▶ …     each step calls the owner; the owner may be changed on the way
   │                       │
   └───────────────────────┴──▶ closed              `on_lost` is called exactly once, with the reason

Until it is established, a connection takes and holds small frames alone: the other end may be any program.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, Protocol, cast

from syncline.errors import FrameError, HandshakeRefused, TransportError
from syncline.platform.tls_accept import TlsAware
from syncline.transport.frame_mac import FrameMac
from syncline.transport.handshake import MAGIC, shortened
from syncline.transport.limits import HANDSHAKE_FRAME_BYTES
from syncline.transport.messages import Refusal
from syncline.transport.tls import describe_failure
from syncline.transport.wire import FrameDecoder, encode_frame

__all__ = ["Connection", "Established", "ConnectionOwner", "ConnectionRegistry"]

STRANGER_BYTES: Final = 64
"""Bytes of a foreign protocol: enough to recognise it."""


class ConnectionOwner(Protocol):
    """The user of a connection. `FrameError` and `HandshakeRefused` raised from its methods end the connection."""

    def on_made(self, connection: Connection) -> None:
        """The connection is open; nothing was sent or received yet."""
        ...

    def on_stranger(self, connection: Connection, received: bytes) -> None:
        """The other end uses an unknown protocol: `received` is its first bytes. End the connection."""
        ...

    def on_greeting(self, connection: Connection, payload: memoryview) -> None:
        """A frame before the connection is established. Call `established` after the last one."""
        ...

    def on_frames(self, connection: Connection, payloads: list[memoryview]) -> None:
        """Later frames, all that came in one read."""
        ...

    def on_lost(self, connection: Connection, reason: str) -> None:
        """The connection is gone; `connection.failure` is set if the other end broke the protocol."""
        ...

    def overdue(self, connection: Connection, now_s: float) -> str | None:
        """Called at intervals: return the reason to end the connection now, or None."""
        ...


class Established:
    """Base of the owners that use a connection after its greeting."""

    def on_made(self, connection: Connection) -> None:
        raise AssertionError(f"the connection with {connection.remote} was made long ago")

    def on_stranger(self, connection: Connection, received: bytes) -> None:
        raise AssertionError(f"{connection.remote} was greeted already, and says {received!r}")

    def on_greeting(self, connection: Connection, payload: memoryview) -> None:
        raise AssertionError(f"{connection.remote} was greeted already, and says {bytes(payload)!r}")


class ConnectionRegistry(Protocol):
    """Keeps the open connections, so that all are closed with the transport."""

    def opened(self, connection: Connection) -> None: ...

    def ended(self, connection: Connection) -> None: ...


class Connection(TlsAware):
    """Frames over one stream of bytes.

    `accepted` is called when a connection that came in begins its TLS handshake, before `ConnectionOwner.on_made`.
    """

    def __init__(
        self,
        owner: ConnectionOwner,
        registry: ConnectionRegistry,
        *,
        max_frame_bytes: int,
        accepted: Callable[[Connection], None] | None = None,
    ) -> None:
        self.owner = owner
        self._accepted = accepted
        self.failure: TransportError | None = None
        self.sent_bytes: int = 0
        self.received_bytes: int = 0
        self.opened_s: float = 0.0
        self.received_s: float = 0.0
        self.closing_s: float | None = None
        self.excused_s: float = 0.0
        self.greeted: bool = False
        self.remote: str = "an unknown address"
        self.local_end: object = None
        self.remote_end: object = None
        """The socket addresses of both ends, as the system gives them."""
        self._registry = registry
        self._max_frame_bytes = max_frame_bytes
        self._opening = bytearray()
        self._decoder = FrameDecoder(HANDSHAKE_FRAME_BYTES)
        self._mac: FrameMac | None = None
        self._magic_sent = False
        self._transport: asyncio.Transport | None = None
        self._under_tls: asyncio.Transport | None = None
        """The transport under the TLS handshake, as long as that goes on."""
        self._reason: str | None = None
        self._clock: Callable[[], float] = asyncio.get_running_loop().time

    # -- for the owner

    @property
    def open(self) -> bool:
        """Whether bytes can still be written."""
        return self._transport is not None and not self._transport.is_closing()

    def waited_s(self, since_s: float, now_s: float) -> float:
        """How long the other end has sent nothing since `since_s`, without the time in which this node could not
        listen.
        """
        return now_s - max(since_s, self.excused_s)

    @property
    def unsent_bytes(self) -> int:
        """Bytes written that the system has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def certificate(self) -> dict[str, object] | None:
        """The verified certificate of the other end; None without TLS."""
        if self._transport is None:
            return None
        return cast("dict[str, object] | None", self._transport.get_extra_info("peercert"))

    def send(self, value: object) -> None:
        """Send one frame. Raises `FrameError` if it would be above the limit; nothing is sent then."""
        frame = encode_frame(value, self._max_frame_bytes if self.greeted else HANDSHAKE_FRAME_BYTES, self._mac)
        if not self._magic_sent:
            self._magic_sent = True
            frame = MAGIC + frame
        self.write(frame)

    def protect(self, *, sending: bytes, receiving: bytes) -> None:
        """From the next frame on, in both directions, frames carry MACs under these keys. Raises `FrameError`."""
        self._decoder.expect_mac(FrameMac(receiving))
        self._mac = FrameMac(sending)

    def established(self) -> None:
        """The handshake is over: large frames may come, and go to `on_frames`."""
        self.greeted = True
        self._decoder.max_bytes = self._max_frame_bytes

    def write(self, data: bytes | bytearray) -> None:
        """Give bytes to the system. The caller must not use `data` afterwards: it is not always copied."""
        if self._transport is not None and not self._transport.is_closing():
            self.sent_bytes += len(data)
            self._transport.write(data)

    def close(self, reason: str) -> None:
        """End the connection after what was written has left."""
        if self._reason is None:
            self._reason = reason
        if self._transport is not None and not self._transport.is_closing():
            self.closing_s = self._clock()
            self._transport.close()

    def refuse(self, error: TransportError, answer: bytes | Refusal) -> None:
        """End the connection because of the other end, after one last frame to it."""
        self.failure = error
        if isinstance(answer, Refusal):
            self.send(shortened(answer))
        else:
            self.write(answer)
        self.close(str(error))

    def reset(self, reason: str) -> None:
        """End the connection at once."""
        if self._reason is None:
            self._reason = reason
        transport = self._transport or self._under_tls
        if transport is not None:
            transport.abort()

    def pause_reading(self) -> None:
        if self.open and self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.open and self._transport is not None:
            self._transport.resume_reading()

    # -- for the event loop

    def tls_begins(self, transport: asyncio.Transport) -> None:
        self._under_tls = transport
        self._opened(transport)
        if self._reason is not None:
            transport.abort()
        elif self._accepted is not None:
            self._accepted(self)

    def tls_failed(self, error: Exception | None) -> None:
        self._under_tls = None
        self._registry.ended(self)
        if isinstance(error, ssl.SSLError):  # the reason, whichever end or time limit ended the connection then
            refused = isinstance(error, ssl.SSLCertVerificationError)
            self.failure = (HandshakeRefused if refused else FrameError)(describe_failure(error))
            self._reason = str(self.failure)
        self.owner.on_lost(self, self._reason or str(self.failure or _describe_loss(error)))

    def _opened(self, transport: asyncio.BaseTransport) -> None:
        self.opened_s = self._clock()
        self.received_s = self.opened_s
        self.local_end = transport.get_extra_info("sockname")
        self.remote_end = remote = transport.get_extra_info("peername")
        if isinstance(remote, tuple) and len(remote) >= 2:  # None if the other end is gone already
            self.remote = f"[{remote[0]}]:{remote[1]}" if ":" in str(remote[0]) else f"{remote[0]}:{remote[1]}"
        self._registry.opened(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._under_tls = cast("asyncio.Transport", transport), None
        self._opened(transport)
        if self._reason is not None:  # cancelled while it was dialled
            self._transport.abort()
            return
        try:
            self.owner.on_made(self)
        except (FrameError, HandshakeRefused) as error:
            self._give_up(error)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        self.received_s = self._clock()
        if self._reason is not None:
            return  # bytes that come during the close are ignored
        try:
            if not self.greeted:
                self._take_greeting(data)
            elif payloads := self._decoder.feed(data):
                self.owner.on_frames(self, payloads)
        except (FrameError, HandshakeRefused) as error:
            self._give_up(error)

    def eof_received(self) -> bool | None:
        return None  # no half-closed connections: the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._registry.ended(self)
        self._transport = None
        self.owner.on_lost(self, self._reason or _describe_loss(exc))

    def _take_greeting(self, data: bytes) -> None:
        if len(self._opening) < len(MAGIC):
            self._opening += data
            if self._opening[: len(MAGIC)] != MAGIC[: len(self._opening)]:
                self.owner.on_stranger(self, bytes(self._opening[:STRANGER_BYTES]))
                return
            if len(self._opening) < len(MAGIC):
                return
            data = bytes(self._opening[len(MAGIC) :])
            del self._opening[len(MAGIC) :]
        payloads = self._decoder.feed(data)
        if not payloads:
            return
        self.owner.on_greeting(self, payloads[0])
        if len(payloads) == 1 or self._reason is not None:
            return
        if not self.greeted:  # each step answers the one before; an early frame was not under the expected MAC
            raise FrameError(f"{len(payloads) - 1} frames came before the one ahead of them was answered")
        self.owner.on_frames(self, payloads[1:])

    def _give_up(self, error: FrameError | HandshakeRefused) -> None:
        self.failure = error
        self.reset(str(error))


def _describe_loss(error: Exception | None) -> str:
    if error is None:
        return "closed by the other end"
    if isinstance(error, ConnectionResetError):
        return "reset by the other end"
    if isinstance(error, ssl.SSLError):
        return describe_failure(error)
    return f"lost: {error}"
