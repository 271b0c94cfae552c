"""Keep a start of a node from taking part before it is clear that no other copy of its data directory runs.

A member that has welcomed this start takes no promise of another copy (`guard`). So once a quorum of the members
*without this node* has welcomed it, no copy can ever be counted in a quorum: too few of the others are left to it.
The start is *confirmed* then, for good.

Until then the node sends no message of the core and does not campaign. It waits for one election timeout, and no
longer: if so many members are down that the rest are a quorum only with this node, the cluster needs it. A copy may be
counted by the others meanwhile, and that can't be excluded (docs/membership.md has the argument). While a member
refuses the start, because it knows another copy, the node goes on waiting: that member is alive, so the cluster does
not need this node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from syncline.consensus.types import MembershipState, NodeId
from syncline.node.refusals import is_believed

__all__ = ["Confirmation"]


class Confirmation:
    """Of this start of one node.

    `membership` is the one in force here, `refused_by` the members that refuse this start as one of a copied directory.
    `caught_up` tells whether what the node knew to be committed at its start is applied: before, the membership may be
    an older one, by which nothing is confirmed.
    `has_log`: a node without one has promised nothing yet, and need not wait. `patience_s` is the election timeout.
    """

    def __init__(
        self,
        own: NodeId,
        membership: Callable[[], MembershipState],
        refused_by: Callable[[], Collection[NodeId]],
        *,
        caught_up: Callable[[], bool],
        has_log: bool,
        patience_s: float,
    ) -> None:
        self._own = own
        self._membership = membership
        self._refused_by = refused_by
        self._caught_up = caught_up
        self._patience_s = patience_s
        self._welcomed: dict[NodeId, None] = {}
        self._end_s: float | None = None
        self.confirmed: bool = False
        """Whether a quorum of the others has welcomed this start."""
        self.withheld: bool = has_log
        """Whether the node may not take part now."""

    def welcomed(self, peer: NodeId) -> None:
        """A peer has welcomed this start, so it has recorded it durably."""
        if self.confirmed:
            return
        self._welcomed[peer] = None
        if self._caught_up() and is_believed(self._welcomed, self._membership(), self._own):
            self.confirmed, self.withheld = True, False

    def look(self, now_s: float) -> bool:
        """Called with each tick; tells whether the node may not take part now."""
        if self.confirmed:
            return False
        if self._end_s is None:
            self._end_s = now_s + self._patience_s
        state = self._membership()
        voters = {*state.voters, *state.voters_outgoing}
        caught_up = self._caught_up()
        if caught_up and (is_believed(self._welcomed, state, self._own) or voters == {self._own}):
            self.confirmed = True
            self.withheld = False
        else:
            may_vote = self._own in voters or not caught_up
            self.withheld = may_vote and (now_s < self._end_s or bool(self._refused_by()))
        return self.withheld
