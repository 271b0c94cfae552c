"""Leases that are held in a block: for a client, and for an embedded node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from syncline.client.arguments import checked_ttl_s, lease_text
from syncline.client.held_lease import HeldLease, HeldLeases, KeepAlives
from syncline.client.results import GrantedLease, RevokeResult
from syncline.errors import Rejected

__all__ = ["HoldsLeases"]


class HoldsLeases(ABC):
    """Leases for a block. The class that inherits it sets the fields."""

    _asleep_s: Callable[[], float]
    """How long the machine has been suspended: an event loop's clock stands still then, and leases run on."""
    _keep_alives: KeepAlives
    _held_leases: HeldLeases

    if TYPE_CHECKING:

        @abstractmethod
        async def grant_lease(
            self, ttl: float, *, lease: str | int | None = None, timeout: float | None = None
        ) -> GrantedLease: ...

        @abstractmethod
        async def keep_alive(
            self, leases: Sequence[str | int], *, timeout: float | None = None
        ) -> list[GrantedLease]: ...

        @abstractmethod
        async def revoke_lease(self, lease: str | int, *, timeout: float | None = None) -> RevokeResult: ...

    def lease(self, ttl: float) -> HeldLease:
        """A lease of `ttl` seconds that is granted at the begin of a block, kept alive in it, and ended with it.

            async with kv.lease(30) as lease:
                await kv.put("worker/7", "alive", lease=lease.id)

        Raises:
            ConfigError, TypeError: `ttl` can't be used.
        """
        ttl_s = checked_ttl_s(ttl)

        async def begin() -> GrantedLease:
            return await self.grant_lease(ttl_s)

        async def end(lease: str, timeout_s: float) -> None:
            await self.revoke_lease(lease, timeout=timeout_s)

        return self._held_leases.watched(
            HeldLease(begin, end, self._keep_alives.keep, self._keep_alives.pause_s, self._asleep_s)
        )

    def hold_lease(self, lease: str | int) -> HeldLease:
        """Keep a lease alive in a block that was granted before. It runs out after the block, and is not ended.

            async with kv.hold_lease(granted.id) as lease:
                lease.check()

        The block begins with a keep-alive. It fails with `Rejected` (`lease_not_found`) if there is no such lease.

        Raises:
            ConfigError, TypeError: `lease` can't be the id of one.
        """
        name = lease_text(lease)

        async def begin() -> GrantedLease:
            if kept := await self.keep_alive([name]):
                return kept[0]
            raise Rejected(f"there is no lease {name}", code="lease_not_found")

        return self._held_leases.watched(
            HeldLease(begin, None, self._keep_alives.keep, self._keep_alives.pause_s, self._asleep_s)
        )
