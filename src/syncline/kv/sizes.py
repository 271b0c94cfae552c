"""The memory size of records, and by how much a command can enlarge the store.

The size of a store is the sum over its keys of key, value and `RECORD_OVERHEAD_BYTES`. The limit on it is a setting
of each node, so no command is refused for it when it is applied: all nodes must decide alike there. The leader asks
`growth` before it appends (`node.intake`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from syncline.kv.commands import MAX_TXN_OPS, Command, Put, Txn, TxnOperation

if TYPE_CHECKING:
    from syncline.kv.store import Store

__all__ = ["LARGEST_OVERHEAD_BYTES", "RECORD_OVERHEAD_BYTES", "growth", "record_size"]

RECORD_OVERHEAD_BYTES: Final = 384
"""Memory of a record beside key and value: itself, its numbers and checksum, its places in the index and the
dictionary. Measured: 299, 296, 324 and 400 bytes with values of 16, 100, 1,000 and 10,000 bytes."""

LARGEST_OVERHEAD_BYTES: Final = MAX_TXN_OPS * RECORD_OVERHEAD_BYTES
"""By how much more than its own length a command can enlarge the store: a transaction of small puts."""


def record_size(key: bytes, value: bytes) -> int:
    """The bytes that a key and its value are counted with."""
    return len(key) + len(value) + RECORD_OVERHEAD_BYTES


def growth(store: Store, command: Command) -> int:
    """By how many bytes the command can enlarge the store as it is now, at most. 0: it only deletes, or replaces values
    by others that are no larger.

    A delete counts for nothing and not for what it frees: it may not find the key any more. A put of a key counts for
    what it adds to the record that is there now. So the counts of all commands that are not applied yet, together with
    the store's size, are never less than the size will be.
    """
    if type(command) is Put:
        record = store.get(command.key)
        if record is None:
            return record_size(command.key, command.value)
        return max(0, len(command.value) - len(record.value))
    if type(command) is Txn:
        return max(_of_branch(store, command.then), _of_branch(store, command.else_))
    return 0


def _of_branch(store: Store, branch: tuple[TxnOperation, ...]) -> int:
    return sum([growth(store, part) for part in branch if isinstance(part, Put | Txn)])
