"""The service Maintenance: status, hashes, leadership, alarms; and defragmentation, which needs nothing here."""

from __future__ import annotations

from typing import Final, cast

from syncline.kv.auth.records import ClusterOperation
from syncline.server.etcd.context import ServiceContext
from syncline.server.etcd.errors import (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    OUT_OF_RANGE,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    EtcdError,
)
from syncline.server.etcd.face import EtcdCaller, EtcdFace
from syncline.server.etcd.messages import Message
from syncline.server.etcd.services.cluster import member_id

__all__ = ["SERVER_VERSION", "MaintenanceService"]

SERVER_VERSION: Final = "3.5.0"
"""The version of etcd whose interface this is: clients choose their calls by it."""
CLUSTER_VERSION: Final = "3.5.0"

MAX_ALARMS: Final = 100
"""Alarms that clients have raised: a cluster has some members, each with two kinds."""

_NOSPACE: Final = 1
_GET, _ACTIVATE, _DEACTIVATE = 0, 1, 2
_HASH_MASK: Final = 2**32 - 1


class MaintenanceService:
    """Calls of operators. `Snapshot` is registered elsewhere: it streams."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._alarms: dict[tuple[int, int], None] = {}
        """The alarms that clients have raised: member and kind."""

    def add_to(self, face: EtcdFace) -> None:
        """Register the methods."""
        face.unary("/etcdserverpb.Maintenance/Status", self.status)
        face.unary("/etcdserverpb.Maintenance/Alarm", self.alarm)
        face.unary("/etcdserverpb.Maintenance/Defragment", self.defragment)
        face.unary("/etcdserverpb.Maintenance/Hash", self.hash)
        face.unary("/etcdserverpb.Maintenance/HashKV", self.hash_kv)
        face.unary("/etcdserverpb.Maintenance/MoveLeader", self.move_leader)
        face.unary("/etcdserverpb.Maintenance/Downgrade", self.downgrade)

    async def status(self, request: Message, caller: EtcdCaller) -> Message:
        """This node's view. Sizes are those of the store in memory."""
        del request, caller
        node, store = self._context.node, self._context.node.store
        view = node.view()
        role = next((member.role for member in view.members if member.id == view.id), "voter")
        size = store.size_bytes + store.history_bytes
        errors = [why for why in (*node.shortages.values(), node.state_alarm, node.disk_stall) if why]
        if view.leader is None:
            errors.append("etcdserver: no leader")
        return {
            "header": self._context.header(),
            "version": SERVER_VERSION,
            "dbSize": max(size, 1),
            "leader": 0 if view.leader is None else int(view.leader.id, 16),
            "raftIndex": view.commit,
            "raftTerm": view.term,
            "raftAppliedIndex": view.applied,
            "errors": errors,
            "dbSizeInUse": max(store.size_bytes, 1),
            "isLearner": role == "learner",
        }

    async def alarm(self, request: Message, caller: EtcdCaller) -> Message:
        """List, raise or clear alarms. A shortage of this node is one that ends with its cause.

        An alarm that a client raises is a note of this node: it refuses nothing, and ends with the node's process.
        """
        node, action = self._context.node, cast("int", request.get("action", 0))
        kind = cast("int", request.get("alarm", 0))
        named = (cast("int", request.get("memberID", 0)), kind)
        if action not in (_GET, _ACTIVATE, _DEACTIVATE):
            raise EtcdError(INVALID_ARGUMENT, f"etcdserver: there is no action {action} on alarms")
        alarms: list[tuple[int, int]] = []
        if action == _GET:
            short = [(node.node_id, _NOSPACE)] if any(node.shortages.values()) else []
            alarms = [one for one in (*self._alarms, *short) if kind in (0, one[1])]
        else:
            await self._context.require(caller)
            if action == _DEACTIVATE:
                alarms = [named] if named in self._alarms else []
                self._alarms.pop(named, None)
            elif len(self._alarms) < MAX_ALARMS or named in self._alarms:
                self._alarms[named] = None
                alarms = [named]
            else:
                raise EtcdError(RESOURCE_EXHAUSTED, f"etcdserver: there are {MAX_ALARMS} alarms")
        shown = [{"memberID": member, "alarm": one} for member, one in dict.fromkeys(alarms)]
        return {"header": self._context.header(), "alarms": shown}

    async def defragment(self, request: Message, caller: EtcdCaller) -> Message:
        """Do nothing: compaction frees memory, and a snapshot shortens the log."""
        del request
        await self._context.require(caller)
        return {"header": self._context.header()}

    async def hash(self, request: Message, caller: EtcdCaller) -> Message:
        """32 bits of the store's digest, which covers keys, history, leases and users."""
        del request
        await self._context.require(caller)
        return {"header": self._context.header(), "hash": self._context.node.store.digest & _HASH_MASK}

    async def hash_kv(self, request: Message, caller: EtcdCaller) -> Message:
        """The same at the present revision, which `hash_revision` names: there are no digests of past revisions."""
        await self._context.require(caller)
        store, revision = self._context.node.store, cast("int", request.get("revision", 0))
        if revision > store.revision:
            raise EtcdError(OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
        if 0 < revision < store.oldest:
            raise EtcdError(OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
        return {
            "header": self._context.header(),
            "hash": store.digest & _HASH_MASK,
            "compact_revision": store.oldest if store.oldest > 1 else 0,
            "hash_revision": store.revision,
        }

    async def move_leader(self, request: Message, caller: EtcdCaller) -> Message:
        """Transfer the leadership to another voter. As in etcd, the leader itself must be asked."""
        await self._context.require(caller, ClusterOperation.LEADERSHIP)
        node, target = self._context.node, cast("int", request.get("targetID", 0))
        if not node.is_leader:
            raise EtcdError(FAILED_PRECONDITION, "etcdserver: not leader")
        voters = [member_id(member) for member in node.members().members if member.role == "voter"]
        if target not in voters:
            raise EtcdError(FAILED_PRECONDITION, "etcdserver: bad leader transferee")
        if target != node.node_id:
            await node.transfer_leadership(target, caller.timeout_s)
        return {"header": self._context.header()}

    async def downgrade(self, request: Message, caller: EtcdCaller) -> Message:
        """Refuse it: the levels of a cluster are managed by `syncline upgrade`."""
        del request, caller
        text = "etcdserver: a downgrade is not offered: see `syncline upgrade`"
        raise EtcdError(UNIMPLEMENTED, text)
