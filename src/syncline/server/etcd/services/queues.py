"""Keys that wait in the order of their creation, as etcd's locks and elections do: made of calls of the face alone.

Each holder has a key below a common prefix, with its lease. The key that was created first owns the lock, or leads.
The others wait until all keys before theirs are deleted. So the end of a lease, by time or by the client, is the end of
what it holds. The keys are those that etcd's own clients make, so both can be used together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol, cast

from syncline.kv.store import prefix_end
from syncline.server.etcd.errors import RESOURCE_EXHAUSTED, UNKNOWN, EtcdError
from syncline.server.etcd.face import EtcdCaller, Send
from syncline.server.etcd.messages import Message
from syncline.server.etcd.methods import METHODS, Method
from syncline.server.tasks import Tasks

__all__ = ["CREATE", "KeyQueue", "QueueFace", "first_record", "header_of", "records_of", "unknown"]

_log = logging.getLogger("syncline.server")

RANGE: Final = METHODS["/etcdserverpb.KV/Range"]
TXN: Final = METHODS["/etcdserverpb.KV/Txn"]
DELETE_RANGE: Final = METHODS["/etcdserverpb.KV/DeleteRange"]
GRANT: Final = METHODS["/etcdserverpb.Lease/LeaseGrant"]
WATCH: Final = METHODS["/etcdserverpb.Watch/Watch"]

SESSION_TTL_S: Final = 60
"""The lease of a caller that names none, as etcd grants it. Nothing keeps it alive."""

CREATE: Final = 1
"""`Compare.CompareTarget`."""
_ASCEND: Final = 1
_DESCEND: Final = 2
_BY_CREATION: Final = 2
"""`RangeRequest.SortOrder` and `SortTarget`."""
_DELETED: Final = 1
"""`Event.EventType`."""


class QueueFace(Protocol):
    """What carries the calls out: `EtcdFace`."""

    async def call(self, method: Method, request: Message, caller: EtcdCaller) -> Message: ...

    async def stream(self, method: Method, inbox: AsyncIterator[Message], send: Send, caller: EtcdCaller) -> None: ...


def unknown(text: str) -> EtcdError:
    """An error of etcd's client library, which its server passes on without a code."""
    return EtcdError(UNKNOWN, text)


def header_of(answer: Message) -> Message:
    """The header of an answer."""
    return cast("Message", answer["header"])


def revision_of(answer: Message) -> int:
    return cast("int", header_of(answer).get("revision", 0))


def records_of(answer: Message) -> list[Message]:
    """The records of an answer to a Range."""
    return cast("list[Message]", answer.get("kvs") or [])


def first_record(prefix: bytes) -> Message:
    """A Range of the record below a prefix that was created first."""
    return _below(prefix, _ASCEND)


def _below(prefix: bytes, order: int) -> Message:
    end = prefix_end(prefix)
    return {
        "key": prefix,
        "range_end": b"\0" if end is None else end,
        "sort_order": order,
        "sort_target": _BY_CREATION,
        "limit": 1,
    }


