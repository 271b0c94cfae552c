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

__all__ = ["DIGEST_VERSION", "content_checksum", "record_checksum", "state_digest", "state_digest_v1"]

DIGEST_VERSION: Final = 2
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


def state_digest(
    revision: int,
    count: int,
    total: int,
    oldest: int,
    changes: int,
    lease_count: int,
    lease_total: int,
    *,
    auth: tuple[int, bool, int, str] | None = None,
) -> int:
    """The digest (128 bits) of a state.

    `total` is the sum of the checksums of its `count` records, `lease_total` that of its leases, and `changes` that of
    the changes from `oldest` on. `auth` (`AuthState.digest_part`) stands at the end once there were users: until then
    members of an earlier version have the same digest.
    """
    assert revision >= 0
    assert min(count, lease_count) >= 0
    assert min(total, lease_total) >= 0
    # As text: a sum grows with the number of records, and has no size of its own.
    parts = (DIGEST_VERSION, revision, count, str(total), oldest, changes, lease_count, str(lease_total))
    data = _encode(parts if auth is None else (*parts, auth))
    return _from_bytes(_sha256(data).digest()[:16], "big")


def state_digest_v1(revision: int, count: int, total: int) -> int:
    """The digest of version 1, of a state without history; it stands in snapshots of version 1."""
    return _from_bytes(_sha256(_encode((1, revision, count, str(total)))).digest()[:16], "big")
