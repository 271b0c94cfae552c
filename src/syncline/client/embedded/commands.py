"""Operations as commands of the machine, with the checks that a server makes of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from syncline.client.arguments import LEAST_TTL_S, LONGEST_TTL_S, checked_items
from syncline.client.txn import Compare, Fields, Operation, TxnOp, operation_fields
from syncline.kv import commands
from syncline.kv.commands import ABSENT, EXISTS, LARGEST_NUMBER, LEAST_NUMBER, CompareTarget, Comparison
from syncline.kv.limits import MAX_LEASE_ID
from syncline.kv.serving.key_limits import KeyLimits, bad_request
from syncline.kv.store import prefix_end

__all__ = ["OperationCommands", "lease_number", "milliseconds"]

COMPARISONS: Final = {
    "==": Comparison.EQUAL,
    "!=": Comparison.NOT_EQUAL,
    ">": Comparison.GREATER,
    "<": Comparison.LESS,
}
TARGETS: Final = {target.name.lower(): target for target in CompareTarget}

FIRST_KEY: Final = b"\0"
"""No key is empty, so this is the least one."""


def milliseconds(ttl_s: float, where: str) -> int:
    """The milliseconds of a time to live. Raises `RequestFailed` (`bad_request`) if no lease can have it."""
    if not LEAST_TTL_S <= ttl_s <= LONGEST_TTL_S:
        raise bad_request(f"{where}: ttl is {ttl_s:g}: it must be from {LEAST_TTL_S:g} to {LONGEST_TTL_S:.0f} seconds")
    return round(ttl_s * 1000)


def lease_number(text: str, where: str, *, none_ok: bool = False) -> int:
    """The id of a lease as a number. Raises `RequestFailed` (`bad_request`). `none_ok`: 0, for no lease, is one too."""
    number = int(text, 16)
    if number > MAX_LEASE_ID or (not number and not none_ok):
        raise bad_request(f"{where}: {text} is no id of a lease")
    return number


class OperationCommands:
    """Makes commands of operations. Errors name the place; they are those of a request to a server."""

    def __init__(self, limits: KeyLimits, new_lease: Callable[[], int]) -> None:
        """`new_lease` draws the id of a new lease at random."""
        self._limits = limits
        self._new_lease = new_lease

    def fields(self, operations: Sequence[Operation]) -> list[Fields]:
        """The operations of a batch, with their types and values checked. Raises `ConfigError` or `TypeError`."""
        found = [operation_fields(item, in_batch=True) for item in checked_items(operations, "operations")]
        for one in found:
            _check_numbers(one)
        return found

    def txn(self, compare: Sequence[Compare], then: Sequence[Operation], else_: Sequence[Operation]) -> commands.Txn:
        """A transaction."""
        compares, first = checked_items(compare, "compare"), checked_items(then, "then")
        txn = TxnOp(tuple(compares), tuple(first), tuple(checked_items(else_, "else_")))
        fields = operation_fields(txn, in_batch=False)
        _check_numbers(fields)
        return self._txn(fields, "the transaction")

    def operation(self, fields: Fields, where: str) -> commands.BatchOperation:
        """One operation, from its fields."""
        given: dict[str, Any] = fields
        previous = given.get("prev", False)
        match given["op"]:
            case "put":
                return self._put(given, where)
            case "delete":
                return commands.Delete(self._key(given, where), _expectation(given), previous)
            case "get":
                return commands.Get(self._key(given, where), given.get("revision", 0))
            case "increment":
                key = self._key(given, where)
                return commands.Increment(key, given["by"], given["initial"], previous)
            case "touch":
                key = self._key(given, where)
                return commands.Touch(key, _ttl_ms(given, where), self._new_lease())
            case "delete_range":
                return commands.DeleteRange(*self._bounds(given, where), given.get("limit", 0), previous)
            case "range":
                start, end = self._bounds(given, where)
                keys_only, reverse = not given.get("values", False), given.get("reverse", False)
                limit, revision = given.get("limit", 0), given.get("revision", 0)
                return commands.Range(start, end, limit, reverse, keys_only, False, revision)
            case _:
                return self._txn(given, where)

    def _txn(self, fields: Fields, where: str) -> commands.Txn:
        given: dict[str, Any] = fields
        compares = [self._compare(one, f"{where}'s compare {i}") for i, one in enumerate(given["compare"])]
        then = [self.operation(one, f"{where}'s then {i}") for i, one in enumerate(given["then"])]
        else_ = [self.operation(one, f"{where}'s else {i}") for i, one in enumerate(given["else"])]
        return commands.Txn(tuple(compares), tuple(then), tuple(else_))

    def _put(self, given: dict[str, Any], where: str) -> commands.Put:
        key, value = given["key"], given["value"]
        self._limits.check_value(value, where)
        self._limits.check_key(key, where)
        lease = ttl_ms = 0
        if "ttl" in given:
            if "lease" in given:
                raise bad_request(f"{where}: give one of lease and ttl, not both")
            lease, ttl_ms = self._new_lease(), _ttl_ms(given, where)
        elif "lease" in given:
            lease = lease_number(given["lease"], where)
        return commands.Put(key, value, lease, _expectation(given), ttl_ms, given.get("prev", False))

    def _compare(self, given: dict[str, Any], where: str) -> commands.TxnCompare:
        target, comparison = TARGETS.get(given["target"]), COMPARISONS.get(given["op"])
        if target is None:
            raise bad_request(f"{where}: target {given['target']!r} is none of {', '.join(TARGETS)}")
        if comparison is None:
            raise bad_request(f"{where}: op {given['op']!r} is none of {' '.join(COMPARISONS)}")
        end: bytes | bool | None
        if "prefix" in given:
            prefix = given["prefix"]
            self._limits.check_bound(prefix, "prefix", where)
            end = prefix_end(prefix)
            key, end = prefix or FIRST_KEY, True if end is None else end
        else:
            key, end = self._key(given, where), given.get("end")
        return commands.TxnCompare(key, target, comparison, _operand(given, target, where), end)

    def _key(self, given: dict[str, Any], where: str) -> bytes:
        key: bytes = given["key"]
        self._limits.check_key(key, where)
        return key

    def _bounds(self, given: dict[str, Any], where: str) -> tuple[bytes, bytes | None]:
        if "prefix" in given:
            prefix: bytes = given["prefix"]
            self._limits.check_bound(prefix, "prefix", where)
            return prefix, prefix_end(prefix)
        start: bytes = given["start"]
        end: bytes | None = given.get("end")
        self._limits.check_bound(start, "start", where)
        self._limits.check_bound(end or b"", "end", where)
        return start, end


def _operand(given: dict[str, Any], target: CompareTarget, where: str) -> int | bytes:
    """What a compare compares with. A `target` that names another field than the one that is given is refused."""
    wanted = {CompareTarget.VALUE: "value", CompareTarget.LEASE: "lease"}.get(target, "number")
    if wanted not in given:
        raise bad_request(f"{where}: a compare of the {given['target']} takes a {wanted}")
    if target is CompareTarget.LEASE:
        return lease_number(given["lease"], where, none_ok=True)
    operand: int | bytes = given[wanted]
    if isinstance(operand, int) and operand < 0:
        raise bad_request(f"{where}: the number is {operand}; expected 0 .. 2**63 - 1")
    return operand


def _expectation(given: dict[str, Any]) -> int | None:
    """The `expect` of a command: a revision, `EXISTS`, `ABSENT`, or None."""
    if "if_revision" in given:
        revision: int = given["if_revision"]
        return revision
    if given.get("if_absent"):
        return ABSENT
    return EXISTS if given.get("if_present") else None


def _ttl_ms(given: dict[str, Any], where: str) -> int:
    """The milliseconds of a `ttl`, which is the text of a number of seconds, with a unit or without."""
    text: str = given["ttl"]
    return milliseconds(float(text.removesuffix("s")), where)


def _check_numbers(fields: object) -> None:
    """Raise `RequestFailed` (`bad_request`) for a number that no request could carry."""
    if isinstance(fields, list):
        for one in fields:
            _check_numbers(one)
    elif isinstance(fields, dict):
        for name, value in fields.items():
            if isinstance(value, list):
                _check_numbers(value)
            elif isinstance(value, int) and not LEAST_NUMBER <= value <= LARGEST_NUMBER:
                raise bad_request(f"{name} is {value}: expected at most {LARGEST_NUMBER}")
