"""The service Lease: grant, revoke, keep alive, time to live, list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, TypeAlias, cast

from syncline.errors import Rejected
from syncline.kv.auth.records import ClusterOperation
from syncline.kv.commands import LeaseGrant, LeaseRevoke
from syncline.kv.lease_calls import LeaseTime
from syncline.kv.limits import MAX_LEASES, MAX_TTL_MS
from syncline.kv.records import LeaseAnswer, LeaseEndAnswer
from syncline.kv.serving.lease_views import lease_page, lease_view
from syncline.server.etcd.context import ServiceContext
from syncline.server.etcd.errors import INVALID_ARGUMENT, NOT_FOUND, OUT_OF_RANGE, EtcdError
from syncline.server.etcd.face import EtcdCaller, EtcdFace, Send
from syncline.server.etcd.messages import Message

__all__ = ["LeaseService"]

LEAST_TTL_S: Final = 2
"""A shorter TTL is raised to it, as etcd does: no election would fit into it."""
MOST_TTL_S: Final = MAX_TTL_MS // 1000

MOST_ASKED: Final = 1000
"""Keep-alives of one stream that wait for their answers: a thousand in 10 ms are more than a node can take."""

_Asked: TypeAlias = "asyncio.Queue[tuple[int, asyncio.Future[list[LeaseTime]] | None] | None]"
"""Leases in the order of their messages, with what is to come from the leader. None: the client sends no more."""


class LeaseService:
    """Leases."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def add_to(self, face: EtcdFace) -> None:
        """Register the methods."""
        face.unary("/etcdserverpb.Lease/LeaseGrant", self.grant)
        face.unary("/etcdserverpb.Lease/LeaseRevoke", self.revoke)
        face.unary("/etcdserverpb.Lease/LeaseTimeToLive", self.time_to_live)
        face.unary("/etcdserverpb.Lease/LeaseLeases", self.list)
        face.streaming("/etcdserverpb.Lease/LeaseKeepAlive", self.keep_alive)

    async def grant(self, request: Message, caller: EtcdCaller) -> Message:
        """Grant a lease, with the id of the request or one that is drawn."""
        ttl_s, lease = cast("int", request.get("TTL", 0)), cast("int", request.get("ID", 0))
        if ttl_s > MOST_TTL_S:
            raise EtcdError(OUT_OF_RANGE, "etcdserver: too large lease TTL")
        if lease < 0:
            raise EtcdError(INVALID_ARGUMENT, f"the id of a lease is {lease}; it is a positive number, or 0 for any")
        command = LeaseGrant(lease or self._context.node.new_lease(), max(ttl_s, LEAST_TTL_S) * 1000)
        result = await self._context.proposed(command, caller)
        assert isinstance(result, LeaseAnswer), result
        return {"header": self._context.header(), "ID": result.lease, "TTL": result.ttl_ms // 1000}

    async def revoke(self, request: Message, caller: EtcdCaller) -> Message:
        """End a lease and delete its keys."""
        command = LeaseRevoke(_id_of(request))
        result = await self._context.proposed(command, caller, frees_space=True)
        assert isinstance(result, LeaseEndAnswer), result
        return {"header": self._context.header(result.revision)}

    async def time_to_live(self, request: Message, caller: EtcdCaller) -> Message:
        """What is left of a lease's time. A lease that does not exist has a TTL of -1."""
        context, lease = self._context, cast("int", request.get("ID", 0))
        if lease <= 0:
            return {"header": context.header(), "ID": lease, "TTL": -1}
        try:
            view = await lease_view(context.node, lease, caller.timeout_s)
        except Rejected as refusal:
            if refusal.code != "lease_not_found":
                raise
            return {"header": context.header(), "ID": lease, "TTL": -1}
        context.gate.present(caller.principal).check_lease_readable(lease)
        answer: Message = {
            "header": context.header(view.revision),
            "ID": lease,
            "TTL": view.rest_ms // 1000,
            "grantedTTL": view.ttl_ms // 1000,
        }
        if request.get("keys"):
            answer["keys"] = list(view.keys)
        return answer

    async def list(self, request: Message, caller: EtcdCaller) -> Message:
        """The ids of all leases."""
        del request
        await self._context.require(caller, ClusterOperation.STATUS)
        await self._context.node.read_index(caller.timeout_s)
        found, _ = lease_page(self._context.node.store, 0, MAX_LEASES)
        return {"header": self._context.header(), "leases": [{"ID": lease.id} for lease in found]}

    async def keep_alive(self, inbox: AsyncIterator[Message], send: Send, caller: EtcdCaller) -> None:
        """Give a lease its full time, for each message. An answer without a TTL: there is no such lease.

        The leader is asked for all messages that have come. A client keeps all its leases by one stream: if each
        message waited for the answer to the one before, only a hundred leases a second would be kept.
        """
        asked: _Asked = asyncio.Queue(MOST_ASKED)
        halves = [
            asyncio.ensure_future(self._take_keep_alives(inbox, asked, caller)),
            asyncio.ensure_future(self._answer_keep_alives(asked, send)),
        ]
        try:
            await asyncio.wait(halves, return_when=asyncio.FIRST_EXCEPTION)
            for half in halves:
                if half.done():
                    half.result()
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)

    async def _take_keep_alives(self, inbox: AsyncIterator[Message], asked: _Asked, caller: EtcdCaller) -> None:
        context = self._context
        async for request in inbox:
            lease = cast("int", request.get("ID", 0))
            kept = None
            if lease > 0:
                await context.check_lease_writable(lease, caller)
                kept = context.node.lease_calls.keep_alive([lease], caller.timeout_s)
            await asked.put((lease, kept))
        await asked.put(None)

    async def _answer_keep_alives(self, asked: _Asked, send: Send) -> None:
        while (one := await asked.get()) is not None:
            lease, kept = one
            ttl_ms = (await kept)[0].ttl_ms if kept is not None else 0
            await send({"header": self._context.header(), "ID": lease, "TTL": ttl_ms // 1000})


def _id_of(request: Message) -> int:
    lease = cast("int", request.get("ID", 0))
    if lease <= 0:
        raise EtcdError(NOT_FOUND, "etcdserver: requested lease not found")
    return lease
