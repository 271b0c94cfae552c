"""The errors that a decoder raises for bytes from a peer, a client or a file.

msgspec raises its own errors for wrong types, and `UnicodeDecodeError` for invalid text. Arrays nested some hundred
levels deep raise `RecursionError`, also in fields that a struct does not have. Each place that decodes foreign bytes
catches all three: an uncaught `RecursionError` would stop the node.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["UNDECODABLE", "json_fault"]

UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Catch these around each decode of bytes that come from a peer, a client or a file."""

_TRUNCATED: Final = "truncated"


def json_fault(error: Exception, document: bytes) -> str:
    """The text of an error of `UNDECODABLE` for this JSON document.

    msgspec takes a lone surrogate near the end of a document for the begin of a pair, and calls the document truncated.
    """
    if _TRUNCATED in str(error) and _is_whole(document):
        return "JSON is malformed: a surrogate without its other half (\\ud800 to \\udfff) is no character"
    return str(error)


def _is_whole(document: bytes) -> bool:
    """Whether it is one JSON document for Python's decoder, which takes surrogates as they are."""
    import json  # few need it, and the command starts without it

    try:
        json.loads(document, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        return False
    return True
