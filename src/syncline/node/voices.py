"""How many members must say that this node has lost its data before it believes them."""

from __future__ import annotations

from collections.abc import Collection

from syncline.consensus.types import MembershipState, NodeId

__all__ = ["is_believed"]


def is_believed(voices: Collection[NodeId], membership: MembershipState, own: NodeId) -> bool:
    """Whether the nodes in `voices` are a quorum of the newest membership that this node knows.

    A single member may be mistaken, or lie, and a sound disk would be discarded. In both halves of a joint membership a
    majority must say so; this node itself says nothing, so of two voters the other one is enough. A node that is its
    only voter believes no other. A node that knows no membership has an empty log, and nothing to lose: it believes
    anyone.
    """
    halves = [half for half in (membership.voters, membership.voters_outgoing) if half]
    if not halves:
        return bool(voices)
    for half in halves:
        others = set(half) - {own}
        needed = min(len(half) // 2 + 1, len(others))
        if needed == 0 or len(others.intersection(voices)) < needed:
            return False
    return True
