"""The service Watch: any number of watches on one stream, over the node's `WatchHub`.

One coroutine serves a stream: it carries out the client's requests, and sends what its watches are given. While the
client does not read, `send` does not return, and the watches keep what they are given up to the hub's limit. A watch
above it is resumed from the history, so that no event is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable, Sequence
from functools import partial
from typing import Final, cast

from syncline.errors import LimitReached, OperationError, PermissionDenied, Rejected, RevisionCompacted, WatchEnded
from syncline.kv.records import Change
from syncline.kv.watch import LIVE, KeyWatch
from syncline.kv.watch_hub import WatchHub
from syncline.server.etcd.context import ServiceContext
from syncline.server.etcd.errors import UNAVAILABLE, EtcdError, etcd_error
from syncline.server.etcd.face import EtcdCaller, EtcdFace, Send
from syncline.server.etcd.messages import Message
from syncline.server.etcd.ranges import check_key_size, key_value
from syncline.server.http.networks import network_of

__all__ = ["PROGRESS_S", "WatchService"]

PROGRESS_S: Final = 10.0
"""How often a watch that asks for it is told of progress. (etcd does it every 10 minutes.)"""

AGAIN_S: Final = 0.01
"""When a request for progress is looked at again, while a watch catches up: not in each turn of the event loop, since
many clients may ask at once."""

MAX_REQUESTS: Final = 4
"""Requests of one stream that were read and not carried out. Others stay in bytes, which the connection counts."""

MESSAGE_BYTES: Final = 64 * 1024
"""Events of later revisions are added to a message below it. Clients of gRPC take 4 MiB at once by default."""

EVENT_BYTES: Final = 300
"""What an event counts for beside its keys and values."""

_NOPUT, _NODELETE = 0, 1
_DELETE: Final = 1
_NO_WATCH: Final = -1
"""The id in answers that belong to no watch."""

_Events = tuple[int, list[Message]]
"""A revision and its events; without events it is a mark of progress."""


class WatchEventsForm:
    """Changes as etcd's events."""

    def __init__(self, *, previous: bool) -> None:
        self._previous = previous

    def changes(self, revision: int, changes: Sequence[Change]) -> _Events:
        """The events of one revision."""
        return revision, [self._event(change) for change in changes]

    def progress(self, revision: int, *, resumable: bool) -> _Events:
        """A mark of progress."""
        del resumable
        return revision, []

    def size_bytes(self, message: _Events) -> int:
        """What an unread message counts for."""
        return sum([EVENT_BYTES + _size(event) for event in message[1]]) + EVENT_BYTES

    def _event(self, change: Change) -> Message:
        record = change.record
        event: Message
        if record.version:
            event = {"kv": key_value(record)}
        else:
            event = {"type": _DELETE, "kv": {"key": record.key, "mod_revision": record.mod_revision}}
        if self._previous and change.previous is not None:
            event["prev_kv"] = key_value(change.previous)
        return event


def _size(event: Message) -> int:
    size_bytes = 0
    for name in ("kv", "prev_kv"):
        kv = cast("Message | None", event.get(name))
        if kv is not None:
            size_bytes += len(cast("bytes", kv["key"])) + len(cast("bytes", kv.get("value", b"")))
    return size_bytes


_FORMS: Final = {previous: WatchEventsForm(previous=previous) for previous in (False, True)}
"""By whether the events have the records before them: watches of one form share their messages."""


class WatchService:
    """Watches."""

    def __init__(self, context: ServiceContext, hub: WatchHub, *, progress_s: float = PROGRESS_S) -> None:
        self._context = context
        self._hub = hub
        self._progress_s = progress_s

    def add_to(self, face: EtcdFace) -> None:
        """Register the method."""
        face.streaming("/etcdserverpb.Watch/Watch", self.watch)

    async def watch(self, inbox: AsyncIterator[Message], send: Send, caller: EtcdCaller) -> None:
        """Serve one stream until it is cancelled, or its client sends no more and has asked for nothing."""
        await _WatchStream(self._context, self._hub, send, caller, self._progress_s).serve(inbox)


def _bounded(request: Message) -> Message:
    """A request that may be kept: nothing counts what a stream and its watches keep. Raises `EtcdError`."""
    create = cast("Message | None", request.get("create_request"))
    if create is not None:
        check_key_size(create)
        filters = cast("list[int]", create.get("filters", ()))
        create["filters"] = [kind for kind in (_NOPUT, _NODELETE) if kind in filters]
    return request


