"""A raffle: people join, and a draw picks who wins. Two versions: one that must not be replicated, one that may be.

`FlawedRaffle` looks right and passes every ordinary test. But a set of strings is iterated in an order that differs
from process to process, so that each replica draws another winner: `check_fsm` says at which command.
"""

from __future__ import annotations

import json
from typing import BinaryIO

from syncline import Entry, FSMSnapshot, SnapshotSink
from syncline.errors import Rejected

__all__ = ["FlawedRaffle", "Raffle"]


class FlawedRaffle:
    """Not deterministic: it takes the first of a set of strings."""

    def __init__(self) -> None:
        self.tickets: set[str] = set()
        self.winners: list[str] = []

    def apply(self, entry: Entry) -> object:
        """`join NAME` answers with the number of tickets, `draw` with the winner."""
        command, _, name = entry.data.decode(errors="replace").partition(" ")  # an exception would stop every node
        if command == "join":
            self.tickets.add(name)
            return len(self.tickets)
        if not self.tickets:
            raise Rejected("nobody has joined", code="nobody_joined")
        winner = self.pick(entry.index)
        self.tickets.discard(winner)
        self.winners.append(winner)
        return winner

    def pick(self, number: int) -> str:  # noqa: ARG002 - that is the flaw
        return next(iter(self.tickets))

    def snapshot(self) -> FSMSnapshot:
        return RaffleSnapshot(sorted(self.tickets), list(self.winners))

    def restore(self, source: BinaryIO) -> None:
        tickets, self.winners = json.load(source)
        self.tickets = set(tickets)


class Raffle(FlawedRaffle):
    """Its mended twin: who wins depends on the log alone, on every node."""

    def pick(self, number: int) -> str:
        return sorted(self.tickets)[number % len(self.tickets)]


class RaffleSnapshot:
    """What was drawn and who is in, copied at once: small enough. Sorted: equal states give equal bytes."""

    def __init__(self, tickets: list[str], winners: list[str]) -> None:
        self._state = [tickets, winners]

    def persist(self, sink: SnapshotSink, /) -> None:
        sink.write(json.dumps(self._state).encode())

    def release(self) -> None:
        pass
