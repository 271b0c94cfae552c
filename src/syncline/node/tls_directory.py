"""The files in a directory that `syncline certs` makes: one authority, and a certificate and key for each node.

DIR/ca.pem       the authority's certificate, on every node and client
DIR/ca.key       its key: where certificates are made, and nowhere else
DIR/NAME.pem     the certificate of the node or client NAME
DIR/NAME.key     its key
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["AUTHORITY", "authority_path", "certificate_path", "key_path", "tls_files"]

AUTHORITY: Final = "ca"
"""The authority's files have this name, so no node has it."""


def authority_path(directory: str) -> str:
    return certificate_path(directory, AUTHORITY)


def certificate_path(directory: str, name: str) -> str:
    return os.path.join(directory, f"{name}.pem")


def key_path(directory: str, name: str) -> str:
    return os.path.join(directory, f"{name}.key")


def tls_files(directory: str, name: str) -> dict[str, str]:
    """The settings of the node called `name` that stand for the directory's files."""
    certificate, key = certificate_path(directory, name), key_path(directory, name)
    authority = authority_path(directory)
    return {
        "http_tls_cert": certificate,
        "http_tls_key": key,
        "peer_tls_cert": certificate,
        "peer_tls_key": key,
        "peer_tls_ca": authority,
        "join_tls_ca": authority,
    }
