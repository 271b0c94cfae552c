"""Gather the operations that are in flight together: they leave as one batch, and each gets an answer of its own.

An operation leaves at once and alone if nothing is under way. What comes while requests are under way is gathered. It
leaves as soon as fewer than `MAX_BATCHES` batches are under way. So the load itself makes the batches larger.

Fewer operations than `LEAST_WRITES` or `LEAST_READS` wait for an answer that will come soon: those whose answer it is
come back, and all leave together. A batch costs the cluster more than each operation in it. Without that some tasks
would stay in several groups, each with batches of its own. They wait for half a round at most.

Reads and writes are gathered apart: a batch that only reads takes no entry of the log. A batch of writes has one key
of the client's session. It is sent again as it was until it is answered, and takes effect once.

Each operation keeps its own deadline, its own error and its own caller. If its time is over while an attempt of its
batch is under way its outcome is unknown. If no attempt was made, or all were certainly refused, it is taken out of the
batch, and will never take effect. A caller that is cancelled leaves the others alone.

What the server refuses for the sake of the batch, or by its limits, is sent alone after that (`SendAlone`): the
caller gets the answer that it would have had without company.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from syncline.client.caller import ClientRequest
from syncline.client.connection import ClientResponse
from syncline.client.schemas import ErrorBody
from syncline.client.txn import MSGPACK_BODY, Fields, packed_batch
from syncline.client.wire import error_from, operation_error
from syncline.decoding import UNDECODABLE
from syncline.errors import (
    DeadlineExceeded,
    OperationError,
    Outcome,
    RequestFailed,
    SynclineError,
    TooLarge,
    Unreachable,
    UsageError,
)

__all__ = ["OVERHEAD_BYTES", "Answered", "Gathering", "SendAlone", "unreadable"]

MAX_BATCHES: Final = 3
"""Batches under way. By measurement: one leaves the servers idle while the client works; eight are smaller, and cost
more for each operation."""

LEAST_READS: Final = 16
"""What waits is spread over the batches that may leave, at least so many in each. Fewer wait for what is under way."""

LEAST_WRITES: Final = 64
"""The same for writes. An entry of the log costs the three nodes about as much as 40 operations in it."""

HOLD_LIMIT_S: Final = 0.01
"""How long a few operations wait at most, if rounds are long."""

RETURN_TURNS: Final = 2
"""Turns of the loop after an answer in which those that got it come back. A task does so at once. A thread wakes up,
and its call comes to the loop in the next turn (`platform/loop_thread.py`)."""

MAX_OPERATIONS: Final = 500
"""Of one batch. The server takes 1,000; its event loop works on one batch at a time."""

MAX_BATCH_BYTES: Final = 1 << 20
"""Keys and values of one batch. The server takes a body of 4 MiB."""

MAX_GATHERED_BYTES: Final = 64 << 10
"""A larger operation goes alone: it gains little, and others would wait for it."""

MAX_ANSWER_BYTES: Final = 1 << 20
"""What the answer to a batch of reads should have at most, judged by the answers before it."""

OVERHEAD_BYTES: Final = 32
"""Of an operation in a batch, beside key and value."""

OFF_S: Final = 10.0
"""For so long nothing is gathered after a server, such as one of an older version, took no such batch."""

MAX_WAITING: Final = 100_000
"""Operations that are gathered. One above it goes alone: each then has a connection, which is what limits them."""

ALONE_STATUSES: Final = frozenset({400, 404, 405, 411, 413, 415, 501})
"""Of a batch as a whole that would be answered otherwise without company, or by a server that knows no batches."""

REFUSED_BY_SERVER: Final = frozenset({400, 413})
"""Of one operation: a limit of this server, or one that it only reached in this company."""


class SendAlone(Exception):
    """The operation is to be sent by itself. It had no effect so far. `timeout_s`: what is left of its time."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self.timeout_s = timeout_s


class Answered(msgspec.Struct, gc=False):
    """The result of one operation. `store_revision` is that of the store after the batch."""

    status: int = 0
    error: ErrorBody | UnsetType = UNSET
    revision: int = 0
    deleted: int = 0
    lease: str = ""
    value: int | bytes = b""
    found: bool = False
    mod_revision: int = 0
    store_revision: int = 0


