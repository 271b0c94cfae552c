"""The service Election: the key that was created first below an election's name leads, and its value is announced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

from syncline.kv.store import prefix_end
from syncline.server.etcd.errors import INVALID_ARGUMENT, EtcdError
from syncline.server.etcd.face import EtcdCaller, EtcdFace, Send
from syncline.server.etcd.messages import Message
from syncline.server.etcd.ranges import check_key_size
from syncline.server.etcd.services.queues import (
    CREATE,
    RANGE,
    TXN,
    KeyQueue,
    first_record,
    header_of,
    records_of,
    revision_of,
    unknown,
)
from syncline.server.tasks import Tasks

__all__ = ["ElectionService"]


class ElectionService:
    """Elections of etcd's interface."""

    def __init__(self, face: EtcdFace, tasks: Tasks) -> None:
        self._face = face
        self._queue = KeyQueue(face, tasks)

    def add_to(self, face: EtcdFace) -> None:
        """Register the methods."""
        face.unary("/v3electionpb.Election/Campaign", self.campaign)
        face.unary("/v3electionpb.Election/Proclaim", self.proclaim)
        face.unary("/v3electionpb.Election/Leader", self.leader)
        face.unary("/v3electionpb.Election/Resign", self.resign)
        face.streaming("/v3electionpb.Election/Observe", self.observe)

    async def campaign(self, request: Message, caller: EtcdCaller) -> Message:
        """Wait until the caller leads. It leads until it resigns, or its lease ends."""
        name, value = _name_of(request), cast("bytes", request.get("value", b""))
        lease = await self._queue.lease_of(request, caller)
        prefix = name + b"/"
        key, created, before, _ = await self._queue.enter(prefix, value, lease, caller)
        leader: Message = {"name": name, "key": key, "rev": created, "lease": lease}
        if before is not None and before.get("value", b"") != value:
            await self._write(leader, {"request_put": {"key": key, "value": value, "lease": lease}}, caller)
        header = await self._queue.wait(prefix, key, created, caller)
        return {"header": header, "leader": leader}

    async def proclaim(self, request: Message, caller: EtcdCaller) -> Message:
        """Announce another value, while the caller leads."""
        leader = _leader_of(request)
        put = {"key": leader.get("key", b""), "value": request.get("value", b""), "lease": leader.get("lease", 0)}
        answer = await self._write(leader, {"request_put": put}, caller)
        return {"header": header_of(answer)}

    async def resign(self, request: Message, caller: EtcdCaller) -> Message:
        """Stop leading, or campaigning. If the caller has stopped already, nothing is done."""
        leader = _leader_of(request)
        answer = await self._if_there(leader, {"request_delete_range": {"key": leader.get("key", b"")}}, caller)
        return {"header": header_of(answer)}

    async def leader(self, request: Message, caller: EtcdCaller) -> Message:
        """The leader's record."""
        answer = await self._face.call(RANGE, first_record(_name_of(request) + b"/"), caller)
        if not (records := records_of(answer)):
            raise unknown("election: no leader")
        return {"header": header_of(answer), "kv": records[0]}

    async def observe(self, inbox: AsyncIterator[Message], send: Send, caller: EtcdCaller) -> None:
        """Send each leader's record, and each value that it announces."""
        async for request in inbox:
            await self._observe(_name_of(request) + b"/", send, caller)

    async def _observe(self, prefix: bytes, send: Send, caller: EtcdCaller) -> None:
        while True:
            answer = await self._face.call(RANGE, first_record(prefix), caller)
            revision = revision_of(answer)
            records = records_of(answer)
            if not records:
                end = prefix_end(prefix)
                await self._queue.changed(prefix, b"\0" if end is None else end, revision + 1, caller, _is_any)
                continue
            await send({"header": header_of(answer), "kv": records[0]})
            await self._follow(cast("bytes", records[0]["key"]), revision, send, caller)

    async def _follow(self, key: bytes, revision: int, send: Send, caller: EtcdCaller) -> None:
        """Send the values of one leader, until it leads no more."""
        while True:
            changed = await self._queue.changed(key, b"", revision + 1, caller, _is_any)
            if changed is None:
                return
            header, event = changed
            if event.get("type"):
                return
            record = cast("Message", event["kv"])
            revision = cast("int", record["mod_revision"])
            await send({"header": header, "kv": record})

    async def _write(self, leader: Message, operation: Message, caller: EtcdCaller) -> Message:
        """Carry an operation out if the key of `leader` is still the same; else raise "not leader"."""
        answer = await self._if_there(leader, operation, caller)
        if not answer.get("succeeded"):
            raise unknown("election: not leader")
        return answer

    async def _if_there(self, leader: Message, operation: Message, caller: EtcdCaller) -> Message:
        compare = {"target": CREATE, "key": leader.get("key", b""), "create_revision": leader.get("rev", 0)}
        return await self._face.call(TXN, {"compare": [compare], "success": [operation]}, caller)


def _name_of(request: Message) -> bytes:
    name = cast("bytes", request.get("name", b""))
    if not name:
        raise EtcdError(INVALID_ARGUMENT, "etcdserver: key is not provided")
    check_key_size(request)
    return name


def _leader_of(request: Message) -> Message:
    leader = request.get("leader")
    if not isinstance(leader, dict):
        raise unknown('"leader" field must be provided')
    return leader


def _is_any(_event: Message) -> bool:
    return True
