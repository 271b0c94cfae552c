"""Checks of what callers pass to the client, before anything is sent.

A wrong type is a `TypeError`, a value that can never be carried out a `ConfigError`. Without these checks `bytes(5)`
would store five NUL bytes, and a time of 0 or NaN would fail late or never.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from syncline.errors import ConfigError
from syncline.platform.times import checked_timeout_s

__all__ = [
    "checked_consistency",
    "checked_count",
    "checked_flag",
    "checked_items",
    "checked_limit",
    "checked_mapping",
    "checked_number",
    "checked_revision",
    "checked_text",
    "checked_timeout_s",
    "checked_ttl_s",
    "duration_text",
    "lease_text",
    "to_bytes",
    "to_key",
]

Item = TypeVar("Item")

CONSISTENCIES: Final = ("linearizable", "leader", "stale")
LEASE_DIGITS: Final = 16
LEAST_TTL_S: Final = 2.0
LONGEST_TTL_S: Final = 9_000_000_000.0
"""The server's limits."""
_HEX: Final = frozenset("0123456789abcdef")


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


def checked_count(value: object, what: str) -> int:
    """Return a number of keys, 0 included. Raises `TypeError`, or `ConfigError` if it is negative."""
    if checked_number(value, what) < 0:
        raise ConfigError(f"{what} is {value}: it must be 0 or more")
    assert isinstance(value, int)
    return value


def checked_number(value: object, what: str) -> int:
    """Return a whole number. Raises `TypeError`, or `ConfigError` if it needs more than 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if not -(2**63) <= value < 2**63:
        raise ConfigError(f"{what} needs more than 64 bits: expected -2**63 .. 2**63 - 1")
    return value


def checked_flag(value: object, what: str) -> bool:
    """Return a flag. Raises `TypeError` for anything but True and False."""
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be a bool, not {type(value).__name__}")
    return value


def checked_items(value: Iterable[Item], what: str) -> list[Item]:
    """Return the items of a collection. Raises `TypeError` for one text, for bytes, and for what has no items."""
    given: object = value
    if isinstance(given, str | bytes | bytearray | memoryview) or not isinstance(given, Iterable):
        raise TypeError(f"{what} must be a collection, such as a list, not {type(given).__name__}")
    return list(value)


def checked_mapping(value: object, what: str) -> dict[object, object]:
    """Return a mapping. Raises `TypeError` for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a mapping, such as a dict, not {type(value).__name__}")
    return dict(value)


def lease_text(value: object, what: str = "lease") -> str:
    """Return the 16 hexadecimal digits of a lease's id, given as these digits or as a number.

    Raises:
        TypeError: it is neither text nor a number.
        ConfigError: it is no id of a lease.
    """
    if isinstance(value, str):
        if len(value) != LEASE_DIGITS or not _HEX.issuperset(value):
            raise ConfigError(f"{what} is {value[:40]!r}: expected 16 hexadecimal digits, in lower case")
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a str or an int, not {type(value).__name__}")
    if not 0 <= value < 2**63:
        raise ConfigError(f"{what} is {value}: expected 0 .. 2**63 - 1")
    return f"{value:016x}"


def checked_ttl_s(value: object, what: str = "ttl") -> float:
    """Return a time to live in seconds. Raises `TypeError`, or `ConfigError` if no lease can have it."""
    ttl_s = checked_timeout_s(value, what)
    if not LEAST_TTL_S <= ttl_s <= LONGEST_TTL_S:
        raise ConfigError(f"{what} is {value!r}: it must be from {LEAST_TTL_S:g} to {LONGEST_TTL_S:.0f} seconds")
    return ttl_s


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


def to_key(value: object, what: str = "key") -> bytes:
    """Return a key as bytes, as `to_bytes` does.

    Raises:
        TypeError: it is neither bytes-like nor text.
        ConfigError: it is empty, or has no UTF-8 form.
    """
    key = to_bytes(value, what)
    if not key:
        raise ConfigError(f"{what} is empty: a key has at least 1 byte")
    return key
