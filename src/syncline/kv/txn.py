"""Operations on keys, one by one and in transactions.

An operation runs in two passes. The first only reads: it evaluates every compare against the state before the
transaction, chooses the branches, and finds every reason for a refusal. The second changes the store and can't fail.
So a refused operation has changed nothing, and no undo is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from syncline.errors import Rejected
from syncline.kv.commands import (
    EXISTS,
    CompareTarget,
    Comparison,
    Delete,
    DeleteRange,
    Get,
    Increment,
    Put,
    Range,
    Touch,
    Txn,
    TxnCompare,
    TxnOperation,
)
from syncline.kv.counters import MAX_NUMBER_BYTES, incremented
from syncline.kv.limits import MAX_DELETED_KEYS
from syncline.kv.records import (
    DeleteAnswer,
    DeleteRangeAnswer,
    GetAnswer,
    IncrementAnswer,
    KeyRecord,
    OperationAnswer,
    PutAnswer,
    RangePage,
    TouchAnswer,
    TxnAnswer,
)
from syncline.kv.store import KeyStore
from syncline.kv.work import Work

__all__ = ["apply_operation", "check_expectation", "holds"]


def check_expectation(store: KeyStore, key: bytes, expect: int) -> None:
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


def apply_operation(store: KeyStore, operation: TxnOperation, work: Work) -> OperationAnswer:
    """Carry out an operation in one revision, or refuse it and change nothing."""
    plan = _Plan(store, work)
    if isinstance(operation, Get | Range):
        return plan.read(operation)
    if isinstance(operation, Txn):
        chosen = plan.choose(operation)
        plan.check_chosen(chosen)
        return _run(store, chosen, store.revision + 1)
    if isinstance(operation, Put | Delete) and operation.expect is not None:
        check_expectation(store, operation.key, operation.expect)
    plan.check(operation)
    return _step(store, operation, store.revision + 1)


class _Chosen(NamedTuple):
    """A transaction whose compares have been decided."""

    succeeded: bool
    steps: list[_Step]


_Write: TypeAlias = "Put | Delete | DeleteRange | Increment | Touch"
_Step: TypeAlias = "_Write | Get | Range | _Chosen"


class _Plan:
    """The first pass: finds every reason for a refusal, and counts the work. It knows what the steps before will have
    written and granted when a step is carried out.
    """

    __slots__ = ("_added", "_deleted", "_deleted_ranges", "_granted", "_joining", "_store", "_work", "_written")

    def __init__(self, store: KeyStore, work: Work) -> None:
        self._store = store
        self._work = work
        self._written: dict[bytes, int] = {}  # the size of each key and value that will have been written
        self._deleted: set[bytes] = set()  # keys that may have been deleted, and ranges in which some may
        self._deleted_ranges: list[tuple[bytes, bytes | None]] = []
        self._granted: set[int] = set()
        self._added = 0  # leases: those that are granted less those that end
        self._joining: dict[int, int] = {}  # by lease, the keys that will have been attached

    def choose(self, txn: Txn) -> _Chosen:
        """Evaluate the compares, and choose the branch; likewise in the transactions within."""
        succeeded = all(self._holds(compare) for compare in txn.compares)
        branch: tuple[TxnOperation, ...] = txn.then if succeeded else txn.else_
        return _Chosen(succeeded, [self.choose(part) if isinstance(part, Txn) else part for part in branch])

    def check_chosen(self, chosen: _Chosen) -> None:
        """Raise `Rejected` if the transaction can't be carried out."""
        for step in chosen.steps:
            match step:
                case _Chosen():
                    self.check_chosen(step)
                case Get() | Range():
                    _check_kept(self._store, step.revision)
                    answer = self.read(step)
                    self._read_written(step)
                    if isinstance(step, Range) and isinstance(answer, RangePage):
                        self._read_behind_deleted(step, answer)
                case _:
                    self.check(step)

    def check(self, step: _Write) -> None:
        """Raise `Rejected` if the write can't be carried out."""
        store, work = self._store, self._work
        match step:
            case Put(key, value, lease, _, ttl_ms, previous):
                record = store.get(key)
                if ttl_ms:
                    self._check_grant(lease, record)
                elif lease:
                    self._check_attach(lease, key, record)
                if previous:
                    work.read(record)
                self._written[key] = len(key) + len(value)
            case Delete(key, _, previous):
                if previous:
                    work.read(store.get(key))
                self._deleted.add(key)
            case DeleteRange(start, end, limit, previous):
                self._deleted_ranges.append((start, end))
                count = store.count(start, end)
                count = min(count, limit) if limit else count
                work.delete(count)
                if previous:
                    self._read_all(start, end, count)
            case Increment(key, _, _, previous):
                record = store.get(key)
                incremented(step, record)
                if previous:
                    work.read(record)
                self._written[key] = len(key) + MAX_NUMBER_BYTES
            case Touch(key, _, lease):
                record = store.get(key)
                if record is None:
                    raise Rejected("there is no such key", code="not_found")
                if not _has_own_lease(store, record):
                    self._check_grant(lease, record)
                self._written[key] = len(key) + len(record.value)

    def read(self, step: Get | Range) -> GetAnswer | RangePage:
        """Read the state before the transaction. Raises `Rejected`: `compacted`, `future_revision`, and as `Work`."""
        store, work = self._store, self._work
        if isinstance(step, Get):
            work.begin_read()
            record = store.get(step.key, step.revision)
            work.read(record)
            return GetAnswer(record, step.revision or store.revision)
        work.read_range(step.revision)
        page = _page(store, step)
        for record in page.items:
            work.read(record)
        return page

    def _read_written(self, step: Get | Range) -> None:
        """Count what the step may find of the transaction's own writes."""
        if step.revision or not self._written:
            return
        if isinstance(step, Get):
            if step.key in self._written:
                self._work.read_written(self._written[step.key])
        elif not step.count_only:
            for key, size_bytes in self._written.items():
                if step.start <= key and (step.end is None or key < step.end):
                    self._work.read_written(len(key) if step.keys_only else size_bytes)

    def _read_behind_deleted(self, step: Range, page: RangePage) -> None:
        """Count records that the step may find in place of those that the transaction deletes before it."""
        if step.revision or not page.more or not page.items:
            return
        places = sum([self._may_be_deleted(record.key) for record in page.items])
        if not places:
            return
        for record in _records(self._store, step.start, step.end, after=page.after, reverse=step.reverse):
            if step.keys_only:
                self._work.read_written(len(record.key))
            else:
                self._work.read(record)
            places -= not self._may_be_deleted(record.key)
            if not places:
                return

    def _may_be_deleted(self, key: bytes) -> bool:
        ranges = self._deleted_ranges
        if key in self._deleted or len(ranges) > MAX_COMPARED_RANGES:
            return True
        return any(start <= key and (end is None or key < end) for start, end in ranges)

    def _check_grant(self, lease: int, record: KeyRecord | None) -> None:
        if lease in self._granted:
            raise Rejected(
                f"the transaction grants the lease {lease:016x} twice",
                code="lease_exists",
                details={"lease": f"{lease:016x}"},
            )
        frees = record is not None and _has_own_lease(self._store, record)
        self._store.leases.check_grant(lease, self._added - frees)
        self._granted.add(lease)
        self._added += 1 - frees

    def _check_attach(self, lease: int, key: bytes, record: KeyRecord | None) -> None:
        joining = self._joining.get(lease, 0)
        self._store.leases.check_attach(lease, key, joining)
        if record is None or record.lease != lease:
            self._joining[lease] = joining + 1

    def _read_all(self, start: bytes, end: bytes | None, count: int) -> None:
        for record, _ in zip(_records(self._store, start, end), range(count), strict=False):
            self._work.read(record)

    def _holds(self, compare: TxnCompare) -> bool:
        if compare.end is None:
            return holds(self._store.get(compare.key), compare)
        end = None if compare.end is True else compare.end
        assert end is not False
        self._work.read_range()
        records = _records(self._store, compare.key, end)
        first = next(records, None)
        self._work.read(first)
        held = holds(first, compare)
        while held:
            record = next(records, None)
            if record is None:
                break
            self._work.read(record)
            held = holds(record, compare)
        return held


