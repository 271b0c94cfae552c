"""What is counted: additions to a counter, and the parties of a barrier."""

from __future__ import annotations

from typing import Final

from syncline.testing.invariants.base import Verdict
from syncline.testing.sim.process import ClientProcess

__all__ = ["COUNTED", "ROUNDS", "Additions", "Parties"]

COUNTED: Final = "an addition to a counter is made once"
ROUNDS: Final = "a barrier lets whole rounds through"


class Additions:
    """The additions to one counter, each of 1."""

    def __init__(self, verdict: Verdict) -> None:
        self.begun: int = 0
        self.made: int = 0
        """Acknowledged."""
        self.refused: int = 0
        """Certainly not made."""
        self._sums: dict[int, str] = {}
        self._verdict = verdict

    def answered(self, process: ClientProcess, total: int, made_before: int) -> None:
        """An addition was acknowledged with this sum. So many had been acknowledged when it began."""
        self.made += 1
        if total in self._sums:
            self._verdict.broken(COUNTED, f"{process.name} is told the sum {total}, as {self._sums[total]} was")
        self._sums[total] = process.name
        if not made_before < total <= self.begun:
            what = f"{made_before} were made before, and {self.begun} have begun"
            self._verdict.broken(COUNTED, f"{process.name} is told the sum {total}: {what}")

    def final(self, value: int) -> None:
        """What the counter shows at the end."""
        if not self.made <= value <= self.begun - self.refused:
            what = f"{self.made} were acknowledged, and {self.begun - self.refused} may have been made"
            self._verdict.broken(COUNTED, f"the counter shows {value}: {what}")


class Parties:
    """The parties of one barrier, which lets `size` of them through together."""

    def __init__(self, size: int, verdict: Verdict) -> None:
        self.size = size
        self.arrived: int = 0
        self.withdrawn: int = 0
        """They were told that they counted for nothing."""
        self.passed: int = 0
        self._verdict = verdict

    def passes(self, process: ClientProcess) -> None:
        """A party was let through: its round is whole."""
        self.passed += 1
        counted = self.arrived - self.withdrawn
        if self.passed > counted // self.size * self.size:
            what = f"{self.passed} were let through, and {counted} have come to rounds of {self.size}"
            self._verdict.broken(ROUNDS, f"{process.name} is let through: {what}")
