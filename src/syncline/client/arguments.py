"""Checks of what callers pass to the client, before anything is sent.

A wrong type is a `TypeError`, a value that can never be carried out a `ConfigError`. Without these checks `bytes(5)`
would store five NUL bytes, and a time of 0 or NaN would fail late or never.
"""

from __future__ import annotations

import math
from typing import Final

from syncline.errors import ConfigError

__all__ = [
    "checked_consistency",
    "checked_limit",
    "checked_revision",
    "checked_text",
    "checked_timeout_s",
    "duration_text",
    "to_bytes",
]

CONSISTENCIES: Final = ("linearizable", "leader", "stale")


def to_bytes(value: object, what: str) -> bytes:
    """Return a key or value as bytes; text as its UTF-8.

    Raises:
        TypeError: it is neither bytes-like nor text.
        ConfigError: the text has a lone surrogate, so it has no UTF-8 form.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{what} {value[:40]!r} can't be encoded as UTF-8 (lone surrogate at {error.start}): give bytes instead"
            ) from error
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"{what} must be bytes or str, not {type(value).__name__}")


def checked_text(value: object, what: str) -> str:
    """Return a text that has a UTF-8 form. Raises `TypeError`, or `ConfigError` for a lone surrogate."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} {value[:40]!r} has no UTF-8 form (lone surrogate at {error.start})") from error
    return value


def checked_consistency(value: object) -> str:
    """Return the consistency of a read. Raises `TypeError`, or `ConfigError` if there is no such."""
    if checked_text(value, "consistency") not in CONSISTENCIES:
        raise ConfigError(f"consistency is {value!r}: accepted are {', '.join(CONSISTENCIES)}")
    return str(value)


def checked_limit(value: object, what: str) -> int:
    """Return a number of keys. Raises `TypeError`, or `ConfigError` if it is below 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ConfigError(f"{what} is {value}: it must be at least 1")
    return value


def checked_timeout_s(value: object, what: str = "timeout") -> float:
    """Return a time in seconds as a float. Raises `TypeError`, or `ConfigError` if it is not positive and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ConfigError(f"{what} is {value!r}: it must be a positive number of seconds")
    return float(value)


def checked_revision(value: object, what: str, lowest: int) -> int:
    """Return a revision. Raises `TypeError`, or `ConfigError` if it is below `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a revision (int), not {type(value).__name__}")
    if value < lowest:
        raise ConfigError(f"{what} is {value}: a revision is {lowest} or more here")
    return value


def duration_text(seconds: float) -> str:
    """A time in seconds as the server reads it: to a microsecond, and never rounded down to 0."""
    return f"{max(seconds, 1e-6):.6f}".rstrip("0").rstrip(".")
