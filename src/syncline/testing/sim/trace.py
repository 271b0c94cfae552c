"""A run as text, one event a line: what to read when an invariant is broken.

     0.5571 n1@2  candidate votes for itself
     0.5583 n2@2 → n1 Vote granted
     0.5590 n1@2  leader
     0.5590 n1@2 → n2 Append base=3@1 [4@2] commit=3

The columns are described in docs/simulator.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from syncline.consensus.types import EntryType, LogEntry, MembershipState, Message, MessageType, NodeId
from syncline.testing.invariants.base import Facts, Onlooker, WatchedMember
from syncline.transport.messages import Ask, AskReply, DigestReport, Forward, Notice, PeerMessage

__all__ = ["Trace", "describe_message"]

NAMES: Final = {
    MessageType.APP: "Append",
    MessageType.APP_RESP: "Append",
    MessageType.VOTE: "Vote",
    MessageType.VOTE_RESP: "Vote",
    MessageType.PRE_VOTE: "PreVote",
    MessageType.PRE_VOTE_RESP: "PreVote",
    MessageType.HEARTBEAT: "Heartbeat",
    MessageType.HEARTBEAT_RESP: "Heartbeat",
    MessageType.SNAP: "Snapshot",
    MessageType.READ_INDEX: "Read",
    MessageType.READ_INDEX_RESP: "Read",
    MessageType.TIMEOUT_NOW: "TimeoutNow",
    MessageType.TRANSFER_LEADER: "Transfer",
}
ENTRIES_SHOWN: Final = 4


class Trace(Onlooker):
    """Writes a line for each event. `clock` is the simulation's time, `write` takes each line."""

    def __init__(self, facts: Facts, clock: Callable[[], float], write: Callable[[str], None]) -> None:
        self._facts = facts
        self._clock = clock
        self._write = write

    def note(self, subject: str, text: str) -> None:
        """A line about something outside of the nodes: a fault, a client, the network."""
        self._write(f"{self._clock():9.4f} {subject}  {text}")

    def broken(self, invariant: str, text: str) -> None:
        """An invariant is broken: the run ends here."""
        self._write(f"{self._clock():9.4f} run  BROKEN {invariant}: {text}")

    def _line(self, view: WatchedMember, kind: str, text: str) -> None:  # noqa: ARG002 - for `Timeline`
        """A line about a node. `kind` tells a picture of the run what it is."""
        self._write(f"{self._clock():9.4f} {view.name}@{view.core.term}{text}")

    def started(self, view: WatchedMember) -> None:
        core = view.core
        log = f"log {core.raft.log.first_index}..{core.last_index}, commit {core.commit_index}"
        self._line(view, "start", f"  has {log}, applied {view.driver.applied}")

    def looked(self, view: WatchedMember) -> None:
        core = view.core
        if core.state is not view.state or core.term != view.term:
            self._line(view, "role", f"  {core.state.name.lower()}")
        if core.raft.vote != view.vote and core.raft.vote:
            self._line(view, "vote", f"  votes for {self._facts.name(core.raft.vote)}")
        if core.commit_index != view.commit:
            self._line(view, "commit", f"  commit {view.commit} → {core.commit_index}")

    def appended(self, view: WatchedMember, entries: Sequence[LogEntry]) -> None:
        self._line(view, "log", f"  log {_entries(entries)}")

    def wrote(self, view: WatchedMember) -> None:
        state = view.durable.hard_state
        vote = f" vote={self._facts.name(state.vote)}" if state.vote else ""
        self._line(view, "disk", f"  disk last={view.durable.last} term={state.term}{vote} commit={state.commit}")

    def sent(self, view: WatchedMember, to: NodeId, message: PeerMessage) -> None:
        self._line(view, "sent", f" → {self._facts.name(to)} {describe_message(message)}")

    def changed(self, view: WatchedMember, index: int, membership: MembershipState) -> None:
        self._line(view, "membership", f"  membership at {index}: {self._members(membership)}")

    def installed(self, view: WatchedMember, index: int, membership: MembershipState) -> None:
        self._line(view, "snapshot", f"  snapshot at {index}: {self._members(membership)}")

    def applied(self, view: WatchedMember) -> None:
        self._line(view, "applied", f"  applied {view.applied} → {view.driver.applied}")

    def _members(self, membership: MembershipState) -> str:
        parts = [" ".join(map(self._facts.name, membership.voters))]
        if membership.voters_outgoing:
            parts.append(f"leaving {' '.join(map(self._facts.name, membership.voters_outgoing))}")
        if membership.learners:
            parts.append(f"learners {' '.join(map(self._facts.name, membership.learners))}")
        return ", ".join(parts)


def describe_message(message: PeerMessage) -> str:
    """A message in a few words; what it has no use for is left out."""
    if isinstance(message, Forward):
        return f"Propose {len(message.proposals)}"
    if isinstance(message, Notice):
        return f"Notice {message.kind} {message.index}@{message.term}"
    if isinstance(message, DigestReport):
        return f"Digest of {message.point}: {message.digest.hex()[:8]}"
    if isinstance(message, Ask | AskReply):
        what = message.code if isinstance(message, AskReply) and message.code else f"{len(message.data)} bytes"
        return f"{type(message).__name__} {what}"
    if not isinstance(message, Message):
        accepted = " ".join(f"{placed.index}@{placed.term}" for placed in message.accepted)
        refused = f" refused {len(message.refused)}" if message.refused else ""
        return f"Proposed [{accepted}]{refused}"
    name = NAMES.get(message.type, message.type.name)
    if message.type is MessageType.APP:
        base = f"base={message.index}@{message.log_term}"
        return f"{name} {base} {_entries(message.entries)} commit={message.commit}"
    if message.type is MessageType.APP_RESP:
        hint = f"refused hint={message.reject_hint}@{message.log_term}"
        return f"{name} {hint if message.reject else 'ok'} {message.index}"
    if message.type in (MessageType.VOTE, MessageType.PRE_VOTE):
        return f"{name}? term={message.term} last={message.index}@{message.log_term}"
    if message.type in (MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP):
        return f"{name} {'refused' if message.reject else 'granted'} term={message.term}"
    if message.type is MessageType.HEARTBEAT:
        return f"{name} commit={message.commit}{_read(message)}"
    if message.type is MessageType.HEARTBEAT_RESP:
        return f"{name} ok{_read(message)}"
    if message.type is MessageType.SNAP and message.snapshot is not None:
        return f"{name} {message.snapshot.meta.index}@{message.snapshot.meta.term}"
    if message.type is MessageType.READ_INDEX_RESP:
        return f"{name} index={message.index}"
    return name


def _read(message: Message) -> str:
    return f" read={message.context[-4:].hex()}" if message.context else ""


def _entries(entries: Sequence[LogEntry]) -> str:
    shown = [f"{entry.index}@{entry.term}{'' if entry.type is EntryType.NORMAL else '*'}" for entry in entries]
    if len(shown) > ENTRIES_SHOWN:
        shown = [*shown[: ENTRIES_SHOWN - 1], "…", shown[-1]]
    return f"[{' '.join(shown)}]"
