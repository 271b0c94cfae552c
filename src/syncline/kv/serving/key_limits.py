"""Limits of keys and values that a server, or a store in a program, sets below those of the machine."""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.errors import RequestFailed, TooLarge

__all__ = ["DEFAULT_MAX_KEY_BYTES", "DEFAULT_MAX_VALUE_BYTES", "KeyLimits", "bad_request"]

DEFAULT_MAX_KEY_BYTES: Final = 1024
DEFAULT_MAX_VALUE_BYTES: Final = 3 * 1024 * 1024 // 2
"""etcd's limit of a request: data of an etcd fits."""


def bad_request(message: str) -> RequestFailed:
    """The error for what no node would carry out, as it is asked."""
    return RequestFailed(message, code="bad_request", status=400)


class KeyLimits(msgspec.Struct, frozen=True):
    """The largest key and value, in bytes. `where`, in the methods, names the place in errors."""

    max_key_bytes: int = DEFAULT_MAX_KEY_BYTES
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES

    def check_key(self, key: bytes, where: str) -> None:
        """Raise `RequestFailed` (`bad_request`) for an empty key, `TooLarge` for one above the limit."""
        if not key:
            raise bad_request(f"{where}: the key is empty")
        if len(key) > self.max_key_bytes:
            raise TooLarge(f"{where}: the key has {len(key)} bytes; the limit is {self.max_key_bytes}")

    def check_value(self, value: bytes, where: str) -> None:
        """Raise `TooLarge` for a value above the limit."""
        if len(value) > self.max_value_bytes:
            raise TooLarge(f"{where}: the value has {len(value)} bytes; the limit is {self.max_value_bytes}")

    def check_bound(self, bound: bytes, name: str, where: str) -> None:
        """Raise `TooLarge` for the bound of a range above the limit."""
        # A range may start just after the longest key: that key and a zero byte.
        if len(bound) > self.max_key_bytes + 1:
            raise TooLarge(f"{where}: {name!r} has {len(bound)} bytes; the limit is {self.max_key_bytes + 1}")