def _check_kept(store: KeyStore, revision: int) -> None:
    """Raise `Rejected` (`compacted`) for a past revision without history. The store's present one can be read without,
    but no longer after the transaction's first write.
    """
    if revision and revision < store.oldest:
        raise Rejected(
            f"revision {revision} was compacted: the oldest that can be read is {store.oldest}",
            code="compacted",
            details={"oldest": store.oldest},
        )


def _records(
    store: KeyStore, start: bytes, end: bytes | None, *, after: bytes | None = None, reverse: bool = False
) -> Iterator[KeyRecord]:
    """All records of a range; the caller stops at a limit of its own."""
    while True:
        page = store.range(start, end, after=after, limit=_STEP, reverse=reverse)
        yield from page.items
        if not page.more:
            return
        after = page.items[-1].key


MAX_COMPARED_RANGES: Final = 8
"""With more deleted ranges in a transaction, each record that it reads counts as one that may be deleted."""

_STEP = 256
"""Records that are collected at once, when the first ones may decide."""


def holds(record: KeyRecord | None, compare: TxnCompare) -> bool:
    """Whether a compare of one key holds for its record, or for None if the key is not there."""
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
        case CompareTarget.LEASE:
            return record.lease
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


def _has_own_lease(store: KeyStore, record: KeyRecord) -> bool:
    lease = store.leases.get(record.lease) if record.lease else None
    return lease is not None and lease.own


