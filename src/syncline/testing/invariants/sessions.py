"""Sessions: a command takes effect once for its key, judged without the product's own table."""

from __future__ import annotations

from syncline.consensus.types import EntryType, LogEntry
from syncline.node.envelope import Kind, Proposal, decode_proposal, decode_session_change, decode_session_command
from syncline.sessions.entries import OnceKey
from syncline.sessions.table import Limits
from syncline.testing.invariants.base import Facts, Invariant, Verdict, WatchedMember
from syncline.testing.sim.machine import SimMachine

__all__ = ["NaiveSessions", "OnceForItsKey"]


class NaiveSessions:
    """Which commands of sessions take effect, by the rules and by searching all that was before.

    A run has fewer sessions, sequences and texts than the limits of the table, so none is displaced.
    """

    def __init__(self) -> None:
        self._open: dict[int, list[int]] = {}
        """By session: its floor, and the index of its last use."""
        self._done: dict[OnceKey, int] = {}
        """By key: the index at which its command took effect."""

    def change(self, entry: LogEntry, proposal: Proposal) -> None:
        """A session is opened, or sessions are ended."""
        change = decode_session_change(proposal.data)
        if change.opened:
            self._open.setdefault(change.opened, [1, entry.index])
        for session in change.ended:
            fenced = change.term and (change.term != entry.term or self._open.get(session, [0, 0])[1] > change.bound)
            if not fenced:
                self._open.pop(session, None)

    def applied(self, entry: LogEntry, proposal: Proposal) -> bytes | None:
        """The command, if it takes effect."""
        command = decode_session_command(proposal.data)
        key = _plain(command.key)
        if not key.text:
            held = self._open.get(key.session)
            if held is None:
                return None
            held[:] = max(held[0], command.key.floor, key.sequence - Limits().window + 1), entry.index
            if key.sequence < held[0]:
                return None
        return command.data if self._done.setdefault(key, entry.index) == entry.index else None


class OnceForItsKey(Invariant):
    """No state machine is given two commands with one key, and all are given the same one."""

    name = "a command of a session takes effect once for its key"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._first: dict[OnceKey, tuple[int, str]] = {}

    def applied(self, view: WatchedMember) -> None:
        machine = view.driver.parts.machine._fsm
        if not isinstance(machine, SimMachine):
            return
        ran = [index for index in machine.ran if index <= self.facts.last_committed]
        machine.ran = machine.ran[len(ran) :]
        for index in ran:
            self._look(view, index)

    def _look(self, view: WatchedMember, index: int) -> None:
        entry = self.facts.committed_entry(index)
        if entry.type is not EntryType.NORMAL or not entry.data:
            return
        proposal = decode_proposal(entry.data)
        if proposal.kind != Kind.SESSION_COMMAND:
            return
        key = _plain(decode_session_command(proposal.data).key)
        first, name = self._first.setdefault(key, (index, view.name))
        if first != index:
            self.broken(f"{view.name} has applied {key} at entry {index}, and {name} at entry {first}")


def _plain(key: OnceKey) -> OnceKey:
    return OnceKey(text=key.text) if key.text else OnceKey(key.session, key.sequence)
