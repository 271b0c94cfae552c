"""Elections: one leader per term, one vote per term, and no leader without what was committed before it."""

from __future__ import annotations

from syncline.consensus.types import EntryType, Message, MessageType, NodeId, StateType
from syncline.testing.invariants.base import Facts, Invariant, Promised, Verdict, WatchedMember

__all__ = [
    "AskingChangesNothing",
    "CampaignsByTheNewest",
    "ElectedByAQuorum",
    "ElectionSafety",
    "LeaderCompleteness",
    "VoteOnce",
]


class ElectionSafety(Invariant):
    """At most one leader per term (thesis, figure 3.2). After a restart a node counts as another one: it has lost
    appended entries that were not durable.
    """

    name = "election safety"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._leaders: dict[int, tuple[str, int]] = {}

    def looked(self, view: WatchedMember) -> None:
        core = view.core
        if core.state is not StateType.LEADER:
            return
        first, start = self._leaders.setdefault(core.term, (view.name, view.starts))
        if (first, start) != (view.name, view.starts):
            before = "it has led in an earlier life" if first == view.name else f"{first} leads or has led"
            self.broken(f"{view.name} leads term {core.term}, which {before}")


class LeaderCompleteness(Invariant):
    """Every entry committed in an earlier term is in the log of every later leader (thesis, figure 3.2)."""

    name = "leader completeness"

    def looked(self, view: WatchedMember) -> None:
        core = view.core
        if core.state is not StateType.LEADER or (view.state is StateType.LEADER and view.term == core.term):
            return
        index = self.facts.committed_before(core.term)
        log = core.raft.log
        if index < log.first_index:
            return  # in its snapshot, which only holds what was committed
        term = self.facts.committed[index]
        if index > log.last_index or log.term(index) != term:
            held = (
                f"term {log.term(index)} there" if index <= log.last_index else f"a log that ends at {log.last_index}"
            )
            self.broken(f"{view.name} leads term {core.term} without the committed entry {index}@{term}: it has {held}")


class ElectedByAQuorum(Invariant):
    """A node leads a term in which a majority of its voters voted for it: of each half, in a joint membership.

    Votes are counted where they are given, by the voter; the membership is the one that the new leader goes by.
    """

    name = "a leader has the votes of a quorum"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._votes: dict[tuple[int, NodeId], set[NodeId]] = {}
        """By term and candidate: those that voted for it."""

    def promised(self, view: WatchedMember, to: NodeId, message: Message) -> None:
        if message.type is MessageType.VOTE_RESP and not message.reject:
            self._votes.setdefault((message.term, to), set()).add(view.id)

    def looked(self, view: WatchedMember) -> None:
        core = view.core
        if core.state is not StateType.LEADER or (view.state is StateType.LEADER and view.term == core.term):
            return
        votes = self._votes.get((core.term, view.id), set())
        voters = core.raft.tracker.configuration.voters
        for half in (voters.incoming.voters, voters.outgoing.voters):
            if half and 2 * len(votes & half) <= len(half):
                names = " ".join(self.facts.name(voter) for voter in sorted(votes & half)) or "none"
                self.broken(f"{view.name} leads term {core.term}: of {len(half)} voters {names} voted for it")


class AskingChangesNothing(Invariant):
    """A request for the promise of a vote changes neither term, vote and role nor the election clock (thesis, 9.6)."""

    name = "a pre-vote changes nothing"

    def asked(self, view: WatchedMember, before: Promised) -> None:
        now = Promised.of(view.core)
        if now != before:
            self.broken(f"{view.name} was asked for a promise: it was {before} and is {now}")


class CampaignsByTheNewest(Invariant):
    """A follower does not campaign while it knows of a committed change of the membership that it has not applied.

    It would ask the voters of a membership that is over. What it learns while it campaigns is another matter.
    """

    name = "a candidate goes by the newest membership"

    def looked(self, view: WatchedMember) -> None:
        core = view.core
        campaigns = core.state in (StateType.PRE_CANDIDATE, StateType.CANDIDATE)
        if not campaigns or view.state is not StateType.FOLLOWER or core.commit_index != view.commit:
            return
        log = core.raft.log
        low = log.applied + 1
        known = log.slice(low, core.commit_index + 1, 1 << 40) if low <= core.commit_index else ()
        changes = [entry.index for entry in known if entry.type is not EntryType.NORMAL]
        if changes:
            self.broken(f"{view.name} campaigns in term {core.term} with unapplied changes at {changes}")


class VoteOnce(Invariant):
    """A node votes for one candidate in a term, whatever happens in between (thesis, 3.4)."""

    name = "one vote per term"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._votes: dict[tuple[NodeId, int], NodeId] = {}

    def promised(self, view: WatchedMember, to: NodeId, message: Message) -> None:
        if message.type is not MessageType.VOTE_RESP or message.reject or view.doubtful:
            return
        first = self._votes.setdefault((view.id, message.term), to)
        if first != to:
            one, other = self.facts.name(first), self.facts.name(to)
            self.broken(f"{view.name} votes for {other} in term {message.term}, in which it voted for {one}")
