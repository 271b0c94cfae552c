"""By how much a command can enlarge the store.

The limit on the size of the store is a setting of each node, so no command is refused for it when it is applied: all
nodes must decide alike there. The leader asks `growth` before it appends (`node.intake`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from syncline.kv.commands import (
    Authorised,
    Command,
    Increment,
    LeaseGrant,
    OperationBatch,
    Put,
    Touch,
    Txn,
    TxnOperation,
)
from syncline.kv.counters import MAX_NUMBER_BYTES
from syncline.kv.leases import ATTACHED_KEY_BYTES, LEASE_OVERHEAD_BYTES
from syncline.kv.limits import MAX_BATCH_PARTS
from syncline.kv.sizes import RECORD_OVERHEAD_BYTES, record_size
from syncline.kv.store import KeyStore

__all__ = ["LARGEST_GROWTH_FACTOR", "LARGEST_OVERHEAD_BYTES", "growth"]

OWN_LEASE_BYTES: Final = LEASE_OVERHEAD_BYTES + ATTACHED_KEY_BYTES
"""What a key's own lease adds."""

LARGEST_OVERHEAD_BYTES: Final = MAX_BATCH_PARTS * (RECORD_OVERHEAD_BYTES + OWN_LEASE_BYTES + MAX_NUMBER_BYTES)
"""By how much more than its own length a command can enlarge the store: a batch of small puts with a TTL each."""

LARGEST_GROWTH_FACTOR: Final = 128
"""By how many times its own length a command can enlarge the store: a grant of a lease has 4 bytes at least. A put has
7, one with a TTL 10, an increment 5 and a touch 7."""


def growth(store: KeyStore, command: Command) -> int:
    """By how many bytes the command can enlarge the store, at most.

    0: it only deletes, or replaces values by others that are no larger.

    A delete counts for nothing and not for what it frees: it may not find the key any more. A put of a key counts for
    what it adds to the record that is there now. So the counts of all commands that are not applied yet, together with
    the store's size, are never less than the size will be.
    """
    match command:
        case Put(key, value, lease, _, ttl_ms):
            return _of_value(store, key, len(value)) + _of_lease(store, key, lease, ttl_ms)
        case Txn(_, then, else_):
            return max(_of_parts(store, then), _of_parts(store, else_))
        case OperationBatch(ops):
            return _of_parts(store, ops)
        case Increment(key):
            return _of_value(store, key, MAX_NUMBER_BYTES)
        case Touch(key, ttl_ms, lease):
            return _of_lease(store, key, lease, ttl_ms)
        case LeaseGrant():
            return LEASE_OVERHEAD_BYTES
        case Authorised(command=inner):
            return growth(store, inner)
        case _:
            return 0


def _of_parts(store: KeyStore, parts: Sequence[TxnOperation]) -> int:
    return sum([growth(store, part) for part in parts if isinstance(part, Put | Txn | Increment | Touch)])


def _of_value(store: KeyStore, key: bytes, value_bytes: int) -> int:
    record = store.get(key)
    if record is None:
        return record_size(key, b"") + value_bytes
    return max(0, value_bytes - len(record.value))


def _of_lease(store: KeyStore, key: bytes, lease: int, ttl_ms: int) -> int:
    if not lease:
        return 0
    record = store.get(key)
    held = record.lease if record is not None else 0
    if not ttl_ms:
        return 0 if held else ATTACHED_KEY_BYTES
    current = store.leases.get(held)
    if current is None:
        return OWN_LEASE_BYTES
    return 0 if current.own else LEASE_OVERHEAD_BYTES