class KeyQueue:
    """Enters keys and waits for those before them. `tasks` runs what must be done after a caller has left."""

    def __init__(self, face: QueueFace, tasks: Tasks) -> None:
        self._face = face
        self._tasks = tasks

    async def lease_of(self, request: Message, caller: EtcdCaller) -> int:
        """The lease of a request, or a new one of 60 s."""
        lease = cast("int", request.get("lease") or 0)
        if lease:
            return lease
        granted = await self._face.call(GRANT, {"TTL": SESSION_TTL_S}, caller)
        return cast("int", granted["ID"])

    async def enter(
        self, prefix: bytes, value: bytes, lease: int, caller: EtcdCaller
    ) -> tuple[bytes, int, Message | None, Message]:
        """Create the lease's key below `prefix`, unless it is there.

        It returns the key, its create revision, its record if it was there, and the header. A caller that leaves
        meanwhile leaves no new key.
        """
        key = prefix + b"%x" % lease
        request: Message = {
            "compare": [{"target": CREATE, "key": key, "create_revision": 0}],
            "success": [{"request_put": {"key": key, "value": value, "lease": lease}}],
            "failure": [{"request_range": {"key": key}}],
        }
        entered: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._tasks.spawn(self._enter(request, key, entered, caller), name="take a place in a queue")
        try:
            answer = await entered
        except asyncio.CancelledError:
            if entered.done() and not entered.cancelled() and _has_created(entered.result()):
                self._tasks.spawn(self._give_up(key, caller), name="give up a place in a queue")
            raise
        if _has_created(answer):
            return key, revision_of(answer), None, header_of(answer)
        [response] = cast("list[Message]", answer["responses"])
        [record] = records_of(cast("Message", response["response_range"]))
        return key, cast("int", record["create_revision"]), record, header_of(answer)

    async def _enter(self, request: Message, key: bytes, entered: asyncio.Future[Message], caller: EtcdCaller) -> None:
        """Carry out the transaction of `enter`, also if the caller leaves meanwhile."""
        try:
            answer = await self._face.call(TXN, request, caller)
        except EtcdError as error:
            if not entered.done():
                entered.set_exception(error)
                entered.exception()  # the caller may leave in this turn
            return
        except asyncio.CancelledError:
            entered.cancel()
            raise
        if not entered.done():
            entered.set_result(answer)
        elif _has_created(answer):
            await self._give_up(key, caller)

    async def wait(self, prefix: bytes, key: bytes, created: int, caller: EtcdCaller) -> Message:
        """Wait until `key` is the first below `prefix`; return the header of that moment.

        A caller that leaves before gives up its place: the key is deleted.

        Raises:
            EtcdError: the key is gone, since its lease has ended; or a call has failed.
        """
        try:
            header = await self._wait_for_those_before(prefix, created, caller)
        except BaseException:
            self._tasks.spawn(self._give_up(key, caller), name="give up a place in a queue")
            raise
        answer = await self._face.call(RANGE, {"key": key}, caller)
        if not records_of(answer):
            raise unknown("mutex: session is expired")
        return header

    async def _wait_for_those_before(self, prefix: bytes, created: int, caller: EtcdCaller) -> Message:
        while True:
            request = _below(prefix, _DESCEND)
            request["max_create_revision"] = created - 1
            answer = await self._face.call(RANGE, request, caller)
            before = records_of(answer)
            if not before:
                return header_of(answer)
            await self.changed(cast("bytes", before[0]["key"]), b"", revision_of(answer) + 1, caller, _is_delete)

    async def _give_up(self, key: bytes, caller: EtcdCaller) -> None:
        try:
            await self._face.call(DELETE_RANGE, {"key": key}, caller)
        except EtcdError as error:  # such as a permission that was withdrawn
            _log.info("the key of a place in a queue stays until its lease ends: %s", error.text)

    async def changed(
        self,
        key: bytes,
        end: bytes,
        revision: int,
        caller: EtcdCaller,
        wanted: Callable[[Message], bool],
    ) -> tuple[Message, Message] | None:
        """Wait for the first wanted event from a revision on; return the header and the event.

        None: the history was compacted, or the stream has ended. Look at the keys again.

        Raises:
            EtcdError: the watch was refused.
        """
        found: asyncio.Future[tuple[Message, Message] | str | None] = asyncio.get_running_loop().create_future()

        async def send(answer: Message) -> None:
            if found.done():
                return
            for event in cast("list[Message]", answer.get("events") or []):
                if wanted(event):
                    found.set_result((header_of(answer), event))
                    return
            if answer.get("canceled"):
                found.set_result(None if answer.get("compact_revision") else str(answer.get("cancel_reason", "")))

        request: Message = {"create_request": {"key": key, "range_end": end, "start_revision": revision}}
        watching = asyncio.ensure_future(self._face.stream(WATCH, _lasting(request), send, caller))
        try:
            waited: list[asyncio.Future[object]] = [cast("asyncio.Future[object]", one) for one in (watching, found)]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not found.done():
                watching.result()  # raises what has ended it
                return None
            result = found.result()
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            if not watching.cancelled() and not found.done():
                watching.exception()
        if not isinstance(result, str):
            return result
        await self._face.call(RANGE, {"key": key, "range_end": end, "count_only": True}, caller)  # if it is forbidden
        raise EtcdError(RESOURCE_EXHAUSTED, result or "etcdserver: the watch was cancelled")  # to ask again is no use


async def _lasting(request: Message) -> AsyncIterator[Message]:
    """One message of a client that stays."""
    yield request
    await asyncio.get_running_loop().create_future()


def _has_created(answer: Message) -> bool:
    return bool(answer.get("succeeded"))


def _is_delete(event: Message) -> bool:
    return event.get("type") == _DELETED
