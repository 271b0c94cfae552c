"""Answers of the machine as results of a client."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.client.embedded.errors import client_error
from syncline.client.results import KeyInfo, OperationResult, TxnResult
from syncline.errors import OperationError, Rejected, RequestFailed
from syncline.kv import commands
from syncline.kv.records import (
    BatchAnswer,
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
from syncline.kv.serving.batch_parts import BatchPart, PartedBatch

__all__ = ["EmbeddedBatch", "key_info", "operation_result", "txn_result"]


class EmbeddedBatch(PartedBatch[OperationResult | OperationError]):
    """A batch on an embedded node, with results and errors as they are."""

    __slots__ = ()

    def answered(self, part: BatchPart, answer: BatchAnswer) -> None:
        for place, operation, one in zip(part.places, part.operations, answer.results, strict=True):
            if isinstance(one, Rejected):
                self.refuse(place, one)
            else:
                self._results[place] = operation_result(operation, one)
        self.revision: int = max(self.revision, answer.revision)

    def _refused(self, error: Exception, repeated: bool = False) -> OperationError:
        del repeated
        made = client_error(error)
        return made if isinstance(made, OperationError) else RequestFailed(str(made), code="internal")

    def _done_once(
        self, operation: commands.BatchOperation, answer: OperationAnswer, repeated: bool
    ) -> OperationResult:
        del repeated
        return operation_result(operation, answer)

    def all_results(self) -> list[OperationResult | OperationError]:
        """One for each operation. All parts are done."""
        return [one for one in self._results if one is not None]


def txn_result(txn: commands.Txn, answer: TxnAnswer) -> TxnResult:
    """The result of a transaction."""
    return TxnResult(answer.succeeded, answer.revision, _branch_results(txn, answer))


def operation_result(operation: commands.BatchOperation, answer: OperationAnswer) -> OperationResult:
    """The result of one operation."""
    match answer:
        case PutAnswer():
            lease, previous = _lease_text(answer.lease), _previous(answer.previous)
            return OperationResult(
                "put", revision=answer.revision, created=answer.created, lease=lease, previous=previous
            )
        case DeleteAnswer():
            deleted = int(answer.deleted)
            return OperationResult(
                "delete", revision=answer.revision, deleted=deleted, previous=_previous(answer.previous)
            )
        case IncrementAnswer():
            previous = _previous(answer.previous)
            return OperationResult("increment", revision=answer.revision, number=answer.value, previous=previous)
        case TouchAnswer():
            return OperationResult("touch", revision=answer.revision, lease=_lease_text(answer.lease))
        case DeleteRangeAnswer():
            return OperationResult(
                "delete_range",
                revision=answer.revision,
                deleted=answer.deleted,
                more=answer.more,
                previous=_infos(answer.previous),
            )
        case GetAnswer():
            assert isinstance(operation, commands.Get)
            return _got(operation.key, answer.record)
        case RangePage():
            assert isinstance(operation, commands.Range)
            values = not operation.keys_only
            items = tuple(key_info(record, values=values, sized=values) for record in answer.items)
            return OperationResult("range", items=items, count=answer.count, more=answer.more)
        case TxnAnswer():
            assert isinstance(operation, commands.Txn)
            results = _branch_results(operation, answer)
            return OperationResult("txn", revision=answer.revision, succeeded=answer.succeeded, results=results)


def key_info(record: KeyRecord, *, values: bool, sized: bool = True) -> KeyInfo:
    """A record as an item of a listing. Not `sized`: the machine left the values out, so their sizes are not known."""
    return KeyInfo(
        record.key,
        record.mod_revision,
        record.create_revision,
        record.version,
        len(record.value) if sized else 0,
        record.value if values else None,
        record.lease,
    )


def _branch_results(txn: commands.Txn, answer: TxnAnswer) -> tuple[OperationResult, ...]:
    branch = txn.then if answer.succeeded else txn.else_
    return tuple(operation_result(part, one) for part, one in zip(branch, answer.results, strict=True))


def _got(key: bytes, record: KeyRecord | None) -> OperationResult:
    if record is None:
        return OperationResult("get", key=key)
    return OperationResult(
        "get",
        found=True,
        key=key,
        value=record.value,
        mod_revision=record.mod_revision,
        create_revision=record.create_revision,
        version=record.version,
        lease=_lease_text(record.lease),
    )


def _previous(record: KeyRecord | None) -> tuple[KeyInfo, ...]:
    return () if record is None else (key_info(record, values=True),)


def _infos(records: Sequence[KeyRecord]) -> tuple[KeyInfo, ...]:
    return tuple(key_info(record, values=True) for record in records)


def _lease_text(lease: int) -> str:
    return f"{lease:016x}" if lease else ""
