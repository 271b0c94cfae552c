"""One run, from the first process to the state that all nodes end in. What its clients were told is judged after it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncline.testing.linearizability.history import NotApplied, Operation, Recorder
from tests.chaos.agreement import Agreement, agree, written_twice
from tests.chaos.clients import TRAFFIC_PER_S, Clients
from tests.chaos.faults import Stage, begin
from tests.chaos.fleet import Fleet
from tests.chaos.membership import Operator
from tests.chaos.observer import Observer
from tests.chaos.report import Report
from tests.chaos.schedule import Phase, phases

__all__ = ["Run", "Settings"]

WATCH_S = 0.1


@dataclass(frozen=True)
class Settings:
    """What a run is made of."""

    seed: int
    seconds: float
    kinds: Sequence[str]
    per_s: float = TRAFFIC_PER_S


class Run:
    """Faults, clients and observers around one fleet. `tell` takes each line as it comes."""

    def __init__(self, fleet: Fleet, settings: Settings, report: Report, tell: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._settings = settings
        self._report = report
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._recorder = Recorder(self._loop.time)
        self._observer = Observer(fleet)
        self._clients = Clients(fleet, self._recorder, random.Random(settings.seed), settings.per_s)
        self._stage = Stage(fleet, Operator(fleet))
        self._begun_s = self._loop.time()
        self.done: list[tuple[Phase, str]] = []
        """What was done to the nodes, phase by phase."""
        self.agreement: Agreement | None = None
        """The state that all nodes ended in, if they did."""

    @property
    def history(self) -> list[Operation]:
        return self._recorder.history()

    async def go(self) -> None:
        """All of it. What is found is in the report's anomalies; only faults of this program are raised."""
        self._fleet.start()
        watch = asyncio.create_task(self._watch())
        try:
            if await self._recovered("the cluster starts"):
                self._observer.start()
                self._clients.start()
                alive = await self._phases()
                await self._clients.stop()
                if alive:
                    self.agreement = await self._final_state()
                await self._observer.stop()
        finally:
            watch.cancel()
            await asyncio.wait([watch])
            self._look_at_nodes()
            self._count()

    # -- while it goes on

    async def _phases(self) -> bool:
        """One after the other, until the time is over or something is wrong; False: the cluster did not come back."""
        end_s = self._loop.time() + self._settings.seconds
        for phase in phases(self._settings.seed, self._settings.kinds):
            await asyncio.sleep(phase.calm_s)
            if self._loop.time() >= end_s or self._anomalies():
                return True
            if not await self._phase(phase):
                return False
            self._clients.raise_failures()
        raise AssertionError("the schedule has no end")

    async def _phase(self, phase: Phase) -> bool:
        """One phase; False: the cluster did not come back from it."""
        begun_s, before = self._loop.time(), len(self._recorder)
        undos, what = [], []
        for at, fault in enumerate(phase.faults):
            if at:
                await asyncio.sleep(phase.stagger_s)
            done, undo = await begin(fault, self._stage)
            what.append(done)
            undos.append(undo)
            self._report.faults[fault.kind] += 1
        await asyncio.sleep(phase.hold_s)
        text = "; ".join(what)
        self.done.append((phase, text))
        self._report.phases += 1
        # All at once: the replacement of a member ends only when the others are back.
        for failure in await asyncio.gather(*(undo() for undo in undos), return_exceptions=True):
            if isinstance(failure, AssertionError):
                self._report.anomalies.append(f"after {text}: {failure}")
            elif isinstance(failure, BaseException):
                raise failure
        held_s = self._loop.time() - begun_s
        recovered_s = await self._recovered(text)
        operations = len(self._recorder) - before
        at_s = begun_s - self._begun_s
        self._tell(f"{at_s:6.1f} s  {text}, for {held_s:.1f} s; {_back(recovered_s)}; {operations} operations")
        return recovered_s is not None

    async def _recovered(self, after: str) -> float | None:
        """Wait until all nodes serve again; how long that took, None (and an anomaly) where they do not."""
        try:
            recovered_s = await self._fleet.healed()
        except AssertionError as error:
            self._report.anomalies.append(f"after {after}: {error}")
            return None
        self._report.longest_recovery_s = max(self._report.longest_recovery_s, recovered_s)
        return recovered_s

    async def _watch(self) -> None:
        while True:
            self._look_at_nodes()
            await asyncio.sleep(WATCH_S)

    def _look_at_nodes(self) -> None:
        self._report.anomalies += self._fleet.ended_by_themselves()
        self._report.anomalies += self._fleet.said()

    def _anomalies(self) -> bool:
        return bool(self._report.anomalies or self._observer.anomalies)

    # -- at the end

    async def _final_state(self) -> Agreement | None:
        if self._fleet.lan is not None:
            self._fleet.lan.heal()
        if await self._recovered("the end of all faults") is None:
            return None
        try:
            agreement = await agree(self._fleet)
        except AssertionError as error:
            self._report.anomalies.append(str(error))
            return None
        self._report.revision, self._report.digest = agreement.revision, agreement.digest
        self._report.anomalies += written_twice(agreement.items)
        return agreement

    def _count(self) -> None:
        report, history = self._report, self.history
        report.seconds = self._loop.time() - self._begun_s
        report.operations = len(history)
        report.unknown = sum(operation.unknown for operation in history)
        report.not_applied = sum(isinstance(operation.result, NotApplied) for operation in history)
        report.elections = self._observer.elections
        report.anomalies += self._observer.anomalies


def _back(recovered_s: float | None) -> str:
    return "NOT back" if recovered_s is None else f"back after {recovered_s:.1f} s"
