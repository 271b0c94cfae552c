"""Batches: independent operations in one command, carried out in order.

Each operation has its own revision, and its own answer or refusal. A refused one changes nothing, and the others go
on. All of them share one bound of work (`kv.work`), so a batch takes no longer than one command may.
"""

from __future__ import annotations

from syncline.errors import Rejected
from syncline.kv.auth.checks import check_operation
from syncline.kv.auth.permissions import UserPermissions
from syncline.kv.commands import BatchOperation, OperationBatch, Put
from syncline.kv.records import BatchAnswer, OperationAnswer, PutAnswer
from syncline.kv.store import KeyStore
from syncline.kv.txn import apply_operation
from syncline.kv.work import Work

__all__ = ["apply_batch"]


def apply_batch(store: KeyStore, batch: OperationBatch, permissions: UserPermissions | None = None) -> BatchAnswer:
    """Carry out the operations of a batch. With `permissions` those that they don't allow are refused."""
    work = Work()
    results: list[OperationAnswer | Rejected] = []
    if permissions is not None:
        for operation in batch.ops:
            results.append(_checked(store, operation, work, permissions))
        return BatchAnswer(tuple(results), store.revision)
    append, put = results.append, store.put
    for operation in batch.ops:
        if type(operation) is Put and operation.expect is None and not operation.lease and not operation.previous:
            revision = store.revision + 1
            replaced = put(operation.key, operation.value, 0, revision)
            append(PutAnswer(revision, replaced is None, 0 if replaced is None else replaced.mod_revision))
        else:
            append(_apply(store, operation, work))
    return BatchAnswer(tuple(results), store.revision)


def _checked(
    store: KeyStore, operation: BatchOperation, work: Work, permissions: UserPermissions
) -> OperationAnswer | Rejected:
    try:
        check_operation(permissions, store, operation)
    except Rejected as refusal:
        return refusal
    return _apply(store, operation, work)


def _apply(store: KeyStore, operation: BatchOperation, work: Work) -> OperationAnswer | Rejected:
    work.begin()
    try:
        return apply_operation(store, operation, work)
    except Rejected as refusal:
        work.forget_deletes()
        return refusal
