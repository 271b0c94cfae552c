"""What the words of coordination need of a store: `AsyncClient` has it, and an embedded node's store, too."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from syncline.client.calls import Key
from syncline.client.held_lease import HeldLease
from syncline.client.results import (
    DeleteResult,
    GrantedLease,
    KeyInfo,
    KeyPage,
    KeyValue,
    LeaseDetails,
    PutResult,
    RevisionEvents,
    RevokeResult,
    TouchResult,
    TxnResult,
)
from syncline.client.txn import Compare, Operation
from syncline.platform.entropy import Entropy

__all__ = ["KeyValueCalls", "TimedCalls"]


class KeyValueCalls(Protocol):
    """Operations on keys, leases and watches.

        async def greet(kv: KeyValueCalls) -> None:
            await kv.put("greeting", "hello")

    Each is described at the method of `AsyncClient` that has its name.
    """

    async def get(
        self,
        key: Key,
        *,
        revision: int | None = None,
        consistency: str | None = None,
        max_stale_s: float | None = None,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """See `AsyncClient.get`."""
        ...

    async def put(
        self,
        key: Key,
        value: bytes | str,
        *,
        if_revision: int | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        ttl: float | None = None,
        lease: str | int | None = None,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """See `AsyncClient.put`."""
        ...

    async def delete(
        self, key: Key, *, if_revision: int | None = None, idempotent: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """See `AsyncClient.delete`."""
        ...

    async def list(
        self,
        prefix: Key = b"",
        *,
        after: str | None = None,
        limit: int = 1000,
        values: bool = False,
        reverse: bool = False,
        revision: int | None = None,
        consistency: str | None = None,
        max_stale_s: float | None = None,
        timeout: float | None = None,
    ) -> KeyPage:
        """See `AsyncClient.list`."""
        ...

    def scan(
        self,
        prefix: Key = b"",
        *,
        values: bool = False,
        reverse: bool = False,
        page: int = 1000,
        revision: int | None = None,
        consistent: bool = True,
        consistency: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[KeyInfo]:
        """See `AsyncClient.scan`."""
        ...

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        then: Sequence[Operation] = (),
        else_: Sequence[Operation] = (),
        *,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> TxnResult:
        """See `AsyncClient.txn`."""
        ...

    async def increment(
        self, key: Key, by: int = 1, *, initial: int = 0, idempotent: bool = False, timeout: float | None = None
    ) -> int:
        """See `AsyncClient.increment`."""
        ...

    def watch(
        self,
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        from_revision: int | None = None,
        events: str | None = None,
        prev: bool = False,
        stale: bool = False,
        progress: float | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[RevisionEvents]:
        """See `AsyncClient.watch`."""
        ...

    async def touch(self, key: Key, ttl: float, *, timeout: float | None = None) -> TouchResult:
        """See `AsyncClient.touch`."""
        ...

    async def grant_lease(
        self, ttl: float, *, lease: str | int | None = None, timeout: float | None = None
    ) -> GrantedLease:
        """See `AsyncClient.grant_lease`."""
        ...

    async def keep_alive(
        self, leases: Sequence[str | int], *, timeout: float | None = None
    ) -> builtins.list[GrantedLease]:
        """See `AsyncClient.keep_alive`."""
        ...

    async def revoke_lease(self, lease: str | int, *, timeout: float | None = None) -> RevokeResult:
        """See `AsyncClient.revoke_lease`."""
        ...

    async def lease_details(self, lease: str | int, *, timeout: float | None = None) -> LeaseDetails:
        """See `AsyncClient.lease_details`."""
        ...

    def lease(self, ttl: float) -> HeldLease:
        """See `AsyncClient.lease`."""
        ...

    def hold_lease(self, lease: str | int) -> HeldLease:
        """See `AsyncClient.hold_lease`."""
        ...


class TimedCalls(KeyValueCalls, Protocol):
    """The same, with what is outside of them: random bytes for names, and the wall clock of `once` and `every`."""

    _entropy: Entropy
    _wall_time_s: Callable[[], float]
    """Seconds since 1970, UTC."""
