"""Durability: no promise before its state is on the disk, and no durable promise is lost."""

from __future__ import annotations

from syncline.consensus.types import NONE, Message, MessageType, NodeId, StateType
from syncline.testing.invariants.base import Facts, Invariant, Verdict, WatchedMember
from syncline.testing.sim.disk import SimDisk
from syncline.testing.sim.durable_log import DurableLog

__all__ = [
    "AcknowledgedIsDurable",
    "CommittedIsDurable",
    "EmptiedTakesNoPart",
    "LeaderIsDurable",
    "NothingForgotten",
    "SnapshotIsDurable",
]


class AcknowledgedIsDurable(Invariant):
    """A vote or an acknowledgement leaves a node only once its term, its vote and its entries are on the disk.

    An acknowledgement of an earlier term may come after entries of a later one have taken the place of what it is
    about: the leader that it is for can't use it to commit, because a quorum has left its term.
    """

    name = "nothing is acknowledged before it is durable"

    def promised(self, view: WatchedMember, to: NodeId, message: Message) -> None:
        if message.reject:
            return
        state = view.durable.hard_state
        if message.term > state.term:
            self.broken(f"{view.name} answers in term {message.term}, and has term {state.term} on its disk")
        elif message.term < state.term:
            return
        elif message.type is MessageType.VOTE_RESP:
            if state.vote != to:
                vote = self.facts.name(state.vote) if state.vote else "nobody"
                self.broken(f"{view.name} votes for {self.facts.name(to)}, and has its vote for {vote} on its disk")
        elif message.index > view.durable.last:
            self.broken(f"{view.name} acknowledges entry {message.index}, and has {view.durable.last} on its disk")


class EmptiedTakesNoPart(Invariant):
    """A member whose disk was replaced by an empty one promises nothing any more: it has lost its promises.

    What it promised counted for nothing before its directory was recorded: then it may come with another one.
    """

    name = "an emptied member takes no part"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._recorded: dict[NodeId, int] = {}
        """By member, the directory by which the cluster knows it: the first one that was announced."""

    def applied(self, view: WatchedMember) -> None:
        for node_id, member in view.driver.parts.book.members.items():
            if member.directory:
                self._recorded.setdefault(node_id, member.directory)

    def promised(self, view: WatchedMember, to: NodeId, message: Message) -> None:
        own = view.driver.parts.identity.directory_id
        emptied = view.lost is not None and not view.doubtful and self._recorded.get(view.id, own) != own
        if emptied and not message.reject and to != view.id:
            what = "votes for" if message.type is MessageType.VOTE_RESP else "acknowledges entries to"
            self.broken(f"{view.name}, whose disk was emptied, {what} {self.facts.name(to)} in term {message.term}")


class LeaderIsDurable(Invariant):
    """A leader has its vote for itself on the disk, and with it the term: else it could be elected in it once more."""

    name = "a leader has its vote on the disk"

    def looked(self, view: WatchedMember) -> None:
        core = view.core
        if core.state is not StateType.LEADER or (view.state is StateType.LEADER and view.term == core.term):
            return
        state = view.durable.hard_state
        if (state.term, state.vote) != (core.term, view.id):
            self.broken(f"{view.name} leads term {core.term}, and has term {state.term} on its disk")


class CommittedIsDurable(Invariant):
    """Committed entries are on the disks of a quorum of the membership that commits it, both halves of a joint one."""

    name = "committed is durable on a quorum"

    def looked(self, view: WatchedMember) -> None:
        core = view.core
        commit = core.commit_index
        if commit == view.commit or core.state is not StateType.LEADER:
            return
        term = core.raft.log.term(commit)
        views = self.facts.views
        voters = core.raft.tracker.configuration.voters
        for half in (voters.incoming.voters, voters.outgoing.voters):
            holders = [one for one in sorted(half) if one in views and views[one].held(commit, term)]
            if half and len(holders) * 2 <= len(half):
                names = " ".join(map(self.facts.name, holders)) or "nobody"
                self.broken(f"{view.name} commits {commit}@{term}, which of {len(half)} voters {names} has on its disk")


class NothingForgotten(Invariant):
    """After a start a node has what was durable before it: no entry, term, vote or commit index is lost or changed.

    What was being written at the moment of a crash may be there or not, but not in part.
    """

    name = "nothing durable is forgotten"

    def started(self, view: WatchedMember) -> None:
        if not view.lives:
            return
        possible = view.durable.after_crash()
        faults = [_difference(log, view) for log in possible]
        if all(faults):
            self.broken(f"{view.name} has started again, and {faults[0]}")


class SnapshotIsDurable(Invariant):
    """A snapshot counts once its bytes and its name are on the disk: entries are dropped and leaders answered by it."""

    name = "a snapshot that counts is durable"

    def kept(self, view: WatchedMember, path: str, disk: SimDisk) -> None:
        if not disk.is_durable(path):
            self.broken(f"{view.name} counts on {path}, and a crash would not leave it as it is")


def _difference(before: DurableLog, view: WatchedMember) -> str:
    """The missing or changed entry in the log that a node found; "" if nothing is."""
    now, then = view.core.raft, before.hard_state
    if now.term < then.term:
        return f"its term went from {then.term} back to {now.term}"
    if now.term == then.term and then.vote != NONE and now.vote != then.vote:
        return f"its vote in term {now.term} is another one"
    if now.term > then.term and now.vote != NONE:
        return f"it has a vote in term {now.term}, which it has entered by a snapshot: it never voted in it"
    if now.log.commit_index < then.commit:
        return f"its commit index went from {then.commit} back to {now.log.commit_index}"
    first, last = now.log.first_index, now.log.last_index
    if last < before.last:
        return f"its log ends at {last}, and {before.last} was durable"
    for index in range(max(first, before.base + 1), last + 1):
        term = now.log.term(index)
        if index <= before.last and before.terms[index] != term:
            return f"it has {index}@{term}, and {index}@{before.terms[index]} was durable"
        if index > before.last:
            return f"it has {index}@{term}, which was never written there, or was replaced"
    return ""
