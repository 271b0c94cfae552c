"""`POST /txn`: compares, then, else, as JSON. One atomic revision, or nothing."""

from __future__ import annotations

from functools import partial
from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET

from syncline.decoding import UNDECODABLE
from syncline.kv import commands
from syncline.kv.commands import CompareTarget, Comparison, encode_command
from syncline.kv.records import (
    DeleteAnswer,
    DeleteRangeAnswer,
    GetAnswer,
    OperationAnswer,
    PutAnswer,
    RangePage,
    TxnAnswer,
)
from syncline.kv.store import prefix_end
from syncline.server.api.backend import Backend
from syncline.server.api.errors import RequestError
from syncline.server.api.json_bytes import Item, MaybeBytes, MaybeText, item_of, one_of, split
from syncline.server.api.reads import DEFAULT_TIMEOUT_S, MAX_TIMEOUT_S
from syncline.server.api.router import Explain, Router
from syncline.server.http.documents import check_charset, check_members
from syncline.server.http.limits import MIB
from syncline.server.http.request import Parameters, Request
from syncline.server.http.response import Respond, json_response

__all__ = ["MAX_TXN_BYTES", "TxnRoutes"]

MAX_TXN_BYTES: Final = 4 * MIB
"""The JSON of one transaction."""

PARAMETERS: Final = frozenset({"timeout"})
COMPARISONS: Final = {
    "==": Comparison.EQUAL,
    "!=": Comparison.NOT_EQUAL,
    ">": Comparison.GREATER,
    "<": Comparison.LESS,
}
TARGETS: Final = {target.name.lower(): target for target in CompareTarget}


class _Compare(msgspec.Struct, forbid_unknown_fields=True):
    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    target: str = "mod_revision"
    op: str = "=="
    number: int | msgspec.UnsetType = UNSET
    value: MaybeText = UNSET
    value_base64: MaybeBytes = UNSET


class _Put(msgspec.Struct, tag_field="op", tag="put", forbid_unknown_fields=True):
    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    value: MaybeText = UNSET
    value_base64: MaybeBytes = UNSET


class _Delete(msgspec.Struct, tag_field="op", tag="delete", forbid_unknown_fields=True):
    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET


class _Get(msgspec.Struct, tag_field="op", tag="get", forbid_unknown_fields=True):
    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET


class _Ranged(msgspec.Struct, forbid_unknown_fields=True):
    """A range of keys: by prefix, or from `start` up to and without `end`."""

    prefix: MaybeText = UNSET
    prefix_base64: MaybeBytes = UNSET
    start: MaybeText = UNSET
    start_base64: MaybeBytes = UNSET
    end: MaybeText = UNSET
    end_base64: MaybeBytes = UNSET
    limit: int = 0

    def bounds(self, where: str) -> tuple[bytes, bytes | None]:
        by_prefix = self.prefix is not UNSET or self.prefix_base64 is not UNSET
        by_start = self.start is not UNSET or self.start_base64 is not UNSET
        by_end = self.end is not UNSET or self.end_base64 is not UNSET
        if by_prefix == (by_start or by_end):
            raise RequestError(f"{where}: give a 'prefix', or 'start' and 'end'")
        if by_prefix:
            prefix = one_of(self.prefix, self.prefix_base64, "prefix", where)
            return prefix, prefix_end(prefix)
        start = one_of(self.start, self.start_base64, "start", where) if by_start else b""
        return start, one_of(self.end, self.end_base64, "end", where) if by_end else None


class _DeleteRange(_Ranged, tag_field="op", tag="delete_range", forbid_unknown_fields=True):
    pass


class _Range(_Ranged, tag_field="op", tag="range", forbid_unknown_fields=True):
    reverse: bool = False
    values: bool = False


class _Txn(msgspec.Struct, tag_field="op", tag="txn", forbid_unknown_fields=True):
    compare: list[_Compare] = []
    then: list[_Operation] = []
    else_: list[_Operation] = msgspec.field(name="else", default_factory=list)


class _TxnBody(msgspec.Struct, forbid_unknown_fields=True):
    """The outermost transaction: it needs no `op`."""

    compare: list[_Compare] = []
    then: list[_Operation] = []
    else_: list[_Operation] = msgspec.field(name="else", default_factory=list)


_Operation: TypeAlias = _Put | _Delete | _Get | _DeleteRange | _Range | _Txn

_decoder = msgspec.json.Decoder(_TxnBody)


