"""Shrink a failing run: fewer faults, clients and nodes, and less time, while the same invariant breaks.

Options that are left out do not change the random numbers of the rest, so the run stays similar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from syncline.testing.sim.seeds import Options, SeedReport, run_seed

__all__ = ["BUDGET_S", "Shrunk", "shrink"]

Item = TypeVar("Item")

BUDGET_S: Final = 30.0
"""How long is tried by default, on a real clock: a run takes well below a second."""

TENTH_S: Final = 0.1
"""The unit of simulated time: a shorter run is not tried."""

FEWEST_NODES: Final = 3


class Shrunk(msgspec.Struct, frozen=True):
    """The smallest run that was found, and the first one. Both break the same invariant."""

    first: SeedReport
    smallest: SeedReport
    options: Options
    """Options of the smallest run: with the seed they replay it."""
    runs: int

    def __str__(self) -> str:
        first, last = self.first, self.smallest
        parts = [
            _change("faults", len(first.faults), len(last.faults)),
            _change("clients", first.clients, last.clients),
            _change("nodes", first.nodes, last.nodes),
            f"{first.sim_seconds:g} → {last.sim_seconds:g} s",
            _change("steps", first.steps, last.steps),
        ]
        return f"shrunk in {self.runs} runs: {', '.join(parts)}"


def _change(what: str, before: int, after: int) -> str:
    return f"{before} → {after} {what}"


def shrink(seed: int, options: Options, *, clock: Callable[[], float], budget_s: float = BUDGET_S) -> Shrunk | None:
    """Look for the smallest options with which the seed breaks the same invariant, for about so many seconds.

    None: the seed does not fail.
    """
    first = run_seed(seed, options)
    return None if first.failure is None else _Search(seed, options, first, clock, clock() + budget_s).run()


class _Search:
    """Greedy: what can be left out is left out, the largest pieces first, until nothing more can be."""

    def __init__(
        self, seed: int, options: Options, first: SeedReport, clock: Callable[[], float], end_s: float
    ) -> None:
        assert first.failure is not None
        self._seed = seed
        self._first = self._smallest = first
        self._invariant = first.failure.invariant
        self._options = options
        self._clock = clock
        self._end_s = end_s
        self._runs = 1

    def run(self) -> Shrunk:
        steps = 0
        while steps != self._smallest.steps:
            steps = self._smallest.steps
            self._end_sooner()
            self._leave_out_faults()
            self._leave_out_clients()
            self._take_fewer_nodes()
        return Shrunk(self._first, self._smallest, self._options, self._runs)

    def _end_sooner(self) -> None:
        """Up to the failure first, if it came before the end; then half of the time, again and again."""
        failure = self._smallest.failure
        assert failure is not None
        if failure.at_s < self._smallest.sim_seconds:
            self._try(sim_seconds=math.ceil(failure.at_s / TENTH_S) * TENTH_S)
        for share in (0.5, 0.8):
            while self._try(sim_seconds=math.floor(self._smallest.sim_seconds * share / TENTH_S) * TENTH_S):
                pass

    def _leave_out_faults(self) -> None:
        without = self._options.without

        def works(kept: Sequence[str]) -> bool:
            gone = [name for name in self._first.faults if name not in kept]
            return self._try(without=tuple(sorted({*without, *gone})))

        _fewest(self._smallest.faults, works)

    def _leave_out_clients(self) -> None:
        chosen = self._options.chosen_clients
        numbers = chosen if chosen is not None else tuple(range(1, self._smallest.clients + 1))
        _fewest(numbers, lambda kept: self._try(chosen_clients=tuple(kept)))

    def _take_fewer_nodes(self) -> None:
        if self._smallest.nodes > FEWEST_NODES:
            self._try(nodes=FEWEST_NODES)

    def _try(self, **changes: object) -> bool:
        """Whether the same invariant breaks with these changes; if so, they stay."""
        options = msgspec.structs.replace(self._options, **changes)
        if self._clock() > self._end_s or options == self._options or options.sim_seconds <= 0:
            return False
        self._runs += 1
        report = run_seed(self._seed, options)
        if report.failure is None or report.failure.invariant != self._invariant:
            return False
        self._options, self._smallest = options, report
        return True


def _fewest(items: Sequence[Item], works: Callable[[Sequence[Item]], bool]) -> Sequence[Item]:
    """Leave out pieces of `items`, all of them first, then halves, quarters and single ones."""
    size = len(items)
    while size:
        start = 0
        while start < len(items):
            kept = [*items[:start], *items[start + size :]]
            if works(kept):
                items = kept
            else:
                start += size
        size //= 2
    return items
