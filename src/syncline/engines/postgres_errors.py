"""Errors of PostgreSQL, as a `LogBackend` tells them."""

from __future__ import annotations

import re
from typing import Any, Final

from syncline.engines.backend import BackendFull, BackendLost
from syncline.errors import ConfigError

__all__ = ["connecting_failed", "query_failed"]

_REFUSED: Final = re.compile(
    r"authentication failed|does not exist|pg_hba\.conf|no password supplied|role .* is not permitted"
    r"|invalid (?:URI|connection option|port|integer|\w+ value)|missing key/value|root certificate"
    r"|certificate verify failed|certificate for .* does not match|certificate file|private key file"
    r"|does not support SSL|SSL required|unrecognized configuration parameter|invalid value for parameter"
    r"|Servname not supported"
    r"|unsupported startup parameter|no such (?:database|user)"  # PgBouncer's words, as "SSL required"
)
"""In a failed connection: another attempt fails likewise."""

_FULL: Final = ("53100",)
_DENIED: Final = ("42", "28", "3D")
"""Classes of errors: no privilege, no database, or tables that another program has made, changed or removed."""

_HINTS: Final = {
    "42501": "the first open needs CREATE on the schema, all others SELECT, INSERT, UPDATE and DELETE on the tables",
    "42P01": "the tables were removed, or are in another schema than the first of the search_path",
    "42703": "another program has made or changed the tables",
}
"""What to do about some errors, by their code."""

_NO_OPTIONS: Final = "unsupported startup parameter: options"
_NO_TRANSACTIONS: Final = "transaction blocks not allowed"

_SENT: Final = ("08", "57", "XX", "58")
"""Classes of errors after which a statement may have been committed: the connection or the server ended."""


def connecting_failed(name: str, error: Any) -> Exception:
    """No connection: a `ConfigError` if the server refuses it for good."""
    text = _text(error)
    if _REFUSED.search(text):
        hint = ": write no options in the URL, or ignore them in PgBouncer" if _NO_OPTIONS in text else ""
        return ConfigError(f"{name}: {text}{hint}")
    return BackendLost(f"{name}: {text}", sent=False)


def query_failed(name: str, error: Any) -> Exception:
    """A statement failed. Each is a transaction, or the end of one: an error that the server reports has undone it."""
    text, code = _text(error), error.sqlstate or ""
    if code in _FULL:
        return BackendFull(f"{name}: {text}")
    if _NO_TRANSACTIONS in text:  # PgBouncer: no snapshot could ever be stored
        return ConfigError(f"{name}: {text}: set pool_mode to transaction or session (docs/engines.md)")
    if code[:2] in _DENIED:
        hint = f": {_HINTS[code]} (docs/engines.md)" if code in _HINTS else ""
        return ConfigError(f"{name}: {text}{hint}")
    return BackendLost(f"{name}: {text}", sent=not code or code[:2] in _SENT)


def _text(error: Any) -> str:
    said = error.diag.message_primary or str(error)  # without the statement, which is none of the reader's
    return " ".join(said.split()) or type(error).__name__
