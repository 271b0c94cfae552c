"""TLS contexts whose certificate can be replaced while they are in use, and handshakes that tell why they failed.

The event loops, which dial, end a failed handshake without sending OpenSSL's alert. The other end then learns nothing
but a closed connection. So the object that a loop drives keeps the failure to itself and asks for more bytes: the loop
sends the alert, and the other end, which has it, closes. `TlsHandshake.failure` has the reason. Accepted connections
are in `tls_accept.py`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final, NoReturn, cast

import msgspec

__all__ = [
    "ALERT_TIMEOUT_S",
    "NotTls",
    "TlsContext",
    "RECORD_BYTES",
    "TlsHandshake",
    "begins_as_tls",
    "is_alert",
    "describe_tls_failure",
    "is_refusal",
    "is_untrusted",
    "new_context",
]

_RECORDS: Final = frozenset({0x14, 0x15, 0x16, 0x17})
"""The types of TLS records (RFC 8446, 5.1)."""

_OLD_HELLO: Final = 0x80
"""How the hello of very old clients begins (RFC 5246, E.2)."""

ALERT_TIMEOUT_S: Final = 0.25
"""Seconds for the other end to close after an alert. If this end closed at once, what still arrives would reset the
connection, and the alert could be lost."""

KEPT_CONTEXTS: Final = 64
"""A context serves again as soon as its handshake has begun, in the next turn of the loop."""

RECORD_BYTES: Final = 16 * 1024
"""The most content of one record (RFC 8446, 5.1); OpenSSL reads one at a time."""

KEPT_BYTES: Final = 64
"""Of what an end sent that speaks no TLS: enough to recognise its protocol."""


class NotTls(ssl.SSLError):
    """The other end speaks another protocol; `received` is how it begins."""

    reason: str = "NO_TLS"
    received: bytes = b""

    @classmethod
    def of(cls, first: bytes) -> NotTls:
        """The error for an end whose first bytes these are."""
        made = cls(ssl.SSL_ERROR_SSL, "the other end speaks no TLS")
        made.received = first[:KEPT_BYTES]
        return made


class TlsHandshake(msgspec.Struct):
    """One handshake of a connection that is dialled. `failed` is called at once when it has failed, before the alert
    has left.
    """

    failed: Callable[[], None] | None = None
    failure: ssl.SSLError | None = None
    """Why it failed. What the loop raises is often the end of the connection alone."""


class TlsContext(ssl.SSLContext):
    """A context that stands for another one, which `use` replaces. Connections that exist keep what they began with.

    Make one with `new_context`.
    """

    _current: ssl.SSLContext
    _free: list[_ObservedContext]

    def use(self, current: ssl.SSLContext) -> None:
        """From the next handshake on, use this context's certificate, key and authorities."""
        self._current = current

    @property
    def current(self) -> ssl.SSLContext:
        """The context in use."""
        return self._current

    def observed(self, handshake: TlsHandshake) -> ssl.SSLContext:
        """A context for one connection, whose handshake is reported. Give it to the event loop at once.

        To make a context takes as long as half a handshake, so those that have served are used again.
        """
        made = self._free.pop() if self._free else _ObservedContext(ssl.PROTOCOL_TLS_CLIENT)
        made.owner, made.handshake = self, handshake
        return made

    def served(self, observed: _ObservedContext) -> None:
        """The loop has begun the handshake."""
        if len(self._free) < KEPT_CONTEXTS:
            self._free.append(observed)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self._current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class _ObservedContext(ssl.SSLContext):
    owner: TlsContext
    handshake: TlsHandshake

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        handshake, context = self.handshake, self.owner.current
        self.owner.served(self)
        kept, context.sslobject_class = context.sslobject_class, _TlsObject
        try:
            made = context.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        finally:
            context.sslobject_class = kept  # the context may be a user's, with other uses
        assert isinstance(made, _TlsObject)
        made.incoming, made.outgoing, made.handshake = incoming, outgoing, handshake
        return made


def new_context(current: ssl.SSLContext, *, server_side: bool) -> TlsContext:
    """A context that stands for `current`."""
    made = TlsContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    made._free = []
    made.use(current)
    return made


