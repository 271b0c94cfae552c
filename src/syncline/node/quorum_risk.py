"""Changes of the membership that would leave no quorum alive: the leader refuses them, unless they are forced.

A change is committed by the membership before it. If the voters of the membership after it are mostly down, it takes
effect, and nothing is ever committed again: not even the change back. A pure function decides it, for each kind of
change, the automatic promotion of a learner included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from syncline.consensus.types import MembershipState, NodeId

__all__ = ["CommitHistory", "absent_voters"]


def absent_voters(
    before: MembershipState,
    after: MembershipState,
    *,
    alive: Callable[[NodeId], bool],
    caught_up: Callable[[NodeId], bool],
) -> tuple[NodeId, ...]:
    """The voters that don't count, if those that do are no quorum of the membership `after`; else none.

    Both halves of a joint membership need a quorum. A voter of `before` counts if it is `alive`; it need not have
    caught up, because under load a sound follower is always behind. A new voter counts if it has `caught_up` as well.
    A change that only removes voters that don't count, or that changes no voter, always passes.
    """
    present = {*before.voters, *before.voters_outgoing}

    def counts(voter: NodeId) -> bool:
        return alive(voter) and (voter in present or caught_up(voter))

    added = [voter for voter in after.voters if voter not in present]
    removed = [voter for voter in present if voter not in after.voters]
    if not added and not any(map(counts, removed)):
        return ()
    for half in (after.voters, after.voters_outgoing):
        absent = tuple(voter for voter in half if not counts(voter))
        if 2 * len(absent) >= len(half) > 0:
            return absent
    return ()


class CommitHistory:
    """A leader's commit index of one election timeout ago. A younger leader has none."""

    def __init__(self, election_ticks: int) -> None:
        self._indexes: deque[int] = deque(maxlen=election_ticks + 1)

    def clear(self) -> None:
        """The node has begun to lead."""
        self._indexes.clear()

    def tick(self, commit: int) -> None:
        """A tick has passed on the leader."""
        self._indexes.append(commit)

    @property
    def index(self) -> int | None:
        """The commit index of one election timeout ago; None: the leader is younger than that."""
        return self._indexes[0] if len(self._indexes) == self._indexes.maxlen else None
