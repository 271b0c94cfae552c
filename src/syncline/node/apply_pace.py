"""How many entries a state machine on a thread of its own applies before anything else is looked at.

A state machine may take microseconds for an entry, or seconds. Its entries are therefore applied in pieces that take
about `PIECE_S`, whatever one entry takes. Between two pieces answers go out, and a node that closes stops. Without it
the answers to a million bytes of small entries would wait for the last of them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["TURN_S", "Pace"]

PIECE_S: Final = 0.02
"""A piece that takes longer makes the next ones smaller."""

TURN_S: Final = 0.05
"""After so long the pieces that are done are delivered, and the rest goes on behind that."""

FIRST_ENTRIES: Final = 16
"""Of a state machine that nothing is known of: 16 entries of 20 ms take a third of a second."""

MOST_ENTRIES: Final = 4096
"""A piece of a quick state machine: larger ones gain nothing."""


class Pace:
    """The number of entries of the next piece, from what the pieces before took."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: int = FIRST_ENTRIES

    def took(self, entries: int, seconds: float) -> None:
        """A piece of so many entries took so long."""
        if seconds > PIECE_S:
            self.entries = max(1, min(int(entries * PIECE_S / seconds), self.entries))
        elif entries >= self.entries:
            self.entries = min(2 * self.entries, MOST_ENTRIES)