def _run(store: KeyStore, chosen: _Chosen, revision: int) -> TxnAnswer:
    results = tuple([_step(store, step, revision) for step in chosen.steps])
    return TxnAnswer(chosen.succeeded, store.revision, results)


def _step(store: KeyStore, step: _Step, revision: int) -> OperationAnswer:
    match step:
        case Put(key, value, lease, _, ttl_ms, shown):
            if ttl_ms:
                store.leases.grant(lease, ttl_ms, own=True)
            previous = store.put(key, value, lease, revision)
            replaced = previous.mod_revision if previous is not None else 0
            return PutAnswer(revision, previous is None, replaced, previous if shown else None, lease if ttl_ms else 0)
        case Delete(key, _, shown):
            previous = store.delete(key, revision)
            return DeleteAnswer(previous is not None, store.revision, previous if shown else None)
        case DeleteRange(start, end, limit, shown):
            gone = store.delete_range(start, end, limit or MAX_DELETED_KEYS, revision)
            more = store.count(start, end) > 0 if limit else False
            return DeleteRangeAnswer(len(gone), store.revision, more, tuple(gone) if shown else ())
        case Increment(key, _, _, shown):
            previous = store.get(key)
            number = incremented(step, previous)
            store.put(key, b"%d" % number, previous.lease if previous is not None else 0, revision)
            return IncrementAnswer(revision, number, previous if shown else None)
        case Touch():
            return _touch(store, step, revision)
        case Get(key, at):
            return GetAnswer(store.get(key, at), at or store.revision)
        case Range():
            return _page(store, step)
        case _Chosen():
            return _run(store, step, revision)


def _touch(store: KeyStore, step: Touch, revision: int) -> TouchAnswer:
    record = store.get(step.key)
    assert record is not None
    if _has_own_lease(store, record):
        store.leases.renew(record.lease, step.ttl_ms)
        return TouchAnswer(store.revision, record.lease)
    store.leases.grant(step.lease, step.ttl_ms, own=True)
    store.put(step.key, record.value, step.lease, revision)
    return TouchAnswer(revision, step.lease)


def _page(store: KeyStore, step: Range) -> RangePage:
    return store.range(
        step.start,
        step.end,
        limit=step.limit,
        reverse=step.reverse,
        keys_only=step.keys_only,
        count_only=step.count_only,
        revision=step.revision,
    )


def _is(expect: int) -> str:
    if expect == EXISTS:
        return "exists"
    return f"is at revision {expect}" if expect else "does not exist"
