"""Base classes of the invariant checkers, and their shared knowledge.

A checker is an `Onlooker` that overrides the methods that it needs; they are called in the middle of an event of the
simulation. It reports with `broken`, and never changes its arguments. `Facts` holds the shared knowledge: every entry
that any node ever had, the committed entries, and a `WatchedMember` of each
node over all its starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import LogEntry, MembershipState, Message, NodeId, StateType
from syncline.node.runtime import Driver
from syncline.testing.cluster import Answer
from syncline.testing.sim.disk import SimDisk
from syncline.testing.sim.durable_log import DurableLog
from syncline.transport.messages import PeerMessage

__all__ = ["Facts", "Invariant", "Known", "Onlooker", "Promised", "Verdict", "WatchedMember"]


class WatchedMember:
    """One member, by its id, over all its lives. The plain fields are as of the last look in this life."""

    __slots__ = (
        "applied",
        "commit",
        "configuration",
        "core",
        "doubtful",
        "driver",
        "durable",
        "id",
        "leads_from",
        "lives",
        "lost",
        "most_applied",
        "name",
        "restored",
        "starts",
        "state",
        "term",
        "vote",
    )

    def __init__(self, node_id: NodeId, name: str) -> None:
        self.id: NodeId = node_id
        self.name: str = name
        self.lives: int = 0
        """Starts since its disk was replaced last."""
        self.starts: int = 0
        """All starts."""
        self.doubtful: bool = False
        """Its directory was rolled back or copied: its promises are not judged, only what others make of them."""
        self.core: RawNode
        self.driver: Driver
        self.durable: DurableLog = DurableLog()
        self.lost: DurableLog | None = None
        """The content of its disk before that was replaced by an empty one."""
        self.term: int = 0
        self.vote: NodeId = 0
        self.state: StateType = StateType.FOLLOWER
        self.commit: int = 0
        self.applied: int = 0
        self.configuration: object = None
        self.restored: int = 0
        """The index of the snapshot that replaced its log last in this life."""
        self.leads_from: int = 0
        """In a leader: the index after the last entry that it has handed out to be written."""
        self.most_applied: int = 0
        """The highest applied index that it had in any life."""

    def held(self, index: int, term: int) -> bool:
        """Whether the entry is on its disk, or was before the disk was lost: what it acknowledged then was true."""
        if self.doubtful:
            return True
        return self.durable.holds(index, term) or (self.lost is not None and self.lost.holds(index, term))

    def knows_committed(self, index: int) -> bool:
        """Whether a start of it would know that the entry is committed."""
        logs = [self.durable] if self.lost is None else [self.durable, self.lost]
        return self.doubtful or any(max(log.hard_state.commit, log.base) >= index for log in logs)


class Promised(NamedTuple):
    """State that a request for a pre-vote must not change."""

    term: int
    vote: NodeId
    state: StateType
    election_elapsed: int

    @classmethod
    def of(cls, core: RawNode) -> Promised:
        raft = core.raft
        return cls(raft.term, raft.vote, raft.state, raft.election_elapsed)


class Known:
    """An entry that a node had: the entry, and the term of the one before it (None: not known)."""

    __slots__ = ("entry", "previous_term")

    def __init__(self, entry: LogEntry, previous_term: int | None) -> None:
        self.entry: LogEntry = entry
        self.previous_term: int | None = previous_term


class Facts:
    """Knowledge about all nodes together."""

    def __init__(self) -> None:
        self.views: dict[NodeId, WatchedMember] = {}
        self.entries: dict[tuple[int, int], Known] = {}
        """Every entry that any node ever had in its log, by index and term."""
        self.committed: dict[int, int] = {}
        """The term of the entry at each committed index."""
        self.last_committed = 0
        self.commits: list[tuple[int, int]] = []
        """Up to which index which term's leader has committed: (term, index), both growing."""
        self.memberships: dict[int, MembershipState] = {}
        """The membership in force from each index on at which it changed."""

    def name(self, node_id: NodeId) -> str:
        view = self.views.get(node_id)
        return view.name if view is not None else f"{node_id:016x}"

    def committed_entry(self, index: int) -> LogEntry:
        return self.entries[index, self.committed[index]].entry

    def committed_before(self, term: int) -> int:
        """The highest index that was committed in an earlier term than this."""
        for earlier, index in reversed(self.commits):
            if earlier < term:
                return index
        return 0


class Onlooker:
    """Receives the events of the nodes: a checker, or the trace."""

    def started(self, view: WatchedMember) -> None:
        """A node was put together from its disk. `view` still has its durable log as it was before the crash."""

    def looked(self, view: WatchedMember) -> None:
        """An event of the core has changed its term, vote, role or commit index: `view` has the values before it."""

    def appended(self, view: WatchedMember, entries: Sequence[LogEntry]) -> None:
        """The core hands out entries that are new in its log."""

    def promised(self, view: WatchedMember, to: NodeId, message: Message) -> None:
        """A vote or an acknowledgement leaves the node, or is counted by the node itself."""

    def sent(self, view: WatchedMember, to: NodeId, message: PeerMessage) -> None:
        """Any message leaves the node."""

    def wrote(self, view: WatchedMember) -> None:
        """A write to the log has returned: `view.durable` has it."""

    def changed(self, view: WatchedMember, index: int, membership: MembershipState) -> None:
        """A node applied the change at `index`, and this is the membership in force since."""

    def installed(self, view: WatchedMember, index: int, membership: MembershipState) -> None:
        """A node took over the membership of a snapshot at `index`."""

    def ticked(self, view: WatchedMember) -> None:
        """A tick of the core is over."""

    def deposed(self, view: WatchedMember) -> None:
        """A tick has made a leader something else, in the same term."""

    def heard(self, view: WatchedMember, message: Message) -> None:
        """A message of another node was taken by the core."""

    def asked(self, view: WatchedMember, before: Promised) -> None:
        """A node was asked whether it would vote: `before` is what it was until then."""

    def snapshotted(self, view: WatchedMember, index: int, membership: MembershipState) -> None:
        """A node begins to write a snapshot of its state as of `index`."""

    def kept(self, view: WatchedMember, path: str, disk: SimDisk) -> None:
        """A snapshot, made or received, counts from now on: the node may drop what it stands for."""

    def answered(self, name: str, answer: Answer) -> None:
        """This server has answered an operator that a change of the membership is made, with its result."""

    def applied(self, view: WatchedMember) -> None:
        """The applied index has changed: `view` has the value before it."""


class Verdict(Protocol):
    """Receives the reports of checkers."""

    def broken(self, invariant: str, text: str) -> None: ...


class Invariant(Onlooker):
    """A checker. `name` is the invariant's, as it is reported."""

    name: ClassVar[str] = ""

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        self.facts = facts
        self._verdict = verdict

    def broken(self, text: str) -> None:
        self._verdict.broken(self.name, text)
