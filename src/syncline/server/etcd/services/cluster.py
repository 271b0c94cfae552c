"""The service Cluster: the members, and changes of the membership."""

from __future__ import annotations

from typing import Final, cast
from urllib.parse import urlsplit

from syncline.client.schemas import MemberInfo
from syncline.kv.auth.records import ClusterOperation
from syncline.server.addresses import check_address
from syncline.server.etcd.context import ServiceContext
from syncline.server.etcd.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, NOT_FOUND, EtcdError
from syncline.server.etcd.face import EtcdCaller, EtcdFace
from syncline.server.etcd.messages import Message

__all__ = ["ClusterService", "member_id"]

SCHEME: Final = "http://"
"""Peers have addresses without a scheme. etcd's clients want URLs."""

IN_SYNC: Final = 0.9
"""The part of the leader's log that a learner has at least, as in etcd."""


def member_id(member: MemberInfo) -> int:
    """A member's id as etcd's clients have it: a number."""
    return int(member.id, 16)


class ClusterService:
    """Members. Changes go to the leader, through this node."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def add_to(self, face: EtcdFace) -> None:
        """Register the methods."""
        face.unary("/etcdserverpb.Cluster/MemberList", self.list)
        face.unary("/etcdserverpb.Cluster/MemberAdd", self.add)
        face.unary("/etcdserverpb.Cluster/MemberRemove", self.remove)
        face.unary("/etcdserverpb.Cluster/MemberUpdate", self.update)
        face.unary("/etcdserverpb.Cluster/MemberPromote", self.promote)

    async def list(self, request: Message, caller: EtcdCaller) -> Message:
        """The members, as this node has applied them; after a confirmed read if that is asked for."""
        if request.get("linearizable"):
            await self._context.node.read_index(caller.timeout_s)
        return self._answer()

    async def add(self, request: Message, caller: EtcdCaller) -> Message:
        """Add a member by its peer URL. It has no name before it starts, so it gets one that names its address."""
        await self._context.require(caller, ClusterOperation.MEMBERS)
        address = _address_of(request)
        learner = bool(request.get("isLearner"))
        name = "peer-" + address.replace(":", "-").replace("[", "").replace("]", "").replace("%", "-")
        added = await self._context.node.add_member(
            name, address, http="", node_id=None, learner=learner, timeout_s=caller.timeout_s
        )
        answer = self._answer()
        answer["member"] = _member(added.member)
        return answer

    async def remove(self, request: Message, caller: EtcdCaller) -> Message:
        """Remove a member."""
        await self._context.require(caller, ClusterOperation.MEMBERS)
        await self._context.node.remove_member(self._known(request), caller.timeout_s, force=False)
        return self._answer()

    async def update(self, request: Message, caller: EtcdCaller) -> Message:
        """Change the address at which its peers dial a member."""
        await self._context.require(caller, ClusterOperation.MEMBERS)
        node_id = self._known(request)
        await self._context.node.update_member(node_id, _address_of(request), caller.timeout_s)
        return self._answer()

    async def promote(self, request: Message, caller: EtcdCaller) -> Message:
        """Make a voter of a learner that is in sync. As a voter it counts for the quorum, in sync or not."""
        await self._context.require(caller, ClusterOperation.MEMBERS)
        node_id = self._known(request)
        [member] = [one for one in self._context.node.members().members if member_id(one) == node_id]
        if member.role != "learner":
            raise EtcdError(FAILED_PRECONDITION, "etcdserver: can only promote a learner member")
        if not _is_in_sync(member):
            text = "etcdserver: can only promote a learner member which is in sync with leader"
            raise EtcdError(FAILED_PRECONDITION, text)
        await self._context.node.promote_member(node_id, caller.timeout_s, force=False)
        return self._answer()

    def _known(self, request: Message) -> int:
        node_id = cast("int", request.get("ID", 0))
        if all(member_id(member) != node_id for member in self._context.node.members().members):
            raise EtcdError(NOT_FOUND, "etcdserver: member not found")
        return node_id

    def _answer(self) -> Message:
        members = [_member(member) for member in self._context.node.members().members]
        return {"header": self._context.header(0), "members": members}


def _member(member: MemberInfo) -> Message:
    return {
        "ID": member_id(member),
        "name": member.name if _has_started(member) else "",
        "peerURLs": [SCHEME + member.peer] if member.peer else [],
        "clientURLs": [member.http] if member.http else [],
        "isLearner": member.role == "learner",
    }


def _has_started(member: MemberInfo) -> bool:
    return bool(member.http or member.level)


def _is_in_sync(member: MemberInfo) -> bool:
    """Whether a learner may become a voter. How far it is, the leader alone knows."""
    if member.match is None or member.lag is None:
        return _has_started(member)
    return _has_started(member) and bool(member.active) and member.match > (member.match + member.lag) * IN_SYNC


def _address_of(request: Message) -> str:
    urls = cast("list[str]", request.get("peerURLs", []))
    if len(urls) > 1:
        raise EtcdError(INVALID_ARGUMENT, f"a member has one peer URL here, and the request gives {len(urls)}")
    try:
        parts = urlsplit(urls[0] if urls else "")
        port = parts.port
    except ValueError:
        port = None
        parts = urlsplit("")
    rest = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None or rest:
        raise EtcdError(INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
    return check_address(parts.netloc)
