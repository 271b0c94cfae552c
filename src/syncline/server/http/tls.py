"""TLS for clients: its certificate, and what a failed handshake says to the client and to the log.

A client that speaks plain HTTP on this port gets an answer in words. OpenSSL would refuse it without an alert, so the
client would see a lost connection: it could not know whether its request was carried out. Go's and nginx's servers
answer 400 as well.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final, cast

from syncline.platform.certificates import authorities_end_s, load_authorities, load_chain, look_at_certificate
from syncline.platform.live_certificate import LiveCertificate, LoadedCertificate
from syncline.platform.network import TLS_TIMEOUT_S
from syncline.platform.tls import NotTls, TlsContext, describe_tls_failure
from syncline.platform.tls_accept import HandshakeTurns, TlsAccept, TlsAware
from syncline.server.api.errors import problem
from syncline.server.http.networks import network_of
from syncline.transport.notices import Notices
from syncline.transport.unproven import Unproven

__all__ = ["MAX_HANDSHAKES", "PROTOCOLS", "TlsDoor", "client_certificate"]

SETTINGS: Final = ("http_tls_cert", "http_tls_key")
"""How errors about the files begin."""

MAX_HANDSHAKES: Final = 256
"""Handshakes under way. When another one begins, the oldest is ended: silent clients lock none out."""
MAX_HANDSHAKES_PER_HOST: Final = 128
"""The same of one address, or network of IPv6. Handshakes that have come whole wait for their turn: a flood of them
from one host ends its own, and those of others get their turn behind it."""

_log = logging.getLogger("syncline.server.http")


PROTOCOLS: Final = ("http/1.1", "h2")
"""For ALPN, the preferred one first: HTTP/2 is for clients that offer nothing else, as those of gRPC do."""


def client_certificate(
    certificate: str, key: str, authority: str = "", *, protocols: tuple[str, ...] = ()
) -> LiveCertificate:
    """The server's certificate for clients, with TLS 1.2 and newer. Raises `ConfigError`.

    `authority`: clients must show a certificate that it has issued. Empty: they need none. `protocols`: what ALPN
    offers, in the order of preference; none: nothing is negotiated.
    """

    def load() -> LoadedCertificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # else a write could have to wait for a read
        if protocols:
            context.set_alpn_protocols(list(protocols))
        load_chain(context, certificate, key, settings=SETTINGS)
        if authority:
            context.verify_mode = ssl.CERT_REQUIRED
            load_authorities(context, authority, setting="http_tls_ca")
        return LoadedCertificate(
            look_at_certificate(certificate, key, settings=SETTINGS), context, None, authorities_end_s(context)
        )

    return LiveCertificate("clients", (certificate, key, *([authority] if authority else [])), load)


class TlsDoor:
    """Accepts connections with TLS. `connection` makes the protocol of one whose handshake is over."""

    def __init__(self, tls: TlsContext, connection: Callable[[], asyncio.Protocol]) -> None:
        self._tls = tls
        self._connection = connection
        self._notices = Notices(_log, logging.INFO)  # a client's mistake is no fault of the server
        self._turns = HandshakeTurns()
        self._under_way: dict[_Entering, asyncio.Transport] = {}
        self._bounded: Unproven[_Entering] = Unproven(MAX_HANDSHAKES, MAX_HANDSHAKES_PER_HOST)
        """Those under way that are not being ended."""
        self._closing: asyncio.Future[None] | None = None

    def accept(self) -> asyncio.Protocol:
        """The protocol for a new connection."""
        return TlsAccept(_Entering(self), self._tls, TLS_TIMEOUT_S, self._turns, _refusal)

    async def close(self) -> None:
        """End the handshakes under way."""
        if self._under_way:
            self._closing = asyncio.get_running_loop().create_future()
            for transport in list(self._under_way.values()):
                transport.abort()
            await self._closing

    def begins(self, entering: _Entering, transport: asyncio.Transport) -> None:
        remote = entering.remote
        host = network_of(str(remote[0])) if isinstance(remote, tuple) and remote else ""
        displaced = self._bounded.add(entering, host)
        if displaced is not None and (oldest := self._under_way.pop(displaced, None)) is not None:
            oldest.abort()
        self._under_way[entering] = transport
        if self._closing is not None:
            transport.abort()

    def ends(self, entering: _Entering) -> None:
        self._under_way.pop(entering, None)
        self._bounded.discard(entering)
        if self._closing is not None and not self._under_way and not self._closing.done():
            self._closing.set_result(None)

    def make(self) -> asyncio.Protocol:
        return self._connection()

    def tell(self, remote: object, error: ssl.SSLError) -> None:
        """Log a failed handshake, once in a while for each machine."""
        host, port = remote[:2] if isinstance(remote, tuple) and len(remote) >= 2 else ("an unknown address", 0)
        if isinstance(error, NotTls):
            reason = "it speaks no TLS on a port for https: its URL must begin with https://"
        else:
            reason = describe_tls_failure(error, authority="the authorities for clients (http_tls_ca)")
        now_s = asyncio.get_running_loop().time()
        self._notices.warn(f"tls {host}", f"no TLS with the client at {host}:{port}", reason, now_s)


class _Entering(TlsAware):
    """One connection until its handshake is over; then the server's protocol takes it."""

    def __init__(self, door: TlsDoor) -> None:
        self._door = door
        self.remote: object = None
        """The client's address, as the transport has it."""
        self._taken: asyncio.Protocol | None = None

    def tls_begins(self, transport: asyncio.Transport) -> None:
        self.remote = transport.get_extra_info("peername")
        self._door.begins(self, transport)

    def tls_failed(self, error: Exception | None) -> None:
        self._door.ends(self)
        if isinstance(error, ssl.SSLError):
            self._door.tell(self.remote, error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._door.ends(self)
        self._taken = taken = self._door.make()
        cast("asyncio.Transport", transport).set_protocol(taken)
        taken.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes that came with the end of the handshake."""
        assert self._taken is not None
        self._taken.data_received(data)


def _refusal(_first: bytes) -> bytes:
    answer = problem(400, "bad_request", "this port speaks TLS: use https:// in the URL; nothing was done")
    return answer.head + b"Connection: close\r\n\r\n" + answer.body
