"""`POST /txn`: compares, then, else, as JSON. One atomic revision, or nothing."""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec
from msgspec import UNSET

from syncline.client.schemas import (
    CompareItem,
    DeleteItem,
    DeleteRangeItem,
    FoundItem,
    GetItem,
    KeyBounds,
    MaybeBytes,
    MaybeText,
    OperationItem,
    PutItem,
    RangeItem,
    ResultItem,
    TxnBody,
    TxnItem,
    split,
)
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
from syncline.server.api.json_bytes import item_of, one_of
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


_decoder = msgspec.json.Decoder(TxnBody)


class TxnRoutes:
    """Transactions."""

    def __init__(self, backend: Backend, *, explain: Explain, max_value_bytes: int, max_key_bytes: int) -> None:
        self._backend = backend
        self._explain = explain
        self._max_value_bytes = max_value_bytes
        self._max_key_bytes = max_key_bytes

    def add_to(self, router: Router) -> None:
        """Register the route."""
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

    def _command(self, body: TxnBody | TxnItem, where: str) -> commands.Txn:
        compares = [self._compare(one, f"{where}'s compare {i}") for i, one in enumerate(body.compare)]
        then = [self._operation(one, f"{where}'s then {i}") for i, one in enumerate(body.then)]
        else_ = [self._operation(one, f"{where}'s else {i}") for i, one in enumerate(body.else_)]
        return commands.Txn(tuple(compares), tuple(then), tuple(else_))

    def _compare(self, compare: CompareItem, where: str) -> commands.TxnCompare:
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

    def _operation(self, operation: OperationItem, where: str) -> commands.TxnOperation:
        match operation:
            case PutItem():
                value = one_of(operation.value, operation.value_base64, "value", where)
                if len(value) > self._max_value_bytes:
                    message = f"{where}: the value has {len(value)} bytes; the limit is {self._max_value_bytes}"
                    raise RequestError(message, status=413, code="too_large")
                return commands.Put(self._key(operation.key, operation.key_base64, where), value)
            case DeleteItem():
                return commands.Delete(self._key(operation.key, operation.key_base64, where))
            case GetItem():
                return commands.Get(self._key(operation.key, operation.key_base64, where))
            case DeleteRangeItem():
                return commands.DeleteRange(*_bounds(operation, where), operation.limit)
            case RangeItem():
                keys_only = not operation.values
                return commands.Range(*_bounds(operation, where), operation.limit, operation.reverse, keys_only)
            case TxnItem():
                return self._command(operation, where)

    def _key(self, text: MaybeText, encoded: MaybeBytes, where: str) -> bytes:
        key = one_of(text, encoded, "key", where)
        if not key:
            raise RequestError(f"{where}: the key is empty")
        if len(key) > self._max_key_bytes:
            message = f"{where}: the key has {len(key)} bytes; the limit is {self._max_key_bytes}"
            raise RequestError(message, status=413, code="too_large")
        return key


def _bounds(item: KeyBounds, where: str) -> tuple[bytes, bytes | None]:
    by_prefix = item.prefix is not UNSET or item.prefix_base64 is not UNSET
    by_start = item.start is not UNSET or item.start_base64 is not UNSET
    by_end = item.end is not UNSET or item.end_base64 is not UNSET
    if by_prefix == (by_start or by_end):
        raise RequestError(f"{where}: give a 'prefix', or 'start' and 'end'")
    if by_prefix:
        prefix = one_of(item.prefix, item.prefix_base64, "prefix", where)
        return prefix, prefix_end(prefix)
    start = one_of(item.start, item.start_base64, "start", where) if by_start else b""
    return start, one_of(item.end, item.end_base64, "end", where) if by_end else None


# --- result to JSON


def _results(txn: commands.Txn, result: TxnAnswer, mount: str) -> list[object]:
    branch = txn.then if result.succeeded else txn.else_
    return [_result(operation, one, mount) for operation, one in zip(branch, result.results, strict=True)]


def _result(operation: commands.TxnOperation, result: OperationAnswer, mount: str) -> ResultItem | FoundItem:
    match result:
        case PutAnswer():
            return ResultItem(op="put", revision=result.revision, created=result.created)
        case DeleteAnswer():
            return ResultItem(op="delete", deleted=int(result.deleted), revision=result.revision)
        case DeleteRangeAnswer():
            return ResultItem(op="delete_range", deleted=result.deleted, more=result.more, revision=result.revision)
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
            return ResultItem(op="range", keys=items, count=result.count, more=result.more)
        case TxnAnswer():
            assert isinstance(operation, commands.Txn)
            results = _results(operation, result, mount)
            return ResultItem(op="txn", succeeded=result.succeeded, results=results)


def _got(key: bytes, result: GetAnswer, mount: str) -> ResultItem | FoundItem:
    if result.record is None:
        text, encoded = split(key)
        return ResultItem(op="get", found=False, key=text, key_base64=encoded)
    item = item_of(result.record, values="true", mount=mount)
    return FoundItem(op="get", found=True, **msgspec.structs.asdict(item))
