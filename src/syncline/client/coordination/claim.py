"""The right to do something once: a record of it, and a lease for as long as it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from syncline.client.coordination.calls import TimedCalls
from syncline.client.coordination.names import shown
from syncline.client.coordination.waiting import PAUSE_S, SIGNS_S, closing, passes, to_its_end
from syncline.client.held_lease import HeldLease
from syncline.client.txn import Compare, GetOp, Operation, PutOp
from syncline.errors import ConfigError, LeaseLost, LockLost, OperationError, Rejected
from syncline.platform.loss import LossScope

__all__ = ["Claim", "OnCrash", "checked_on_crash", "kept_s"]

OnCrash: TypeAlias = Literal["skip", "rerun"]

DONE: Final = b"done "
CLAIMED: Final = b"claimed "
RUNNING: Final = b"running "

MARK_BYTES: Final = 8


def checked_on_crash(on_crash: object) -> OnCrash:
    """Return what is done after a crash. Raises `ConfigError` for anything but `skip` and `rerun`."""
    if on_crash == "skip":
        return "skip"
    if on_crash == "rerun":
        return "rerun"
    raise ConfigError(f"on_crash is {on_crash!r}: accepted are skip (at most once) and rerun (at least once)")


def kept_s(every_s: float) -> float:
    """How long the record of one period is kept: the period, and as much as a clock may be behind.

    That is a hundred periods, but ten minutes at least and a day at most: a thousand records at most.
    """
    return every_s + min(86400.0, max(600.0, 100 * every_s))


class Claim:
    """One try to be the one that does it. After `claim` said yes, the work runs in its block.

    With `skip` the record is written first, so the work is done at most once. With `rerun` the record belongs to a
    lease, and is made lasting when the work is done: at least once. `running` is a key that is there while the work is
    done: no other claim with the same key succeeds meanwhile.
    """

    def __init__(
        self,
        kv: TimedCalls,
        record: bytes,
        *,
        on_crash: OnCrash,
        keep_s: float | None,
        ttl_s: float,
        what: str,
        running: bytes = b"",
        unless: Sequence[Compare] = (),
        also: Sequence[Operation] = (),
    ) -> None:
        """`keep_s`: how long the record lasts; None: without an end. `unless`: further conditions of the claim.

        `also` is written together with the record: at the claim (`skip`), or at the end (`rerun`).
        """
        self._kv = kv
        self._record = record
        self._rerun = on_crash == "rerun"
        self._keep_s = keep_s
        self._what = what
        self._running = running
        self._unless = list(unless)
        self._also = list(also)
        self._mark = kv._entropy(MARK_BYTES).hex().encode()
        self._value = (RUNNING if self._rerun else CLAIMED) + self._mark
        self._lease: HeldLease | None = kv.lease(ttl_s) if self._rerun or running else None
        self._scope = LossScope()
        self._guard: asyncio.Task[None] | None = None
        self._ended = False

    async def claim(self) -> bool:
        """Try it. `leave` must follow if it says no, or fails; else the block.

        After an error of unknown outcome it may be called again: it finds its own record.

        Raises:
            OperationError: the servers could not be reached, or refused it. See its `outcome`.
            LockLost: the lease ended before the record was written.
        """
        lease = self._lease
        if lease is not None and self._guard is None:
            await lease.__aenter__()
            self._guard = asyncio.create_task(self._watch_lease(lease), name=f"claim {shown(self._record)}")
        conditions = [Compare(self._record, target="version", number=0), *self._unless]
        held = None if lease is None else lease.id
        if self._rerun:
            writes: list[Operation] = [PutOp(self._record, self._value, lease=held)]
        else:
            writes = [PutOp(self._record, self._value, ttl=self._keep_s), *self._also]
        if self._running:
            conditions.append(Compare(self._running, target="version", number=0))
            writes.append(PutOp(self._running, self._record, lease=held))
        try:
            result = await self._kv.txn(conditions, writes, [GetOp(self._record)], idempotent=True)
        except Rejected as error:
            if error.code != "lease_not_found":
                raise
            raise self._lost("its lease has ended on the servers") from error
        return result.succeeded or result.results[0].value == self._value

    async def leave(self) -> None:
        """End the lease, if there is one: within seconds, or it ends by itself."""
        if self._guard is not None and not self._ended:
            self._ended = True
            self._guard.cancel()
            await to_its_end(self._end())

    async def __aenter__(self) -> Self:
        self._scope.enter()
        if self._lease is not None and self._lease.is_lost:
            asyncio.get_running_loop().call_soon(self._scope.fire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cancelled_here = self._scope.leave(kind)
        if cancelled_here:
            await self.leave()
            raise self._lost("its lease may be over")
        await self.finish(failed=error is not None)

    async def finish(self, *, failed: bool) -> None:
        """The work has ended. With `rerun`: record it, or let another client run it if it `failed`.

        Raises:
            LockLost: the lease ended before it was recorded.
            OperationError: the servers refused the record.
        """
        try:
            if self._rerun and not failed:
                await self._done()
        finally:
            await self.leave()

    async def _done(self) -> None:
        """Make the record lasting, while the lease lasts."""
        assert self._lease is not None
        own = Compare(self._record, lease=self._lease.id)
        writes = [PutOp(self._record, DONE + self._mark, ttl=self._keep_s), *self._also]
        while True:
            if self._lease.is_lost:
                raise self._lost("its lease may be over, and it is not recorded as done")
            try:
                result = await self._kv.txn([own], writes, [GetOp(self._record)], idempotent=True)
            except OperationError as error:
                if not passes(error):
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            if result.succeeded or result.results[0].value == DONE + self._mark:
                return
            raise self._lost("its lease has ended, and it is not recorded as done")

    async def _watch_lease(self, lease: HeldLease) -> None:
        await lease.lost()
        self._scope.fire()

    async def _end(self) -> None:
        assert self._guard is not None
        assert self._lease is not None
        await asyncio.wait([self._guard])
        with suppress(LeaseLost):
            await self._lease.__aexit__(None, None, None)

    def _lost(self, why: str) -> LockLost:
        return LockLost(f"{self._what} is lost: {why}. Another client may run it", key=self._record)


async def until_free(kv: TimedCalls, record: bytes) -> bool:
    """Whether there is no record. If it is being run, wait until it is done (no), or was given up (yes)."""
    while True:
        try:
            found = await kv.get(record)
            if found is None:
                return True
            if not found.value.startswith(RUNNING):
                return False
            async with closing(kv.watch(record, from_revision=found.revision + 1, progress=SIGNS_S)) as changes:
                async for _ in changes:
                    break
        except OperationError as error:
            if not passes(error):
                raise
            await asyncio.sleep(PAUSE_S)