class _StreamWatch:
    """One watch of a stream."""

    __slots__ = ("create", "end", "start", "watch", "watch_id")

    def __init__(
        self, watch_id: int, create: Message, start: bytes, end: bytes | None, watch: KeyWatch[_Events]
    ) -> None:
        self.watch_id = watch_id
        self.create = create
        self.start = start
        self.end = end
        self.watch = watch


class _WatchStream:
    """The watches of one stream."""

    def __init__(
        self, context: ServiceContext, hub: WatchHub, send: Send, caller: EtcdCaller, progress_s: float
    ) -> None:
        self._context = context
        self._hub = hub
        self._progress_s = progress_s
        self._send = send
        self._caller = caller
        self._group = network_of(caller.address)
        self._owner: Hashable = caller.owner if caller.owner is not None else self
        self._user = context.gate.present(caller.principal)
        self._watches: dict[int, _StreamWatch] = {}
        self._next_id = 0
        self._requests: deque[Message] = deque()
        self._room = asyncio.Event()
        self._work = asyncio.Event()
        self._ready: dict[int, None] = {}
        """The ids of watches that have something to be read."""
        self._progress = False
        """The client asks for progress, and was not answered yet."""
        self._begun = False
        """The client has asked for something. From then on the stream stays open until the client leaves, as etcd's
        does: also without a watch."""

    async def serve(self, inbox: AsyncIterator[Message]) -> None:
        """Read the requests and send the answers. Raises `EtcdError`."""
        reading = asyncio.get_running_loop().create_task(self._read(inbox), name="etcd watch requests")
        reading.add_done_callback(lambda _: self._work.set())
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while self._requests:
                    request = self._requests.popleft()
                    self._room.set()
                    await self._carry_out(request)
                while self._ready:
                    watch_id = next(iter(self._ready))
                    del self._ready[watch_id]
                    if (watch := self._watches.get(watch_id)) is not None:
                        await self._send_events(watch)
                if self._progress:
                    await self._answer_progress()
                if reading.done():
                    reading.result()  # raises what the client's stream has ended with
                    if not self._begun:
                        return
        finally:
            reading.cancel()
            for watch in self._watches.values():
                watch.watch.close()

    async def _read(self, inbox: AsyncIterator[Message]) -> None:
        async for request in inbox:
            self._requests.append(_bounded(request))
            self._work.set()
            if len(self._requests) >= MAX_REQUESTS:
                self._room.clear()
                await self._room.wait()

    # --- requests

    async def _carry_out(self, request: Message) -> None:
        self._begun = self._begun or bool(request)
        if (create := request.get("create_request")) is not None:
            await self._create(cast("Message", create))
        elif (cancel := request.get("cancel_request")) is not None:
            watch_id = cast("int", cast("Message", cancel).get("watch_id", 0))
            if watch_id in self._watches:
                await self._cancel(watch_id)
        elif request.get("progress_request") is not None:
            self._progress = True

    async def _create(self, create: Message) -> None:
        key, range_end = cast("bytes", create.get("key", b"")), cast("bytes", create.get("range_end", b""))
        start = key or b"\0"
        end = None if range_end == b"\0" else range_end or start + b"\0"
        watch_id = cast("int", create.get("watch_id", 0))
        if (refusal := await self._refusal(start, end)) is not None:
            await self._refuse(_NO_WATCH, f"rpc error: code = PermissionDenied desc = {etcd_error(refusal).text}")
            return
        if end is not None and end <= start:
            await self._refuse(_NO_WATCH, "mvcc: watcher range is empty")
            return
        if watch_id and watch_id in self._watches:
            await self._refuse(_NO_WATCH, "mvcc: duplicate watch ID provided on the WatchStream")
            return
        watch_id = watch_id or self._free_id()
        header = self._context.header()
        try:
            revision = cast("int", create.get("start_revision", 0))
            watch = self._open(create, start, end, revision if revision >= 0 else 1)  # as etcd: from the beginning
        except RevisionCompacted as compacted:
            await self._send({"header": header, "watch_id": watch_id, "created": True})
            await self._send_compacted(watch_id, compacted)
            return
        except LimitReached as refused:
            await self._refuse(_NO_WATCH, f"etcdserver: {refused}")
            return
        self._watches[watch_id] = _StreamWatch(watch_id, create, start, end, watch)
        watch.start(partial(self._wake, watch_id))
        await self._send({"header": header, "watch_id": watch_id, "created": True})

    def _free_id(self) -> int:
        """An id that no watch of the stream has had, unless its client chose it: events of a watch that has ended may
        be on their way."""
        while self._next_id in self._watches:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _open(self, create: Message, start: bytes, end: bytes | None, revision: int) -> KeyWatch[_Events]:
        filters = cast("list[int]", create.get("filters", []))
        return self._hub.watch(
            start,
            end,
            _FORMS[bool(create.get("prev_kv"))],
            from_revision=revision,
            puts=_NOPUT not in filters,
            deletes=_NODELETE not in filters,
            progress_s=self._progress_s if create.get("progress_notify") else 0.0,
            owner=self._owner,
            user=self._caller.principal.user if self._caller.principal is not None else "",
            group=self._group,
        )

    def _wake(self, watch_id: int) -> None:
        self._ready[watch_id] = None
        self._work.set()

    async def _refusal(self, start: bytes, end: bytes | None) -> Rejected | None:
        refusal = self._user.read_refusal(start, end)
        if isinstance(refusal, PermissionDenied):  # the permission may be newer than this node's state
            await self._context.node.read_index(self._caller.timeout_s)
            refusal = self._user.read_refusal(start, end)
        return refusal

    async def _refuse(self, watch_id: int, reason: str) -> None:
        header = self._context.header()
        await self._send(
            {"header": header, "watch_id": watch_id, "created": True, "canceled": True, "cancel_reason": reason}
        )

    async def _cancel(self, watch_id: int, reason: str = "") -> None:
        self._watches.pop(watch_id).watch.close()
        header = self._context.header()
        await self._send({"header": header, "watch_id": watch_id, "canceled": True, "cancel_reason": reason})

    async def _send_compacted(self, watch_id: int, compacted: RevisionCompacted) -> None:
        header, oldest = self._context.header(0), compacted.oldest
        await self._send({"header": header, "watch_id": watch_id, "canceled": True, "compact_revision": oldest})

    async def _answer_progress(self) -> None:
        """Tell the revision up to which all watches were given their events, unless some must catch up first."""
        if any(watch.watch.phase != LIVE or watch.watch.unread_bytes for watch in self._watches.values()):
            asyncio.get_running_loop().call_later(AGAIN_S, self._work.set)
            return
        self._progress = False
        revision = self._hub.passed if self._watches else self._context.node.store.revision
        await self._send({"header": self._context.header(revision), "watch_id": _NO_WATCH})

    # --- events

    async def _send_events(self, watch: _StreamWatch) -> None:
        """Send what the watch was given: whole revisions, as many in one message as are there."""
        while (message := watch.watch.read()) is not None:
            revision, events = message
            size_bytes = watch.watch.form.size_bytes(message)
            while size_bytes < MESSAGE_BYTES and (more := watch.watch.read()) is not None:
                revision, events = more[0], events + more[1]
                size_bytes += watch.watch.form.size_bytes(more)
            if (refusal := self._user.read_refusal(watch.start, watch.end)) is not None:
                await self._cancel(watch.watch_id, etcd_error(refusal).text)
                return
            header = self._context.header(max(revision, self._context.node.store.revision) if events else revision)
            await self._send({"header": header, "watch_id": watch.watch_id, "events": events})
            if watch.watch_id not in self._watches:
                return
        if (error := watch.watch.error) is not None:
            await self._ended(watch, error)

    async def _ended(self, watch: _StreamWatch, error: OperationError) -> None:
        if isinstance(error, RevisionCompacted):
            self._watches.pop(watch.watch_id).watch.close()
            await self._send_compacted(watch.watch_id, error)
            return
        if not isinstance(error, WatchEnded) or error.code != "slow_watcher":
            text = "no leader" if error.code == "no_leader" else str(error)
            raise EtcdError(UNAVAILABLE, f"etcdserver: {text}")
        watch.watch.close()
        try:
            watch.watch = self._open(watch.create, watch.start, watch.end, error.resume)
        except RevisionCompacted as compacted:
            del self._watches[watch.watch_id]
            await self._send_compacted(watch.watch_id, compacted)
            return
        watch.watch.start(partial(self._wake, watch.watch_id))
