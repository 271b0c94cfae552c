"""Reports between members about the starts of nodes, to find two copies of one data directory.

A member that has admitted a start of a node tells the others, at once and whenever a link comes up. So separate copies
are found as soon as members that know different ones are connected, also by a chain of members. If a quorum of the
members without that node knows the same start, it stays: no copy has ever been counted beside it. Otherwise it is not
known which copy has made which promises, and none of them is admitted any more.
"""

from __future__ import annotations

from collections.abc import Callable

from syncline.consensus.types import MembershipState, NodeId
from syncline.node.refusals import is_believed
from syncline.node.starts.incarnations import Origin, judge, start_count

__all__ = ["Starts", "StartReports", "are_diverged"]

Starts = tuple[int, ...]
"""The incarnation of a start, and behind it the earlier ones from the same directory, the newest first."""


def are_diverged(one: Starts, other: Starts) -> bool:
    """Whether two starts come from different copies: the newer one's history lacks the older one.

    A member that was started again knows the newest start alone, without its history, until the node greets it. Such a
    history does not reach back to the older start, and convicts no directory.
    """
    older, newer = sorted((one, other), key=lambda starts: start_count(starts[0]))
    if start_count(newer[-1]) > start_count(older[0]):
        return False
    return judge(older[0], newer[0], newer[1:]) is not Origin.LEGITIMATE


class StartReports:
    """Each member's last report about each directory. `own` is this node, `membership` the one in force here."""

    def __init__(self, own: NodeId, membership: Callable[[], MembershipState]) -> None:
        self._own = own
        self._membership = membership
        self._told: dict[tuple[int, NodeId], Starts] = {}

    def told(self, directory: int, sender: NodeId, starts: Starts) -> None:
        """A member has admitted this start. The caller checks that it is a member, and that the directory is a
        member's.
        """
        self._told[directory, sender] = starts

    def forget_all_but(self, directories: set[int], members: set[NodeId]) -> None:
        """Drop reports about other directories, and by nodes that are no members any more."""
        self._told = {key: told for key, told in self._told.items() if key[0] in directories and key[1] in members}

    def decide(self, node: NodeId, directory: int, known: Starts) -> Starts | None:
        """The start of `node` that this member should know; None if no copy of its directory can be trusted.

        `known` is the one that it knows.
        """
        told = {sender: starts for (of, sender), starts in self._told.items() if of == directory}
        other = next((starts for starts in told.values() if are_diverged(known, starts)), None)
        if other is None or self._is_confirmed(node, known, told, mine=known):
            return known
        for starts in told.values():
            if self._is_confirmed(node, starts, told, mine=known):
                return starts
        return None

    def _is_confirmed(self, node: NodeId, starts: Starts, told: dict[NodeId, Starts], *, mine: Starts) -> bool:
        knowing = [member for member, known in told.items() if known[0] == starts[0]]
        if mine[0] == starts[0]:
            knowing.append(self._own)
        return is_believed(knowing, self._membership(), node)
