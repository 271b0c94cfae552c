"""Mutual TLS between nodes: both ends show a certificate of the cluster's own authority, and it names the node."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence

import msgspec

from syncline.consensus.types import NodeId
from syncline.errors import ConfigError, HandshakeRefused

__all__ = ["PeerTls", "check_certificate_names", "client_context", "server_context"]


class PeerTls(msgspec.Struct, frozen=True, kw_only=True):
    """The files (PEM) of one node.

    The certificate must serve both as a server's and as a client's, and carry a DNS entry in its subjectAltName that
    names the node: by its name in the cluster, or by its id as 16 hex digits. The entry is the name alone, or has it
    as the first part (DNS:a, DNS:a.db.example). Hosts and addresses are not checked.
    """

    certificate: str
    key: str
    authority: str


def node_name(node_id: NodeId) -> str:
    """The name by which a certificate names a node."""
    return f"{node_id:016x}"


def server_context(settings: PeerTls) -> ssl.SSLContext:
    """TLS context for incoming connections: a client certificate is required."""
    return _context(settings, ssl.PROTOCOL_TLS_SERVER)


def client_context(settings: PeerTls) -> ssl.SSLContext:
    """TLS context for outgoing connections. The host name is not checked; `check_certificate_names` checks the node."""
    return _context(settings, ssl.PROTOCOL_TLS_CLIENT)


def _context(settings: PeerTls, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"peer TLS: certificate {settings.certificate!r} with key {settings.key!r} can't be used: {error}"
        ) from error
    try:
        context.load_verify_locations(settings.authority)
    except OSError as error:
        raise ConfigError(f"peer TLS: authority {settings.authority!r} can't be used: {error}") from error
    return context


def check_certificate_names(certificate: Mapping[str, object] | None, node_id: NodeId, name: str = "") -> None:
    """Check that the peer's verified certificate (as `ssl` returns it) names `node_id`, by its id or by `name`.

    `name` is the node's name in the cluster if it is known, never one that the peer alone claims. Raises
    `HandshakeRefused`.
    """
    expected = [node_name(node_id), *([name.lower()] if name else [])]
    found = _dns_names(certificate or {})
    for entry in found:
        if any(entry.lower() == one or entry.lower().startswith(f"{one}.") for one in expected):
            return
    shown = ", ".join(found) or "no name at all"
    called = f"{name} ({expected[0]})" if name else expected[0]
    raise HandshakeRefused(
        f"its certificate names {shown}, not node {called}: issue one with the subjectAltName DNS:{expected[-1]}"
    )


def _dns_names(certificate: Mapping[str, object]) -> list[str]:
    entries = certificate.get("subjectAltName", ())
    if not isinstance(entries, Sequence):
        return []
    return [str(entry[1]) for entry in entries if len(entry) == 2 and entry[0] == "DNS"]
