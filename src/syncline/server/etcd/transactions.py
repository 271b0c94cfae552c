"""Transactions of etcd as those of the store, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias, cast

from syncline.kv.commands import (
    MAX_TXN_OPS,
    Comparison,
    DeleteRange,
    Get,
    Put,
    Range,
    Txn,
    TxnCompare,
    TxnOperation,
)
from syncline.kv.commands import CompareTarget as Target
from syncline.kv.records import (
    DeleteRangeAnswer,
    GetAnswer,
    KeyRecord,
    OperationAnswer,
    PutAnswer,
    RangePage,
    TxnAnswer,
)
from syncline.server.etcd.errors import INVALID_ARGUMENT, EtcdError
from syncline.server.etcd.messages import Message
from syncline.server.etcd.ranges import RangePlan, bounds_of, key_value, no_key, no_lease

__all__ = ["TxnPlan", "lookups_of"]

_Records: TypeAlias = Mapping[bytes, KeyRecord | None]
_Parts: TypeAlias = list[Message]

_COMPARISONS: Final = (Comparison.EQUAL, Comparison.GREATER, Comparison.LESS, Comparison.NOT_EQUAL)
"""By etcd's number."""

_TARGETS: Final[tuple[tuple[Target, str], ...]] = (
    (Target.VERSION, "version"),
    (Target.CREATE_REVISION, "create_revision"),
    (Target.MOD_REVISION, "mod_revision"),
    (Target.VALUE, "value"),
    (Target.LEASE, "lease"),
)
"""By etcd's number: the store's target, and the field with the operand."""

_OPERATIONS: Final = ("request_range", "request_put", "request_delete_range", "request_txn")


def lookups_of(records: _Records) -> tuple[TxnCompare, ...]:
    """Compares that hold as long as these records are the present ones."""
    return tuple(
        [
            TxnCompare(key, Target.MOD_REVISION, Comparison.EQUAL, 0 if record is None else record.mod_revision)
            for key, record in records.items()
        ]
    )


class TxnPlan:
    """One TxnRequest, checked by etcd's rules. Raises `EtcdError` for what etcd refuses."""

    def __init__(self, request: Message) -> None:
        self._request = request
        self.keeps: dict[bytes, None] = {}
        """The keys of puts that keep the value or the lease: `command` needs their records."""
        self.failing: list[Put] = []
        """Puts of the last `command` that keep the value or the lease of a key that is not there."""
        compares, operations = _counts(request)
        if max(compares, operations) > MAX_TXN_OPS:
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
        _check_branches(request, self.keeps)
        for name in ("success", "failure"):
            _check_once(request, name)

    def command(self, records: _Records | None = None) -> Txn:
        """The transaction of the store. `records`: those of `keeps`. Raises `EtcdError`."""
        self.failing.clear()
        return self._txn(self._request, records or {})

    def answer(self, result: TxnAnswer) -> Message:
        """The TxnResponse without its header."""
        return self._answer(self._request, result, result.revision - _wrote(result))

    def _txn(self, request: Message, records: _Records) -> Txn:
        return Txn(
            tuple([_compare(one) for one in _parts(request, "compare")]),
            tuple([self._operation(one, records) for one in _parts(request, "success")]),
            tuple([self._operation(one, records) for one in _parts(request, "failure")]),
        )

    def _operation(self, part: Message, records: _Records) -> TxnOperation:
        name, request = _chosen(part)
        if name == "request_put":
            return self._put(request, records)
        if name == "request_delete_range":
            start, end = bounds_of(request)
            previous = bool(request.get("prev_kv"))
            return DeleteRange(start, end, previous=previous)  # also of one key: what is deleted may overlap
        if name == "request_txn":
            return self._txn(request, records)
        plan = RangePlan.of(request)
        if plan.single and not plan.count_only:
            return Get(plan.start, plan.revision)
        return Range(
            plan.start,
            plan.end,
            plan.read_limit,
            plan.reverse,
            plan.reads_keys_only,
            plan.count_only,
            plan.revision,
        )

    def _put(self, request: Message, records: _Records) -> Put:
        key, value = cast("bytes", request.get("key", b"")), cast("bytes", request.get("value", b""))
        lease, previous = cast("int", request.get("lease", 0)), bool(request.get("prev_kv"))
        if lease < 0:
            raise no_lease()
        if not (request.get("ignore_value") or request.get("ignore_lease")):
            return Put(key, value, lease, previous=previous)
        if (record := records.get(key)) is not None:
            value = record.value if request.get("ignore_value") else value
            lease = record.lease if request.get("ignore_lease") else lease
        put = Put(key, value, lease, previous=previous)
        if record is None:
            self.failing.append(put)
        return put

    def _answer(self, request: Message, result: TxnAnswer, revision: int) -> Message:
        branch = _parts(request, "success" if result.succeeded else "failure")
        responses: list[Message] = []
        for part, one in zip(branch, result.results, strict=True):
            responses.append(self._response(part, one, revision))
            if _wrote(one):
                revision = result.revision
        return {"succeeded": result.succeeded, "responses": responses}

    def _response(self, part: Message, result: OperationAnswer, present: int) -> Message:
        """`present`: the store's revision before the operation. A read has it, also one of the past."""
        _, request = _chosen(part)
        match result:
            case PutAnswer(revision, _, _, previous):
                put: Message = {"header": {"revision": revision}}
                if previous is not None:
                    put["prev_kv"] = key_value(previous)
                return {"response_put": put}
            case DeleteRangeAnswer(count, revision, _, previous_all):
                return _deleted(count, revision, [key_value(record) for record in previous_all])
            case GetAnswer(record):
                answer = RangePlan.of(request).answer([record] if record else [], int(record is not None), more=False)
                return {"response_range": {"header": {"revision": present}, **answer}}
            case RangePage(items, more, count=count):
                more = more and not request.get("count_only")
                answer = RangePlan.of(request).answer(items, count, more=more)
                return {"response_range": {"header": {"revision": present}, **answer}}
            case TxnAnswer():
                return {"response_txn": {"header": {}, **self._answer(request, result, present)}}
            case _:
                raise AssertionError(result)


