"""Calls that carry several operations at once, and those that stand for one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import nullcontext

from syncline.client.arguments import checked_number, checked_revision, to_key
from syncline.client.calls import Key
from syncline.client.embedded.calls import EmbeddedCalls
from syncline.client.embedded.commands import OperationCommands
from syncline.client.embedded.errors import tried_again
from syncline.client.embedded.results import EmbeddedBatch, txn_result
from syncline.client.results import CompactResult, OperationResult, TxnResult
from syncline.client.txn import READS, Compare, Fields, Operation
from syncline.errors import OperationError, SynclineError, TooLarge
from syncline.kv import commands
from syncline.kv.batch import apply_batch
from syncline.kv.commands import Compact, Increment, OperationBatch, encode_command
from syncline.kv.limits import MAX_BATCH_OPS
from syncline.kv.records import CompactAnswer, IncrementAnswer, TxnAnswer
from syncline.kv.serving.batch_parts import BatchPart
from syncline.kv.serving.key_limits import bad_request
from syncline.kv.serving.reads import MAX_REVISION, ReadPlan
from syncline.kv.store import KeyStore
from syncline.sessions.entries import OnceKey

__all__ = ["EmbeddedOperationCalls"]


class EmbeddedOperationCalls(EmbeddedCalls):
    """Transactions, batches, counters, compaction."""

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        then: Sequence[Operation] = (),
        else_: Sequence[Operation] = (),
        *,
        idempotent: bool = False,  # noqa: ARG002 - the signature is the client's
        timeout: float | None = None,
    ) -> TxnResult:
        """Run `then` if all compares hold, else `else_`, atomically, as one revision.

            absent = Compare(b"lock", target="version", number=0)
            result = await store.txn([absent], then=[PutOp(b"lock", b"mine")], else_=[GetOp(b"lock")])
            print(result.succeeded)

        Raises:
            DeadlineExceeded: no answer came in time (see its `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was proposed.
        """
        txn = self._commands.txn(compare, then, else_)
        timeout_s = self._limit_s(timeout)
        answer = await self._write(encode_command(txn), timeout_s, frees_space=commands.frees_space(txn))
        assert isinstance(answer, TxnAnswer), answer
        return txn_result(txn, answer)

    async def batch(
        self,
        operations: Sequence[Operation],
        *,
        idempotent: bool = False,  # noqa: ARG002 - the signature is the client's
        timeout: float | None = None,
    ) -> list[OperationResult | OperationError]:
        """Carry out up to 1,000 independent operations in one round of the cluster: in order, not atomically.

            for result in await store.batch([PutOp(b"a", b"1"), PutOp(b"b", b"2", if_absent=True), GetOp(b"a")]):
                print(result)

        Each operation has its own result. One that was refused has its error in that place, and the others go on. In a
        session (`Store.session`) each write takes effect exactly once.

        Raises:
            DeadlineExceeded: no answer came in time (see its `outcome`).
            OperationError: the cluster refused the batch as a whole, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was proposed.
        """
        fields = self._commands.fields(operations)
        timeout_s = self._limit_s(timeout)
        if len(fields) > MAX_BATCH_OPS:
            raise TooLarge(f"a batch of {len(fields)} operations; the limit is {MAX_BATCH_OPS}; nothing was done")
        return await self._batch_of(fields, timeout_s)

    async def _batch_of(self, fields: list[Fields], timeout_s: float) -> list[OperationResult | OperationError]:
        """Carry out a batch, again while the cluster refuses it for the moment."""
        keys, writes = self._keys, sum(item["op"] not in READS for item in fields)
        with nullcontext() if keys is None else keys.reserved(writes) as first:
            try:
                return await self._batch(fields, first, timeout_s)
            except OperationError as error:
                if not tried_again(error):
                    raise
                return await self._again(lambda left_s: self._batch(fields, first, left_s), timeout_s, error)

    async def _batch(
        self, fields: list[Fields], keys: tuple[str, int] | None, timeout_s: float
    ) -> list[OperationResult | OperationError]:
        """Carry out a batch once. `keys`: a session, and the sequence of the first write; the others follow."""
        batch = EmbeddedBatch(len(fields))
        session, sequence = (0, 0) if keys is None else (int(keys[0], 16), keys[1])
        for place, item in enumerate(fields):
            key = None
            if session and item["op"] not in READS:
                key, sequence = OnceKey(session, sequence), sequence + 1
            try:
                operation = self._commands.operation(item, "the operation")
            except OperationError as error:
                batch.refuse(place, error)
            else:
                batch.add(place, operation, key, b"")
        if batch.reads_only:
            batch.check_reads()
            if not batch.parts:
                return batch.all_results()
            await self._read(lambda store: _read_all(batch, store), ReadPlan(timeout_s=timeout_s))
            return batch.all_results()
        batch.encode()
        # All are proposed before the first one is waited for: so they stay in their order.
        ends = [self._begun(batch, part, timeout_s) for part in batch.parts]
        await asyncio.gather(*ends)
        if (failure := batch.failure) is not None:
            raise failure
        return batch.all_results()

    def _begun(self, batch: EmbeddedBatch, part: BatchPart, timeout_s: float) -> Coroutine[None, None, None]:
        """Propose a part now; the coroutine records what becomes of it."""
        if part.key is None:
            return _plain_end(batch, part, self._proposed(part.command, part.frees_space, timeout_s))
        attempt_s = min(timeout_s, self._attempt_s)
        first = self._proposed_once(part.command, part.key, attempt_s, frees_space=part.frees_space)
        until_known = self._write_once(part.command, part.key, timeout_s, frees_space=part.frees_space, begun=first)
        return _once_end(batch, part, until_known)

    @property
    def _commands(self) -> OperationCommands:
        embedded = self._embedded
        return OperationCommands(embedded.limits, embedded.node.new_lease)

    async def increment(
        self,
        key: Key,
        by: int = 1,
        *,
        initial: int = 0,
        idempotent: bool = False,  # noqa: ARG002 - the signature is the client's
        timeout: float | None = None,
    ) -> int:
        """Add `by` to the decimal number that is the key's value; return the sum. An absent key counts as `initial`.

            print(await store.increment("visits"))

        Raises:
            Rejected: the value is no number, or the sum needs more than 64 bits: code `not_a_number`.
            DeadlineExceeded: no answer came in time (see its `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was proposed.
        """
        name = to_key(key)
        command = Increment(name, checked_number(by, "by"), checked_number(initial, "initial"))
        timeout_s = self._limit_s(timeout)
        self._embedded.limits.check_key(name, "the call")
        answer = await self._write(encode_command(command), timeout_s)
        assert isinstance(answer, IncrementAnswer), answer
        return answer.value

    async def compact(self, revision: int, *, timeout: float | None = None) -> CompactResult:
        """Make `revision` the oldest one that can be read. The history before it is given up on every node.

            print((await store.compact(3)).oldest)

        Below the oldest readable revision it changes nothing.

        Raises:
            Rejected: the store has not reached this revision: code `future_revision`.
            DeadlineExceeded: no answer came in time (see its `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was proposed.
        """
        if checked_revision(revision, "revision", 1) > MAX_REVISION:
            raise bad_request(f"revision is {revision}: it must be at most {MAX_REVISION}")
        timeout_s = self._limit_s(timeout)
        answer = await self._write(encode_command(Compact(revision)), timeout_s, frees_space=True)
        assert isinstance(answer, CompactAnswer), answer
        return CompactResult(answer.oldest)


async def _plain_end(batch: EmbeddedBatch, part: BatchPart, begun: Awaitable[object]) -> None:
    try:
        answer = await begun
    except SynclineError as error:
        batch.done(part, None, error)
    else:
        batch.done(part, answer, None)


async def _once_end(batch: EmbeddedBatch, part: BatchPart, begun: Awaitable[tuple[object, bool]]) -> None:
    try:
        answer, repeated = await begun
    except SynclineError as error:
        batch.done(part, None, error)
    else:
        batch.done(part, answer, None, repeated)


def _read_all(batch: EmbeddedBatch, store: KeyStore) -> None:
    (part,) = batch.parts
    batch.answered(part, apply_batch(store, OperationBatch(tuple(part.operations))))
