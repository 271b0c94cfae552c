"""The memory size of records.

The size of a store is the sum over its keys of key, value and `RECORD_OVERHEAD_BYTES`, and that of its leases
(`kv.leases`). By how much a command can enlarge it: `kv.growth`.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CHANGE_OVERHEAD_BYTES",
    "RECORD_OVERHEAD_BYTES",
    "record_size",
]

RECORD_OVERHEAD_BYTES: Final = 384
"""Memory of a record beside key and value: itself, its numbers and checksum, its places in the index and the
dictionary. Measured: 299, 296, 324 and 400 bytes with values of 16, 100, 1,000 and 10,000 bytes."""

VERSION_OVERHEAD_BYTES: Final = 224
"""Memory of a replaced version beside its value: itself, its numbers and checksum, its place by key. Measured with the
change itself (`python -m bench.store --part memory`): 246 bytes if keys were overwritten once, 222 if often."""

CHANGE_OVERHEAD_BYTES: Final = 24
"""Memory of a change beside the records that it refers to: two references, and room to grow."""

TOMBSTONE_BYTES: Final = 320
"""Memory of a tombstone beside the deleted version and the key, which only the history holds then. Measured: 317."""


def record_size(key: bytes, value: bytes) -> int:
    """The bytes that a key and its value are counted with."""
    return len(key) + len(value) + RECORD_OVERHEAD_BYTES
