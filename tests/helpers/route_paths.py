"""Paths of requests for the patterns that the router declares."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

__all__ = ["BY_QUERY", "path_of"]

BY_QUERY: Final = frozenset({"/key", "/touch"})
"""Patterns of routes that take the key as a parameter."""


def path_of(pattern: str, argument: bytes = b"a", *, safe: str = "") -> str:
    """The path, with a query if the pattern needs one. `safe`: what of the argument is not percent-encoded."""
    fixed, brace, rest = pattern.partition("{")
    if pattern in BY_QUERY:
        return f"{pattern}?key={quote(argument, safe='')}"
    return fixed + (quote(argument, safe=safe) + rest.partition("}")[2] if brace else "")
