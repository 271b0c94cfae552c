"""MessagePack documents of requests: that no map has one member twice.

The decoder takes the last of two members with one name, as with JSON (`documents.py`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.server.api.errors import RequestError

__all__ = ["check_packed_members"]

_FIXED: Final = {
    **dict.fromkeys((*range(128), 192, 194, 195, *range(224, 256)), 0),
    **{head: head & 0x1F for head in range(0xA0, 0xC0)},
    0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
"""By the first byte of a value without a length of its own, how many bytes follow it."""

_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""By the first byte of bytes or text, how many bytes its length has."""

_MAPS: Final = {0xDE: 2, 0xDF: 4}
_ARRAYS: Final = {0xDC: 2, 0xDD: 4}


def check_packed_members(document: bytes) -> None:
    """Raise `RequestError` if a map of a MessagePack document, already found to be one, has one member twice.

    Documents of the routes hold maps, arrays, bytes, texts, numbers and booleans; an extension is refused.
    """
    if _may_repeat(document):
        _Walk(document).value()


def _may_repeat(document: bytes) -> bool:
    """Whether members were lost when the document was decoded: then it is longer than what was read of it.

    A document in a longer form than needed is longer, too, so it is looked at in full.
    """
    return len(msgspec.msgpack.encode(msgspec.msgpack.decode(document))) != len(document)


class _Walk:
    """Reads a document value by value."""

    def __init__(self, document: bytes) -> None:
        self._document = document
        self._position = 0

    def value(self) -> None:
        """Pass one value, and look at each map in it."""
        head = self._document[self._position]
        self._position += 1
        if head in _FIXED:
            self._position += _FIXED[head]
        elif head in _SIZED:
            size_bytes = self._number(_SIZED[head])
            self._position += size_bytes
        elif 0x90 <= head < 0xA0 or head in _ARRAYS:
            for _ in range(self._number(_ARRAYS[head]) if head in _ARRAYS else head & 0x0F):
                self.value()
        elif 0x80 <= head < 0x90 or head in _MAPS:
            self._map(self._number(_MAPS[head]) if head in _MAPS else head & 0x0F)
        else:
            raise RequestError(f"the body has a MessagePack type that no operation has: 0x{head:02x}")

    def _number(self, size_bytes: int) -> int:
        start, self._position = self._position, self._position + size_bytes
        return int.from_bytes(self._document[start : self._position], "big")

    def _map(self, count: int) -> None:
        seen: set[bytes] = set()
        for _ in range(count):
            name = self._name()
            if name in seen:
                shown = name[:80].decode("utf-8", "replace")
                raise RequestError(f"the member {shown!r} is given twice in one map; nothing was done")
            seen.add(name)
            self.value()

    def _name(self) -> bytes:
        """Pass a name, which is text in a document that was decoded before; return its bytes, without its length."""
        head = self._document[self._position]
        self._position += 1
        size_bytes = head & 0x1F if 0xA0 <= head < 0xC0 else self._number(_SIZED[head])
        start, self._position = self._position, self._position + size_bytes
        return self._document[start : self._position]
