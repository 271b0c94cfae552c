"""Commands that change the store in more than one step: expectations, ranges, transactions.

A transaction runs in two passes. The first only reads: it evaluates every compare against the state before the
transaction, chooses the branches, and finds every reason for a refusal. The second changes the store and can't fail.
So a refused transaction has changed nothing, and no undo is needed.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from syncline.errors import Rejected
from syncline.kv.commands import (
    EXISTS,
    MAX_DELETED_KEYS,
    MAX_TXN_READ_BYTES,
    CompareTarget,
    Comparison,
    Delete,
    DeleteRange,
    Get,
    Put,
    Range,
    Txn,
    TxnCompare,
    TxnOperation,
)
from syncline.kv.records import (
    DeleteAnswer,
    DeleteRangeAnswer,
    GetAnswer,
    KeyRecord,
    OperationAnswer,
    PutAnswer,
    TxnAnswer,
)
from syncline.kv.store import Store

__all__ = ["apply_delete_range", "apply_txn", "check_expectation", "check_lease"]


def check_expectation(store: Store, key: bytes, expect: int) -> None:
    """Raise `Rejected` (`precondition_failed`) if the key is not as `expect` says: a mod_revision, or `EXISTS`."""
    record = store.get(key)
    revision = record.mod_revision if record is not None else 0
    if revision == expect or (expect == EXISTS and revision):
        return
    raise Rejected(
        f"the key {_is(revision)}, expected: it {_is(expect)}",
        code="precondition_failed",
        details={"revision": revision, "store_revision": store.revision},
    )


def check_lease(lease: int) -> None:
    """Raise `Rejected` (`lease_not_found`) for a lease that was never granted."""
    if lease:
        raise Rejected(f"there is no lease {lease:x}", code="lease_not_found", details={"lease": lease})


def apply_delete_range(store: Store, command: DeleteRange, revision: int) -> DeleteRangeAnswer:
    """Remove a range. Raises `Rejected` (`range_too_large`), before any change, above `MAX_DELETED_KEYS`."""
    _check_deleted(_to_delete(store, command))
    return _delete_range(store, command, revision)


def apply_txn(store: Store, txn: Txn) -> TxnAnswer:
    """Carry out a transaction in one revision, or refuse it and change nothing."""
    chosen = _choose(store, txn)
    _check_deleted(_check_chosen(store, chosen))
    _check_read(_read_bytes(store, chosen, {}))
    return _run(store, chosen, store.revision + 1)


class _Chosen(NamedTuple):
    """A transaction whose compares have been decided."""

    succeeded: bool
    steps: list[_Step]


_Step: TypeAlias = "Put | Delete | DeleteRange | Get | Range | _Chosen"


def _choose(store: Store, txn: Txn) -> _Chosen:
    succeeded = all(_holds(store.get(compare.key), compare) for compare in txn.compares)
    branch: tuple[TxnOperation, ...] = txn.then if succeeded else txn.else_
    return _Chosen(succeeded, [_choose(store, part) if isinstance(part, Txn) else part for part in branch])


def _holds(record: KeyRecord | None, compare: TxnCompare) -> bool:
    operand = compare.operand
    if isinstance(operand, bytes):
        assert compare.target is CompareTarget.VALUE
        if record is None:
            return False
        return _ordered(compare.comparison, record.value == operand, record.value > operand)
    number = _number(record, compare.target)
    return _ordered(compare.comparison, number == operand, number > operand)


def _number(record: KeyRecord | None, target: CompareTarget) -> int:
    if record is None:
        return 0
    match target:
        case CompareTarget.MOD_REVISION:
            return record.mod_revision
        case CompareTarget.CREATE_REVISION:
            return record.create_revision
        case _:
            assert target is CompareTarget.VERSION
            return record.version


def _ordered(comparison: Comparison, equal: bool, greater: bool) -> bool:
    match comparison:
        case Comparison.EQUAL:
            return equal
        case Comparison.NOT_EQUAL:
            return not equal
        case Comparison.GREATER:
            return greater
        case Comparison.LESS:
            return not equal and not greater


def _check_chosen(store: Store, chosen: _Chosen) -> int:
    """Raise if the transaction can't be applied; return how many keys its ranges would delete at most."""
    deleted = 0
    for step in chosen.steps:
        match step:
            case Put():
                check_lease(step.lease)
            case DeleteRange():
                deleted += _to_delete(store, step)
            case _Chosen():
                deleted += _check_chosen(store, step)
            case _:
                pass
    return deleted


def _read_bytes(store: Store, chosen: _Chosen, written: dict[bytes, int]) -> int:
    """The largest size of all reads: of the state before the transaction, and of what it has `written` itself."""
    total = 0
    for step in chosen.steps:
        match step:
            case Put(key, value):
                written[key] = len(key) + len(value)
            case Get(key):
                record = store.get(key)
                total += max(written.get(key, 0), len(key) + len(record.value) if record is not None else 0)
            case Range(start, end, limit, reverse, keys_only, count_only) if not count_only:
                page = store.range(start, end, limit=limit, reverse=reverse, keys_only=keys_only)
                total += sum(len(record.key) + len(record.value) for record in page.items)
                if not keys_only:
                    total += sum(size for key, size in written.items() if start <= key and (end is None or key < end))
            case _Chosen():
                total += _read_bytes(store, step, written)
            case _:
                pass
    return total


def _run(store: Store, chosen: _Chosen, revision: int) -> TxnAnswer:
    results = tuple([_step(store, step, revision) for step in chosen.steps])
    return TxnAnswer(chosen.succeeded, store.revision, results)


def _step(store: Store, step: _Step, revision: int) -> OperationAnswer:
    match step:
        case Put(key, value, lease):
            previous = store.put(key, value, lease, revision)
            return PutAnswer(revision, previous is None, previous.mod_revision if previous is not None else 0)
        case Delete(key):
            return DeleteAnswer(store.delete(key, revision) is not None, store.revision)
        case DeleteRange():
            return _delete_range(store, step, revision)
        case Get(key):
            return GetAnswer(store.get(key), store.revision)
        case Range(start, end, limit, reverse, keys_only, count_only):
            return store.range(start, end, limit=limit, reverse=reverse, keys_only=keys_only, count_only=count_only)
        case _Chosen():
            return _run(store, step, revision)


def _to_delete(store: Store, command: DeleteRange) -> int:
    count = store.count(command.start, command.end)
    return min(count, command.limit) if command.limit else count


def _check_deleted(count: int) -> None:
    if count > MAX_DELETED_KEYS:
        raise Rejected(
            f"{count} keys to delete at once; the limit is {MAX_DELETED_KEYS}: delete them in pieces, by a limit",
            code="range_too_large",
            details={"count": count, "limit": MAX_DELETED_KEYS},
        )


def _check_read(size_bytes: int) -> None:
    if size_bytes > MAX_TXN_READ_BYTES:
        raise Rejected(
            f"the transaction's reads come to {size_bytes} bytes; the limit is {MAX_TXN_READ_BYTES}: read less at once",
            code="reads_too_large",
            details={"size_bytes": size_bytes, "limit": MAX_TXN_READ_BYTES},
        )


def _delete_range(store: Store, command: DeleteRange, revision: int) -> DeleteRangeAnswer:
    deleted = store.delete_range(command.start, command.end, command.limit or MAX_DELETED_KEYS, revision)
    more = store.count(command.start, command.end) > 0 if command.limit else False
    return DeleteRangeAnswer(deleted, store.revision, more)


def _is(expect: int) -> str:
    if expect == EXISTS:
        return "exists"
    return f"is at revision {expect}" if expect else "does not exist"
