"""TLS of a client: the contexts for its endpoints, and in words why a server can't be reached by it."""

from __future__ import annotations

import ssl
from typing import Final

from syncline.errors import ConfigError
from syncline.platform.certificates import load_authorities, load_chain
from syncline.platform.tls import NotTls, describe_tls_failure

__all__ = ["describe_failure", "trusting_context"]

_UNTRUSTED: Final = "is not trusted"
_WRONG_NAME: Final = "has another name"


def trusting_context(
    authority: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
    *,
    settings: tuple[str, str, str],
) -> ssl.SSLContext:
    """A context that trusts a file's authorities (else the system's), and shows a certificate if there is one.

    `settings` names the three files in errors. Raises `ConfigError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authority:
        load_authorities(context, authority, setting=settings[0])
    else:
        context.load_default_certs()
    if bool(certificate) != bool(key):
        raise ConfigError(f"{settings[1]} and {settings[2]} go together")
    if certificate and key:
        load_chain(context, certificate, key, settings=settings[1:])
    return context


def describe_failure(error: ssl.SSLError, host: str) -> str:
    """Describe why TLS with a server failed, and what to do."""
    if isinstance(error, NotTls):
        return "it does not speak TLS on this port: use http:// in the endpoint"
    told = describe_tls_failure(error, authority="the authorities that this client trusts")
    if isinstance(error, ssl.SSLCertVerificationError):
        if _UNTRUSTED in told:
            return (
                f"{told}; give its authority with --cacert FILE (SYNCLINE_CACERT), --join-tls-ca or AsyncClient(tls=…)"
            )
        if _WRONG_NAME in told:
            return f"{told}; use a name that the certificate has, or have it issued with --host {host}"
        return told
    if "asks for a certificate" in told:
        return f"{told}; give one with --cert FILE and --key-file FILE, or AsyncClient(tls=…)"
    return told
