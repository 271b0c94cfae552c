"""Blocking transactions in a readable form."""

from __future__ import annotations

from collections.abc import Callable

from syncline.client.blocking.portal import PortalObject
from syncline.client.client import AsyncClient
from syncline.client.results import TxnResult
from syncline.client.transaction import TransactionParts
from syncline.client.txn import Compare, Operation

__all__ = ["BlockingTransaction", "BlockingTransactionCalls"]


class BlockingTransaction(TransactionParts):
    """Collects conditions and operations, as `Transaction`. `commit` runs them, atomically, as one revision.

        taken = kv.transaction().if_absent("seat/7").put("seat/7", "ann").else_get("seat/7").commit()
        print("yours" if taken.succeeded else taken.results[0].value)

    The methods that collect are those of `Transaction`. Example: `Transaction`.
    """

    def __init__(
        self, run: Callable[[list[Compare], list[Operation], list[Operation], float | None], TxnResult]
    ) -> None:
        super().__init__()
        self._run = run

    def commit(self, *, timeout: float | None = None) -> TxnResult:
        """Run it.

            moved = kv.transaction().if_value("seat/7", "ann").delete("seat/7").put("seat/8", "ann").commit()

        Raises:
            OperationError: as `Transaction.commit`.
        """
        return self._run(self._compares, self._then, self._else, timeout)


class BlockingTransactionCalls(PortalObject[AsyncClient]):
    """Transactions in a readable form."""

    def transaction(self) -> BlockingTransaction:
        """Begin a transaction in a readable form; `txn` takes the same as lists.

            moved = (
                kv.transaction()
                .if_present("job/7")
                .if_absent("done/7")
                .put("done/7", "ok")
                .delete("job/7")
                .else_get("done/7")
                .commit()
            )
            print(moved.succeeded)

        Its arguments and errors are those of `AsyncClient.transaction`.
        """
        return BlockingTransaction(
            lambda compare, then, else_, timeout: self._call(lambda kv: kv.txn(compare, then, else_, timeout=timeout))
        )
