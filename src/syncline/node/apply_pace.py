"""The number of entries that a state machine on its own thread applies before other work.

A state machine may take microseconds for an entry, or seconds. Its entries are therefore applied in pieces that take
about `PIECE_S`. Answers are delivered between two pieces, and a closing node stops there. Without pieces the answers
to a million bytes of small entries would wait for the last of them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["TURN_S", "Pace"]

PIECE_S: Final = 0.02
"""A piece that takes longer makes the next ones smaller."""

TURN_S: Final = 0.05
"""After this time the finished pieces are delivered before the rest goes on."""

FIRST_ENTRIES: Final = 16
"""The first piece of a state machine: 16 entries of 20 ms take a third of a second."""

MOST_ENTRIES: Final = 4096
"""A piece of a quick state machine: larger ones gain nothing."""


class Pace:
    """The number of entries of the next piece, from the durations of earlier ones."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: int = FIRST_ENTRIES

    def took(self, entries: int, seconds: float) -> None:
        """A piece of so many entries took so long."""
        if seconds > PIECE_S:
            self.entries = max(1, min(int(entries * PIECE_S / seconds), self.entries))
        elif entries >= self.entries:
            self.entries = min(2 * self.entries, MOST_ENTRIES)
