"""Follow the leader of an election, by a watch."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.election import ElectedLeader
from syncline.client.coordination.names import lease_in_key, shown
from syncline.client.coordination.replica import Replica

__all__ = ["leaders_of"]

MAX_CANDIDATES: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024


async def leaders_of(kv: KeyValueCalls, prefix: bytes) -> AsyncGenerator[ElectedLeader | None, None]:
    """The leader, and each change of it; None if there is no candidate. A slow reader misses terms in between.

    Raises:
        LimitReached: there are more than 10,000 candidates.
        OperationError: the cluster refused it, or could not do it.
    """
    replica = Replica(
        kv,
        prefix,
        what=f'the view of the election "{shown(prefix)}"',
        max_keys=MAX_CANDIDATES,
        max_bytes=MAX_BYTES,
        wanted=lambda key, lease: lease != 0 and lease_in_key(key, prefix) == lease,
    )
    follower = replica.follow()
    await replica.open()
    try:
        known: object = replica  # differs from each leader, and from none
        while True:
            places = [
                ElectedLeader(value=item.value, token=item.create_revision, key=key)
                for key, item in replica.items.items()
            ]
            leader = min(places, key=lambda place: place.token, default=None)
            if leader != known:
                known = leader
                yield leader
            await replica.next(follower, None)
    finally:
        await replica.close()
