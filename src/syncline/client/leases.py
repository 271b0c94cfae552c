"""Calls about leases, and times to live of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from syncline.client.arguments import checked_items, checked_ttl_s, duration_text, lease_text, to_key
from syncline.client.caller import ClientRequest
from syncline.client.calls import JSON_BODY, Key, ServerCalls, as_read
from syncline.client.holding import HoldsLeases
from syncline.client.lease_schemas import (
    MAX_KEPT_LEASES,
    KeepAliveReply,
    LeasePageReply,
    LeaseReply,
    LeaseTimeReply,
    RevokeReply,
    TouchReply,
)
from syncline.client.results import GrantedLease, LeaseDetails, LeaseSummary, RevokeResult, TouchResult
from syncline.client.wire import decode, quoted, unpacked_keys
from syncline.errors import ConfigError, Rejected
from syncline.platform.entropy import Entropy

__all__ = ["LeaseCalls"]

PAGE: Final = 1000
"""Leases of one page."""


class LeaseCalls(ServerCalls, HoldsLeases):
    """Grant, keep alive and end leases. `AsyncClient` sets the field."""

    _entropy: Entropy

    async def grant_lease(
        self, ttl: float, *, lease: str | int | None = None, timeout: float | None = None
    ) -> GrantedLease:
        """Grant a lease of `ttl` seconds. Without an id the client draws one.

            granted = await kv.grant_lease(30)
            await kv.put("worker/7", "alive", lease=granted.id)

        Raises:
            Rejected: there is a lease with this id (`lease_exists`), or there are too many (`limit`).
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        ttl_s = checked_ttl_s(ttl)
        drawn = lease is None
        name = f"{int.from_bytes(self._entropy(8), 'big') >> 1 or 1:016x}" if lease is None else lease_text(lease)
        body = msgspec.json.encode({"ttl": f"{duration_text(ttl_s)}s", "id": name})
        request = ClientRequest(
            method="POST", target="/lease", headers=JSON_BODY, body=body, idempotent=drawn, keyed=True
        )
        try:
            reply = decode(await self._answer(request, timeout), LeaseReply)
        except Rejected as error:
            if not drawn or error.code != "lease_exists":
                raise
            [kept] = await self.keep_alive([name], timeout=timeout)  # an earlier attempt of this call has granted it
            return kept
        return GrantedLease(id=reply.id, ttl_s=reply.ttl_s)

    async def keep_alive(self, leases: Sequence[str | int], *, timeout: float | None = None) -> list[GrantedLease]:
        """Give up to 1,000 leases their full time again; return those that exist. Nothing is written to the log.

            [kept] = await kv.keep_alive([granted.id])

        A holder counts the time from the moment before this call, not from its answer.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        names = [lease_text(lease) for lease in checked_items(leases, "leases")]
        if not 0 < len(names) <= MAX_KEPT_LEASES:
            raise ConfigError(f"{len(names)} leases: accepted are 1 to {MAX_KEPT_LEASES} in one call")
        body = msgspec.json.encode({"ids": names})
        request = ClientRequest(
            method="POST",
            target="/lease/keepalive",
            headers=JSON_BODY,
            body=body,
            idempotent=True,
            needs_key=False,
        )
        reply = decode(await self._answer(request, timeout), KeepAliveReply)
        return [GrantedLease(id=one.id, ttl_s=one.ttl_s) for one in reply.leases]

    async def revoke_lease(self, lease: str | int, *, timeout: float | None = None) -> RevokeResult:
        """End a lease; its keys are deleted in one revision.

            print((await kv.revoke_lease(granted.id)).deleted)

        Raises:
            Rejected: there is no such lease (`lease_not_found`).
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        request = ClientRequest(method="DELETE", target=f"/lease/{lease_text(lease)}", keyed=True)
        reply = decode(await self._answer(request, timeout), RevokeReply)
        return RevokeResult(deleted=reply.deleted, revision=reply.revision)

    async def lease_details(self, lease: str | int, *, timeout: float | None = None) -> LeaseDetails:
        """What is left of a lease's time, and its keys.

            print((await kv.lease_details(granted.id)).ttl_s)

        Raises:
            Rejected: there is no such lease (`lease_not_found`).
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        request = ClientRequest(method="GET", target=f"/lease/{lease_text(lease)}", idempotent=True)
        with as_read():
            response = await self._answer(request, timeout)
            reply = decode(response, LeaseTimeReply)
            keys = unpacked_keys(reply.keys, response)
        return LeaseDetails(
            id=reply.id, ttl_s=reply.ttl_s, granted_ttl_s=reply.granted_ttl_s, keys=keys, more=reply.more
        )

    async def leases(self, *, timeout: float | None = None) -> list[LeaseSummary]:
        """All leases, in the order of their ids. `timeout` is for each page of 1,000.

            print(len(await kv.leases()))

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        found: list[LeaseSummary] = []
        after: str | None = None
        while True:
            parameters: dict[str, str | bytes | None] = {"limit": str(PAGE), "after": after}
            request = ClientRequest(method="GET", target="/lease", parameters=parameters, idempotent=True)
            with as_read():
                page = decode(await self._answer(request, timeout), LeasePageReply)
            found += [LeaseSummary(id=one.id, granted_ttl_s=one.granted_ttl_s, keys=one.keys) for one in page.leases]
            if page.next is None:
                return found
            after = page.next

    async def touch(self, key: Key, ttl: float, *, timeout: float | None = None) -> TouchResult:
        """Give a key `ttl` seconds to live, without its value. A lease of its own starts again, or it gets one.

            await kv.touch("greeting", 60)

        Raises:
            Rejected: there is no such key (`not_found`).
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        request = ClientRequest(
            method="POST",
            target=f"/touch?key={quoted(to_key(key))}",
            parameters={"ttl": f"{duration_text(checked_ttl_s(ttl))}s"},
            keyed=True,
        )
        reply = decode(await self._answer(request, timeout), TouchReply)
        return TouchResult(revision=reply.revision, lease=reply.lease, ttl_s=reply.ttl_s)
