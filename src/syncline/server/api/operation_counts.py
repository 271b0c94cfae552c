"""How many compares and operations a request holds: counted before they are read.

To read a hundred thousand of them takes longer than an election. A leader that stands still for so long is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from syncline.client.packed_schemas import PackedOperation, PackedTxn
from syncline.client.schemas import OperationItem, TxnBody, TxnItem
from syncline.errors import TooLarge
from syncline.kv.limits import MAX_BATCH_PARTS, MAX_TXN_OPS, check_counts, check_depth

__all__ = ["AnyTxn", "check_batch_counts", "check_txn_counts"]

AnyTxn: TypeAlias = TxnBody | TxnItem | PackedTxn


def check_txn_counts(txn: AnyTxn) -> None:
    """Raise `TooLarge` for a transaction with more compares or operations than one may have, or nested too deep."""
    check_counts("transaction", *_counted(txn, 1), MAX_TXN_OPS)


def check_batch_counts(items: Sequence[OperationItem | PackedOperation]) -> None:
    """Raise `TooLarge` if the transactions of a batch hold more together than one batch may.

    With sessions each operation becomes a command of its own, so the commands' own checks don't count them together.
    One that is nested too deep is refused alone, before it is read.
    """
    compares, operations = 0, len(items)
    for item in items:
        if isinstance(item, TxnItem | PackedTxn):
            try:
                txn_compares, txn_operations = _counted(item, 1)
            except TooLarge:
                continue
            compares += txn_compares
            operations += txn_operations
    check_counts("batch", compares, operations, MAX_BATCH_PARTS)


def _counted(txn: AnyTxn, depth: int) -> tuple[int, int]:
    """The compares and operations of the whole tree."""
    check_depth(depth)
    compares, operations = len(txn.compare), len(txn.then) + len(txn.else_)
    for branch in (txn.then, txn.else_):
        for part in branch:
            if isinstance(part, TxnItem | PackedTxn):
                part_compares, part_operations = _counted(part, depth + 1)
                compares += part_compares
                operations += part_operations
    return compares, operations
