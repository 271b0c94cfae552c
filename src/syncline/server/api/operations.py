"""Operations of `/txn` and `/batch`: from what is asked to commands.

Both forms of a request, JSON and MessagePack, have the same fields here: see `client/packed_schemas.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from msgspec import UNSET, UnsetType

from syncline.client.packed_schemas import (
    PackedBounds,
    PackedCompare,
    PackedDelete,
    PackedDeleteRange,
    PackedGet,
    PackedIncrement,
    PackedOnce,
    PackedOperation,
    PackedPut,
    PackedRange,
    PackedTouch,
    PackedTxn,
)
from syncline.client.schemas import (
    CompareItem,
    DeleteItem,
    DeleteRangeItem,
    GetItem,
    IncrementItem,
    KeyBounds,
    MaybeBytes,
    MaybeText,
    OnceItem,
    OperationItem,
    PutItem,
    RangeItem,
    TouchItem,
    TxnItem,
)
from syncline.kv import commands
from syncline.kv.commands import ABSENT, EXISTS, CompareTarget, Comparison
from syncline.kv.serving.key_limits import KeyLimits
from syncline.kv.store import prefix_end
from syncline.server.api.errors import RequestError
from syncline.server.api.json_bytes import one_of
from syncline.server.api.operation_counts import AnyTxn, check_txn_counts
from syncline.server.api.plain_puts import plain_puts
from syncline.server.api.ttl import parse_lease, parse_ttl_ms

__all__ = ["AnyOperation", "OperationReader", "WithSession"]

AnyOperation: TypeAlias = OperationItem | PackedOperation
WithSession: TypeAlias = OnceItem | DeleteRangeItem | PackedOnce | PackedDeleteRange
"""Operations that may have a session: those that write."""

COMPARISONS: Final = {
    "==": Comparison.EQUAL,
    "!=": Comparison.NOT_EQUAL,
    ">": Comparison.GREATER,
    "<": Comparison.LESS,
}
TARGETS: Final = {target.name.lower(): target for target in CompareTarget}

FIRST_KEY: Final = b"\0"
"""No key is empty, so this is the least one."""


class OperationReader:
    """Makes commands of requests, within the limits of one server.

    Raises an error that names the place: `RequestError`, or one of `KeyLimits`.
    """

    def __init__(self, *, max_key_bytes: int, max_value_bytes: int, new_lease: Callable[[], int]) -> None:
        """`new_lease` draws the id of a new lease at random."""
        self._max_key_bytes = max_key_bytes
        self._max_value_bytes = max_value_bytes
        self._limits = KeyLimits(max_key_bytes, max_value_bytes)
        self._new_lease = new_lease

    def txn(self, body: AnyTxn, where: str) -> commands.Txn:
        """A transaction with all that is nested in it. `where` names it in errors."""
        check_txn_counts(body)
        return self._txn(body, where)

    def _txn(self, body: AnyTxn, where: str) -> commands.Txn:
        asked: Sequence[CompareItem | PackedCompare] = body.compare
        compares = [self._compare(one, f"{where}'s compare {i}") for i, one in enumerate(asked)]
        then = [self._operation(one, f"{where}'s then {i}", False) for i, one in enumerate(body.then)]
        else_ = [self._operation(one, f"{where}'s else {i}", False) for i, one in enumerate(body.else_)]
        return commands.Txn(tuple(compares), tuple(then), tuple(else_))

    def batch_operation(self, item: AnyOperation, where: str) -> commands.TxnOperation:
        """One operation of a batch: it may have conditions and a session of its own."""
        if isinstance(item, TxnItem | PackedTxn):
            check_txn_counts(item)
        return self._operation(item, where, True)

    def _operation(self, item: AnyOperation, where: str, conditions: bool) -> commands.TxnOperation:
        if not conditions:
            _check_no_session(item, where)
        match item:
            case PutItem() | PackedPut():
                return self._put(item, where, conditions)
            case GetItem() | PackedGet():
                revision = 0 if item.revision is UNSET else item.revision
                return commands.Get(self._key(item.key, item.key_base64, where), revision)
            case DeleteItem() | PackedDelete():
                key = self._key(item.key, item.key_base64, where)
                return commands.Delete(key, _expectation(item, where, conditions), item.prev)
            case IncrementItem() | PackedIncrement():
                return commands.Increment(self._key(item.key, item.key_base64, where), item.by, item.initial, item.prev)
            case TouchItem() | PackedTouch():
                key = self._key(item.key, item.key_base64, where)
                return commands.Touch(key, parse_ttl_ms(item.ttl, where), self._new_lease())
            case DeleteRangeItem() | PackedDeleteRange():
                return commands.DeleteRange(*self._bounds(item, where), item.limit, item.prev)
            case RangeItem() | PackedRange():
                start, end = self._bounds(item, where)
                revision = 0 if item.revision is UNSET else item.revision
                keys_only = not item.values
                return commands.Range(start, end, item.limit, item.reverse, keys_only, False, revision)
            case TxnItem() | PackedTxn():
                return self._txn(item, where)

    def plain_put(self, item: AnyOperation) -> commands.Put | None:
        """The command of a put that has a key and a value and nothing else, as most of a batch have.

        None if it is another one, or if something is wrong with it: `operation` reads it then, and says what.
        """
        if not isinstance(item, PutItem | PackedPut) or (
            item.session is not UNSET
            or item.sequence is not UNSET
            or item.lease is not UNSET
            or item.ttl is not UNSET
            or item.if_revision is not UNSET
            or item.prev
            or item.if_absent
            or item.if_present
        ):
            return None
        key, value = item.key_base64, item.value_base64
        if key is UNSET and value is UNSET and isinstance(item.key, str) and isinstance(item.value, str):
            try:
                key, value = item.key.encode(), item.value.encode()
            except UnicodeEncodeError:
                return None
        elif item.key is not UNSET or item.value is not UNSET:
            return None
        if not isinstance(key, bytes) or not isinstance(value, bytes):
            return None
        if 0 < len(key) <= self._max_key_bytes and len(value) <= self._max_value_bytes:
            return commands.Put(key, value)
        return None

    def plain_puts(self, body: bytes) -> list[commands.Put] | None:
        """The commands of a batch in MessagePack; None if one of them is not plain, or something is wrong with it."""
        return plain_puts(body, self._max_key_bytes, self._max_value_bytes)

    def _put(self, item: PutItem | PackedPut, where: str, conditions: bool) -> commands.Put:
        value = one_of(item.value, item.value_base64, "value", where)
        self._limits.check_value(value, where)
        key = self._key(item.key, item.key_base64, where)
        expect = _expectation(item, where, conditions)
        lease = ttl_ms = 0
        if item.ttl is not UNSET:
            if item.lease is not UNSET:
                raise RequestError(f"{where}: give one of 'lease' and 'ttl', not both")
            lease, ttl_ms = self._new_lease(), parse_ttl_ms(item.ttl, where)
        elif item.lease is not UNSET:
            lease = parse_lease(item.lease, where)
        return commands.Put(key, value, lease, expect, ttl_ms, item.prev)

    def _compare(self, compare: CompareItem | PackedCompare, where: str) -> commands.TxnCompare:
        target, comparison = TARGETS.get(compare.target), COMPARISONS.get(compare.op)
        if target is None:
            raise RequestError(f"{where}: target {compare.target!r} is none of {', '.join(TARGETS)}")
        if comparison is None:
            raise RequestError(f"{where}: op {compare.op!r} is none of {' '.join(COMPARISONS)}")
        key, end = self._compared(compare, where)
        operand = _operand(compare, target, where)
        return commands.TxnCompare(key, target, comparison, operand, end)

    def _compared(self, compare: CompareItem | PackedCompare, where: str) -> tuple[bytes, bytes | bool | None]:
        """The key and end of a compare."""
        by_end = compare.end is not UNSET or compare.end_base64 is not UNSET
        if compare.prefix is UNSET and compare.prefix_base64 is UNSET:
            key = self._key(compare.key, compare.key_base64, where)
            return key, one_of(compare.end, compare.end_base64, "end", where) if by_end else None
        if by_end or compare.key is not UNSET or compare.key_base64 is not UNSET:
            raise RequestError(f"{where}: give a 'key', a 'key' and an 'end', or a 'prefix' alone")
        prefix = one_of(compare.prefix, compare.prefix_base64, "prefix", where)
        self._limits.check_bound(prefix, "prefix", where)
        end = prefix_end(prefix)
        return prefix or FIRST_KEY, True if end is None else end

    def _key(self, text: MaybeText, encoded: MaybeBytes, where: str) -> bytes:
        key = one_of(text, encoded, "key", where)
        self._limits.check_key(key, where)
        return key

    def _bounds(self, item: KeyBounds | PackedBounds, where: str) -> tuple[bytes, bytes | None]:
        by_prefix = item.prefix is not UNSET or item.prefix_base64 is not UNSET
        by_start = item.start is not UNSET or item.start_base64 is not UNSET
        by_end = item.end is not UNSET or item.end_base64 is not UNSET
        if by_prefix == (by_start or by_end):
            raise RequestError(f"{where}: give a 'prefix', or 'start' and 'end'")
        if by_prefix:
            prefix = one_of(item.prefix, item.prefix_base64, "prefix", where)
            self._limits.check_bound(prefix, "prefix", where)
            return prefix, prefix_end(prefix)
        start = one_of(item.start, item.start_base64, "start", where) if by_start else b""
        end = one_of(item.end, item.end_base64, "end", where) if by_end else None
        self._limits.check_bound(start, "start", where)
        self._limits.check_bound(end or b"", "end", where)
        return start, end


def _check_no_session(item: AnyOperation, where: str) -> None:
    """Raise `RequestError` for an operation inside a transaction that has a session of its own."""
    if isinstance(item, WithSession) and not (item.session is UNSET and item.sequence is UNSET):
        raise RequestError(f"{where}: 'session' and 'sequence' are for operations of a batch, not inside a transaction")


def _expectation(item: PutItem | PackedPut | DeleteItem | PackedDelete, where: str, conditions: bool) -> int | None:
    """The `expect` of a command: a revision, `EXISTS`, `ABSENT`, or None."""
    if item.if_revision is UNSET and not item.if_absent and not item.if_present:
        return None
    if not conditions:
        raise RequestError(
            f"{where}: 'if_revision', 'if_absent' and 'if_present' are for batches; a transaction's conditions are its"
            " compares"
        )
    if (item.if_revision is not UNSET) + item.if_absent + item.if_present > 1:
        raise RequestError(f"{where}: give one of 'if_revision', 'if_absent' and 'if_present', not several")
    if item.if_revision is not UNSET:
        return item.if_revision
    return ABSENT if item.if_absent else EXISTS


def _operand(compare: CompareItem | PackedCompare, target: CompareTarget, where: str) -> int | bytes:
    """What a compare compares with: of its three fields, the one that belongs to the target."""
    given = {
        "number": compare.number is not UNSET,
        "value": compare.value is not UNSET or compare.value_base64 is not UNSET,
        "lease": compare.lease is not UNSET,
    }
    wanted = {CompareTarget.VALUE: "value", CompareTarget.LEASE: "lease"}.get(target, "number")
    others = [name for name, is_given in given.items() if is_given and name != wanted]
    if others:
        raise RequestError(f"{where}: a compare of the {compare.target} takes {wanted!r}, not {others[0]!r}")
    if wanted == "value":
        return one_of(compare.value, compare.value_base64, "value", where)
    if wanted == "lease":
        if isinstance(compare.lease, UnsetType):
            raise RequestError(f"{where}: a compare of the lease takes 'lease'")
        return parse_lease(compare.lease, where, none_ok=True)
    if isinstance(compare.number, UnsetType):
        raise RequestError(f"{where}: a compare of the {compare.target} takes 'number'")
    if not 0 <= compare.number < 2**63:
        raise RequestError(f"{where}: 'number' is {compare.number}; expected 0 .. 2**63 - 1")
    return compare.number
