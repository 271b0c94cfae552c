"""Batches of plain puts: each has a key and a value, and nothing else. The tasks of a client mostly write such ones.

They are read at once, in the decoder. Any other batch is read operation by operation (`operations.py`), and so is one
in which something is wrong: the answer says what.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from syncline.decoding import UNDECODABLE
from syncline.kv.commands import Put
from syncline.kv.limits import MAX_BATCH_OPS, MAX_KEY_BYTES, MAX_VALUE_BYTES

__all__ = ["plain_puts"]


class _PlainPut(msgspec.Struct, tag_field="op", tag="put", forbid_unknown_fields=True, gc=False):
    key: Annotated[bytes, Meta(min_length=1, max_length=MAX_KEY_BYTES)]
    value: Annotated[bytes, Meta(max_length=MAX_VALUE_BYTES)]


class _PlainPuts(msgspec.Struct, forbid_unknown_fields=True):
    ops: Annotated[list[_PlainPut], Meta(min_length=1, max_length=MAX_BATCH_OPS)]


_decode: Final = msgspec.msgpack.Decoder(_PlainPuts).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def plain_puts(body: bytes, max_key_bytes: int, max_value_bytes: int) -> list[Put] | None:
    """The commands of a body in MessagePack; None if it is not such a batch, or above a limit of this server."""
    try:
        found = _decode(body)
    except UNDECODABLE:
        return None
    if len(_encode(found)) != len(body):
        return None  # a member stands there twice, or a number in a longer form than it needs
    puts: list[Put] = []
    for one in found.ops:
        if len(one.key) > max_key_bytes or len(one.value) > max_value_bytes:
            return None
        puts.append(Put(one.key, one.value))
    return puts
