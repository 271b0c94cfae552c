"""What stands under a key of the cache: a number in decimal digits, or a mark and what the serializer has made."""

from __future__ import annotations

import re
import struct
from typing import Final, Protocol, runtime_checkable

import msgspec
from django.core.cache.backends.redis import RedisSerializer
from django.utils.module_loading import import_string

from syncline.errors import ConfigError
from syncline.platform.texts import encode_exact_json

__all__ = ["CacheSerializer", "CachedValue", "JsonSerializer", "decode_value", "encode_value", "serializer_of"]

PLAIN: Final = 1
TIMED: Final = 2
"""The mark of a value that ends by the reader's clock: no lease is as short."""

_NUMBER: Final = re.compile(rb"-?[0-9]{1,19}\Z")
"""As many digits as a sum has that the servers make: 64 bits with a sign."""

_DEADLINE: Final = struct.Struct(">Bd")


@runtime_checkable
class CacheSerializer(Protocol):
    """Writes values, and reads them."""

    def dumps(self, value: object, /) -> bytes | int: ...

    def loads(self, data: bytes, /) -> object: ...


class JsonSerializer:
    """Values that JSON can carry: `OPTIONS = {"serializer": "syncline.contrib.django.JsonSerializer"}`.

    A tuple comes back as a list. What stands in the store can't run code of its own, as a pickle can.
    """

    def dumps(self, value: object, /) -> bytes:
        """Raises `TypeError` for a value that JSON can't carry."""
        data = encode_exact_json(value)
        _check_plain(value)  # it is no cycle: that was found
        return data

    def loads(self, data: bytes, /) -> object:
        """Raises `msgspec.DecodeError` for what is no JSON."""
        return msgspec.json.decode(data)


def _check_plain(value: object) -> None:
    """Raise `TypeError` for what would be read as another type: msgspec writes bytes as text, sets as lists."""
    if isinstance(value, dict):
        for item in value.values():
            _check_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item)
    elif value is not None and not isinstance(value, str | int | float):
        raise TypeError(f"JSON has no {type(value).__name__}: it would be read as another type")


class CachedValue(msgspec.Struct, frozen=True):
    """A value as it was read. `deadline_s`: when it ends, by the wall clock; None: the store ends it."""

    value: object
    deadline_s: float | None = None


def serializer_of(given: object) -> CacheSerializer:
    """The serializer of `OPTIONS`: a path, a class or an object. Without one Django's own, which pickles.

    Raises:
        ConfigError: there is none of this path, or it has no `dumps` and `loads`.
    """
    try:
        made = import_string(given) if isinstance(given, str) else given
    except ImportError as error:
        raise ConfigError(f"the cache's serializer {given!r} can't be imported: {error}") from error
    if made is None:
        made = RedisSerializer
    if isinstance(made, type):
        made = made()
    if not isinstance(made, CacheSerializer):
        raise ConfigError(f"the cache's serializer {given!r} has no dumps and loads")
    return made


def encode_value(value: object, serializer: CacheSerializer, deadline_s: float | None = None) -> bytes:
    """The bytes of a value. Numbers stay digits, so that the servers can add to them."""
    digits = str(value).encode() if type(value) is int else b""
    if deadline_s is None and _NUMBER.match(digits):
        return digits
    made = serializer.dumps(value)
    data = made if isinstance(made, bytes) else str(made).encode()
    return bytes([PLAIN]) + data if deadline_s is None else _DEADLINE.pack(TIMED, deadline_s) + data


def decode_value(data: bytes, serializer: CacheSerializer) -> CachedValue:
    """The value of what `encode_value` has made.

    Raises:
        ValueError: it has not made this.
    """
    if _NUMBER.match(data):
        return CachedValue(int(data))
    if data[:1] == bytes([PLAIN]):
        return CachedValue(serializer.loads(data[1:]))
    if data[:1] == bytes([TIMED]) and len(data) >= _DEADLINE.size:
        return CachedValue(serializer.loads(data[_DEADLINE.size :]), _DEADLINE.unpack_from(data)[1])
    raise ValueError("a key of the cache holds what the cache has not written")
