"""Accept TLS connections and tell the protocol before the handshake is over.

The event loops call `connection_made` after the TLS handshake. Until then the owner of a listening port can neither
count a connection nor close it. So the connection is accepted as plain TCP, its protocol is called, and then TLS is
started by hand.

If the loop was busy, the client's first bytes wait at the accept already, and uvloop reads them before the turn in
which TLS begins. They are kept, and given to TLS as soon as it has the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import abstractmethod
from typing import Protocol, cast

__all__ = ["TlsAccept", "TlsAware"]


class TlsAware(asyncio.Protocol):
    """A protocol that is called when the TLS handshake of its connection begins or fails."""

    @abstractmethod
    def tls_begins(self, transport: asyncio.Transport) -> None:
        """A connection was accepted. To abort `transport` ends its handshake."""

    @abstractmethod
    def tls_failed(self, error: Exception | None) -> None:
        """The handshake failed: `connection_made` and `connection_lost` are not called."""


class TlsAccept(asyncio.Protocol):
    """The protocol of one accepted TCP connection until its TLS handshake is over."""

    def __init__(self, inner: TlsAware, tls: ssl.SSLContext, timeout_s: float) -> None:
        self._inner = inner
        self._tls = tls
        self._timeout_s = timeout_s
        self._task: asyncio.Task[None] | None = None
        self._lost: Exception | None = None
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = accepted = cast("asyncio.Transport", transport)
        self._inner.tls_begins(accepted)
        self._task = asyncio.get_running_loop().create_task(self._establish(accepted), name="TLS handshake")

    def data_received(self, data: bytes) -> None:
        """Keep bytes that arrive before TLS begins. One read is enough: the rest waits in the socket."""
        assert self._transport is not None
        self._received += data
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lost before TLS began."""
        self._lost = exc or ConnectionAbortedError("closed before the TLS handshake")

    async def _establish(self, transport: asyncio.Transport) -> None:
        early = _Early()
        if self._lost is not None or transport.is_closing():
            self._inner.tls_failed(self._lost or ConnectionAbortedError("closed before the TLS handshake"))
            return
        try:
            if self._received:
                _give_later(transport, self._received)
            established = await asyncio.get_running_loop().start_tls(
                transport, early, self._tls, server_side=True, ssl_handshake_timeout=self._timeout_s
            )
        except Exception as error:  # noqa: BLE001 - whatever a loop raises, the owner must hear of the end
            transport.abort()
            self._inner.tls_failed(error)
            return
        except asyncio.CancelledError:
            transport.abort()
            self._inner.tls_failed(None)
            raise
        if established is None or early.lost or transport.is_closing():  # uvloop reports an abort in no other way
            self._inner.tls_failed(early.error)
            return
        established.set_protocol(self._inner)
        self._inner.connection_made(established)
        if early.received:
            self._inner.data_received(bytes(early.received))


class _Buffered(Protocol):
    """The protocol that a loop puts under TLS, as far as it is used here (`asyncio.BufferedProtocol`)."""

    def get_buffer(self, sizehint: int, /) -> memoryview: ...

    def buffer_updated(self, nbytes: int, /) -> None: ...


def _give_later(transport: asyncio.Transport, received: bytes) -> None:
    """Give the bytes to the protocol that `start_tls`, which is called next, puts under TLS.

    `start_tls` calls that protocol's `connection_made` in the next turn, so the bytes are given in the turn after it.
    The loop reads no socket in between.
    """
    loop = asyncio.get_running_loop()

    def give() -> None:
        under_tls = cast("_Buffered", transport.get_protocol())
        rest = memoryview(received)
        while rest and not transport.is_closing():
            buffer = memoryview(under_tls.get_buffer(len(rest)))
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            under_tls.buffer_updated(count)
            rest = rest[count:]

    loop.call_soon(loop.call_soon, give)


class _Early(asyncio.Protocol):
    """Keeps bytes that arrive between the end of the handshake and the turn in which the owner gets the connection.

    They come from one read of the socket: the event loop resumes the owner before it reads again.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost = False
        self.error: Exception | None = None

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost, self.error = True, exc
