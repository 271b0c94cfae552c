"""The log lines of a node about itself: role, leader, term, membership, snapshots, transfers, and its end.

Each names nodes by name and id (`b (5f46…)`, sixteen hexadecimal digits). While there is no leader, a line lists the
members that this node reaches and those that reach it, and since when. docs/logs.md lists the lines for operators.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NONE, MembershipState, NodeId, StateType
from syncline.errors import SynclineError
from syncline.node.events import (
    Event,
    LeaderChanged,
    MembershipChanged,
    PeerDown,
    PeerUp,
    SnapshotInstalled,
    SnapshotTaken,
    StateRestored,
)
from syncline.node.leader_causes import PLANNED_ENDS, LeaderCauses
from syncline.node.member_registry import MemberRegistry, members_of
from syncline.transport.messages import PeerStats

__all__ = ["NodeLog"]

log: logging.Logger = logging.getLogger("syncline.node")

CAMPAIGNS: Final = (StateType.PRE_CANDIDATE, StateType.CANDIDATE)

AGAIN_S: Final = 10.0
"""Between two lines of a node that has no leader."""

PATIENCE_ELECTIONS: Final = 2
"""An election ends within so many election timeouts, if nothing is wrong: until then no line is logged."""

STALL_ELECTIONS: Final = 1 / 2
"""An event loop that stands still for this part of an election timeout is logged. A whole one costs the leadership."""


class NodeLog:
    """The log lines of one node. `links` are the links to its peers, `clock` is the event loop's."""

    def __init__(
        self,
        core: RawNode,
        book: MemberRegistry,
        links: Callable[[], Mapping[NodeId, PeerStats]],
        clock: Callable[[], float],
        *,
        name: str,
        election_s: float,
        contact_s: Callable[[], float | None],
        late_s: Callable[[], float],
    ) -> None:
        self._core = core
        self._book = book
        self._links = links
        self._clock = clock
        self._name = name
        self._patience_s = self._stall_s = 0.0
        self.causes: LeaderCauses = LeaderCauses(
            core, links, label=self.label, contact_s=contact_s, late_s=late_s, clock=clock
        )
        self.reload(election_s)
        self.term: int = core.term
        self.transferee: NodeId = NONE
        """The logged values: the caller compares, because it checks very often."""
        self._state = core.state
        self._leader: NodeId = NONE
        self._leaderless_s: float | None = clock()
        """Since when there is no leader; None while there is one."""
        self._tell_s = self._leaderless_s + self._patience_s
        self._lost_s: dict[NodeId, float] = {}
        """When the links that are down were lost."""

    def reload(self, election_s: float) -> None:
        """Have another election timeout."""
        self._patience_s = PATIENCE_ELECTIONS * election_s
        self._stall_s = STALL_ELECTIONS * election_s

    def label(self, node_id: NodeId) -> str:
        """A node's name and id."""
        return self._book.label(node_id, self._name if node_id == self._core.id else "")

    def _own(self) -> str:
        return f"node {self.label(self._core.id)}"

    # -- changes ------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Log a change of the term or of the transfer under way, if there is one."""
        term, transferee = self._core.term, self._core.transferee
        if term != self.term:
            log.info("%s: term %d, after term %d", self._own(), term, self.term)
            self.term = term
        if transferee != self.transferee:
            self.causes.transfers(transferee)
            if transferee != NONE:
                log.info("%s: transfers the leadership of term %d to %s", self._own(), term, self.label(transferee))
            else:
                log.info("%s: the transfer to %s is over", self._own(), self.label(self.transferee))
            self.transferee = transferee

    def on_state(self) -> None:
        """Write the line of another state of the core."""
        self.look()
        before, self._state = self._state, self._core.state
        if before is StateType.LEADER:
            reason, why = self.causes.of_end(self._stall_s, self.reachability)
            level = logging.INFO if reason in PLANNED_ENDS else logging.WARNING
            log.log(level, "%s: stops leading: %s", self._own(), why, extra={"reason": reason})
        elif before is StateType.FOLLOWER and self._state in CAMPAIGNS:
            reason, why = self.causes.of_election(before)
            text = "%s: starts an election in term %d: %s"
            log.info(text, self._own(), self.term, why, extra={"reason": reason})
        log.info("%s: %s in term %d, before: %s", self._own(), self._role, self.term, before.name.lower())

    @property
    def _role(self) -> str:
        return self._state.name.lower()

    def on_tick(self, late_s: float) -> None:
        """Log an event loop that stood still."""
        if late_s >= self._stall_s:
            self.causes.stalled(late_s)
            why = "the process or the machine was paused, or something blocked it"
            log.warning("%s: the event loop stood still for %.1f s: %s", self._own(), late_s, why)

    def on_event(self, event: Event) -> None:
        """Write the line of an event that watchers of the node are told, too."""
        match event:
            case LeaderChanged(leader=leader):
                self._on_leader(NONE if leader is None else leader)
            case MembershipChanged(membership=membership):
                shown = self._membership(self._core.membership)
                log.info("%s: membership of index %d: %s", self._own(), membership.index, shown)
            case SnapshotTaken(snapshot_index=index):
                log.info("%s: snapshot taken at entry %d", self._own(), index)
            case SnapshotInstalled(snapshot_index=index):
                log.info("%s: snapshot installed at entry %d", self._own(), index)
            case StateRestored(restored_index=index):
                log.warning("%s: entry %d has replaced the state by that of a restored snapshot", self._own(), index)
            case PeerUp(peer=peer):
                self._lost_s.pop(peer, None)
                log.info("%s: reaches %s", self._own(), self.label(peer))
            case PeerDown(peer=peer, reason=reason):
                self._lost_s[peer] = self._clock()
                log.info("%s: does not reach %s any more: %s", self._own(), self.label(peer), reason)

    def stopped(self, reason: SynclineError, *, failed: bool) -> None:
        """Log the node's end: closed, or stopped by itself."""
        text, own = str(reason), self._own()
        if not text.startswith(own):  # the text of some reasons names the node
            text = f"{own}: {text}"
        log.log(logging.CRITICAL if failed else logging.INFO, "%s", text)

    def _on_leader(self, leader: NodeId) -> None:
        self.look()
        before, self._leader = self._leader, leader
        if leader != NONE:
            self.causes.follows(leader)
            log.info("%s: the leader of term %d is %s", self._own(), self.term, self.label(leader))
            self._leaderless_s = None
        else:
            log.info("%s: no leader in term %d, before: %s", self._own(), self.term, self.label(before))
            self._leaderless_s = self._clock()
            self._tell_s = self._leaderless_s + self._patience_s

    def _membership(self, state: MembershipState) -> str:
        voters = f"voters {self._labels(state.voters)}"
        outgoing = f"; outgoing voters {self._labels(state.voters_outgoing)}" if state.voters_outgoing else ""
        learners = {*state.learners, *state.learners_next}
        return voters + outgoing + (f"; learners {self._labels(learners)}" if learners else "")

    def _labels(self, ids: tuple[NodeId, ...] | set[NodeId]) -> str:
        return ", ".join(sorted(map(self.label, ids)))

    # -- without a leader ---------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """With each tick: log if this node has had no leader for too long."""
        if self._leaderless_s is None or (now_s := self._clock()) < self._tell_s:
            return
        self._tell_s = now_s + AGAIN_S
        if self._core.id in members_of(self._core.membership):
            lasting_s = now_s - self._leaderless_s
            text = "%s: no leader for %.1f s (%s in term %d): %s"
            log.warning(text, self._own(), lasting_s, self._role, self.term, self.reachability())

    def reachability(self) -> str:
        """The members that this node reaches and those that reach it, and since when."""
        links, now_s = self._links(), self._clock()
        members = members_of(self._core.membership) - {self._core.id}
        parts = [self._of_peer(peer, links.get(peer), now_s) for peer in sorted(members, key=self.label)]
        return "; ".join(parts) or "there is no other member"

    def _of_peer(self, peer: NodeId, link: PeerStats | None, now_s: float) -> str:
        if link is None:
            return f"{self.label(peer)}: no address is known"
        if link.connected_since_s is not None:
            to = f"reached for {link.connected_since_s:.1f} s"
        elif (lost_s := self._lost_s.get(peer)) is not None:
            to = f"not reached for {now_s - lost_s:.1f} s ({link.last_error})"
        else:
            to = f"not reached since the start ({link.last_error or 'no answer yet'})"
        if link.reached_by_since_s is not None:
            back = f"reaches this node for {link.reached_by_since_s:.1f} s"
        elif link.last_contact_s is not None:
            back = f"does not reach this node, last heard of {link.last_contact_s:.1f} s ago"
        else:
            back = "has not reached this node since the start"
        return f"{self.label(peer)}: {to}, {back}"