def _wrote(result: OperationAnswer) -> bool:
    match result:
        case PutAnswer():
            return True
        case DeleteRangeAnswer(count):
            return count > 0
        case TxnAnswer():
            return any(map(_wrote, result.results))
        case _:
            return False


def _deleted(count: int, revision: int, previous: list[Message]) -> Message:
    return {"response_delete_range": {"header": {"revision": revision}, "deleted": count, "prev_kvs": previous}}


def _parts(request: Message, name: str) -> _Parts:
    return cast("_Parts", request.get(name, []))


def _chosen(part: Message) -> tuple[str, Message]:
    """The operation of a RequestOp. Raises `EtcdError` if it has none."""
    for name in _OPERATIONS:
        if (request := part.get(name)) is not None:
            return name, cast("Message", request)
    raise EtcdError(INVALID_ARGUMENT, "etcdserver: key not found")  # etcd's text for it


def _compare(compare: Message) -> TxnCompare:
    key, end = cast("bytes", compare.get("key", b"")), cast("bytes", compare.get("range_end", b""))
    if not key:
        raise no_key()
    number, result = cast("int", compare.get("target", 0)), cast("int", compare.get("result", 0))
    if not (0 <= number < len(_TARGETS) and 0 <= result < len(_COMPARISONS)):
        raise EtcdError(INVALID_ARGUMENT, "etcdserver: a compare has an unknown target or result")
    target, field = _TARGETS[number]
    operand = cast("int | bytes", compare.get(field, b"" if target is Target.VALUE else 0))
    until: bytes | bool | None = None if not end else True if end == b"\0" else max(key, end)
    return TxnCompare(key, target, _COMPARISONS[result], operand, until)


# --- etcd's checks, before anything is looked up


def _counts(request: Message) -> tuple[int, int]:
    """The compares and operations of a transaction with all within. The store's limit is on all of them together, and
    what is checked next takes a time that grows with their product."""
    compares, operations = len(_parts(request, "compare")), 0
    for part in _parts(request, "success") + _parts(request, "failure"):
        operations += 1
        if (inner := part.get("request_txn")) is not None:
            more_compares, more_operations = _counts(cast("Message", inner))
            compares, operations = compares + more_compares, operations + more_operations
    return compares, operations


def _check_branches(request: Message, keeps: dict[bytes, None]) -> None:
    for compare in _parts(request, "compare"):
        if not compare.get("key"):
            raise no_key()
    for name in ("success", "failure"):
        for part in _parts(request, name):
            _check_part(part, keeps)


def _check_part(part: Message, keeps: dict[bytes, None]) -> None:
    name, request = _chosen(part)
    if name == "request_txn":
        _check_branches(request, keeps)
        return
    key = cast("bytes", request.get("key", b""))
    if not key:
        raise no_key()
    if name != "request_put":
        return
    if request.get("ignore_value") and request.get("value"):
        raise EtcdError(INVALID_ARGUMENT, "etcdserver: value is provided")
    if request.get("ignore_lease") and request.get("lease"):
        raise EtcdError(INVALID_ARGUMENT, "etcdserver: lease is provided")
    if request.get("ignore_value") or request.get("ignore_lease"):
        keeps[key] = None


_Written: TypeAlias = tuple[set[bytes], list[tuple[bytes, bytes | None]]]


def _check_once(request: Message, name: str) -> _Written:
    """Raise if one branch may write a key twice; return what it may write. Deleted ranges may overlap."""
    puts: set[bytes] = set()
    deletes: list[tuple[bytes, bytes | None]] = []
    for part in _parts(request, name):
        kind, inner = _chosen(part)
        more_puts: set[bytes] = set()
        more_deletes: list[tuple[bytes, bytes | None]] = []
        if kind == "request_put":
            more_puts = {cast("bytes", inner["key"])}
        elif kind == "request_delete_range":
            more_deletes = [bounds_of(inner)]
        elif kind == "request_txn":
            for branch in ("success", "failure"):
                branch_puts, branch_deletes = _check_once(inner, branch)
                more_puts |= branch_puts
                more_deletes += branch_deletes
        if puts & more_puts or _any_in(puts, more_deletes) or _any_in(more_puts, deletes):
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
        puts |= more_puts
        deletes += more_deletes
    return puts, deletes


def _any_in(keys: set[bytes], ranges: list[tuple[bytes, bytes | None]]) -> bool:
    return any(start <= key and (end is None or key < end) for start, end in ranges for key in keys)
