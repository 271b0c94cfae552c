"""Find the first free item of a queue and claim it: at once, or as soon as there is one."""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.queue_keys import QueueKeys, item_id_of
from syncline.client.coordination.waiting import SIGNS_S, closing
from syncline.client.held_lease import HeldLease
from syncline.client.txn import Compare, DeleteOp, GetOp, IncrementOp, ListOp, Operation, PutOp
from syncline.errors import RevisionCompacted

__all__ = ["QueueSearch", "TakenItem", "bury", "claimed_by"]

FIRST_LOOK: Final = 16
MOST_LOOKED: Final = 10_000
"""Items of a look: it takes more if all of them are claimed."""


class TakenItem(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed item. `token`: the revision of the claim."""

    id: str
    value: bytes
    deliveries: int
    token: int


class QueueSearch:
    """Claims one item with one lease. After `claim`, or an error, the caller ends the lease with `release`."""

    def __init__(self, kv: KeyValueCalls, keys: QueueKeys, *, ttl_s: float, most: int) -> None:
        """`most`: deliveries after which an item that is not done is dead."""
        self._kv = kv
        self._keys = keys
        self._ttl_s = ttl_s
        self._most = most
        self._lease: HeldLease | None = None

    @property
    def lease(self) -> HeldLease:
        """The lease of the claim."""
        assert self._lease is not None
        return self._lease

    async def release(self) -> None:
        """End the lease, and so the claim if it still stands. Raises nothing that the caller could act on."""
        lease, self._lease = self._lease, None
        if lease is not None:
            gone = _Released()
            await lease.__aexit__(type(gone), gone, None)

    async def attempt(self, conflicts: int) -> TakenItem | int:
        """Claim a free item. Without one, or if others were faster so many times: the revision of the last look."""
        while True:
            revision, free = await self._look()
            for name, created in free:
                if (item := await self._take(name, created)) is not None:
                    if item.deliveries <= self._most:
                        return item
                    await bury(self._kv, self._keys, item)  # its last claimer died
                elif (conflicts := conflicts - 1) <= 0:
                    return revision
            if not free:
                return revision

    async def freed(self, revision: int) -> None:
        """Wait until an item is put or given back, at `revision` or later."""
        async with closing(self._kv.watch(prefix=self._keys.root, from_revision=revision, progress=SIGNS_S)) as changes:
            try:
                async for change in changes:
                    for event in change.events:
                        if event.key.startswith(self._keys.items if event.type == "put" else self._keys.claims):
                            return
            except RevisionCompacted:
                return  # the next look shows what there is

    async def _look(self) -> tuple[int, list[tuple[str, int]]]:
        """The store's revision, and the first free items with their create revisions, in the order of these."""
        limit, keys = FIRST_LOOK, self._keys
        while True:
            answer = await self._kv.txn(then=[ListOp(prefix=keys.items, limit=limit), ListOp(prefix=keys.claims)])
            items, claims = answer.results
            claimed = {info.key[len(keys.claims) :] for info in claims.items}
            free = [info for info in items.items if info.key[len(keys.items) :] not in claimed]
            if free or not items.more or limit >= MOST_LOOKED:
                ordered = sorted(free, key=lambda info: info.create_revision)
                named = [(item_id_of(info.key, keys.items), info.create_revision) for info in ordered]
                return answer.revision, [(name, created) for name, created in named if name is not None]
            limit = min(4 * limit, MOST_LOOKED)

    async def _take(self, name: str, created: int) -> TakenItem | None:
        """Claim an item, if it is still there and free."""
        lease = await self._leased()
        key, keys = name.encode("ascii"), self._keys
        answer = await self._kv.txn(
            [
                Compare(keys.items + key, target="create_revision", number=created),
                Compare(keys.claims + key, target="version", number=0),
            ],
            [
                PutOp(keys.claims + key, lease.encode("ascii"), lease=lease),
                IncrementOp(keys.tries + key),
                GetOp(keys.items + key),
            ],
        )
        if not answer.succeeded:
            return None
        _, tries, found = answer.results
        return TakenItem(id=name, value=found.value, deliveries=tries.number, token=answer.revision)

    async def _leased(self) -> str:
        """The id of a lease that is not lost."""
        if self._lease is not None and self._lease.is_lost:
            await self.release()
        if self._lease is None:
            lease = self._kv.lease(self._ttl_s)
            await lease.__aenter__()
            self._lease = lease
        return self._lease.id


class _Released(Exception):
    """Ends the block of a lease that may be lost by now, which no caller has to be told."""


async def bury(kv: KeyValueCalls, keys: QueueKeys, item: TakenItem, timeout: float | None = None) -> bool:
    """Move a claimed item to the dead ones. False if the claim was lost."""
    name = item.id.encode("ascii")
    operations: list[Operation] = [
        DeleteOp(keys.items + name),
        DeleteOp(keys.claims + name),
        PutOp(keys.dead + name, item.value),
    ]
    return (await kv.txn([claimed_by(keys, item)], operations, timeout=timeout)).succeeded


def claimed_by(keys: QueueKeys, item: TakenItem) -> Compare:
    """That the claim of an item still stands: its key was created by it."""
    return Compare(keys.claims + item.id.encode("ascii"), target="create_revision", number=item.token)
