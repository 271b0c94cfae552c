"""The service Lock: a lock is owned by the key that was created first below its name."""

from __future__ import annotations

from typing import Final, cast

from syncline.server.etcd.errors import INVALID_ARGUMENT, EtcdError
from syncline.server.etcd.face import EtcdCaller, EtcdFace
from syncline.server.etcd.messages import Message
from syncline.server.etcd.services.queues import DELETE_RANGE, KeyQueue, header_of
from syncline.server.tasks import Tasks

__all__ = ["LockService"]

NO_NAME: Final = EtcdError(INVALID_ARGUMENT, "etcdserver: key is not provided")


class LockService:
    """Locks of etcd's interface."""

    def __init__(self, face: EtcdFace, tasks: Tasks) -> None:
        self._face = face
        self._queue = KeyQueue(face, tasks)

    def add_to(self, face: EtcdFace) -> None:
        """Register the methods."""
        face.unary("/v3lockpb.Lock/Lock", self.lock)
        face.unary("/v3lockpb.Lock/Unlock", self.unlock)

    async def lock(self, request: Message, caller: EtcdCaller) -> Message:
        """Wait for the lock. It is held until its key is deleted, or the lease ends."""
        name = cast("bytes", request.get("name", b""))
        if not name:
            raise EtcdError(NO_NAME.code, NO_NAME.text)
        lease = await self._queue.lease_of(request, caller)
        prefix = name + b"/"
        key, created, _, _ = await self._queue.enter(prefix, b"", lease, caller)
        header = await self._queue.wait(prefix, key, created, caller)
        return {"header": header, "key": key}

    async def unlock(self, request: Message, caller: EtcdCaller) -> Message:
        """Give a lock up: `key` is what `lock` has answered."""
        answer = await self._face.call(DELETE_RANGE, {"key": request.get("key", b"")}, caller)
        return {"header": header_of(answer)}
