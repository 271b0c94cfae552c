"""Elections without the wait for an election timeout, in two cases in which no leader can be disturbed.

A follower waits for one to two election timeouts before it campaigns, because a leader may be alive whose messages
are late. Followers that campaign at different times seldom split the votes. Two cases need no wait:

- The only voter of a membership: no other node can lead.
- A fresh cluster: the log holds only its first entries, the term is the one before all elections, and each
  initial member is connected. Then the member with the lowest id campaigns, and no other does.

Nothing else changes: the core campaigns as after a timeout, with pre-vote, and not with a change of the membership
that is not applied. So this decides when an election begins, and never which node may win it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NONE, NodeId, StateType

__all__ = ["BOOTSTRAP_TERM", "FirstElection"]

BOOTSTRAP_TERM: Final = 1
"""The term of the entries that the first members are given; elections start after it."""

_MAY_ASK: Final = (StateType.FOLLOWER, StateType.PRE_CANDIDATE)
"""A candidate has asked for votes in a term of its own: it waits for them."""


class FirstElection:
    """The first election of one node. `connected` tells whether the link to a peer is up."""

    def __init__(self, core: RawNode, connected: Callable[[NodeId], bool]) -> None:
        self._core = core
        self._connected = connected

    def look(self) -> None:
        """Campaign if there is nothing to wait for. Called with each tick, and at the start."""
        core = self._core
        if core.leader == NONE and core.state in _MAY_ASK and (self._is_alone() or self._is_first()):
            core.campaign()

    def _is_alone(self) -> bool:
        """Whether this node is the only voter."""
        membership = self._core.membership
        return membership.voters == (self._core.id,) and not membership.voters_outgoing

    def _is_first(self) -> bool:
        """Whether this is the one node that campaigns at once in a fresh cluster."""
        core = self._core
        if core.term != BOOTSTRAP_TERM or core.vote != NONE:
            return False
        voters = core.membership.voters
        if not voters or min(voters) != core.id:
            return False
        return all(self._connected(voter) for voter in voters if voter != core.id)
