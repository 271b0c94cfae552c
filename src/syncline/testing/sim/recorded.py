"""Run a seed and keep what its page shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.testing.invariants.base import Facts
from syncline.testing.sim.page import Run
from syncline.testing.sim.seeds import Options, run_seed
from syncline.testing.sim.timeline import Timeline

__all__ = ["run_of"]

TRACE_LINES: Final = 2000
"""Lines of the trace that the page keeps as text, the newest."""


def run_of(seed: int, options: Options, *, command: str, shrunk: str = "") -> Run:
    """Run the seed. `options` ask for the trace; `command` replays it; `shrunk` says how it was made smaller."""
    made: list[Timeline] = []

    def make(facts: Facts, clock: Callable[[], float], write: Callable[[str], None]) -> Timeline:
        made.append(Timeline(facts, clock, write))
        return made[0]

    report = run_seed(seed, options, make_trace=make)
    timeline = made[0]
    facts = [
        ("replay", f"{command} --trace"),
        ("faults", ", ".join(report.faults) or "none"),
        (
            "run",
            f"{report.nodes} nodes, {report.clients} clients, {report.steps} steps, {report.sim_s:.4f} simulated s",
        ),
    ]
    if shrunk:
        facts.append(("smaller", shrunk))
    return Run(
        title=f"Seed {seed} {'fails' if report.failure is not None else 'holds'}",
        failure=str(report.failure or ""),
        facts=facts,
        moments=list(timeline.moments),
        before=timeline.before,
        left_out=timeline.left_out,
        trace=report.trace[-TRACE_LINES:],
    )
