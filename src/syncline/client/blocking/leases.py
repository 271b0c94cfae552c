"""Blocking calls about leases, and times to live of keys."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.client.blocking.held_lease import BlockingLease
from syncline.client.blocking.portal import PortalObject
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.results import GrantedLease, LeaseDetails, LeaseSummary, RevokeResult, TouchResult

__all__ = ["BlockingLeaseCalls"]


class BlockingLeaseCalls(PortalObject[AsyncClient]):
    """Grant, keep alive and end leases."""

    def grant_lease(self, ttl: float, *, lease: str | int | None = None, timeout: float | None = None) -> GrantedLease:
        """Grant a lease of `ttl` seconds. Without an id the client draws one.

            granted = kv.grant_lease(30)
            kv.put("worker/7", "alive", lease=granted.id)

        Its arguments and errors are those of `AsyncClient.grant_lease`.
        """
        return self._call(lambda kv: kv.grant_lease(ttl, lease=lease, timeout=timeout))

    def keep_alive(self, leases: Sequence[str | int], *, timeout: float | None = None) -> list[GrantedLease]:
        """Give up to 1,000 leases their full time again; return those that exist. Nothing is written to the log.

            [kept] = kv.keep_alive([granted.id])

        Its arguments and errors are those of `AsyncClient.keep_alive`.
        """
        return self._call(lambda kv: kv.keep_alive(leases, timeout=timeout))

    def revoke_lease(self, lease: str | int, *, timeout: float | None = None) -> RevokeResult:
        """End a lease; its keys are deleted in one revision.

            print(kv.revoke_lease(granted.id).deleted)

        Its arguments and errors are those of `AsyncClient.revoke_lease`.
        """
        return self._call(lambda kv: kv.revoke_lease(lease, timeout=timeout))

    def lease_details(self, lease: str | int, *, timeout: float | None = None) -> LeaseDetails:
        """What is left of a lease's time, and its keys.

            print(kv.lease_details(granted.id).ttl_s)

        Its arguments and errors are those of `AsyncClient.lease_details`.
        """
        return self._call(lambda kv: kv.lease_details(lease, timeout=timeout))

    def leases(self, *, timeout: float | None = None) -> list[LeaseSummary]:
        """All leases, in the order of their ids. `timeout` is for each page of 1,000.

            print(len(kv.leases()))

        Its arguments and errors are those of `AsyncClient.leases`.
        """
        return self._call(lambda kv: kv.leases(timeout=timeout))

    def touch(self, key: Key, ttl: float, *, timeout: float | None = None) -> TouchResult:
        """Give a key `ttl` seconds to live, without its value. A lease of its own starts again, or it gets one.

            kv.touch("greeting", 60)

        Its arguments and errors are those of `AsyncClient.touch`.
        """
        return self._call(lambda kv: kv.touch(key, ttl, timeout=timeout))

    def lease(self, ttl: float) -> BlockingLease:
        """A lease of `ttl` seconds that is granted at the begin of a block, kept alive in it, and ended with it.

            with kv.lease(30) as lease:
                kv.put("worker/7", "alive", lease=lease.id)

        Its arguments and errors are those of `AsyncClient.lease`.
        """
        return BlockingLease(self._portal, self._plain(lambda kv: kv.lease(ttl)))

    def hold_lease(self, lease: str | int) -> BlockingLease:
        """Keep a lease alive in a block that was granted before. It runs out after the block, and is not ended.

            with kv.hold_lease(granted.id) as lease:
                lease.check()

        Its arguments and errors are those of `AsyncClient.hold_lease`.
        """
        return BlockingLease(self._portal, self._plain(lambda kv: kv.hold_lease(lease)))
