"""What the refusals of peers prove together: one node may be wrong, a quorum of the voters is not."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from syncline.consensus.types import NONE, NodeId
from syncline.transport.messages import PeerStats, Refusal, RefusalCode

__all__ = ["refused_by_quorum", "removal_confirmed"]


def refused_by_quorum(
    stats: Mapping[NodeId, PeerStats], voters: Collection[NodeId], code: RefusalCode, *, me: NodeId = NONE
) -> bool:
    """Tell whether a quorum of `voters` has refused this node with `code` when it dialled them last.

    `me` is this node. It can't refuse itself, so with two voters the other one is enough. One refusal of three voters
    is not: one member alone, faulty or misled, stops no other one.
    """
    others = {voter for voter in voters if voter != me}
    refusing = sum(1 for voter in others if (refusal := _refusal(stats, voter)) is not None and refusal.code == code)
    return bool(others) and refusing >= min(len(others), len(set(voters)) // 2 + 1)


def removal_confirmed(stats: Mapping[NodeId, PeerStats]) -> bool:
    """Whether peers refuse this node as removed, and a quorum of the new membership has that on its disks.

    Each peer tells the voters of the membership that it knows; the newest one counts. A peer that knows the removal to
    be durable on a quorum tells none.
    """
    told = [refusal for peer in stats if (refusal := _refusal(stats, peer)) and refusal.code == RefusalCode.REMOVED]
    if not told:
        return False
    if any(not refusal.voters for refusal in told):
        return True
    newest = max(told, key=lambda refusal: refusal.index)
    return refused_by_quorum(stats, newest.voters, RefusalCode.REMOVED)


def _refusal(stats: Mapping[NodeId, PeerStats], peer: NodeId) -> Refusal | None:
    known = stats.get(peer)
    return known.last_refusal if known is not None else None
