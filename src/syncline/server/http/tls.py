"""TLS for clients, with an answer in words to a client that speaks plain HTTP on this port.

OpenSSL refuses such a client without an alert, so the client would see a lost connection: it could not know whether its
request was carried out. Go's and nginx's servers answer 400 as well.
"""

from __future__ import annotations

import ssl
from typing import Final

from syncline.server.api.errors import problem

__all__ = ["client_tls"]

_HANDSHAKE: Final = frozenset({0x16, 0x80})
"""How a client's TLS begins: a handshake record (RFC 8446, 5.1), or the hello of old clients (RFC 5246, E.2)."""


def client_tls(certificate: str, key: str) -> ssl.SSLContext:
    """The server's side of TLS 1.2 and newer. Raises `OSError` (`ssl.SSLError` is one) if the files can't be used."""
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


class _Context(ssl.SSLContext):
    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        self.sslobject_class = _Object
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(made, _Object)
        made.incoming, made.outgoing = incoming, outgoing
        return made


class _Object(ssl.SSLObject):
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    looked = False
    refused = False

    def do_handshake(self) -> None:
        if not self.looked and (first := self.incoming.read()):
            self.looked = True
            self.incoming.write(first)
            self.refused = first[0] not in _HANDSHAKE
            if self.refused:
                self.outgoing.write(_refusal())
                # `outgoing` is sent if the handshake waits for more. It ends when the client closes, or late.
                raise ssl.SSLWantReadError
        if self.refused:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the client speaks no TLS")
        super().do_handshake()


def _refusal() -> bytes:
    answer = problem(400, "bad_request", "this port speaks TLS: use https:// in the URL; nothing was done")
    return answer.head + b"Connection: close\r\n\r\n" + answer.body
