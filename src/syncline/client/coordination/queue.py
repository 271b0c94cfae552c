"""A queue of work that many workers share: each item is claimed on a lease, and comes back if its claimer dies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from syncline.client.arguments import checked_items, checked_limit, to_bytes
from syncline.client.calls import Key
from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.names import checked_wait_s, needed_ttl_s
from syncline.client.coordination.queue_claim import ItemClaim
from syncline.client.coordination.queue_keys import QueueKeys, checked_item_id, draw_item_id, item_id_of
from syncline.client.txn import Compare, DeleteOp, GetOp, ListOp, Operation, PutOp
from syncline.errors import ConfigError
from syncline.platform.entropy import Entropy, system_entropy

__all__ = ["DEFAULT_MAX_DELIVERIES", "Queue", "QueueCounts", "QueueEntry"]

DEFAULT_MAX_DELIVERIES: Final = 20

MAX_PUTS: Final = 100
"""Values of one `put_many`: a transaction has at most 128 operations."""

MAX_SHOWN: Final = 50
"""Items of one `peek`: it asks for two further keys of each, in one transaction."""

DEFAULT_CLAIM_TTL_S: Final = 30.0


class QueueEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An item of a listing. `deliveries`: how often it was claimed so far. `claimed`: whether it is now."""

    id: str
    value: bytes
    deliveries: int
    claimed: bool


class QueueCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many items a queue has, at one moment: those that can be claimed, those that are, and those given up."""

    waiting: int
    claimed: int
    dead: int


class Queue:
    """A queue in the cluster. `kv.queue` makes it.

        mail = kv.queue("mail")
        await mail.put("to: ada")
        async with mail.claim(ttl=30) as item:
            print(item.value)  # at the end of the block it is done

    - An item that was put before another put began is claimed before it. Puts that overlap have no order.
    - An item is never lost: it stays until it is done. It comes back when its block raises, and, within the claim's
      `ttl` and two election timeouts, when its claimer dies. So it is delivered at least once, and may be again.
    - Only the present claimer can finish an item. One whose claim was lost gets `LeaseLost`; work in other systems is
      kept safe with `item.token`, which grows with each claim.
    - A claim that waits is told of new items by the cluster; of all that wait, one asks at a time.
    - An item that is delivered `max_deliveries` times without being done goes to `dead_letters`.
    """

    def __init__(
        self,
        kv: KeyValueCalls,
        name: Key,
        *,
        max_deliveries: int = DEFAULT_MAX_DELIVERIES,
        entropy: Entropy = system_entropy,
    ) -> None:
        self._kv = kv
        self._keys = QueueKeys(name)
        self._entropy = entropy
        self._max_deliveries = checked_limit(max_deliveries, "max_deliveries")

    async def put(self, value: bytes | str, *, timeout: float | None = None) -> str:
        """Put an item at the end. Returns its id: 32 hexadecimal digits.

            item = await mail.put("to: ada")

        It reads once, for the order, and writes once.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return (await self.put_many([value], timeout=timeout))[0]

    async def put_many(self, values: Sequence[bytes | str], *, timeout: float | None = None) -> list[str]:
        """Put up to 100 items at the end, in their order: all of them, or none. Returns their ids.

            print(len(await mail.put_many(["to: bob", "to: eve"])))

        Raises:
            DeadlineExceeded, OperationError, ConfigError, TypeError: as `put`.
        """
        checked = [to_bytes(value, "value") for value in checked_items(values, "values")]
        if not 0 < len(checked) <= MAX_PUTS:
            raise ConfigError(f"{len(checked)} values: accepted are 1 to {MAX_PUTS} in one call")
        before = (await self._kv.list(self._keys.items, limit=1, timeout=timeout)).revision
        ids = [draw_item_id(before, position, self._entropy) for position in range(len(checked))]
        puts = [PutOp(self._keys.items + name.encode("ascii"), value) for name, value in zip(ids, checked, strict=True)]
        await self._kv.txn(then=puts, timeout=timeout)
        return ids

    def claim(self, *, ttl: float = DEFAULT_CLAIM_TTL_S, wait: float | None = None) -> ItemClaim:
        """Claim the first item that is free, for the time of a block.

            async with mail.claim(ttl=30, wait=60) as item:
                print(item.value, item.deliveries)

        At the end of the block the item is done; if the block raises, it is given back, and is the first again. The
        claim is renewed by itself. `ttl` (seconds): how long a claimer that died keeps its item.

        `wait`: for how many seconds to wait for an item (None: without limit, 0: not at all).

        Beginning and ending the block raise:
            DeadlineExceeded: there was no free item within `wait`. Nothing was claimed.
            LeaseLost: the claim was lost. The block is cancelled; the item is for another claimer.
            OperationError: the cluster could not do it (see `outcome`).

        Raises:
            ConfigError, TypeError: an argument can't be used.
        """
        ttl_s = needed_ttl_s(ttl, "a claim")
        return ItemClaim(self._kv, self._keys, ttl_s=ttl_s, wait_s=checked_wait_s(wait), most=self._max_deliveries)

    async def size(self, *, timeout: float | None = None) -> int:
        """How many items are not done: those that wait and those that are claimed.

            print(await mail.size())

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        counts = await self.counts(timeout=timeout)
        return counts.waiting + counts.claimed

    async def counts(self, *, timeout: float | None = None) -> QueueCounts:
        """How many items wait, are claimed, and were given up.

            print((await mail.counts()).waiting)

        Raises:
            DeadlineExceeded, OperationError, ConfigError, TypeError: as `size`.
        """
        keys = self._keys
        ranges = [ListOp(prefix=prefix, limit=1) for prefix in (keys.items, keys.claims, keys.dead)]
        items, claimed, dead = [one.count for one in (await self._kv.txn(then=ranges, timeout=timeout)).results]
        return QueueCounts(waiting=items - claimed, claimed=claimed, dead=dead)

    async def peek(self, limit: int = 10, *, timeout: float | None = None) -> tuple[QueueEntry, ...]:
        """The first items that are not done, claimed or not, without claiming one. `limit`: 1 to 50.

            print([entry.value for entry in await mail.peek()])

        Raises:
            DeadlineExceeded, OperationError, ConfigError, TypeError: as `size`.
        """
        return await self._listed(self._keys.items, limit, timeout)

    async def dead_letters(self, limit: int = 10, *, timeout: float | None = None) -> tuple[QueueEntry, ...]:
        """The first items that were delivered `max_deliveries` times and never done. `limit`: 1 to 50.

            for entry in await mail.dead_letters():
                print(entry.id, entry.value)

        They stay until `restore` or `discard`.

        Raises:
            DeadlineExceeded, OperationError, ConfigError, TypeError: as `size`.
        """
        return await self._listed(self._keys.dead, limit, timeout)

    async def restore(self, item: str, *, timeout: float | None = None) -> bool:
        """Put an item of `dead_letters` back at its old place, as if it was never delivered. False: there is no such.

            print(await mail.restore(item))

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        name, keys = checked_item_id(item), self._keys
        found = await self._kv.get(keys.dead + name, timeout=timeout)
        if found is None:
            return False
        unchanged = Compare(keys.dead + name, number=found.mod_revision)
        moved: list[Operation] = [
            DeleteOp(keys.dead + name),
            DeleteOp(keys.tries + name),
            PutOp(keys.items + name, found.value),
        ]
        return (await self._kv.txn([unchanged], moved, timeout=timeout)).succeeded

    async def discard(self, item: str, *, timeout: float | None = None) -> bool:
        """Delete an item of `dead_letters`. False: there is no such.

            print(await mail.discard(item))

        Raises:
            DeadlineExceeded, OperationError, ConfigError, TypeError: as `restore`.
        """
        name, keys = checked_item_id(item), self._keys
        there = Compare(keys.dead + name, target="version", op=">", number=0)
        gone = [DeleteOp(keys.dead + name), DeleteOp(keys.tries + name)]
        return (await self._kv.txn([there], gone, timeout=timeout)).succeeded

    async def _listed(self, prefix: bytes, limit: int, timeout: float | None) -> tuple[QueueEntry, ...]:
        if checked_limit(limit, "limit") > MAX_SHOWN:
            raise ConfigError(f"limit is {limit}: accepted are 1 to {MAX_SHOWN}")
        page = await self._kv.list(prefix, limit=limit, values=True, timeout=timeout)
        found = [(item, info.value or b"") for info in page.items if (item := item_id_of(info.key, prefix))]
        if not found:
            return ()
        names = [item.encode("ascii") for item, _ in found]
        asked = [*(self._keys.claims + name for name in names), *(self._keys.tries + name for name in names)]
        answer = await self._kv.txn(then=[GetOp(key) for key in asked], timeout=timeout)
        claims, tries = answer.results[: len(names)], answer.results[len(names) :]
        return tuple(
            QueueEntry(id=item, value=value, deliveries=int(tried.value or b"0"), claimed=claim.found)
            for (item, value), claim, tried in zip(found, claims, tries, strict=True)
        )
