"""The errors that a decoder raises for bytes from a peer, a client or a file.

msgspec raises its own errors for wrong types, and `UnicodeDecodeError` for invalid text. Arrays nested some hundred
levels deep raise `RecursionError`, also in fields that a struct does not have. Each place that decodes foreign bytes
catches all three: an uncaught `RecursionError` would stop the node.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["UNDECODABLE"]

UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Catch these around each decode of bytes that come from a peer, a client or a file."""
