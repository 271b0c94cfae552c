"""What callers are shown of leases."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

import msgspec

from syncline.errors import Rejected
from syncline.kv.records import LeaseRecord
from syncline.kv.serving.node import ServingNode
from syncline.kv.store import KeyStore

__all__ = ["LeaseView", "lease_page", "lease_view", "no_such_lease"]

MAX_KEYS_BYTES: Final = 1024 * 1024
"""Bytes of keys in the view of one lease: it may have 10,000 keys of 4 KiB."""


class LeaseView(msgspec.Struct, frozen=True):
    """One lease. `more`: it has more keys than these."""

    ttl_ms: int
    rest_ms: int
    keys: Sequence[bytes]
    more: bool
    revision: int
    """The store's."""


async def lease_view(node: ServingNode, lease: int, timeout_s: float) -> LeaseView:
    """What is left of a lease's time, which the leader knows, and its keys.

    Raises `Rejected` (`lease_not_found`), and what reads and calls to the leader raise.
    """
    confirmed = node.read_index(timeout_s)
    [time] = await node.lease_calls.times_left([lease], timeout_s)
    await confirmed
    store = node.store
    if not time.ttl_ms:
        raise no_such_lease(lease)
    size_bytes, names = 0, store.leases.keys(lease)
    shown = len(names)
    for place, name in enumerate(names):
        size_bytes += len(name)
        if size_bytes > MAX_KEYS_BYTES:
            shown = place
            break
    return LeaseView(time.ttl_ms, time.rest_ms, names[:shown], shown < len(names), store.revision)


def lease_page(store: KeyStore, after: int, limit: int) -> tuple[list[LeaseRecord], bool]:
    """The first `limit` leases with an id above `after`, in the order of their ids, and whether there are more."""
    book = store.leases
    found = heapq.nsmallest(limit + 1, (record.id for record in book.records() if record.id > after))
    return [book.find(lease) for lease in found[:limit]], len(found) > limit


def no_such_lease(lease: int) -> Rejected:
    """The refusal for a lease that is not there."""
    return Rejected(
        f"there is no lease {lease:016x}: it was never granted, or it has ended",
        code="lease_not_found",
        details={"lease": f"{lease:016x}"},
    )
