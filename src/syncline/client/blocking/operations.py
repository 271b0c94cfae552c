"""Blocking calls that carry several operations in one request, and those that stand for one of them."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.client.blocking.portal import PortalObject
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.results import CompactResult, OperationResult, TxnResult
from syncline.client.txn import Compare, Operation
from syncline.errors import OperationError

__all__ = ["BlockingOperationCalls"]


class BlockingOperationCalls(PortalObject[AsyncClient]):
    """Transactions, batches, counters, compaction."""

    def txn(
        self,
        compare: Sequence[Compare] = (),
        then: Sequence[Operation] = (),
        else_: Sequence[Operation] = (),
        *,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> TxnResult:
        """Run `then` if all compares hold, else `else_`, atomically, as one revision.

            absent = Compare(b"lock", target="version", number=0)
            result = kv.txn([absent], then=[PutOp(b"lock", b"mine")], else_=[GetOp(b"lock")])
            print(result.succeeded)

        Its arguments and errors are those of `AsyncClient.txn`.
        """
        return self._call(lambda kv: kv.txn(compare, then, else_, idempotent=idempotent, timeout=timeout))

    def batch(
        self, operations: Sequence[Operation], *, idempotent: bool = False, timeout: float | None = None
    ) -> list[OperationResult | OperationError]:
        """Carry out up to 1,000 independent operations in one round of the cluster: in order, not atomically.

            for result in kv.batch([PutOp(b"a", b"1"), PutOp(b"b", b"2", if_absent=True), GetOp(b"a")]):
                print(result)

        Its arguments and errors are those of `AsyncClient.batch`.
        """
        return self._call(lambda kv: kv.batch(operations, idempotent=idempotent, timeout=timeout))

    def increment(
        self, key: Key, by: int = 1, *, initial: int = 0, idempotent: bool = False, timeout: float | None = None
    ) -> int:
        """Add `by` to the decimal number that is the key's value; return the sum. An absent key counts as `initial`.

            print(kv.increment("visits"))

        Its arguments and errors are those of `AsyncClient.increment`.
        """
        return self._call(lambda kv: kv.increment(key, by, initial=initial, idempotent=idempotent, timeout=timeout))

    def compact(self, revision: int, *, timeout: float | None = None) -> CompactResult:
        """Make `revision` the oldest one that can be read. The history before it is given up on every node.

            print(kv.compact(3).oldest)

        Its arguments and errors are those of `AsyncClient.compact`.
        """
        return self._call(lambda kv: kv.compact(revision, timeout=timeout))
