"""Errors of PostgreSQL, as a `LogBackend` tells them."""

from __future__ import annotations

import re
from typing import Any, Final

from syncline.engines.backend import BackendFull, BackendLost
from syncline.errors import ConfigError

__all__ = ["connecting_failed", "query_failed"]

_REFUSED: Final = re.compile(
    r"authentication failed|does not exist|pg_hba\.conf|no password supplied|role .* is not permitted"
    r"|invalid (?:URI|connection option|port|integer)|missing key/value|root certificate|certificate verify failed"
)
"""In a failed connection: another attempt fails likewise."""

_FULL: Final = ("53100",)
_DENIED: Final = ("42", "28", "3D")
"""Classes of errors: no privilege, no database, or tables that another program has made, changed or removed."""

_SENT: Final = ("08", "57", "XX", "58")
"""Classes of errors after which a statement may have been committed: the connection or the server ended."""


def connecting_failed(name: str, error: Any) -> Exception:
    """No connection: a `ConfigError` if the server refuses it for good."""
    text = _text(error)
    if _REFUSED.search(text):
        return ConfigError(f"{name}: {text}")
    return BackendLost(f"{name}: {text}", sent=False)


def query_failed(name: str, error: Any) -> Exception:
    """A statement failed. Each is a transaction, or the end of one: an error that the server reports has undone it."""
    text, code = _text(error), error.sqlstate or ""
    if code in _FULL:
        return BackendFull(f"{name}: {text}")
    if code[:2] in _DENIED:
        return ConfigError(f"{name}: {text}")
    return BackendLost(f"{name}: {text}", sent=not code or code[:2] in _SENT)


def _text(error: Any) -> str:
    said = error.diag.message_primary or str(error)  # without the statement, which is none of the reader's
    return " ".join(said.split()) or type(error).__name__
