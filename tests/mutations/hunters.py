"""Ways to look for a planted bug. Each says after how many attempts it saw what, or gives up."""

from __future__ import annotations

import importlib
import inspect
import random
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncline.testing.sim.seeds import Options, run_seed
from tests.conformance.cluster import Cluster
from tests.conformance.runner import run_file
from tests.conformance.settings import Settings
from tests.helpers.async_tests import run
from tests.helpers.crash_cases import Crashes, crash_everywhere
from tests.unit.test_crash_consistency import WORKLOADS

__all__ = ["Catch", "Hunter", "clusters", "crashes", "simulator", "test", "trace"]

TRACES = Path(__file__).parents[1] / "conformance" / "traces"

HEAL_TICKS = 200


@dataclass(frozen=True, slots=True)
class Catch:
    """A planted bug was seen: in the how-manieth attempt, and as what."""

    attempt: int
    seen: str


Hunter = Callable[[int], Catch | None]
"""Makes at most so many attempts."""


def trace(name: str) -> Hunter:
    """A recorded trace of the core that comes out differently. One attempt: it has no chance in it."""

    def hunt(_limit: int) -> Catch | None:
        verdict = run_file(TRACES / f"{name}.txt")
        return Catch(1, f"trace `{name}` comes out differently") if verdict.failure else None

    return hunt


def clusters(settings: Callable[[random.Random], Settings]) -> Hunter:
    """Random events on clusters of cores, with the invariants checked after each (`tests/conformance/cluster.py`)."""

    def attempt(seed: int) -> None:
        rng = random.Random(seed)
        chosen = settings(rng)
        cluster = Cluster(seed, chosen)
        cluster.run(rng.choice([500, 2000, 4000]))
        healed = cluster.heal(HEAL_TICKS)
        assert healed, "the cluster does not recover"

    return lambda limit: _first_failure(attempt, range(limit))


def crashes(workload: str) -> Hunter:
    """A workload of the storage, crashed before each operation of its disk (`tests/helpers/crash_cases.py`)."""
    work = next(one for one in WORKLOADS if one.__name__ == workload)

    def attempt(seed: int) -> None:
        crash_everywhere(work, Crashes(seed, each=4, nested=1))

    return lambda limit: _first_failure(attempt, range(limit))


def simulator(options: Options) -> Hunter:
    """Whole nodes in one process, with faults by chance and the invariants checked after each event."""

    def hunt(limit: int) -> Catch | None:
        for seed in range(1, limit + 1):
            failure = run_seed(seed, options).failure
            if failure is not None:
                return Catch(seed, f"{failure.invariant}: {failure.text.partition(chr(10))[0]}")
        return None

    return hunt


def test(module: str, name: str, **arguments: object) -> Hunter:
    """A test of the project that fails: one attempt. It is called with its fixtures `tmp_path` and `monkeypatch`."""
    function = getattr(importlib.import_module(f"tests.{module}"), name)  # now: before anything is planted

    def attempt(_: int) -> None:
        wanted = inspect.signature(function).parameters
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            fixtures = {"tmp_path": Path(folder), "monkeypatch": patch}
            given = {fixture: value for fixture, value in fixtures.items() if fixture in wanted}
            try:
                returned = function(**given, **arguments)
                if inspect.iscoroutine(returned):
                    run(returned)
            except pytest.fail.Exception as failure:  # it is no `Exception`
                raise AssertionError(str(failure)) from None

    return lambda _limit: _first_failure(attempt, [1])


test.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for one


def _first_failure(attempt: Callable[[int], None], seeds: Iterable[int]) -> Catch | None:
    for count, seed in enumerate(seeds, 1):
        try:
            attempt(seed)
        except Exception as error:  # noqa: BLE001 - what a planted bug leads to is not known beforehand
            return Catch(count, _first_cause(error))
    return None


def _first_cause(error: BaseException) -> str:
    """What went wrong first, in a line: a failed check may have stopped a node, which stopped what used it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0] or type(error).__name__