class _TlsObject(ssl.SSLObject):
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    handshake: TlsHandshake | None = None
    looked = False

    def read(self, len: int = 1024, buffer: object = None) -> bytes:  # noqa: A002 - the name of the base class
        """Read, as the base class does. The event loops read until nothing is left: to tell that costs OpenSSL as much
        as the read itself, so it is not asked if nothing has come. They offer 256 KiB, which Python allocates each
        time; what is read is of one record.
        """
        incoming = self.incoming
        if not incoming.pending and not incoming.eof and not self.pending():
            raise ssl.SSLWantReadError
        if buffer is None:
            return super().read(min(len, RECORD_BYTES))
        return super().read(len, cast("bytearray", buffer))

    def do_handshake(self) -> None:
        handshake = self.handshake
        if handshake is None:
            super().do_handshake()
            return
        if handshake.failure is not None:  # what still comes is thrown away, until the other end has closed
            self.incoming.read()
            raise ssl.SSLWantReadError
        if not self.looked and (first := self.incoming.read()):
            self.looked = True
            if not begins_as_tls(first):
                _fail(handshake, NotTls.of(first))
            self.incoming.write(first)
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError as error:
            _fail(handshake, error)


def _fail(handshake: TlsHandshake, error: ssl.SSLError) -> NoReturn:
    """Keep the reason, and have the loop send the alert (or the answer) and wait for the other end."""
    handshake.failure = error
    if handshake.failed is not None:
        handshake.failed()
    if is_alert(error):  # the other end has ended it, and waits for no alert
        raise error
    raise ssl.SSLWantReadError from error


def is_alert(error: ssl.SSLError) -> bool:
    """Whether it is an alert of the other end, which has ended the handshake with it."""
    return "_ALERT_" in (error.reason or "")


def begins_as_tls(first: bytes) -> bool:
    """Whether these may be the first bytes of a TLS connection."""
    return (first[0] in _RECORDS and first[1:2] in (b"", b"\x03")) or first[0] == _OLD_HELLO


_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_WRONG_PURPOSE: Final = 26
_WRONG_NAME: Final = frozenset({62, 63, 64})
_UNTRUSTED: Final = frozenset({2, 18, 19, 20, 21, 27, 28})
"""OpenSSL's results of a verification (X509_V_ERR_…)."""

_VERIFIED: Final = {
    _EXPIRED: "its certificate has expired",
    _NOT_YET_VALID: "its certificate is not valid yet: compare the clocks of both machines",
    _WRONG_PURPOSE: "its certificate is not for this use: nodes need serverAuth and clientAuth, clients clientAuth",
}

_ALERTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust this certificate: another authority has issued it",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that this certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it takes this certificate for a bad one: not valid yet, or of another name",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it says that this certificate is not for this use (clientAuth, serverAuth)",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept this certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it says that this certificate was revoked",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate, and none was shown",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it has no TLS version or cipher in common, or asks for a certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it has no TLS version in common",
}
"""OpenSSL's reasons for an alert of the other end: it has refused this end. What it refuses is ours."""

_OTHERS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate, and one is needed",
    "NO_SHARED_CIPHER": "there is no cipher in common",
    "UNSUPPORTED_PROTOCOL": "there is no TLS version in common: TLS 1.2 is the oldest",
    "NO_PROTOCOLS_AVAILABLE": "there is no TLS version in common: TLS 1.2 is the oldest",
    "WRONG_VERSION_NUMBER": "it speaks no TLS",
    "UNEXPECTED_EOF_WHILE_READING": "it closed the connection",
}

REFUSALS: Final = frozenset(_ALERTS)
"""Alerts after which the other end has read nothing that was sent."""


def describe_tls_failure(error: ssl.SSLError, *, authority: str = "the authorities that this end trusts") -> str:
    """Describe in words why a handshake failed; "it" is the other end, "this certificate" that of this end.

    `authority` names what the certificate of the other end was checked against.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code in _UNTRUSTED:
            return f"its certificate is not trusted: none of {authority} has issued it ({error.verify_message})"
        if code in _WRONG_NAME:
            return f"its certificate has another name: {error.verify_message}"
        return _VERIFIED.get(code, f"its certificate is refused: {error.verify_message}")
    reason = error.reason or ""
    alert = _ALERTS.get(reason)
    if alert is not None:
        return f"{alert} (TLS alert: {reason.partition('_ALERT_')[2].replace('_', ' ').lower()})"
    return _OTHERS.get(reason) or f"the TLS handshake failed: {reason.replace('_', ' ').lower() or error}"


def is_refusal(error: BaseException | None) -> bool:
    """Whether the other end has refused this end's certificate, and so read nothing of what was sent."""
    return isinstance(error, ssl.SSLError) and error.reason in REFUSALS


def is_untrusted(error: BaseException | None) -> bool:
    """Whether the certificate of the other end can't be trusted, so that another attempt would fail as well."""
    return isinstance(error, ssl.SSLCertVerificationError)
