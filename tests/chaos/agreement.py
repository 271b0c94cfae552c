"""At the end, when all is healed and nobody writes: one state on all nodes, as far as they and their readers tell."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from syncline.client import KeyInfo, NodeStatus
from syncline.testing.linearizability.history import Operation, Seen, keys_of
from tests.chaos.clients import LEDGER, PADDING
from tests.chaos.fleet import HEALED_WITHIN_S, ChaosNode, Fleet
from tests.helpers.process_cluster import eventually

__all__ = ["Agreement", "agree", "written_twice"]

Items = Mapping[bytes, KeyInfo]


@dataclass(frozen=True)
class Agreement:
    """The state that all nodes share."""

    revision: int
    digest: str
    items: Items

    def of_keys(self, history: Sequence[Operation]) -> dict[bytes, Seen]:
        """What every key of a history holds in it."""
        return {key: self._seen(key) for operation in history for key in keys_of(operation.request)}

    def _seen(self, key: bytes) -> Seen:
        item = self.items.get(key)
        if item is None or item.value is None:
            return Seen(revision=self.revision)
        return Seen(item.value.removesuffix(PADDING), item.mod_revision, self.revision)


async def agree(fleet: Fleet) -> Agreement:
    """Wait until all nodes are at one revision with one digest, and see that they hold the same.

    Raises AssertionError where they never are, or do not.
    """
    last: list[str] = []

    async def same() -> NodeStatus | None:
        found = await asyncio.gather(*map(fleet.status, fleet.nodes))
        places = {(status.revision, status.digest, status.applied, status.commit) for status in found}
        last[:] = [f"{s.name}: revision {s.revision}, digest {s.digest}, applied {s.applied}" for s in found]
        return found[0] if len(places) == 1 and found[0].applied == found[0].commit else None

    try:
        status = await eventually("all nodes are in one state", same, deadline_s=HEALED_WITHIN_S)
    except AssertionError as error:
        raise AssertionError("; ".join([str(error), *last])) from None
    first, *others = [await _held(node) for node in fleet.nodes]
    for node, items in zip(fleet.nodes[1:], others, strict=True):
        assert items == first, f"{fleet.nodes[0].label} and {node.label} have one digest, and not the same keys"
    return Agreement(status.revision, status.digest, first)


async def _held(node: ChaosNode) -> Items:
    async with node.client(timeout=HEALED_WITHIN_S) as client:
        return {item.key: item async for item in client.scan(values=True, consistency="stale")}


def written_twice(items: Items) -> list[str]:
    """Keys of the ledger that were written more than once: what was in doubt was done again."""
    return [
        f"{item.key!r} was written once, and is there in version {item.version}"
        for item in items.values()
        if item.key.startswith(LEDGER) and item.version != 1
    ]
