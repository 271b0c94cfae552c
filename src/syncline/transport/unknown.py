"""Admitted nodes that this node does not know: a bounded number, dropped when they leave.

A new node has an empty log and knows none of the members that dial it. A node that was away does not know members
that joined meanwhile. Both must admit them, and dial them back to answer. Without a secret any program may claim to
be one.
"""

from __future__ import annotations

from syncline.consensus.types import NodeId

__all__ = ["UnknownPeers"]


class UnknownPeers:
    """Their ids, the oldest first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids: dict[NodeId, None] = {}

    def __contains__(self, peer: object) -> bool:
        return peer in self._ids

    def add(self, peer: NodeId) -> NodeId | None:
        """Add an admitted node; return the one that must be disconnected for it, or None."""
        self._ids.pop(peer, None)
        self._ids[peer] = None
        if len(self._ids) <= self._most:
            return None
        oldest = next(iter(self._ids))
        del self._ids[oldest]
        return oldest

    def discard(self, peer: NodeId) -> bool:
        """The node is known now, or gone; return whether it was in the list."""
        return self._ids.pop(peer, 0) is None
