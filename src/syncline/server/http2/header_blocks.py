"""Header blocks: HPACK (RFC 7541) to the head of a request, and a few fixed fields to HPACK.

Clients repeat their headers. A block that only refers to what both ends have in their tables always means the same, as
long as the table stays: such a block is decoded once. `hpack` does the decoding; it is the one package that this room
needs, and it is looked for when a connection begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from syncline.server.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from syncline.server.http2.limits import MAX_HEADER_FIELDS

if TYPE_CHECKING:
    import hpack

__all__ = ["HeaderDecoder", "RequestHead", "field", "status"]

KEPT_BLOCKS: Final = 32
"""Blocks that are kept of one connection: a client uses one for each method and token."""
KEPT_BLOCK_BYTES: Final = 1024
"""The longest of them."""

BYTES_A_COST: Final = 32
"""Bytes of a block that cost 1: those of a Huffman code take a third of a microsecond each."""

_HOP_BY_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
"""Fields of HTTP/1.1's connections: malformed here (RFC 9113, 8.2.2)."""
_PSEUDO: Final = frozenset({b":method", b":path", b":scheme", b":authority"})
_NEEDED: Final = frozenset({b":method", b":path", b":scheme"})


class RequestHead(msgspec.Struct, eq=False, gc=False):
    """The head of a request. `fields` has lower-case names, repeated fields joined by ",". Requests may share one."""

    method: str
    path: str
    fields: dict[bytes, bytes]
    found: object = None
    """What the application has found out about it: kept with it."""


class HeaderDecoder:
    """Decodes the header blocks of one connection, in their order."""

    __slots__ = ("_decoder", "_errors", "_kept", "cost")

    def __init__(self, max_header_bytes: int) -> None:
        import hpack

        self._decoder: hpack.Decoder = hpack.Decoder(max_header_list_size=max_header_bytes)
        self._errors = (hpack.OversizedHeaderListError, hpack.HPACKError)
        self._kept: dict[bytes, RequestHead | None] = {}
        self.cost: int = 0
        """Of the last block: nothing if it was kept; else 1 for each field, and for so many bytes as take as long."""

    def decode(self, block: bytes) -> RequestHead | None:
        """The head; None if it is malformed (8.1.1). Raises `ConnectionFault` if the table can't be kept in step."""
        kept = self._kept
        if block in kept:
            self.cost = 0
            return kept[block]
        oversized, other = self._errors
        try:
            fields = list(self._decoder.decode(block, raw=True))
        except oversized:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "the header is too large") from None
        except (other, ValueError, IndexError) as error:
            raise ConnectionFault(COMPRESSION_ERROR, f"the header can't be decoded: {error}") from None
        self.cost = len(fields) + len(block) // BYTES_A_COST
        if len(fields) > MAX_HEADER_FIELDS:
            raise ConnectionFault(
                ENHANCE_YOUR_CALM, f"the header has {len(fields)} fields; the limit is {MAX_HEADER_FIELDS}"
            )
        head = _request_head([(bytes(name), bytes(value)) for name, value in fields])
        if not _leaves_table(block):
            kept.clear()
        elif len(block) <= KEPT_BLOCK_BYTES:
            if len(kept) >= KEPT_BLOCKS:
                kept.clear()
            kept[block] = head
        return head


def _request_head(fields: list[tuple[bytes, bytes]]) -> RequestHead | None:
    found: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular or name in found or name not in _PSEUDO:
                return None
        else:
            regular = True
            if not name or name != name.lower() or name in _HOP_BY_HOP or (name == b"te" and value != b"trailers"):
                return None
            if name in found:
                value = found[name] + b"," + value
        if b"\0" in value or b"\n" in value or b"\r" in value:
            return None
        found[name] = value
    if not found.keys() >= _NEEDED or not found[b":path"]:
        return None
    method, path = found[b":method"], found[b":path"]
    return RequestHead(method.decode("latin-1"), path.decode("latin-1"), found)


def _leaves_table(block: bytes) -> bool:
    """Whether decoding this (well-formed) block again gives the same: it neither adds to the table nor resizes it."""
    at, end = 0, len(block)
    while at < end:
        first = block[at]
        if first & 0x80:  # an entry of the table
            at = _after_integer(block, at, 0x7F)
            continue
        if first & 0x60:  # a new entry, or another size
            return False
        named = first & 0x0F
        at = _after_integer(block, at, 0x0F)
        for _ in range(1 if named else 2):
            size, at = _integer(block, at)
            at += size
    return True


def _after_integer(block: bytes, at: int, mask: int) -> int:
    if block[at] & mask != mask:
        return at + 1
    at += 1
    while block[at] & 0x80:
        at += 1
    return at + 1


def _integer(block: bytes, at: int) -> tuple[int, int]:
    """The length of a string at `at`, and where its bytes begin (RFC 7541, 5.1)."""
    value = block[at] & 0x7F
    if value < 0x7F:
        return value, at + 1
    shift = 0
    while True:
        at += 1
        value += (block[at] & 0x7F) << shift
        shift += 7
        if not block[at] & 0x80:
            return value, at + 1


# --- writing

_STATUS: Final = {200: b"\x88", 204: b"\x89", 400: b"\x8c", 404: b"\x8d", 500: b"\x8e"}
"""Entries of the static table (RFC 7541, appendix A)."""


def _length(size: int) -> bytes:
    if size < 0x7F:
        return bytes((size,))
    out, size = bytearray((0x7F,)), size - 0x7F
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def field(name: bytes, value: bytes) -> bytes:
    """A field that neither end keeps: so the encoder has no state, and a block can be made once for all."""
    return b"\x00%b%b%b%b" % (_length(len(name)), name, _length(len(value)), value)


def status(code: int) -> bytes:
    """The field `:status`."""
    return _STATUS.get(code) or field(b":status", b"%d" % code)
