"""Running seeds: one seed, one run, one report.

report = run_seed(7, Options(nodes=5))
assert report.failure is None, report.failure
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from syncline.testing.invariants.all import all_invariants
from syncline.testing.invariants.base import Facts, Onlooker
from syncline.testing.linearizability.history import Operation
from syncline.testing.sim.loop import SimDeadlock, SimLivelock, SimLoop
from syncline.testing.sim.machine import digest_at
from syncline.testing.sim.scenario import Scenario
from syncline.testing.sim.server import SimCrash
from syncline.testing.sim.trace import Trace
from syncline.testing.sim.watch import Watch

__all__ = ["SeedFailure", "Options", "SeedReport", "run_seed"]

SIM_SECONDS: Final = 5.0

TraceMaker: TypeAlias = Callable[[Facts, Callable[[], float], Callable[[str], None]], Trace]
"""Called with the shared knowledge, the simulation's clock, and what takes each line."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The common options of the seeds of a run.

    `nodes` None: the seed chooses 3 or 5. `faults` None: the seed chooses. `sim_seconds` is the duration of faults
    and clients; recovery comes after it. `trace` keeps the trace in the report.
    """

    nodes: int | None = None
    sim_seconds: float = SIM_SECONDS
    faults: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    """Faults of those that are left out; the chance of the others stays as it is."""
    chosen_clients: tuple[int, ...] | None = None
    """Which clients work, from 1 on. None: all that the seed chooses."""
    trace: bool = False
    pending: tuple[str, ...] = ()
    """Names of invariants that the product does not keep yet: judge by these, too."""


class SeedFailure(msgspec.Struct, frozen=True):
    """An invariant that did not hold, in which step of the run, at which simulated second."""

    invariant: str
    text: str
    step: int
    at_s: float

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text} (step {self.step}, {self.at_s:.4f} s)"


class SeedReport(msgspec.Struct, kw_only=True):
    """The result of one seed. A step is one event of a node: a callback, a timer, a step of a task."""

    seed: int
    failure: SeedFailure | None
    steps: int
    sim_s: float
    nodes: int = 0
    faults: tuple[str, ...] = ()
    clients: int = 0
    """How many clients there were."""
    sim_seconds: float = 0.0
    """For how long faults and clients went on; `sim_s` is all of the run."""
    trace: list[str] = []
    history: list[Operation] = []
    told: int = 0
    """Revisions that watchers were told of."""
    disk_errors: dict[str, tuple[int, int]] = {}
    """By operation and kind of file: errors that were ordered, and orders that an operation has met."""


class _Judge:
    """Takes the first failure, and ends the run."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.failure: SeedFailure | None = None
        self.found = loop.create_future()
        self.on_broken: Callable[[str, str], None] = _ignore

    def broken(self, invariant: str, text: str) -> None:
        if self.failure is None:
            self.failure = SeedFailure(invariant, text, self._loop.events, self._loop.true_time())
            self.found.set_result(None)
            self.on_broken(invariant, text)

    def unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An exception in a callback, or one that was never retrieved."""
        error = context.get("exception")
        if isinstance(error, SimCrash):
            return  # the process that it went through is gone
        self.broken("no exception escapes", f"{context.get('message')}: {error!r}")


def run_seed(seed: int, options: Options | None = None, *, make_trace: TraceMaker = Trace) -> SeedReport:
    """Run one seed to its end, or to the first broken invariant.

    `make_trace` makes the trace, if the options ask for one: a `Timeline` keeps what a picture of the run needs.
    """
    options = options or Options()
    loop = SimLoop()
    report = SeedReport(seed=seed, failure=None, steps=0, sim_s=0.0)
    try:
        loop.run_until_complete(_run(loop, seed, options, report, make_trace))
    finally:
        loop.set_exception_handler(lambda *_: None)  # what is cut short now says nothing
        loop.finish()
    return report


async def _run(loop: SimLoop, seed: int, options: Options, report: SeedReport, make_trace: TraceMaker) -> None:
    judge, facts = _Judge(loop), Facts()
    loop.set_exception_handler(judge.unhandled)
    onlookers: list[Onlooker] = []
    trace = make_trace(facts, loop.true_time, report.trace.append)
    if options.trace:
        judge.on_broken = trace.broken
        onlookers.append(trace)
    onlookers += all_invariants(facts, judge, digest_at, pending=options.pending)
    watch = Watch(facts, judge, onlookers, trace.note if options.trace else _ignore)
    loop.after_event = watch.after_event
    nodes = options.nodes or (3, 3, 5)[seed % 3]
    scenario = Scenario(
        loop,
        seed,
        nodes=nodes,
        sim_seconds=options.sim_seconds,
        faults=options.faults,
        without=options.without,
        chosen_clients=options.chosen_clients,
        facts=facts,
        verdict=judge,
        observer=watch,
    )
    run = loop.create_task(scenario.run())
    try:
        await asyncio.wait([run, judge.found], return_when=asyncio.FIRST_COMPLETED)
    except (SimDeadlock, SimLivelock) as error:
        judge.broken("the run goes on", str(error))
    ended = run.exception() if run.done() and not run.cancelled() else None
    if ended is not None:
        judge.broken("the run ends", "".join(traceback.format_exception(ended)))
    report.failure, report.steps, report.sim_s = judge.failure, loop.events, loop.true_time()
    report.nodes, report.faults, report.clients = nodes, scenario.faults, len(scenario.workload.working)
    report.sim_seconds = options.sim_seconds
    report.history, report.disk_errors = scenario.history(), scenario.disk_errors()
    report.told = scenario.told()


def _ignore(_subject: str, _text: str) -> None:
    pass
