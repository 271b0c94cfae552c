"""Load certificates from PEM files, look at them as OpenSSL does, and say in words what is wrong with them.

The standard library has no public way to read a certificate's dates and names from a file. So the certificate is shown
in a handshake with ourselves, in memory: the other side of it verifies the certificate and tells what it holds. The
same handshake shows whether it serves as a server's and as a client's.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from syncline.errors import ConfigError
from syncline.platform.tls import describe_tls_failure

__all__ = [
    "CertificateFacts",
    "authorities_end_s",
    "check_issued_by",
    "dns_names",
    "load_authorities",
    "load_chain",
    "look_at_certificate",
]

FILE_LIMIT_BYTES: Final = 1 << 20
"""A certificate is 1-4 KiB; a system's bundle of authorities is 250 KiB."""

_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which `ssl` has no name: the dates are looked at separately."""

_TURNS: Final = 8
"""A handshake in memory takes three turns."""

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
_WRONG_PURPOSE: Final = 26

_EDGE: Final = re.compile("-----(BEGIN|END) ([A-Z0-9 ]+)-----")


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a certificate holds. Times are in seconds since the epoch."""

    dns: tuple[str, ...]
    addresses: tuple[str, ...]
    not_before_s: float
    not_after_s: float
    for_servers: bool
    """It may be shown by a server (serverAuth, or no restriction)."""
    for_clients: bool
    """It may be shown by a client (clientAuth, or no restriction)."""

    def covers(self, host: str) -> bool:
        """Whether a client that dials this host name or address takes the certificate for its server's."""
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            name = host.lower().rstrip(".")
            wild = f"*.{name.partition('.')[2]}"
            return any(entry.lower() in (name, wild) for entry in self.dns)
        return any(ipaddress.ip_address(entry) == address for entry in self.addresses)


class _KeyIsEncrypted(Exception):
    """OpenSSL asked for a password."""


def load_chain(context: ssl.SSLContext, certificate: str, key: str, *, settings: tuple[str, str]) -> None:
    """Load a certificate with its key. Raises `ConfigError` that says what to do.

    `settings` is how errors call the two files.
    """
    for path, setting in zip((certificate, key), settings, strict=True):
        _check_readable(path, f"{setting} {path!r} can't be used")
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except _KeyIsEncrypted:
        raise ConfigError(
            f"{settings[1]} {key!r} is encrypted, and there is no password for it: write it without one"
            f" (openssl pkey -in {key} -out NEW), and keep it from others by its mode, 0600"
        ) from None
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(_why_no_chain(error, certificate, key, settings)) from error
    _check_blocks(certificate, f"{settings[0]} {certificate!r} can't be used")


def load_authorities(context: ssl.SSLContext, path: str, *, setting: str) -> None:
    """Trust the authorities of a PEM file. Raises `ConfigError` that begins with `setting` and the path."""
    subject = f"{setting} {path!r} can't be used"
    _check_readable(path, subject)
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{subject}: it holds no PEM certificate, or a damaged one ({_reason(error)})") from error
    _check_blocks(path, subject)
    if not context.get_ca_certs():
        raise ConfigError(
            f"{subject}: it holds no authority's certificate (CA:TRUE), but that of a node or client: give ca.pem"
        )


def authorities_end_s(context: ssl.SSLContext) -> float | None:
    """When the last of the authorities that a context trusts ends, in seconds since the epoch; None: there are none."""
    ends = [ssl.cert_time_to_seconds(str(found["notAfter"])) for found in context.get_ca_certs()]
    return max(ends, default=None)


def _refuse_password() -> str:
    raise _KeyIsEncrypted


def _check_readable(path: str, subject: str) -> None:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{subject}: {(error.strerror or str(error)).lower()}") from error
    if not data.strip():
        raise ConfigError(f"{subject}: the file is empty")
    if len(data) > FILE_LIMIT_BYTES:
        raise ConfigError(f"{subject}: it has more than {FILE_LIMIT_BYTES} bytes, and is no PEM file of certificates")


def _check_blocks(path: str, subject: str) -> None:
    """Check that OpenSSL has read all of a file. It passes over a block that does not begin and end as it should,
    without an error. Nodes of an authority that is missed so would be refused. Raises `ConfigError`.
    """
    begun = ""
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.startswith("#"):
            continue  # a certificate that an operator has commented out
        for edge in _EDGE.finditer(line):
            kind, what = edge.groups()
            if edge.start() or (begun != what if kind == "END" else begun):
                raise ConfigError(
                    f"{subject}: line {number} is out of place, so OpenSSL passes over a part of the file: each"
                    " certificate needs its BEGIN and its END, at the start of a line"
                )
            begun = what if kind == "BEGIN" else ""


