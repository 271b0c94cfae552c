"""A digest over the whole state, kept up to date with each change.

Each record carries a checksum of its own content. The digest is made of their sum, so a change costs one subtraction
and one addition whatever the size of the state. The order of the changes leaves no trace: equal states have equal
digests (an additive multiset hash, as in Bellare and Micciancio, 1997, here against faults and not against
attackers). SHA-256 because its quality is beyond doubt and processors compute it in hardware. Nothing depends on
Python's own `hash`, which differs between processes.

The checksum stays with the record, so that a snapshot holds what was applied: a record that was corrupted in memory
or on disk since is found when the snapshot is read.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from syncline.kv.records import KeyRecord

__all__ = ["DIGEST_VERSION", "content_checksum", "record_checksum", "state_digest"]

DIGEST_VERSION: Final = 1
"""Digests of different versions can't be compared. Grows with any change of the record or of the way it is hashed."""

CHECKSUM_BYTES: Final = 7
"""Bytes of the SHA-256 that are kept per record. As an integer it takes 32 bytes of memory; one byte more and it
would take 48."""

_encode = msgspec.msgpack.Encoder().encode
_sha256 = hashlib.sha256
_from_bytes = int.from_bytes


def content_checksum(key: bytes, value: bytes, create: int, mod: int, version: int, lease: int) -> int:
    """The checksum (56 bits) of a record with these fields."""
    return _from_bytes(_sha256(_encode((key, value, create, mod, version, lease))).digest()[:CHECKSUM_BYTES], "big")


def record_checksum(record: KeyRecord) -> int:
    """The correct `checksum` of a record."""
    fields = (record.key, record.value, record.create_revision, record.mod_revision, record.version, record.lease)
    return _from_bytes(_sha256(_encode(fields)).digest()[:CHECKSUM_BYTES], "big")


def state_digest(revision: int, count: int, total: int) -> int:
    """The digest (128 bits) of a state: its revision, its number of records, and the sum of their checksums."""
    assert revision >= 0
    assert count >= 0
    assert total >= 0
    # As text: the sum grows with the number of records, and has no size of its own.
    data = _encode((DIGEST_VERSION, revision, count, str(total)))
    return _from_bytes(_sha256(data).digest()[:16], "big")
