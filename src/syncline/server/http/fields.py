"""Refuse request fields that would change what a request means, and that this server does not carry out.

A body with `Content-Encoding` would be stored as it came and read as if it were plain; a `Content-Range` would replace
a value by a part of it. RFC 9110 lets a server refuse both (8.4, 14.5). None of these fields is ignored.

Requests with such a field never take the header cache (`shortcuts.py`): the cache asks `UNUSUAL_FIELDS`. So the checks
cost a request by the cache nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from syncline.server.api.errors import RequestError

__all__ = ["CONDITIONAL_FIELDS", "SAFE_METHODS", "UNUSUAL_FIELDS", "check_fields", "check_unconditional", "is_host"]

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110, 9.2.1)."""

_OVERRIDES: Final = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})
"""Fields by which some frameworks let a POST stand for another method."""

_DATES: Final = frozenset({b"if-unmodified-since", b"if-range"})
"""Conditions that no answer of this server gives a value for: there is no Last-Modified."""

_BODIES: Final = frozenset({b"content-encoding", b"content-range"})

_BROWSERS: Final = frozenset({b"origin", b"sec-fetch-site", b"access-control-request-method"})
"""Fields that browsers add to requests of web pages: see `cross_site.py`."""

UNUSUAL_FIELDS: Final = _OVERRIDES | _DATES | _BODIES | _BROWSERS
"""A header with one of these is looked at in full for each request."""

CONDITIONAL_FIELDS: Final = frozenset({b"if-match", b"if-none-match", b"idempotency-key"})
"""Fields that change what a write does. Each route applies them, or refuses them."""

_HOST: Final = re.compile(
    rb"(?:(?:\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]*)?)?"
)
"""RFC 9110, 7.2 and 4.2.1, and RFC 3986, 3.2.2: no port without a host."""


def is_host(value: bytes) -> bool:
    """Whether a `Host` field has the form that RFC 9110 (7.2) requires; it may be empty."""
    return _HOST.fullmatch(value) is not None


def check_fields(method: str, headers: Mapping[bytes, bytes]) -> None:
    """Raise `RequestError` if a field changes what a request means in a way that is not carried out here."""
    if method in SAFE_METHODS or UNUSUAL_FIELDS.isdisjoint(headers):
        return
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
        raise RequestError(
            "a body with Content-Encoding is not decoded here: send it as it is; nothing was done",
            status=415,
            code="unsupported_media_type",
            fields=b"Accept-Encoding: identity\r\n",
        )
    if b"content-range" in headers:
        raise RequestError("Content-Range is not supported: a value is always written as a whole; nothing was done")
    for name in _DATES | _OVERRIDES:
        if name in headers:
            hint = "give If-Match with the ETag" if name in _DATES else "send the request with the method itself"
            raise RequestError(f"{_shown(name)} is not supported: {hint}; nothing was done")


def check_unconditional(
    headers: Mapping[bytes, bytes], where: str, refused: frozenset[bytes] = CONDITIONAL_FIELDS
) -> None:
    """Raise `RequestError` if a request has one of the conditional fields that its route does not know."""
    if refused.isdisjoint(headers):
        return
    name = min(refused.intersection(headers))
    hint = "; a transaction's conditions are its compares" if where == "/txn" else ""
    raise RequestError(f"{_shown(name)} has no meaning for {where}{hint}; nothing was done")


def _shown(name: bytes) -> str:
    return name.decode("ascii").title().replace("Http", "HTTP")
