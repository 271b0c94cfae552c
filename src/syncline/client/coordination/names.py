"""Names and numbers that callers pass to the words, and the keys that are made of them."""

from __future__ import annotations

import math
from typing import Final

from syncline.client.arguments import LEAST_TTL_S, checked_limit, checked_timeout_s, checked_ttl_s, to_bytes
from syncline.errors import ConfigError

__all__ = ["checked_number_of", "checked_wait_s", "lease_in_key", "needed_ttl_s", "shown", "word_key"]

LEASE_BYTES: Final = 17
"""A slash and 16 hexadecimal digits."""
_HEX: Final = frozenset(b"0123456789abcdef")


def word_key(word: bytes, name: object, what: str, *, room: int = LEASE_BYTES) -> bytes:
    """The key `word/NAME`. `room`: how many bytes are added to it later.

    Raises:
        TypeError: the name is neither bytes nor text.
        ConfigError: no key can have it.
    """
    key = word + b"/" + to_bytes(name, f"the name of {what}")
    if len(key) == len(word) + 1:
        raise ConfigError(f"the name of {what} is empty")
    from syncline.kv.limits import MAX_KEY_BYTES  # a client that uses no word loads nothing of the store

    most = MAX_KEY_BYTES - room - len(word) - 1
    if len(key) - len(word) - 1 > most:
        raise ConfigError(f"the name of {what} has {len(key) - len(word) - 1} bytes: at most {most} fit into its key")
    return key


def needed_ttl_s(ttl: object, what: str) -> float:
    """Return a TTL in seconds. Raises `TypeError`, or `ConfigError` for one that no lease can have, and for none."""
    if ttl is None or (ttl == 0 and not isinstance(ttl, bool)):
        raise ConfigError(
            f"{what} needs a TTL: without one it would never be free again after a crash. "
            f"Give ttl= the seconds after which it is to be free ({LEAST_TTL_S:g} or more)"
        )
    return checked_ttl_s(ttl)


def checked_wait_s(wait: object, what: str = "wait") -> float | None:
    """Return how long to wait, in seconds: None without a limit, 0 for one try. Raises `TypeError`, `ConfigError`."""
    if wait is None:
        return None
    if isinstance(wait, bool) or not isinstance(wait, int | float):
        raise TypeError(f"{what} must be a number of seconds or None, not {type(wait).__name__}")
    if wait == 0:
        return 0.0
    if isinstance(wait, float) and math.isinf(wait) and wait > 0:
        raise ConfigError(f"{what} is inf: give None to wait without a limit")
    return checked_timeout_s(wait, what)


def checked_number_of(value: object, what: str) -> int:
    """Return how many there are, 1 or more. Raises `TypeError`, or `ConfigError`."""
    return checked_limit(value, what)


def lease_in_key(key: bytes, prefix: bytes) -> int | None:
    """The lease's id in a key of the form `prefix` and hexadecimal digits; None if the key has another form.

    etcd's clients leave zeros at the beginning of the digits out.
    """
    digits = key[len(prefix) :]
    if not key.startswith(prefix) or not 0 < len(digits) < LEASE_BYTES or not _HEX.issuperset(digits):
        return None
    return int(digits, 16)


def shown(key: bytes) -> str:
    """A key in the text of an error."""
    text = key.decode(errors="backslashreplace")
    return text if len(text) <= 200 and text.isprintable() else repr(text[:200])
