"""The service KV: Range, Put, DeleteRange, Txn and Compact."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final, cast

from syncline.errors import DeadlineExceeded, Outcome, Rejected
from syncline.kv.commands import Compact, Delete, DeleteRange, Put, Txn, TxnCompare, encode_command, frees_space
from syncline.kv.records import DeleteAnswer, DeleteRangeAnswer, KeyRecord, PutAnswer, RangePage, TxnAnswer
from syncline.kv.serving.reads import ReadPlan
from syncline.server.etcd.context import ServiceContext
from syncline.server.etcd.errors import (
    INVALID_ARGUMENT,
    OUT_OF_RANGE,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    EtcdError,
    etcd_error,
)
from syncline.server.etcd.face import EtcdCaller, EtcdFace, Finished
from syncline.server.etcd.fair_turns import FairTurns
from syncline.server.etcd.kept_puts import pins_of
from syncline.server.etcd.messages import Message
from syncline.server.etcd.ranges import RangePlan, bounds_of, key_value, no_key, no_lease
from syncline.server.etcd.transactions import TxnPlan, lookups_of
from syncline.server.http.networks import network_of
from syncline.server.tasks import Tasks

__all__ = ["KvService"]

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""Keys, values and `RECORD_BYTES` of one answer, which is made as a whole. etcd has no limit here; its clients can read
in pages, by `limit`."""

MAX_LARGE_READS: Final = 2
"""Answers of more than a page that are made at a time; others wait, and clients of different
addresses take turns. Each takes some 100 MiB."""

RECORD_BYTES: Final = 300
"""What a record counts for in an answer beside its key and value: the message that is made of it."""


