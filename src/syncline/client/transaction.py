"""A transaction that is written as it is read: conditions, then what is done if they hold, else what is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self, TypeAlias

from syncline.client.arguments import to_bytes, to_key
from syncline.client.calls import Key
from syncline.client.results import TxnResult
from syncline.client.single_keys import AtomicCalls
from syncline.client.txn import (
    Compare,
    DeleteOp,
    DeletePrefixOp,
    GetOp,
    IncrementOp,
    Operation,
    PutOp,
    compare_fields,
    operation_fields,
)

__all__ = ["Transaction", "TransactionCalls", "TransactionParts"]

Lease: TypeAlias = str | int


class TransactionParts:
    """The conditions and operations of a transaction. Arguments are checked as they are given."""

    def __init__(self) -> None:
        self._compares: list[Compare] = []
        self._then: list[Operation] = []
        self._else: list[Operation] = []

    # -- conditions

    def if_absent(self, key: Key) -> Self:
        """The key does not exist."""
        return self._compare(Compare(_key(key), target="version", number=0))

    def if_present(self, key: Key) -> Self:
        """The key exists."""
        return self._compare(Compare(_key(key), target="version", op=">", number=0))

    def if_value(self, key: Key, value: bytes | str) -> Self:
        """The key exists and has this value."""
        return self._compare(Compare(_key(key), value=to_bytes(value, "value")))

    def if_not_value(self, key: Key, value: bytes | str) -> Self:
        """The key exists and has another value."""
        return self._compare(Compare(_key(key), op="!=", value=to_bytes(value, "value")))

    def if_revision(self, key: Key, revision: int) -> Self:
        """The key was last written at this revision; 0: it does not exist."""
        return self._compare(Compare(_key(key), number=revision))

    def if_lease(self, key: Key, lease: Lease) -> Self:
        """The key is attached to this lease; 0: to none."""
        return self._compare(Compare(_key(key), lease=lease))

    def if_none_begin_with(self, prefix: Key) -> Self:
        """No key begins with this prefix."""
        return self._compare(Compare(to_bytes(prefix, "prefix"), target="version", number=0, prefix=True))

    def if_holds(self, *compares: Compare) -> Self:
        """Any other conditions."""
        for one in compares:
            self._compare(one)
        return self

    # -- if they hold

    def put(self, key: Key, value: bytes | str, *, ttl: float | None = None, lease: Lease | None = None) -> Self:
        """Write a key."""
        return self._add(self._then, PutOp(_key(key), to_bytes(value, "value"), lease=lease, ttl=ttl))

    def delete(self, key: Key) -> Self:
        """Delete a key."""
        return self._add(self._then, DeleteOp(_key(key)))

    def delete_prefix(self, prefix: Key) -> Self:
        """Delete all keys that begin with this prefix."""
        return self._add(self._then, DeletePrefixOp(to_bytes(prefix, "prefix")))

    def increment(self, key: Key, by: int = 1) -> Self:
        """Add to the number that is the key's value."""
        return self._add(self._then, IncrementOp(_key(key), by))

    def get(self, key: Key) -> Self:
        """Read a key."""
        return self._add(self._then, GetOp(_key(key)))

    def do(self, *operations: Operation) -> Self:
        """Any other operations."""
        for one in operations:
            self._add(self._then, one)
        return self

    # -- if they do not

    def else_put(self, key: Key, value: bytes | str, *, ttl: float | None = None, lease: Lease | None = None) -> Self:
        """Write a key."""
        return self._add(self._else, PutOp(_key(key), to_bytes(value, "value"), lease=lease, ttl=ttl))

    def else_delete(self, key: Key) -> Self:
        """Delete a key."""
        return self._add(self._else, DeleteOp(_key(key)))

    def else_get(self, key: Key) -> Self:
        """Read a key."""
        return self._add(self._else, GetOp(_key(key)))

    def else_do(self, *operations: Operation) -> Self:
        """Any other operations."""
        for one in operations:
            self._add(self._else, one)
        return self

    def _compare(self, one: Compare) -> Self:
        compare_fields(one)
        self._compares.append(one)
        return self

    def _add(self, branch: list[Operation], one: Operation) -> Self:
        operation_fields(one, in_batch=False)
        branch.append(one)
        return self


class Transaction(TransactionParts):
    """Collects conditions and operations. `commit` runs them, atomically, as one revision.

        taken = await kv.transaction().if_absent("seat/7").put("seat/7", "ann").else_get("seat/7").commit()
        print("yours" if taken.succeeded else taken.results[0].value)

    Conditions, all of which have to hold:

        moved = kv.transaction().if_present("a").if_value("b", "1").if_not_value("c", "2").if_revision("d", 0)
        moved.if_lease("a", 0).if_none_begin_with("job/").if_holds(Compare(b"a", target="version", number=1))

    What is done if they hold, and what is done if they do not:

        moved.get("a").delete("a").delete_prefix("old/").increment("moves").do(TouchOp(b"b", 60.0))
        moved.else_put("missed", "1").else_delete("c").else_do(IncrementOp(b"misses"))

    If all conditions hold, the operations without `else_` run in their order, else those with it. The results of the
    branch that ran are in `TxnResult.results`. Arguments are checked as they are given: `ConfigError` or `TypeError`.
    Committing again runs it again.
    """

    def __init__(
        self,
        run: Callable[[list[Compare], list[Operation], list[Operation], float | None], Awaitable[TxnResult]],
    ) -> None:
        super().__init__()
        self._run = run

    async def commit(self, *, timeout: float | None = None) -> TxnResult:
        """Run it.

            moved = await kv.transaction().if_value("seat/7", "ann").delete("seat/7").put("seat/8", "ann").commit()

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return await self._run(self._compares, self._then, self._else, timeout)


class TransactionCalls(AtomicCalls):
    """Transactions in a readable form."""

    def transaction(self) -> Transaction:
        """Begin a transaction in a readable form; `txn` takes the same as lists.

            moved = kv.transaction().if_present("job/7").if_absent("done/7")
            moved.delete("job/7").put("done/7", "ok").else_get("done/7")
            print((await moved.commit()).succeeded)

        Nothing is sent before `commit`.
        """

        async def run(
            compare: list[Compare], then: list[Operation], else_: list[Operation], timeout: float | None
        ) -> TxnResult:
            return await self.txn(compare, then, else_, timeout=timeout)

        return Transaction(run)


def _key(key: Key) -> bytes:
    return to_key(key)
