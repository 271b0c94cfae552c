"""When refusals by other members count as the cluster's own decision."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from syncline.consensus.types import NONE, NodeId
from syncline.transport.messages import PeerStats, RefusalCode

__all__ = ["refused_by_quorum"]


def refused_by_quorum(
    stats: Mapping[NodeId, PeerStats], voters: Collection[NodeId], code: RefusalCode, *, me: NodeId = NONE
) -> bool:
    """Tell whether a quorum of `voters` has refused this node with `code`.

    `me` is this node. It can't refuse itself, so with two voters the other one is enough. One refusal of three voters
    is not: one member alone, faulty or misled, stops no other one.
    """
    others = {voter for voter in voters if voter != me}
    refusing = 0
    for voter in others:
        refusal = stats[voter].last_refusal if voter in stats else None
        refusing += refusal is not None and refusal.code == code
    return bool(others) and refusing >= min(len(others), len(set(voters)) // 2 + 1)