class TxnRoutes:
    """Transactions."""

    def __init__(self, backend: Backend, *, explain: Explain, max_value_bytes: int, max_key_bytes: int) -> None:
        self._backend = backend
        self._explain = explain
        self._max_value_bytes = max_value_bytes
        self._max_key_bytes = max_key_bytes

    def add_to(self, router: Router) -> None:
        """Take the route."""
        router.add("POST", "/txn", self.txn)

    def txn(self, request: Request, respond: Respond) -> None:
        """Carry out one transaction."""
        parameters = Parameters(request.query, PARAMETERS)
        timeout_s = parameters.duration_s("timeout", DEFAULT_TIMEOUT_S, high=MAX_TIMEOUT_S)
        check_charset(request.headers)
        if len(request.body) > MAX_TXN_BYTES:
            raise RequestError(f"the body is above the limit of {MAX_TXN_BYTES} bytes", status=413, code="too_large")
        try:
            body = _decoder.decode(request.body)
        except UNDECODABLE as error:
            raise RequestError(f"the body is not a transaction: {error}") from None
        check_members(request.body)
        txn = self._command(body, "the transaction")
        done = partial(self._done, txn, request.mount, respond)
        self._backend.propose(encode_command(txn), timeout_s, done, frees_space=commands.frees_space(txn))

    def _done(
        self, txn: commands.Txn, mount: str, respond: Respond, result: object, error: BaseException | None
    ) -> None:
        if error is not None:
            respond(self._explain(error))
            return
        assert isinstance(result, TxnAnswer), result
        body = {
            "status": "success",
            "succeeded": result.succeeded,
            "revision": result.revision,
            "results": _results(txn, result, mount),
        }
        respond(json_response(body, fields=b"Syncline-Revision: %d\r\n" % result.revision))

    # --- JSON to command

    def _command(self, body: _TxnBody | _Txn, where: str) -> commands.Txn:
        compares = [self._compare(one, f"{where}'s compare {i}") for i, one in enumerate(body.compare)]
        then = [self._operation(one, f"{where}'s then {i}") for i, one in enumerate(body.then)]
        else_ = [self._operation(one, f"{where}'s else {i}") for i, one in enumerate(body.else_)]
        return commands.Txn(tuple(compares), tuple(then), tuple(else_))

    def _compare(self, compare: _Compare, where: str) -> commands.TxnCompare:
        target, comparison = TARGETS.get(compare.target), COMPARISONS.get(compare.op)
        if target is None:
            raise RequestError(f"{where}: target {compare.target!r} is none of {', '.join(TARGETS)}")
        if comparison is None:
            raise RequestError(f"{where}: op {compare.op!r} is none of {' '.join(COMPARISONS)}")
        key = self._key(compare.key, compare.key_base64, where)
        has_value = compare.value is not UNSET or compare.value_base64 is not UNSET
        if target is CompareTarget.VALUE:
            if compare.number is not UNSET:
                raise RequestError(f"{where}: a compare of the value takes 'value', not 'number'")
            operand = one_of(compare.value, compare.value_base64, "value", where)
            return commands.TxnCompare(key, target, comparison, operand)
        if has_value or not isinstance(compare.number, int):
            raise RequestError(f"{where}: a compare of the {compare.target} takes 'number'")
        if not 0 <= compare.number < 2**63:
            raise RequestError(f"{where}: 'number' is {compare.number}; expected 0 .. 2**63 - 1")
        return commands.TxnCompare(key, target, comparison, compare.number)

    def _operation(self, operation: _Operation, where: str) -> commands.TxnOperation:
        match operation:
            case _Put():
                value = one_of(operation.value, operation.value_base64, "value", where)
                if len(value) > self._max_value_bytes:
                    message = f"{where}: the value has {len(value)} bytes; the limit is {self._max_value_bytes}"
                    raise RequestError(message, status=413, code="too_large")
                return commands.Put(self._key(operation.key, operation.key_base64, where), value)
            case _Delete():
                return commands.Delete(self._key(operation.key, operation.key_base64, where))
            case _Get():
                return commands.Get(self._key(operation.key, operation.key_base64, where))
            case _DeleteRange():
                return commands.DeleteRange(*operation.bounds(where), operation.limit)
            case _Range():
                keys_only = not operation.values
                return commands.Range(*operation.bounds(where), operation.limit, operation.reverse, keys_only)
            case _Txn():
                return self._command(operation, where)

    def _key(self, text: MaybeText, encoded: MaybeBytes, where: str) -> bytes:
        key = one_of(text, encoded, "key", where)
        if not key:
            raise RequestError(f"{where}: the key is empty")
        if len(key) > self._max_key_bytes:
            message = f"{where}: the key has {len(key)} bytes; the limit is {self._max_key_bytes}"
            raise RequestError(message, status=413, code="too_large")
        return key


# --- result to JSON


class _Missing(msgspec.Struct, omit_defaults=True):
    op: str
    found: bool
    key: MaybeText
    key_base64: MaybeBytes


class _Found(Item, omit_defaults=True, kw_only=True):
    op: str
    found: bool


def _results(txn: commands.Txn, result: TxnAnswer, mount: str) -> list[object]:
    branch = txn.then if result.succeeded else txn.else_
    return [_result(operation, one, mount) for operation, one in zip(branch, result.results, strict=True)]


def _result(operation: commands.TxnOperation, result: OperationAnswer, mount: str) -> object:
    match result:
        case PutAnswer():
            return {"op": "put", "revision": result.revision, "created": result.created}
        case DeleteAnswer():
            return {"op": "delete", "deleted": int(result.deleted), "revision": result.revision}
        case DeleteRangeAnswer():
            return {
                "op": "delete_range",
                "deleted": result.deleted,
                "more": result.more,
                "revision": result.revision,
            }
        case GetAnswer():
            assert isinstance(operation, commands.Get)
            return _got(operation.key, result, mount)
        case RangePage():
            assert isinstance(operation, commands.Range)
            values = "false" if operation.keys_only else "true"
            items = [item_of(record, values=values, mount=mount) for record in result.items]
            if operation.keys_only:
                for item in items:
                    item.size_bytes = UNSET  # the machine left the values out: their sizes are not known here
            return {"op": "range", "keys": items, "count": result.count, "more": result.more}
        case TxnAnswer():
            assert isinstance(operation, commands.Txn)
            return {"op": "txn", "succeeded": result.succeeded, "results": _results(operation, result, mount)}


def _got(key: bytes, result: GetAnswer, mount: str) -> object:
    if result.record is None:
        text, encoded = split(key)
        return _Missing("get", False, text, encoded)
    item = item_of(result.record, values="true", mount=mount)
    return _Found(op="get", found=True, **msgspec.structs.asdict(item))
