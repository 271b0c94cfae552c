"""Mutual TLS between nodes: both ends show a certificate of the cluster's own authority, and it names the node."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from syncline.consensus.types import NodeId
from syncline.errors import ConfigError, HandshakeRefused
from syncline.platform.certificates import (
    CertificateFacts,
    authorities_end_s,
    check_issued_by,
    dns_names,
    load_authorities,
    load_chain,
    look_at_certificate,
)
from syncline.platform.live_certificate import LiveCertificate, LoadedCertificate
from syncline.platform.tls import NotTls, describe_tls_failure
from syncline.transport.handshake import describe_stranger

__all__ = [
    "PeerTls",
    "check_certificate_names",
    "client_context",
    "describe_failure",
    "names_node",
    "peer_certificate",
    "server_context",
]

SETTINGS: Final = ("peer TLS: certificate", "peer TLS: key", "peer TLS: authority")
"""How errors about the files begin."""


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
    load_chain(context, settings.certificate, settings.key, settings=SETTINGS[:2])
    load_authorities(context, settings.authority, setting=SETTINGS[2])
    return context


def peer_certificate(settings: PeerTls, node_id: NodeId, name: str) -> LiveCertificate:
    """The certificate of a node, for both ends of its connections with peers. Raises `ConfigError`.

    `name` is the node's own; if it is empty, nothing but the files is checked.
    """

    def load() -> LoadedCertificate:
        server, client = server_context(settings), client_context(settings)
        facts = look_at_certificate(settings.certificate, settings.key, settings=SETTINGS[:2])
        if name:
            _check_own(settings, facts, node_id, name)
        return LoadedCertificate(facts, server, client, authorities_end_s(client))

    return LiveCertificate("peers", (settings.certificate, settings.key, settings.authority), load)


def _check_own(settings: PeerTls, facts: CertificateFacts, node_id: NodeId, name: str) -> None:
    """Raise `ConfigError` for a certificate that all peers would refuse."""
    subject = f"{SETTINGS[0]} {settings.certificate!r}"
    check_issued_by(settings.certificate, settings.key, settings.authority, settings=SETTINGS)
    if not names_node(facts.dns, node_id, name):
        shown = ", ".join(facts.dns) or "no name at all"
        raise ConfigError(f"{subject} names {shown}, and not this node: it needs the subjectAltName DNS:{name}")
    for serves, usage in ((facts.for_servers, "serverAuth"), (facts.for_clients, "clientAuth")):
        if not serves:
            raise ConfigError(
                f"{subject} is not for {usage}: a node dials its peers and is dialled by them, so its extendedKeyUsage"
                " must be serverAuth and clientAuth, or absent"
            )


def check_certificate_names(certificate: Mapping[str, object] | None, node_id: NodeId, name: str = "") -> None:
    """Check that the peer's verified certificate (as `ssl` returns it) names `node_id`, by its id or by `name`.

    `name` is the node's name in the cluster if it is known, never one that the peer alone claims. Raises
    `HandshakeRefused`.
    """
    found = dns_names(certificate or {})
    if names_node(found, node_id, name):
        return
    shown = ", ".join(found) or "no name at all"
    called = f"{name} ({node_name(node_id)})" if name else node_name(node_id)
    raise HandshakeRefused(
        f"its certificate names {shown}, not node {called}: issue one with the subjectAltName DNS:"
        f"{name.lower() or node_name(node_id)}"
    )


def describe_failure(error: ssl.SSLError) -> str:
    """Describe why TLS with a peer failed, and the next step."""
    if isinstance(error, NotTls):
        return f"no TLS: {describe_stranger(error.received)}"
    return describe_tls_failure(error, authority="the authorities for peers (peer_tls_ca)")


def names_node(entries: Sequence[str], node_id: NodeId, name: str) -> bool:
    """Whether DNS entries of a certificate name a node, by its id or by `name` (empty: not known)."""
    expected = [node_name(node_id), *([name.lower()] if name else [])]
    return any(entry.lower() == one or entry.lower().startswith(f"{one}.") for entry in entries for one in expected)
