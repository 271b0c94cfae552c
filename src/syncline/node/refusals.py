"""Claims of peers against this node: one of them may be wrong, a quorum of the voters is believed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from syncline.consensus.types import NONE, MembershipState, NodeId
from syncline.transport.messages import PeerStats, Refusal, RefusalCode

__all__ = ["is_believed", "refusing", "removal_confirmed"]


def is_believed(
    voices: Collection[NodeId], membership: MembershipState, own: NodeId, *, nothing_to_lose: bool = False
) -> bool:
    """Whether the nodes in `voices` are a quorum of `membership`, so that this node must act on their claim.

    A single member may be mistaken, or faulty, and a sound node would stop. In both halves of a joint membership a
    majority must agree. This node itself does not count, so of two voters the other one is enough. A node that is its
    only voter believes no other. At its start a node may have a log and no membership applied yet: it believes none.

    `nothing_to_lose`: this node has an empty log, or has taken no part yet. It believes any node.
    """
    if nothing_to_lose:
        return bool(voices)
    halves = [half for half in (membership.voters, membership.voters_outgoing) if half]
    for half in halves:
        others = set(half) - {own}
        needed = min(len(half) // 2 + 1, len(others))
        if needed == 0 or len(others.intersection(voices)) < needed:
            return False
    return bool(halves)


def refusing(stats: Mapping[NodeId, PeerStats], code: RefusalCode) -> dict[NodeId, Refusal]:
    """The peers that refused this node with `code` when it dialled them last, and their refusals."""
    refusals = {peer: link.last_refusal for peer, link in stats.items() if link.last_refusal is not None}
    return {peer: refusal for peer, refusal in refusals.items() if refusal.code == code}


def removal_confirmed(stats: Mapping[NodeId, PeerStats]) -> bool:
    """Whether peers refuse this node as removed, and its removal is durable on a quorum of the new membership.

    Each peer sends the voters of the membership that it knows; the newest one counts. A peer that knows that the
    removal is durable on a quorum sends none.
    """
    told = refusing(stats, RefusalCode.REMOVED)
    if not told:
        return False
    if any(not refusal.voters for refusal in told.values()):
        return True
    newest = max(told.values(), key=lambda refusal: refusal.index)
    return is_believed(told, MembershipState(voters=newest.voters), NONE)
