"""A lease that is kept alive while a block of blocking code runs."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from syncline.client.arguments import checked_timeout_s
from syncline.client.blocking.portal import HeldObject, Portal
from syncline.client.held_lease import HeldLease
from syncline.errors import DeadlineExceeded, LeaseLost, Outcome

__all__ = ["BlockingLease"]


class BlockingLease(HeldObject[HeldLease]):
    """A lease that is kept alive while its block runs, as `HeldLease`. `Client.lease` makes it.

        with kv.lease(30) as lease:
            kv.put("worker/7", "alive", lease=lease.id)
            while work:
                lease.check()  # raises LeaseLost
                ...

    It is kept alive by the client's own thread, so the block may compute for as long as it likes. If the whole process
    stands still for longer than the lease lives, the lease is lost.
    """

    def __init__(self, portal: Portal, lease: HeldLease) -> None:
        super().__init__(portal, lease, "the lease")
        self._block = portal.scope(lambda: lease, "the lease")

    @property
    def id(self) -> str:
        """Its id, 16 hexadecimal digits. Raises `UsageError` before the block has begun."""
        return self._here().id

    @property
    def ttl_s(self) -> float:
        """Its full time in seconds; 0 before the block has begun."""
        return self._here().ttl_s

    @property
    def rest_s(self) -> float:
        """How many seconds it surely has, without another keep-alive; 0 if it is lost."""
        return self._call(_rest_s)

    @property
    def is_lost(self) -> bool:
        """Whether it may be over: another client may hold what it stood for."""
        return self.rest_s == 0.0

    def check(self) -> None:
        """Make sure that the lease is not over: call it before each step that relies on the lease.

        Raises:
            LeaseLost: it may be over.
        """
        self._call(_check)

    def lost(self, timeout: float | None = None) -> LeaseLost:
        """Wait until the lease is lost, and return why.

            reason = lease.lost(timeout=5.0)

        Raises:
            DeadlineExceeded: it is not lost after `timeout` seconds.
            UsageError: the block has not begun.
        """
        limit_s = None if timeout is None else checked_timeout_s(timeout)
        return self._call(lambda lease: _lost(lease, limit_s))

    def __enter__(self) -> Self:
        self._here()
        self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.end(error)


async def _rest_s(lease: HeldLease) -> float:
    return lease.rest_s


async def _check(lease: HeldLease) -> None:
    lease.check()


async def _lost(lease: HeldLease, timeout_s: float | None) -> LeaseLost:
    try:
        async with asyncio.timeout(timeout_s):
            return await lease.lost()
    except TimeoutError:
        raise DeadlineExceeded(f"the lease is not lost after {timeout_s:g} s", outcome=Outcome.NOT_APPLIED) from None