def _why_no_chain(error: Exception, certificate: str, key: str, settings: tuple[str, str]) -> str:
    reason = _reason(error)
    of_certificate, of_key = settings
    if reason == "key values mismatch":
        return (
            f"{of_key} {key!r} is not the key of the first certificate in {certificate!r}: give the key that it was"
            " made with; in a chain the node's own certificate comes first, then its issuers"
        )
    if _BEGIN not in _text(certificate):
        return f"{of_certificate} {certificate!r} holds no PEM certificate, which begins with {_BEGIN}"
    if "PRIVATE KEY-----" not in _text(key):
        return f"{of_key} {key!r} holds no PEM private key, which begins with -----BEGIN PRIVATE KEY-----"
    for path, setting in ((certificate, of_certificate), (key, of_key)):
        if _text(path).count("-----BEGIN ") != _text(path).count("-----END "):
            return f"{setting} {path!r} can't be used: it is cut off; write it again, to its end"
    return f"{of_certificate} {certificate!r} with {of_key} {key!r} can't be used: {reason}"


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error)


def _text(path: str) -> str:
    try:
        with open(path, encoding="latin-1") as file:
            return file.read(FILE_LIMIT_BYTES)
    except OSError as error:
        return f"({error})"


def look_at_certificate(certificate: str, key: str, *, settings: tuple[str, str]) -> CertificateFacts:
    """What the first certificate of a file holds. Raises `ConfigError`."""
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(own, certificate, key, settings=settings)
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    shown.check_hostname = False
    load_chain(shown, certificate, key, settings=settings)
    first = _text(certificate)
    first = first[first.index(_BEGIN) : first.index(_END) + len(_END)] + "\n"
    for context in (own, shown):
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=first)
        _judge_alone(context, ssl.VERIFY_X509_PARTIAL_CHAIN)
    _, client, of_server, of_client = _handshake(own, shown)
    if of_server is not None:  # the handshake is over before the client shows its own
        _, _, _, of_client = _handshake(own, shown, trusting=True)
    found: Mapping[str, object] = (client.getpeercert() if of_server is None else None) or {}
    if not found and of_client is None:
        other, _, _, _ = _handshake(own, shown, trusting=True)
        found = other.getpeercert() or {}
    if not found:
        why = describe_tls_failure(of_server) if of_server is not None else "nothing is known of it"
        raise ConfigError(f"{settings[0]} {certificate!r} can't be used: {why}")
    return CertificateFacts(
        dns=dns_names(found),
        addresses=_names(found, "IP Address"),
        not_before_s=ssl.cert_time_to_seconds(str(found["notBefore"])),
        not_after_s=ssl.cert_time_to_seconds(str(found["notAfter"])),
        for_servers=of_server is None,
        for_clients=of_client is None,
    )


def check_issued_by(certificate: str, key: str, authority: str, *, settings: tuple[str, str, str]) -> None:
    """Check that an authority of a file has issued a certificate, whatever its dates and its use.

    Raises `ConfigError`.
    """
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(own, certificate, key, settings=settings[:2])
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    load_authorities(trusting, authority, setting=settings[2])
    _judge_alone(trusting, 0)
    _, _, error, _ = _handshake(own, trusting)
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code != _WRONG_PURPOSE:
        raise ConfigError(
            f"{settings[0]} {certificate!r} is not from the authority in {authority!r}"
            f" ({error.verify_message}): the other nodes, which trust that one, would refuse it"
        )


def _judge_alone(context: ssl.SSLContext, flags: int) -> None:
    context.verify_flags = ssl.VerifyFlags(int(context.verify_flags) | flags | _NO_CHECK_TIME)


def _handshake(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, *, trusting: bool = False
) -> tuple[ssl.SSLObject, ssl.SSLObject, ssl.SSLError | None, ssl.SSLError | None]:
    """A handshake in memory: both ends, what the client says against the server's certificate, and the other way.

    `trusting`: the client takes any certificate, so that the server gets to see the client's.
    """
    mode = client_context.verify_mode
    if trusting:
        client_context.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    client_context.verify_mode = mode
    failures: dict[ssl.SSLObject, ssl.SSLError] = {}
    for _ in range(_TURNS):
        for end in (client, server):
            if end in failures:
                continue
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                failures[end] = error
    return server, client, failures.get(client), failures.get(server)


def dns_names(certificate: Mapping[str, object]) -> tuple[str, ...]:
    """The DNS entries of a certificate's subjectAltName, as `ssl` returns it."""
    return _names(certificate, "DNS")


def _names(certificate: Mapping[str, object], kind: str) -> tuple[str, ...]:
    entries = certificate.get("subjectAltName", ())
    if not isinstance(entries, Sequence):
        return ()
    return tuple(str(entry[1]) for entry in entries if len(entry) == 2 and entry[0] == kind)
