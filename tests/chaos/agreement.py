"""At the end, when all is healed and nobody writes: one state on all nodes, with all in it that was promised."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from syncline.client import KeyInfo, NodeStatus
from syncline.testing.history import NotApplied, Operation, Put, Refused, Written
from tests.chaos.clients import LEDGER
from tests.chaos.fleet import HEALED_WITHIN_S, Fleet
from tests.integration.cluster import eventually

__all__ = ["Agreement", "agree", "judge_ledger"]


@dataclass(frozen=True)
class Agreement:
    """The state that all nodes share."""

    revision: int
    digest: str
    keys: int


async def agree(fleet: Fleet) -> tuple[Agreement, dict[str, dict[bytes, KeyInfo]]]:
    """Wait until all nodes are at one revision with one digest; what each holds itself, by node and key.

    Raises AssertionError where they never are.
    """

    async def same() -> list[NodeStatus] | None:
        found = await asyncio.gather(*map(fleet.status, fleet.nodes))
        places = {(status.revision, status.digest, status.applied, status.commit) for status in found}
        settled = len(places) == 1 and found[0].applied == found[0].commit
        if not settled:
            last[:] = [f"{s.name}: revision {s.revision}, digest {s.digest}, applied {s.applied}" for s in found]
        return found if settled else None

    last: list[str] = []
    try:
        found = await eventually("all nodes are in one state", same, deadline_s=HEALED_WITHIN_S)
    except AssertionError as error:
        raise AssertionError("; ".join([str(error), *last])) from None
    held = {node.label: await _held(fleet, at) for at, node in enumerate(fleet.nodes)}
    keys = {len(items) for items in held.values()}
    return Agreement(found[0].revision, found[0].digest, max(keys)), held


async def _held(fleet: Fleet, at: int) -> dict[bytes, KeyInfo]:
    async with fleet.nodes[at].client(timeout_s=HEALED_WITHIN_S) as client:
        return {item.key: item async for item in client.scan(values=True, consistency="stale")}


def judge_ledger(history: Sequence[Operation], held: Mapping[str, Mapping[bytes, KeyInfo]]) -> list[str]:
    """What is wrong with the ledger: each acknowledged write is on each node, none that was refused is on any, and
    those in doubt are there once or not at all."""
    ledger = [(op, op.request) for op in history if isinstance(op.request, Put) and op.request.key.startswith(LEDGER)]
    return [
        f"{label}: {fault}"
        for label, items in held.items()
        for operation, put in ledger
        for fault in _faults(operation, put, items.get(put.key))
    ]


def _faults(operation: Operation, put: Put, item: KeyInfo | None) -> Iterator[str]:
    match operation.result:
        case Written(revision=revision):
            if item is None:
                yield f"{put.key!r} was acknowledged at revision {revision}, and is not there"
            elif item.mod_revision != revision:
                yield f"{put.key!r} was acknowledged at revision {revision}, and is there with {item.mod_revision}"
        case NotApplied() | Refused() if item is not None:
            yield f"{put.key!r} was said not to be applied ({operation.result}), and is there"
    if item is not None and item.value != put.value:
        yield f"{put.key!r} holds {item.value!r} and not {put.value!r}"
    if item is not None and item.version != 1:
        yield f"{put.key!r} was written once, and is there in version {item.version}"
