"""The keys of a session of `AsyncClient.session`: each write keeps its key over its attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from syncline.client.caller import LAST_ATTEMPT_S, READS, Caller, ClientRequest
from syncline.client.connection import ClientResponse
from syncline.client.results import OperationResult
from syncline.client.txn import MSGPACK_BODY, Fields, packed_batch
from syncline.client.txn import READS as READ_OPERATIONS
from syncline.client.wire import batch_results, error_from
from syncline.errors import (
    AnswerNotKept,
    BacklogFull,
    Closed,
    DeadlineExceeded,
    Dropped,
    IdempotencyMismatch,
    LimitReached,
    NoLeader,
    NotLeader,
    OperationError,
    Outcome,
    SessionExpired,
    Superseded,
    UsageError,
)
from syncline.sessions.table import Limits

__all__ = ["SessionKeys"]

MAX_UNDER_WAY: Final = Limits().window
"""Writes of one session under way: the server keeps the answers of so many sequences."""

FINAL: Final = (AnswerNotKept, SessionExpired, IdempotencyMismatch)
"""Another attempt would be answered likewise."""

RETRIED: Final = (NoLeader, NotLeader, Dropped, Superseded, Closed, BacklogFull, DeadlineExceeded)
"""Of one operation of a batch: the cluster has taken others of them, and not this one."""


class SessionKeys:
    """The keys of one session: each write gets the next sequence, and keeps it over all its attempts."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._next = 1
        self._under_way: dict[int, None] = {}

    async def call(self, caller: Caller, request: ClientRequest, timeout_s: float) -> ClientResponse:
        """Send a request with the next key. Reads and keep-alives have none. Raises as `Caller.call` does."""
        if request.method in READS or request.has_keys or not request.needs_key:
            return await caller.call(request, timeout_s)
        if not request.keyed:
            raise UsageError(f"{request.method} {request.target} takes no key: call it on the client, not on a session")
        with self.reserved(1) as (session, sequence):
            field = ("Idempotency-Key", f"{session}/{sequence}")
            keyed = msgspec.structs.replace(request, headers=(*request.headers, field), idempotent=True, once=True)
            return await caller.call(keyed, timeout_s)

    @contextmanager
    def reserved(self, count: int) -> Iterator[tuple[str, int]]:
        """The session, and the first of `count` sequences for writes that are under way in this block."""
        first = self._next
        if first + count - next(iter(self._under_way), first) > MAX_UNDER_WAY:
            raise LimitReached(f"{MAX_UNDER_WAY} writes of this session wait for their answer: try later")
        self._next = first + count
        sequences = range(first, first + count)
        self._under_way.update(dict.fromkeys(sequences))
        try:
            yield self._session, first
        finally:
            for sequence in sequences:
                del self._under_way[sequence]

    async def batch(
        self, caller: Caller, items: Sequence[Fields], timeout_s: float
    ) -> list[OperationResult | OperationError]:
        """Carry out a batch in which each write has a key. Those in doubt are sent again, until the deadline.

        Raises as `Caller.call` does.
        """
        writes = [item for item in items if item["op"] not in READ_OPERATIONS]
        with self.reserved(len(writes)) as (session, first):
            for at, item in enumerate(writes):
                item.update(session=session, sequence=first + at)
            return await _sent_until_certain(caller, items, timeout_s)


async def _sent_until_certain(
    caller: Caller, items: Sequence[Fields], timeout_s: float
) -> list[OperationResult | OperationError]:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    found = await _sent(caller, items, timeout_s)
    rounds = 0
    while left := [at for at, one in enumerate(found) if isinstance(one, OperationError) and _is_retried(one)]:
        pause_s = caller.pause_s(rounds)
        if loop.time() + pause_s + LAST_ATTEMPT_S >= deadline_s:
            break
        await asyncio.sleep(pause_s)
        rounds += 1
        try:
            again = await _sent(caller, [items[at] for at in left], deadline_s - loop.time())
        except OperationError:
            break  # the batch as a whole has no other answer in time: the results so far stand
        for at, result in zip(left, again, strict=True):
            before = found[at]
            assert isinstance(before, OperationError)
            if isinstance(result, OperationError) and _is_retried(result) and before.outcome is Outcome.UNKNOWN:
                continue  # an attempt that surely was not carried out does not undo the doubt
            found[at] = result
    return found


async def _sent(caller: Caller, items: Sequence[Fields], timeout_s: float) -> list[OperationResult | OperationError]:
    request = ClientRequest(
        method="POST",
        target="/batch",
        headers=MSGPACK_BODY,
        body=packed_batch(items),
        idempotent=True,
        once=True,
        has_keys=True,
    )
    response = await caller.call(request, timeout_s)
    if response.status >= 300:
        raise error_from(response)
    return batch_results(response, len(items))


def _is_retried(error: OperationError) -> bool:
    if isinstance(error, FINAL):
        return False
    return error.outcome is Outcome.UNKNOWN or isinstance(error, RETRIED)
