"""Calls about leases, and times to live of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from syncline.client.arguments import checked_items, checked_ttl_s, lease_text, to_key
from syncline.client.calls import Key
from syncline.client.embedded.calls import EmbeddedCalls
from syncline.client.embedded.commands import lease_number, milliseconds
from syncline.client.embedded.errors import closed, node_errors
from syncline.client.holding import HoldsLeases
from syncline.client.lease_schemas import MAX_KEPT_LEASES
from syncline.client.results import GrantedLease, LeaseDetails, LeaseSummary, RevokeResult, TouchResult
from syncline.errors import ConfigError
from syncline.kv.commands import LeaseGrant, LeaseRevoke, Touch, encode_command
from syncline.kv.lease_calls import LeaseTime
from syncline.kv.records import LeaseAnswer, LeaseEndAnswer, TouchAnswer
from syncline.kv.serving.lease_views import lease_page, lease_view
from syncline.kv.serving.reads import ReadPlan
from syncline.kv.store import KeyStore

__all__ = ["EmbeddedLeaseCalls"]

PAGE: Final = 1000
"""Leases of one page: the loop is free between two."""


class EmbeddedLeaseCalls(EmbeddedCalls, HoldsLeases):
    """Grant, keep alive and end leases."""

    async def grant_lease(
        self, ttl: float, *, lease: str | int | None = None, timeout: float | None = None
    ) -> GrantedLease:
        """Grant a lease of `ttl` seconds. Without an id the store draws one.

            granted = await store.grant_lease(30)
            await store.put("worker/7", "alive", lease=granted.id)

        Raises:
            Rejected: there is a lease with this id (`lease_exists`), or there are too many (`limit`).
            DeadlineExceeded: no answer came in time (see its `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was proposed.
        """
        ttl_ms = milliseconds(checked_ttl_s(ttl), "grant_lease")
        number = self._embedded.node.new_lease() if lease is None else lease_number(lease_text(lease), "grant_lease")
        answer = await self._write(encode_command(LeaseGrant(number, ttl_ms)), self._limit_s(timeout))
        assert isinstance(answer, LeaseAnswer), answer
        return _granted(answer.lease, answer.ttl_ms)

    async def keep_alive(self, leases: Sequence[str | int], *, timeout: float | None = None) -> list[GrantedLease]:
        """Give up to 1,000 leases their full time again; return those that exist. Nothing is written to the log.

            [kept] = await store.keep_alive([granted.id])

        A holder counts the time from the moment before this call, not from its answer.

        Raises:
            DeadlineExceeded: no answer came in time.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was asked.
        """
        names = [lease_text(lease) for lease in checked_items(leases, "leases")]
        if not 0 < len(names) <= MAX_KEPT_LEASES:
            raise ConfigError(f"{len(names)} leases: accepted are 1 to {MAX_KEPT_LEASES} in one call")
        numbers = [lease_number(name, "keep_alive") for name in names]
        times = await self._kept(numbers, self._limit_s(timeout))
        return [_granted(lease, time.ttl_ms) for lease, time in zip(numbers, times, strict=True) if time.ttl_ms]

    async def _kept(self, leases: Sequence[int], timeout_s: float) -> Sequence[LeaseTime]:
        future = self._embedded.node.lease_calls.keep_alive(leases, timeout_s)
        await asyncio.wait([future])
        if future.cancelled():
            raise closed()
        with node_errors():
            return future.result()

    async def revoke_lease(self, lease: str | int, *, timeout: float | None = None) -> RevokeResult:
        """End a lease; its keys are deleted in one revision.

            print((await store.revoke_lease(granted.id)).deleted)

        Raises:
            Rejected: there is no such lease (`lease_not_found`).
            DeadlineExceeded: no answer came in time (see its `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was proposed.
        """
        command = encode_command(LeaseRevoke(lease_number(lease_text(lease), "revoke_lease")))
        answer = await self._write(command, self._limit_s(timeout), frees_space=True)
        assert isinstance(answer, LeaseEndAnswer), answer
        return RevokeResult(answer.deleted, answer.revision)

    async def lease_details(self, lease: str | int, *, timeout: float | None = None) -> LeaseDetails:
        """What is left of a lease's time, and its keys.

            print((await store.lease_details(granted.id)).ttl_s)

        Raises:
            Rejected: there is no such lease (`lease_not_found`).
            DeadlineExceeded: no answer came in time.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was asked.
        """
        number, timeout_s = lease_number(lease_text(lease), "lease_details"), self._limit_s(timeout)
        with node_errors(read=True):
            view = await lease_view(self._embedded.node, number, timeout_s)
        return LeaseDetails(
            id=f"{number:016x}",
            ttl_s=view.rest_ms / 1000,
            granted_ttl_s=view.ttl_ms / 1000,
            keys=tuple(view.keys),
            more=view.more,
        )

    async def leases(self, *, timeout: float | None = None) -> list[LeaseSummary]:
        """All leases, in the order of their ids. `timeout` is for each page of 1,000.

            print(len(await store.leases()))

        Raises:
            DeadlineExceeded: it could not be confirmed in time.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used.
        """
        found: list[LeaseSummary] = []
        after = 0
        while True:
            plan = ReadPlan(timeout_s=self._limit_s(timeout))
            page, more = await self._read(partial(_page, after), plan)
            found += page
            if not more:
                return found
            after = int(page[-1].id, 16)

    async def touch(self, key: Key, ttl: float, *, timeout: float | None = None) -> TouchResult:
        """Give a key `ttl` seconds to live, without its value. A lease of its own starts again, or it gets one.

            await store.touch("greeting", 60)

        Raises:
            Rejected: there is no such key (`not_found`).
            DeadlineExceeded: no answer came in time (see its `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was proposed.
        """
        name, ttl_ms = to_key(key), milliseconds(checked_ttl_s(ttl), "touch")
        timeout_s, embedded = self._limit_s(timeout), self._embedded
        embedded.limits.check_key(name, "touch")
        answer = await self._write(encode_command(Touch(name, ttl_ms, embedded.node.new_lease())), timeout_s)
        assert isinstance(answer, TouchAnswer), answer
        return TouchResult(answer.revision, f"{answer.lease:016x}", ttl_ms / 1000)


def _granted(lease: int, ttl_ms: int) -> GrantedLease:
    return GrantedLease(f"{lease:016x}", ttl_ms / 1000)


def _page(after: int, store: KeyStore) -> tuple[list[LeaseSummary], bool]:
    page, more = lease_page(store, after, PAGE)
    count = store.leases.key_count
    return [LeaseSummary(f"{one.id:016x}", one.ttl_ms / 1000, count(one.id)) for one in page], more
