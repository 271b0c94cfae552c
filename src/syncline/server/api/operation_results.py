"""Answers of operations, as `/txn` and `/batch` give them: in JSON, or in MessagePack with bytes as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import UNSET

from syncline.client.packed_schemas import PackedKey, PackedResult
from syncline.client.schemas import ErrorBody, KeyItem, ResultItem, split
from syncline.kv import commands
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
from syncline.server.api.json_bytes import item_of

__all__ = ["JsonResults", "PackedResults", "Results"]


Item = TypeVar("Item", ResultItem, PackedResult)


class Results(ABC, Generic[Item]):
    """Makes the results of operations in one form."""

    _kind: type[Item]

    def results(self, txn: commands.Txn, answer: TxnAnswer) -> list[Item]:
        """The results of the branch that ran."""
        branch = txn.then if answer.succeeded else txn.else_
        return [self.result(part, one) for part, one in zip(branch, answer.results, strict=True)]

    def result(self, operation: commands.TxnOperation, answer: OperationAnswer) -> Item:
        """The result of one operation."""
        kind = self._kind
        match answer:
            case PutAnswer():
                item = kind(op="put", revision=answer.revision, created=answer.created)
                if answer.lease:
                    item.lease = _lease_text(answer.lease)
                return self._with_previous(item, answer.previous)
            case DeleteAnswer():
                item = kind(op="delete", deleted=int(answer.deleted), revision=answer.revision)
                return self._with_previous(item, answer.previous)
            case IncrementAnswer():
                item = kind(op="increment", value=answer.value, revision=answer.revision)
                return self._with_previous(item, answer.previous)
            case TouchAnswer():
                return kind(op="touch", lease=_lease_text(answer.lease), revision=answer.revision)
            case DeleteRangeAnswer():
                assert isinstance(operation, commands.DeleteRange)
                item = kind(op="delete_range", deleted=answer.deleted, more=answer.more, revision=answer.revision)
                return self._with_all_previous(item, answer.previous) if operation.previous else item
            case GetAnswer():
                assert isinstance(operation, commands.Get)
                return self._got(operation.key, answer.record)
            case RangePage():
                assert isinstance(operation, commands.Range)
                return self._page(answer, with_values=not operation.keys_only)
            case TxnAnswer():
                assert isinstance(operation, commands.Txn)
                results = self.results(operation, answer)
                return kind(op="txn", succeeded=answer.succeeded, revision=answer.revision, results=results)

    @property
    def put_result(self) -> type[Item]:
        """Makes the result of a put alone, of which most batches have many."""
        return self._kind

    def refused(self, status: int, error: ErrorBody) -> Item:
        """The result of an operation that was refused."""
        return self._kind(status=status, error=error)

    @abstractmethod
    def _with_previous(self, item: Item, record: KeyRecord | None) -> Item: ...

    @abstractmethod
    def _with_all_previous(self, item: Item, records: Sequence[KeyRecord]) -> Item: ...

    @abstractmethod
    def _got(self, key: bytes, record: KeyRecord | None) -> Item: ...

    @abstractmethod
    def _page(self, page: RangePage, *, with_values: bool) -> Item: ...


class JsonResults(Results[ResultItem]):
    """Results for JSON. `mount` is the path below which the routes are."""

    _kind = ResultItem

    def __init__(self, mount: str) -> None:
        self._mount = mount

    def _with_previous(self, item: ResultItem, record: KeyRecord | None) -> ResultItem:
        if record is not None:
            item.prev = self._item(record)
        return item

    def _with_all_previous(self, item: ResultItem, records: Sequence[KeyRecord]) -> ResultItem:
        item.prev = [self._item(record) for record in records]
        return item

    def _got(self, key: bytes, record: KeyRecord | None) -> ResultItem:
        if record is None:
            text, encoded = split(key)
            return ResultItem(op="get", found=False, key=text, key_base64=encoded)
        return ResultItem(op="get", found=True, **msgspec.structs.asdict(self._item(record)))

    def _page(self, page: RangePage, *, with_values: bool) -> ResultItem:
        values = "true" if with_values else "false"
        items = [item_of(record, values=values, mount=self._mount) for record in page.items]
        if not with_values:
            for item in items:
                item.size_bytes = UNSET  # the machine left the values out: their sizes are not known here
        return ResultItem(op="range", keys=items, count=page.count, more=page.more)

    def _item(self, record: KeyRecord) -> KeyItem:
        return item_of(record, values="true", mount=self._mount)


class PackedResults(Results[PackedResult]):
    """Results for MessagePack."""

    _kind = PackedResult

    def _with_previous(self, item: PackedResult, record: KeyRecord | None) -> PackedResult:
        if record is not None:
            item.prev = _packed(record)
        return item

    def _with_all_previous(self, item: PackedResult, records: Sequence[KeyRecord]) -> PackedResult:
        item.prev = [_packed(record) for record in records]
        return item

    def _got(self, key: bytes, record: KeyRecord | None) -> PackedResult:
        if record is None:
            return PackedResult(op="get", found=False, key_base64=key)
        return PackedResult(
            op="get",
            found=True,
            key_base64=key,
            mod_revision=record.mod_revision,
            create_revision=record.create_revision,
            version=record.version,
            size_bytes=len(record.value),
            lease=_lease_text(record.lease) if record.lease else UNSET,
            value=record.value,
        )

    def _page(self, page: RangePage, *, with_values: bool) -> PackedResult:
        keys = [_packed(record, with_value=with_values) for record in page.items]
        return PackedResult(op="range", keys=keys, count=page.count, more=page.more)


def _packed(record: KeyRecord, *, with_value: bool = True) -> PackedKey:
    return PackedKey(
        key_base64=record.key,
        mod_revision=record.mod_revision,
        create_revision=record.create_revision,
        version=record.version,
        size_bytes=len(record.value) if with_value else UNSET,
        lease=_lease_text(record.lease) if record.lease else UNSET,
        value_base64=record.value if with_value else UNSET,
    )


def _lease_text(lease: int) -> str:
    return f"{lease:016x}"
