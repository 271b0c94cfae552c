"""Limits of the key-value state machine.

They are part of the state machine: every node must refuse the same commands. So they are constants and not settings
(a server may ask for less, never for more).
"""

from __future__ import annotations

from typing import Final

from syncline.errors import TooLarge

__all__ = [
    "MAX_BATCH_OPS",
    "MAX_BATCH_PARTS",
    "MAX_COMMAND_BYTES",
    "MAX_DELETED_KEYS",
    "MAX_KEY_BYTES",
    "MAX_LEASES",
    "MAX_LEASES_AT_ONCE",
    "MAX_LEASE_ID",
    "MAX_LEASE_KEYS",
    "MAX_RANGE_BYTES",
    "MAX_RANGE_ITEMS",
    "MAX_TTL_MS",
    "MAX_TXN_DEPTH",
    "MAX_TXN_OPS",
    "MAX_TXN_READ_BYTES",
    "MAX_VALUE_BYTES",
    "check_counts",
    "check_depth",
]

MAX_KEY_BYTES: Final = 4096
"""Longest key. Even percent-encoded in full it fits into the request line that HTTP servers commonly accept."""

MAX_VALUE_BYTES: Final = 16 * 1024 * 1024
"""Largest value. A command travels in one message and is held in memory by every node several times over."""

MAX_COMMAND_BYTES: Final = 20 * 1024 * 1024
"""Largest encoded command: the largest value and key, and room for a transaction around them."""

MAX_TXN_OPS: Final = 128
"""Operations, and likewise compares, of one transaction with all that is nested in it (etcd's and Consul's figure)."""

MAX_TXN_DEPTH: Final = 4
"""Transactions inside one another, the outermost counted."""

MAX_RANGE_ITEMS: Final = 10_000
"""Records in one page of a range, so that no read holds up the node."""

MAX_RANGE_BYTES: Final = 16 * 1024 * 1024
"""Keys and values in one page of a range; a single larger record is still returned, alone."""

MAX_TXN_READ_BYTES: Final = 16 * 1024 * 1024
"""Keys and values that the reads of one transaction or batch may come to: they are held and sent as one answer."""

MAX_DELETED_KEYS: Final = 10_000
"""Keys that one command deletes: about 20 ms of apply, far below a heartbeat interval."""

MAX_BATCH_OPS: Final = 1000
"""Operations of one batch."""

MAX_BATCH_PARTS: Final = 4000
"""Operations, and likewise compares, of one batch with all that its transactions hold: about 20 ms of apply."""

MAX_LEASES: Final = 100_000
"""Leases that live at one time: a snapshot copies their list in one step."""

MAX_LEASE_KEYS: Final = 10_000
"""Keys of one lease: its end deletes them in one step, as `MAX_DELETED_KEYS` says."""

MAX_LEASES_AT_ONCE: Final = 1000
"""Leases that one command ends, or whose rests it records."""

MAX_LEASE_ID: Final = 2**63 - 1
"""Largest id of a lease: etcd's clients hold it in 64 bits with a sign."""

MAX_TTL_MS: Final = 9_000_000_000_000
"""Longest TTL of a lease, in milliseconds: etcd's 9,000,000,000 seconds, about 285 years."""


def check_counts(name: str, compares: int, operations: int, limit: int) -> None:
    """Raise `TooLarge` if there are more compares or operations than the limit. `name` says of what."""
    if compares > limit:
        raise TooLarge(f"the {name} has {compares} compares; the limit is {limit}")
    if operations > limit:
        raise TooLarge(f"the {name} has {operations} operations; the limit is {limit}")


def check_depth(depth: int) -> None:
    """Raise `TooLarge` if transactions are nested deeper than `MAX_TXN_DEPTH`."""
    if depth > MAX_TXN_DEPTH:
        raise TooLarge(f"transactions are nested deeper than {MAX_TXN_DEPTH}")