class _GatheredAnswers(msgspec.Struct):
    results: list[Answered]


class _GatheredOperation(msgspec.Struct, gc=False):
    """One operation."""

    fields: Fields
    size_bytes: int
    deadline_s: float
    answer: asyncio.Future[Answered]


_decode: Final = msgspec.msgpack.Decoder(_GatheredAnswers).decode

Send: TypeAlias = Callable[[ClientRequest, float], Awaitable[ClientResponse]]
"""Sends a request within a time in seconds, with a key if it takes one."""


class Gathering:
    """Gathers operations of one kind: reads, or writes."""

    def __init__(self, send: Send, *, reads: bool) -> None:
        self._send = send
        self._reads = reads
        self._least = LEAST_READS if reads else LEAST_WRITES
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_GatheredOperation] = deque()
        self._batches: dict[_GatheredBatch, asyncio.Task[None]] = {}
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._expires_s = math.inf
        self._alone = 0
        self._expected = 0
        """Callers that the last answer has woken: they may come back."""
        self._turns = 0
        """Turns of the loop that were waited for them."""
        self._in_company = False
        """The last batch had several operations: the next operation is gathered, since it hardly comes alone."""
        self._round_s = 0.0
        """What a batch takes until its answer, lately."""
        self._held: asyncio.TimerHandle | None = None
        """Lets a few operations leave beside what is under way."""
        self._is_on = True
        """Whether the servers take batches of this kind, as far as it is known."""
        self._answer_bytes = 0.0
        """Of one operation in the answers lately."""

    @property
    def busy(self) -> bool:
        """Whether something is under way: the next operation is to be gathered."""
        active = self._alone > 0 or self._batches or self._flush_scheduled or self._in_company
        return bool(active) and self._is_on and len(self._waiting) < MAX_WAITING

    def begin_alone(self) -> None:
        """An operation leaves alone. `end_alone` follows in any case. Raises `UsageError` on another event loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)  # now: later it would forget this operation
        self._alone += 1

    def end_alone(self) -> None:
        """It has ended."""
        self._alone = max(0, self._alone - 1)  # it may have begun on a loop that is closed

    def ask(self, fields: Fields, size_bytes: int, timeout_s: float) -> asyncio.Future[Answered]:
        """Have one operation carried out in company. The future has its answer.

        It fails with `SendAlone`, or with the error that the operation would have had alone. Raises `SendAlone` as
        well, and `UsageError` on another event loop.
        """
        if size_bytes > MAX_GATHERED_BYTES:
            raise SendAlone(timeout_s)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        answer: asyncio.Future[Answered] = loop.create_future()
        deadline_s = loop.time() + timeout_s
        self._waiting.append(_GatheredOperation(fields, size_bytes, deadline_s, answer))
        if not self._flush_scheduled:
            self._flush_soon()
        if deadline_s < self._expires_s:
            self._watch(deadline_s)
        return answer

    def close(self) -> None:
        """Fail all operations with `Unreachable`."""
        if self._loop is not asyncio.get_running_loop():
            return  # what waited there has ended with its loop
        for batch, task in self._batches.items():
            for one in batch.operations:
                _fail(one, Unreachable("the client was closed", outcome=batch.outcome))
            task.cancel()
        for one in self._waiting:
            _fail(one, Unreachable("the client was closed", outcome=Outcome.NOT_APPLIED))
        self._waiting.clear()
        self._hold_no_longer()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._expires_s = None, math.inf

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and not self._loop.is_closed():
            raise UsageError(
                "a client belongs to one event loop, and this one is in use on another: make a client for each loop"
            )
        # What a closed loop has left behind has ended with it.
        self._waiting.clear()
        self._batches.clear()
        self._flush_scheduled = self._in_company = False
        self._is_on = True
        self._alone, self._timer, self._held, self._expires_s = 0, None, None, math.inf
        self._expected = self._turns = 0
        self._loop = loop

    def _flush_soon(self) -> None:
        """Let what waits leave, behind the tasks that the same answer has woken."""
        if not self._flush_scheduled:
            assert self._loop is not None
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if len(self._waiting) < min(self._expected, self._least) and self._turns < RETURN_TURNS:
            assert self._loop is not None
            self._turns += 1
            self._loop.call_soon(self._flush)
            return
        self._flush_scheduled = False
        self._expected = self._turns = 0
        self._leave(held=False)

    def _leave(self, *, held: bool) -> None:
        """Let what waits leave, in as many batches as may be under way. `held`: a few operations have waited."""
        waiting = self._waiting
        loop = self._loop
        assert loop is not None
        while waiting and (free := MAX_BATCHES - len(self._batches)) > 0:
            if len(waiting) < self._least and self._batches and not held and self._is_over_soon():
                if self._held is None:
                    self._held = loop.call_later(min(self._round_s / 2, HOLD_LIMIT_S), self._held_long_enough)
                return
            share = -(-len(waiting) // max(1, min(free, len(waiting) // self._least)))
            batch = _GatheredBatch(self._take(min(share, self._most())), reads=self._reads)
            if batch.operations:
                self._in_company = len(batch.operations) > 1
                batch.began_s = loop.time()
                self._batches[batch] = loop.create_task(self._carry_out(batch))
        self._hold_no_longer()

    def _is_over_soon(self) -> bool:
        """Whether half of the usual time of the oldest batch under way is over."""
        assert self._loop is not None
        oldest = next(iter(self._batches))
        return 2 * (self._loop.time() - oldest.began_s) >= self._round_s

    def _held_long_enough(self) -> None:
        self._held = None
        self._leave(held=True)

    def _hold_no_longer(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None

    def _most(self) -> int:
        """How many operations a batch may have, if answers stay as long as they were."""
        if self._answer_bytes * MAX_OPERATIONS <= MAX_ANSWER_BYTES:
            return MAX_OPERATIONS
        return max(1, int(MAX_ANSWER_BYTES / self._answer_bytes))

    def _take(self, most: int) -> list[_GatheredOperation]:
        """The next operations that still wait."""
        waiting = self._waiting
        taken: list[_GatheredOperation] = []
        size_bytes = 0
        while waiting and len(taken) < most:
            one = waiting[0]
            size_bytes += one.size_bytes
            if size_bytes > MAX_BATCH_BYTES and taken:
                break
            waiting.popleft()
            if not one.answer.done():
                taken.append(one)
        return taken

    async def _carry_out(self, batch: _GatheredBatch) -> None:
        loop = asyncio.get_running_loop()
        request = ClientRequest(
            method="POST",
            target="/batch",
            headers=MSGPACK_BODY,
            idempotent=self._reads,
            keyed=not self._reads,
            reads=self._reads,
            content=batch,
        )
        try:
            response = await self._send(request, max(0.001, batch.deadline_s - loop.time()))
            if response.status >= 300:
                raise error_from(response)
            self._answered(batch, response)
        except SynclineError as error:
            self._failed(batch, error, loop.time())
        except Exception as error:  # noqa: BLE001 - of the caller's own function, such as `on_retry`
            for one in batch.operations:
                _fail(one, copy(error).with_traceback(error.__traceback__))
        finally:
            self._batches.pop(batch, None)
            if self._waiting:
                self._flush_soon()

    def _answered(self, batch: _GatheredBatch, response: ClientResponse) -> None:
        try:
            answers = _decode(response.body).results
            revision = int(response.headers["syncline-revision"])
        except (*UNDECODABLE, KeyError, ValueError) as error:
            raise unreadable(error, batch.outcome) from error
        if len(answers) != len(batch.operations):
            raise unreadable(f"{len(answers)} results for {len(batch.operations)} operations", batch.outcome)
        if answers:
            self._answer_bytes = max(len(response.body) / len(answers), self._answer_bytes * 0.9)
        self._expected = len(self._waiting) + len(answers)
        now_s = asyncio.get_running_loop().time()
        longer_s = now_s - batch.began_s - self._round_s
        self._round_s += longer_s / (8 if longer_s > 0 else 2)  # some rounds are long for a reason that passes
        for one, answer in zip(batch.operations, answers, strict=True):
            if one.answer.done():
                continue  # its caller was cancelled, or its time was over
            if answer.error is UNSET:
                answer.store_revision = revision
                one.answer.set_result(answer)
            elif answer.status in REFUSED_BY_SERVER:
                one.answer.set_exception(SendAlone(max(0.001, one.deadline_s - now_s)))
            else:
                one.answer.set_exception(operation_error(answer.error, answer.status))

    def _failed(self, batch: _GatheredBatch, error: SynclineError, now_s: float) -> None:
        refused = isinstance(error, TooLarge) or (isinstance(error, RequestFailed) and error.status in ALONE_STATUSES)
        alone = refused and error.outcome is Outcome.NOT_APPLIED
        if alone and not isinstance(error, TooLarge) and self._is_on:
            self._is_on = False
            asyncio.get_running_loop().call_later(OFF_S, self._switch_on)
        for one in batch.operations:
            if one.answer.done():
                continue
            if alone:
                one.answer.set_exception(SendAlone(max(0.001, one.deadline_s - now_s)))
            else:
                _fail(one, batch.own_error(error))

    def _switch_on(self) -> None:
        self._is_on = True

    def _watch(self, deadline_s: float) -> None:
        """Look at the deadlines at this time. One timer serves them all."""
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._expires_s = deadline_s
        self._timer = self._loop.call_at(deadline_s, self._expire)

    def _expire(self) -> None:
        """Fail the operations whose time is over."""
        assert self._loop is not None
        now_s = self._loop.time()
        self._timer, self._expires_s = None, math.inf
        next_s = math.inf
        for one in self._waiting:
            if one.deadline_s <= now_s:
                _fail(one, DeadlineExceeded("the time was over before anything was sent", outcome=Outcome.NOT_APPLIED))
            elif one.deadline_s < next_s and not one.answer.done():
                next_s = one.deadline_s
        for batch in self._batches:
            for one in batch.operations:
                if one.deadline_s <= now_s:
                    _fail(one, batch.lapsed())
                elif one.deadline_s < next_s and not one.answer.done():
                    next_s = one.deadline_s
        if next_s < math.inf:
            self._watch(next_s)


class _GatheredBatch:
    """Operations that leave together. It is the `Content` of their request."""

    def __init__(self, operations: list[_GatheredOperation], *, reads: bool) -> None:
        self.operations = operations
        self.began_s: float = 0.0
        self.deadline_s: float = max((one.deadline_s for one in operations), default=0.0)
        self._reads = reads
        self._body = b""
        """As it was sent. While it may have taken effect it is the only one that is sent."""
        self._doubt: OperationError | None = None

    @property
    def outcome(self) -> Outcome:
        """Of the operations, if nothing more becomes known."""
        return Outcome.UNKNOWN if self._body and not self._reads else Outcome.NOT_APPLIED

    @property
    def wanted(self) -> bool:
        """Whether a caller waits, or an attempt is in doubt."""
        return bool(self._body) or any(not one.answer.done() for one in self.operations)

    def body(self) -> bytes:
        """The operations whose callers wait. Those that are gone are left out, if none was sent before."""
        if not self._body:
            self.operations = [one for one in self.operations if not one.answer.done()]
            self._body = packed_batch([one.fields for one in self.operations])
        return self._body

    def failed(self, error: OperationError) -> None:
        """Note why there is no answer yet."""
        self._doubt = error
        if self._reads or error.outcome is Outcome.NOT_APPLIED:
            self._body = b""

    def lapsed(self) -> OperationError:
        """The error of an operation whose time is over: the reason of the failed attempts, if there is one."""
        doubt, outcome = self._doubt, self.outcome
        if doubt is not None and (self._reads or doubt.outcome is outcome):
            return _own(doubt, outcome)
        return DeadlineExceeded("no answer came in time", outcome=outcome)

    def own_error(self, error: SynclineError) -> SynclineError:
        """The error of one of its operations: a read has no effect in any case."""
        found = copy(error)
        found.__cause__ = error
        if self._reads and isinstance(found, OperationError):
            found.outcome = Outcome.NOT_APPLIED
        return found


def unreadable(reason: object, outcome: Outcome) -> RequestFailed:
    """The error for an answer that no server of ours gives."""
    return RequestFailed(f"the server's answer can't be read: {reason}", code="bad_answer", outcome=outcome)


def _own(error: OperationError, outcome: Outcome) -> OperationError:
    """An error object of its own for each caller: each adds its traceback to it."""
    found = copy(error)
    found.outcome = outcome
    found.__cause__ = error
    return found


def _fail(one: _GatheredOperation, error: Exception) -> None:
    if not one.answer.done():
        one.answer.set_exception(error)
