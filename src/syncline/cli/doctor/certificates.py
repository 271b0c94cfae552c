"""Checks of the node's certificates: whether they can be used, and for how long."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from typing import Final

from syncline.cli.doctor.finding import Finding
from syncline.errors import ConfigError
from syncline.platform.certificates import (
    authorities_end_s,
    check_issued_by,
    load_authorities,
    look_at_certificate,
)
from syncline.platform.live_certificate import WARN_DAYS, why_not_now
from syncline.server.config import ServerConfig

__all__ = ["check_certificates"]

ADVICE: Final = "Renew it: `syncline certs node NAME --replace`, or docs/tls.md. A running node takes the new file"

DAY_S: Final = 86_400.0


def check_certificates(config: ServerConfig, now_s: float | None = None) -> Iterator[Finding]:
    """Whether the certificates and authorities in the settings are valid, and for 30 more days.

    A node with an expired certificate starts, and others refuse it. `now_s` is the time by which dates are judged, in
    seconds since the epoch; None: the machine's.
    """
    now_s = time.time() if now_s is None else now_s
    if config.http_tls_cert and config.http_tls_key:
        yield _check("http", config.http_tls_cert, config.http_tls_key, config.http_tls_ca or "", now_s)
    if config.peer_tls_cert and config.peer_tls_key:
        yield _check("peer", config.peer_tls_cert, config.peer_tls_key, config.peer_tls_ca or "", now_s)


def _check(port: str, certificate: str, key: str, authority: str, now_s: float) -> Finding:
    settings = (f"{port}_tls_cert", f"{port}_tls_key", f"{port}_tls_ca")
    try:
        facts = look_at_certificate(certificate, key, settings=settings[:2])
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if authority:
            load_authorities(trusting, authority, setting=settings[2])
            if port == "peer":  # the authorities of clients issue no certificate for nodes
                check_issued_by(certificate, key, authority, settings=settings)
    except ConfigError as error:
        return Finding("certificates", "fail", str(error), "docs/tls.md says what the files must hold")
    subject = f"{settings[0]} {certificate}"
    fault = why_not_now(facts, now_s)
    if fault:
        return Finding("certificates", "fail", f"{subject} {fault}: others refuse it", ADVICE)
    authority_ends_s = authorities_end_s(trusting)
    if authority_ends_s is not None and authority_ends_s < facts.not_after_s:
        days = (authority_ends_s - now_s) / DAY_S
        line, advice = f"{settings[2]} {authority} ends in {days:.0f} days", "Make a new authority: docs/tls.md"
    else:
        days = (facts.not_after_s - now_s) / DAY_S
        line, advice = f"{subject} ends in {days:.0f} days", ADVICE
    if days > WARN_DAYS:
        return Finding("certificates", "ok", line)
    return Finding("certificates", "warn", line, advice)
