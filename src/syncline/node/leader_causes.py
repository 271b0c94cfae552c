"""Why a node starts an election, and why a leader stops leading: a reason to count, and words for the log.

The consensus core does not report reasons: it names a message type, or a time that has passed. They follow from what
the node knows at that moment: the leader before, the link to it, a transfer under way, how late the event loop is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NONE, NodeId, StateType
from syncline.node.first_election import BOOTSTRAP_TERM
from syncline.node.member_registry import members_of
from syncline.transport.messages import PeerStats

__all__ = ["ELECTION_REASONS", "END_REASONS", "PLANNED_ENDS", "LeaderCauses"]

ELECTION_REASONS: Final = ("leader_unreachable", "leader_silent", "leader_removed", "transfer", "start", "no_leader")
"""Why this node has started an election. `start`: it has known no leader since it started. `no_leader`: the election
before had no winner."""

END_REASONS: Final = ("transfer", "lost_quorum", "removed", "paused", "newer_term")
"""Why this node has stopped leading. `paused`: another node was elected while this one did not run."""


SAME_TICK_S: Final = 0.1
"""A transfer that begins so soon after the event loop stood still is no operator's: the tick found that a write to the
log has waited for as long, and gave the leadership up. Another node was elected meanwhile."""

PLANNED_ENDS: Final = ("transfer", "removed")
"""An operator wanted them."""


class LeaderCauses:
    """The reasons of one node, and how often each was met since its start.

    `contact_s`: the age of the last message of the leader before. `late_s`: how late the next tick is.
    """

    def __init__(
        self,
        core: RawNode,
        links: Callable[[], Mapping[NodeId, PeerStats]],
        *,
        label: Callable[[NodeId], str],
        contact_s: Callable[[], float | None],
        late_s: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._core = core
        self._links = links
        self._label = label
        self._contact_s = contact_s
        self._late_s = late_s
        self._clock = clock
        self.elections: dict[str, int] = dict.fromkeys(ELECTION_REASONS, 0)
        self.ends: dict[str, int] = dict.fromkeys(END_REASONS, 0)
        self._last_leader: NodeId = NONE
        """The newest leader that this node has known since its start, itself included."""
        self._since_election = False
        """Whether this node has started an election since it has known a leader."""
        self._led_term = 0
        self._transfer: tuple[int, NodeId, float] | None = None
        """The term, target and beginning of the newest transfer, unless it was given up."""
        self._stall: tuple[float, float] = (0.0, 0.0)
        """When the event loop stood still the last time, and for how long."""

    # -- what happens -------------------------------------------------------------------------------------------------

    def follows(self, leader: NodeId) -> None:
        """This node knows a leader, perhaps itself."""
        self._last_leader, self._since_election = leader, False
        if leader == self._core.id:
            self._led_term = self._core.term

    def transfers(self, target: NodeId) -> None:
        """A transfer of the leadership to `target` begins, or ends without another term (`NONE`)."""
        if target != NONE:
            self._transfer = self._core.term, target, self._clock()
        elif self._transfer is not None and self._transfer[0] == self._core.term:
            self._transfer = None

    def stalled(self, lasting_s: float) -> None:
        """The event loop has stood still."""
        self._stall = self._clock(), lasting_s

    # -- the reasons --------------------------------------------------------------------------------------------------

    def of_election(self, before: StateType) -> tuple[str, str]:
        """Count an election of this node, whose core was in the state `before`; return the reason, and the words."""
        reason, text = self._of_election(before)
        self._since_election = True
        self.elections[reason] += 1
        return reason, text

    def _of_election(self, before: StateType) -> tuple[str, str]:
        core, leader = self._core, self._last_leader
        if before is StateType.FOLLOWER and core.state is StateType.CANDIDATE:  # without pre-vote: TimeoutNow
            by = self._label(leader) if leader not in (NONE, core.id) else "the leader"
            return "transfer", f"{by} transfers the leadership to this node"
        if leader == NONE:
            if core.term <= BOOTSTRAP_TERM:
                return "start", "the cluster has had no leader yet"
            return "start", "this node has started, and has heard of no leader since"
        if self._since_election:
            return "no_leader", "the election before had no winner"
        if leader == core.id:
            return "no_leader", "this node has stopped leading, and no other node has been elected"
        name = self._label(leader)
        if leader not in members_of(core.membership):
            return "leader_removed", f"{name}, the leader before, is no member any more"
        age_s = self._contact_s()
        heard = "" if age_s is None else f", and it was last heard of {age_s:.1f} s ago"
        link = self._links().get(leader)
        if link is None or not link.connected:
            why = link.last_error if link is not None and link.last_error else "no address is known"
            return "leader_unreachable", f"{name}, the leader, is not reached ({why}){heard}"
        if link.reached_by_since_s is None:
            return "leader_unreachable", f"{name}, the leader, does not reach this node{heard}"
        return "leader_silent", (
            f"{name}, the leader, is silent{heard}, although the connections are up: it is paused or overloaded, its"
            " disk hangs, or the network drops its messages"
        )

    def of_end(self, patience_s: float, reachability: Callable[[], str]) -> tuple[str, str]:
        """Count that this node has stopped leading; return the reason, and the words for it.

        An event loop that was late for `patience_s` did not run. `reachability`: which members are reached.
        """
        reason, text = self._of_end(patience_s, reachability)
        self.ends[reason] += 1
        return reason, text

    def _of_end(self, patience_s: float, reachability: Callable[[], str]) -> tuple[str, str]:
        core = self._core
        if core.id not in (*core.membership.voters, *core.membership.voters_outgoing):
            return "removed", "it is no voter any more"
        if core.term == self._led_term:
            return "lost_quorum", f"no quorum has answered for an election timeout: {reachability()}"
        stalled_s, (at_s, lasting_s) = self._late_s(), self._stall
        if self._clock() - at_s < lasting_s:
            stalled_s = max(stalled_s, lasting_s)
        if self._transfer is not None and self._transfer[0] == self._led_term:
            _, target, began_s = self._transfer
            if not 0 <= began_s - at_s < SAME_TICK_S or stalled_s < patience_s:
                return "transfer", f"the leadership is transferred to {self._label(target)}"
        if stalled_s >= patience_s:
            return "paused", (
                f"another node has begun term {core.term} while this one stood still for {stalled_s:.1f} s: its process"
                " or machine was paused, or something blocked its event loop"
            )
        return "newer_term", f"another node has begun term {core.term}"
