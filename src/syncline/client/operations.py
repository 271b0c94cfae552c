"""Calls that carry several operations in one request, and those that stand for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from syncline.client.arguments import checked_items, checked_number, checked_revision, to_key
from syncline.client.caller import ClientRequest
from syncline.client.calls import JSON_BODY, Key, ServerCalls
from syncline.client.gathered import increment_in_batch
from syncline.client.gathering import SendAlone
from syncline.client.results import CompactResult, OperationResult, TxnResult
from syncline.client.schemas import CompactBody
from syncline.client.session_keys import SessionKeys
from syncline.client.txn import (
    MSGPACK_BODY,
    Compare,
    Fields,
    IncrementOp,
    Operation,
    has_writes,
    operation_fields,
    packed_batch,
    txn_body,
)
from syncline.client.wire import batch_results, decode, error_from, txn_result
from syncline.errors import OperationError, RequestFailed

__all__ = ["OperationCalls"]

BAD_REQUEST: Final = 400


class OperationCalls(ServerCalls):
    """Transactions, batches, counters, compaction."""

    async def txn(
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
            result = await kv.txn([absent], then=[PutOp(b"lock", b"mine")], else_=[GetOp(b"lock")])
            print(result.succeeded)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        request = ClientRequest(
            method="POST",
            target="/txn",
            headers=JSON_BODY,
            body=txn_body(compare, then, else_),
            idempotent=idempotent,
            keyed=True,
        )
        return txn_result(await self._answer(request, timeout))

    async def batch(
        self, operations: Sequence[Operation], *, idempotent: bool = False, timeout: float | None = None
    ) -> list[OperationResult | OperationError]:
        """Carry out up to 1,000 independent operations in one round of the cluster: in order, not atomically.

            for result in await kv.batch([PutOp(b"a", b"1"), PutOp(b"b", b"2", if_absent=True), GetOp(b"a")]):
                print(result)

        Each operation has its own result. One that was refused has its error in that place, and the others go on. In a
        session (`AsyncClient.session`) each write takes effect exactly once.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused the batch as a whole, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        items = [operation_fields(item, in_batch=True) for item in checked_items(operations, "operations")]
        return await self._carry_out_batch(items, self._limit_s(timeout), idempotent=idempotent)

    async def _carry_out_batch(
        self, items: Sequence[Fields], timeout_s: float, *, idempotent: bool = False
    ) -> list[OperationResult | OperationError]:
        """One batch. It has a key, or each of its writes has one in a session of the caller's."""
        keys, writes = self._keys, has_writes(items)
        if isinstance(keys, SessionKeys):
            return await keys.batch(self._caller, items, timeout_s)
        request = ClientRequest(
            method="POST",
            target="/batch",
            headers=MSGPACK_BODY,
            body=packed_batch(items),
            idempotent=idempotent or not writes,
            reads=not writes,
            keyed=writes,
        )
        try:
            response = await self._answer(request, timeout_s)
        except RequestFailed as error:
            if error.status != BAD_REQUEST or keys is None or not writes:
                raise
            # An older server takes no key for a whole batch. It has done nothing.
            response = await self._caller.call(msgspec.structs.replace(request, keyed=False), timeout_s)
            if response.status >= BAD_REQUEST:
                raise error_from(response) from None
        return batch_results(response, len(items))

    async def increment(
        self, key: Key, by: int = 1, *, initial: int = 0, idempotent: bool = False, timeout: float | None = None
    ) -> int:
        """Add `by` to the decimal number that is the key's value; return the sum. An absent key counts as `initial`.

            print(await kv.increment("visits"))

        Raises:
            Rejected: the value is no number, or the sum needs more than 64 bits: code `not_a_number`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        name = to_key(key)
        checked_number(by, "by")
        checked_number(initial, "initial")
        gathering = self._gathered_writes
        if gathering is None:
            return await self._increment(IncrementOp(name, by, initial), idempotent, timeout)
        if gathering.busy and (self._keys is not None or not idempotent):
            try:
                return await increment_in_batch(gathering, name, by, initial, self._limit_s(timeout))
            except SendAlone as left:
                timeout = left.timeout_s
        gathering.begin_alone()
        try:
            return await self._increment(IncrementOp(name, by, initial), idempotent, timeout)
        finally:
            gathering.end_alone()

    async def _increment(self, operation: IncrementOp, idempotent: bool, timeout: float | None) -> int:
        result = await self.txn(then=[operation], idempotent=idempotent, timeout=timeout)
        return result.results[0].number

    async def compact(self, revision: int, *, timeout: float | None = None) -> CompactResult:
        """Make `revision` the oldest one that can be read. The history before it is given up on every node.

            print((await kv.compact(3)).oldest)

        Below the oldest readable revision it changes nothing.

        Raises:
            Rejected: the store has not reached this revision: code `future_revision`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        body = msgspec.json.encode(CompactBody(revision=checked_revision(revision, "revision", 1)))
        request = ClientRequest(
            method="POST", target="/compact", headers=JSON_BODY, body=body, idempotent=True, keyed=True
        )
        return decode(await self._answer(request, timeout), CompactResult)