class KvService:
    """Reads and writes of keys."""

    def __init__(self, context: ServiceContext, tasks: Tasks) -> None:
        self._context = context
        self._tasks = tasks
        self._large = FairTurns(MAX_LARGE_READS)

    def add_to(self, face: EtcdFace) -> None:
        """Register the methods."""
        face.callback("/etcdserverpb.KV/Range", self.range)
        face.callback("/etcdserverpb.KV/Put", self.put)
        face.callback("/etcdserverpb.KV/DeleteRange", self.delete_range)
        face.callback("/etcdserverpb.KV/Txn", self.txn)
        face.callback("/etcdserverpb.KV/Compact", self.compact)

    # --- reading

    def range(self, request: Message, caller: EtcdCaller, finished: Finished) -> None:
        """Read a key or a range."""
        plan, reads = RangePlan.of(request), self._context.reads
        if request.get("serializable"):
            local = ReadPlan(level="stale", timeout_s=caller.timeout_s)
            reads.confirm(local, self._read, (plan, caller), finished)
        else:
            reads.within(caller.timeout_s, self._read, (plan, caller), finished)

    def _read(self, read: tuple[RangePlan, EtcdCaller], finished: Finished, error: BaseException | None) -> None:
        plan, caller = read
        if error is not None:
            finished(None, etcd_error(error))
            return
        try:
            page = self._page(plan, caller)
            if page is None:
                self._tasks.spawn(self._read_on(plan, caller, finished), name="/etcdserverpb.KV/Range")
                return
        except (Rejected, EtcdError) as refusal:
            finished(None, etcd_error(refusal))
            return
        answer = plan.answer(page.items, page.count, more=page.more)
        answer["header"] = self._context.header()
        finished(answer, None)

    def _page(self, plan: RangePlan, caller: EtcdCaller) -> RangePage | None:
        """All that the plan needs, if it fits into one page; else None."""
        store = self._context.node.store
        user = self._context.gate.present(caller.principal)
        if (refusal := user.read_refusal(plan.start, plan.end)) is not None:
            raise refusal
        _check_revision(plan.revision, store.oldest, store.revision)
        if plan.single and not plan.count_only:
            record = store.get(plan.start, plan.revision)
            return RangePage([] if record is None else [record], False, store.revision, int(record is not None))
        limit = plan.read_limit
        page = store.range(
            plan.start,
            plan.end,
            limit=limit,
            reverse=plan.reverse,
            keys_only=plan.reads_keys_only,
            count_only=plan.count_only,
            revision=plan.revision,
        )
        if plan.count_only:
            return RangePage([], False, page.revision, page.count)
        return None if page.more and (not limit or len(page.items) < limit) else page

    async def _read_on(self, plan: RangePlan, caller: EtcdCaller, finished: Finished) -> None:
        """Read more than a page."""
        try:
            async with asyncio.timeout(caller.timeout_s):
                await self._large.acquire(network_of(caller.address))
        except TimeoutError:
            finished(None, EtcdError(UNAVAILABLE, "etcdserver: request timed out"))
            return
        try:
            answer = await self._read_pages(plan, caller)
        except Exception as error:  # noqa: BLE001 - becomes the answer, and a fault is logged there
            finished(None, etcd_error(error))
        else:
            finished(answer, None)
        finally:
            self._large.release()

    async def _read_pages(self, plan: RangePlan, caller: EtcdCaller) -> Message:
        """Read a range page by page, all of it at one revision; others have the event loop between the pages."""
        context = self._context
        revision = context.node.store.revision
        past, limit = plan.revision or revision, plan.read_limit
        records: list[KeyRecord] = []
        size_bytes, count, after = 0, 0, None
        while True:
            page = context.node.store.range(
                plan.start,
                plan.end,
                limit=limit and limit - len(records),
                after=after,
                reverse=plan.reverse,
                keys_only=plan.reads_keys_only,
                revision=past,
            )
            records += page.items
            count, after = page.count, page.after
            size_bytes += sum([len(one.key) + len(one.value) + RECORD_BYTES for one in page.items])
            if size_bytes > MAX_ANSWER_BYTES:
                text = f"etcdserver: the answer is above {MAX_ANSWER_BYTES} bytes: read in pages, by limit"
                raise EtcdError(RESOURCE_EXHAUSTED, text)
            if after is None or (limit and len(records) >= limit):
                break
            await asyncio.sleep(0)
        if (refusal := context.gate.present(caller.principal).read_refusal(plan.start, plan.end)) is not None:
            raise refusal
        answer = plan.answer(records, count, more=after is not None)
        answer["header"] = context.header(revision)
        return answer

    # --- writing

    def put(self, request: Message, caller: EtcdCaller, finished: Finished) -> None:
        """Set a key."""
        if request.get("ignore_value") or request.get("ignore_lease"):
            plan = TxnPlan({"success": [{"request_put": request}]})  # what it keeps must be read and checked
            self._tasks.spawn(self._put_kept(plan, caller, finished), name="/etcdserverpb.KV/Put")
            return
        key, previous = cast("bytes", request.get("key", b"")), bool(request.get("prev_kv"))
        if not key:
            raise no_key()
        command = Put(key, cast("bytes", request.get("value", b"")), _lease_of(request), previous=previous)
        self._context.propose(command, caller, partial(self._put, finished))

    def _put(self, finished: Finished, result: object, error: BaseException | None) -> None:
        if error is not None:
            finished(None, etcd_error(error))
            return
        assert type(result) is PutAnswer, result
        answer: Message = {"header": self._context.header(result.revision)}
        if result.previous is not None:
            answer["prev_kv"] = key_value(result.previous)
        finished(answer, None)

    async def _put_kept(self, plan: TxnPlan, caller: EtcdCaller, finished: Finished) -> None:
        """A put that keeps the value or the lease."""
        try:
            result = await self._with_kept(plan, caller, alone=True)
        except Exception as error:  # noqa: BLE001 - becomes the answer, and a fault is logged there
            finished(None, etcd_error(error))
            return
        self._put(finished, result.results[0], None)

    def delete_range(self, request: Message, caller: EtcdCaller, finished: Finished) -> None:
        """Delete a key or a range."""
        start, end = bounds_of(request)
        previous = bool(request.get("prev_kv"))
        command = (
            DeleteRange(start, end, previous=previous) if request.get("range_end") else Delete(start, previous=previous)
        )
        self._context.propose(command, caller, partial(self._deleted, finished), frees_space=True)

    def _deleted(self, finished: Finished, result: object, error: BaseException | None) -> None:
        if error is not None:
            finished(None, etcd_error(error))
            return
        match result:
            case DeleteAnswer(deleted, revision, previous):
                gone = (previous,) if previous is not None else ()
                count = int(deleted)
            case DeleteRangeAnswer(count, revision, _, gone):
                pass
            case _:
                raise AssertionError(result)
        header = self._context.header(revision)
        finished({"header": header, "deleted": count, "prev_kvs": [key_value(record) for record in gone]}, None)

    def txn(self, request: Message, caller: EtcdCaller, finished: Finished) -> None:
        """Carry out a transaction."""
        plan = TxnPlan(request)
        if plan.keeps:
            self._tasks.spawn(self._txn_kept(plan, caller, finished), name="/etcdserverpb.KV/Txn")
            return
        command = plan.command()
        then = partial(self._carried_out, plan, finished)
        self._context.propose(command, caller, then, frees_space=frees_space(command))

    def _carried_out(self, plan: TxnPlan, finished: Finished, result: object, error: BaseException | None) -> None:
        if error is not None:
            finished(None, etcd_error(error))
            return
        assert type(result) is TxnAnswer, result
        answer = plan.answer(result)
        answer["header"] = self._context.header(result.revision)
        finished(answer, None)

    async def _txn_kept(self, plan: TxnPlan, caller: EtcdCaller, finished: Finished) -> None:
        """A transaction with puts that keep the value or the lease."""
        try:
            result = await self._with_kept(plan, caller)
        except Exception as error:  # noqa: BLE001 - becomes the answer, and a fault is logged there
            finished(None, etcd_error(error))
            return
        self._carried_out(plan, finished, result, None)

    async def _with_kept(self, plan: TxnPlan, caller: EtcdCaller, *, alone: bool = False) -> TxnAnswer:
        """Read what the puts keep, and carry out the transaction if nothing of that has changed; else again.

        `alone`: it is a put of its own, whose lease etcd looks for before the key.

        Raises what `ServiceContext.propose` raises, and `EtcdError`.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + caller.timeout_s
        while loop.time() < ends_s:
            await self._context.node.read_index(caller.timeout_s)
            store, user = self._context.node.store, self._context.gate.present(caller.principal)
            for key in plan.keeps:  # before an error tells whether the key is there
                if (refusal := user.read_refusal(key, key + b"\0")) is not None:
                    raise refusal
            records = {key: store.get(key) for key in plan.keeps}
            inner = plan.command(records)
            pins = self._pins(plan, inner, caller, alone=alone) if plan.failing else ()
            command = Txn((*lookups_of(records), *pins), (inner,))
            result = await self._context.proposed(command, caller)
            assert type(result) is TxnAnswer, result
            if result.succeeded:
                answer = result.results[0]
                assert type(answer) is TxnAnswer, answer
                return answer
        raise DeadlineExceeded("the keys changed at each attempt", outcome=Outcome.NOT_APPLIED)

    def _pins(self, plan: TxnPlan, txn: Txn, caller: EtcdCaller, *, alone: bool) -> tuple[TxnCompare, ...]:
        """What must stay, so that no put that fails is in a branch that is taken. Raises `EtcdError` if one is now."""
        store = self._context.node.store
        command = encode_command(txn)
        if len(command) > self._context.max_request_bytes:
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: request is too large")
        if caller.principal is not None:
            caller.principal.authorised(command)  # before an error tells anything of the keys

        def taken(put: Put) -> None:
            if any(put is one for one in plan.failing):
                if alone and put.lease and store.leases.get(put.lease) is None:
                    raise no_lease()
                raise EtcdError(INVALID_ARGUMENT, "etcdserver: key not found")

        return pins_of(store, txn, taken)

    def compact(self, request: Message, caller: EtcdCaller, finished: Finished) -> None:
        """Give up the revisions before one."""
        revision = cast("int", request.get("revision", 0))
        store = self._context.node.store
        if revision <= 0 or (revision <= store.oldest and store.oldest > 1):
            raise EtcdError(OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")

        def then(result: object, error: BaseException | None) -> None:
            del result
            if error is not None:
                finished(None, etcd_error(error))
            else:
                finished({"header": self._context.header()}, None)

        self._context.propose(Compact(revision), caller, then, frees_space=True)


def _check_revision(revision: int, oldest: int, present: int) -> None:
    """Raise for a revision that the store can't show; it may show its present one without a history."""
    if revision > present:
        raise EtcdError(OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
    if revision and revision < oldest and revision != present:
        raise EtcdError(OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")


def _lease_of(request: Message) -> int:
    lease = cast("int", request.get("lease", 0))
    if lease < 0:
        raise no_lease()
    return lease
