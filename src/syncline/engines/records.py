"""The content of a record: some proposals of one writer, and what the writer knew of the log before it.

    format (1) | MessagePack: [position, chain, payloads] | BLAKE2b-8 of all before it

`payloads` are `envelope.StampedProposal`s, encoded as in a log of Raft. `position` and `chain` are the writer's
*claim*: the newest record that it had taken, and a hash over all records up to there. Each node computes the same
hash, and compares. So a node notices a log that is not the one that it has read: after a restore of the backend
from an older backup, or a failover that has lost acknowledged records.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Annotated, Final

import msgspec

from syncline.decoding import UNDECODABLE
from syncline.errors import NodeFailed

__all__ = ["CHAIN_BYTES", "Chain", "RecordBody", "decode_record", "encode_record"]

FORMAT: Final = 1
CHECKSUM_BYTES: Final = 8
CHAIN_BYTES: Final = 16
KEPT_LINKS: Final = 4096
"""Positions whose hash is kept. A claim about an older one is not compared."""

_Position = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class RecordBody(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The content of one record."""

    position: _Position
    chain: Annotated[bytes, msgspec.Meta(min_length=CHAIN_BYTES, max_length=CHAIN_BYTES)]
    payloads: tuple[bytes, ...]


_decoder = msgspec.msgpack.Decoder(RecordBody)
_HEAD: Final = bytes([FORMAT])


def encode_record(body: RecordBody) -> bytes:
    """The bytes of a record."""
    data = _HEAD + msgspec.msgpack.encode(body)
    return data + _checksum(data)


def decode_record(data: bytes, where: str) -> RecordBody:
    """Read a record. Raises NodeFailed if it is damaged, foreign, or of a later version: nothing behind it can be
    applied.
    """
    content, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if len(data) <= CHECKSUM_BYTES or _checksum(content) != checksum:
        raise NodeFailed(
            f"{where} is damaged, or was written by another program. Nothing after it was applied. Remove what does"
            " not belong there, or restore the backend from a backup (docs/engines.md)"
        )
    if content[:1] != _HEAD:
        raise NodeFailed(f"{where} has format {content[0]}; this version of Syncline reads format {FORMAT}: upgrade")
    try:
        return _decoder.decode(content[1:])
    except UNDECODABLE as error:
        raise NodeFailed(f"{where} can't be read: {error}") from error


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()


class Chain:
    """The hash over all records so far, and that at each of the newest positions."""

    def __init__(self, position: int, value: bytes) -> None:
        self.position: int = position
        """Of the newest record."""
        self.value: bytes = value
        self._links: OrderedDict[int, bytes] = OrderedDict({position: value})

    @classmethod
    def of_log(cls, log_id: int) -> Chain:
        """The hash before the first record."""
        return cls(0, hashlib.blake2b(log_id.to_bytes(8, "big"), digest_size=CHAIN_BYTES).digest())

    def contradicts(self, position: int, value: bytes) -> bool:
        """Whether a writer has read another log than this node, by its claim in a record behind all of these."""
        held = self._links.get(position)
        if held is not None:
            return held != value
        return position > next(iter(self._links))  # else it is older than what is kept

    def add(self, position: int, body: bytes) -> None:
        """Take a record."""
        self.value = hashlib.blake2b(
            b"%s%s%s" % (self.value, position.to_bytes(8, "big"), body), digest_size=CHAIN_BYTES
        ).digest()
        self.position = position
        self._links[position] = self.value
        if len(self._links) > KEPT_LINKS:
            self._links.popitem(last=False)

    def behind(self, count: int) -> int:
        """The position of the record that is `count` records before the newest one; 0 if it is not known."""
        if len(self._links) <= count:
            return 0
        return list(self._links)[-1 - count]
