"""A failing seed is made smaller, within a limit of time, and what is left fails alike."""

from __future__ import annotations

import itertools

import pytest

from syncline.testing.sim.seeds import Options, run_seed
from syncline.testing.sim.shrinking import shrink
from syncline.testing.simulate import main
from tests.mutations.nodes import members_listed_wrongly_while_joint

SEED = 1
MANY = Options(nodes=5, sim_seconds=4.0, faults=("cut", "joint", "kill", "pause", "snapshot", "transfer"))


def standing() -> float:
    return 0.0


@pytest.mark.slow
def test_shrink_with_a_planted_bug_leaves_what_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bug needs a joint membership, and nothing else."""
    members_listed_wrongly_while_joint(monkeypatch)
    shrunk = shrink(SEED, MANY, clock=standing)
    assert shrunk is not None
    assert shrunk.first.failure is not None
    assert shrunk.smallest.failure is not None
    assert shrunk.smallest.failure.invariant == shrunk.first.failure.invariant == "members are listed"
    assert shrunk.smallest.faults == ("joint",)
    assert shrunk.smallest.clients == 0
    assert shrunk.smallest.sim_seconds < shrunk.first.sim_seconds
    assert shrunk.smallest.steps < shrunk.first.steps * 0.6
    assert "6 → 1 faults" in str(shrunk)


@pytest.mark.slow
def test_shrunk_options_replay_the_same_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that is printed is of use in another process, too."""
    members_listed_wrongly_while_joint(monkeypatch)
    shrunk = shrink(SEED, MANY, clock=standing)
    assert shrunk is not None
    assert run_seed(SEED, shrunk.options).failure == shrunk.smallest.failure


def test_shrink_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is automatic, so it may not take long: here each look at the clock takes a second."""
    members_listed_wrongly_while_joint(monkeypatch)
    seconds = itertools.count()
    shrunk = shrink(SEED, MANY, clock=lambda: float(next(seconds)), budget_s=3.0)
    assert shrunk is not None
    assert shrunk.runs <= 4
    assert shrunk.smallest.failure is not None


def test_shrink_of_a_seed_that_holds_gives_nothing() -> None:
    """There is nothing to look for."""
    assert shrink(SEED, Options(nodes=3, sim_seconds=0.5, faults=()), clock=standing) is None


def test_simulate_command_prints_the_shrunken_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is what one goes on with."""
    members_listed_wrongly_while_joint(monkeypatch)
    assert main(["--seed", str(SEED), "--nodes", "5", "--sim-seconds", "4", "--faults", "cut,joint,kill"]) == 1
    printed = capsys.readouterr().out
    assert "3 → 1 faults" in printed
    assert "--without cut,kill --clients none" in printed


def test_faults_that_are_left_out_leave_the_others_as_they_are() -> None:
    """Otherwise to leave one out would be to draw another run."""
    whole = Options(nodes=3, sim_seconds=0.2, faults=("cut", "second-process"), trace=True)
    partial = Options(nodes=3, sim_seconds=0.2, faults=("cut", "second-process"), without=("cut",), trace=True)
    one, other = run_seed(3, whole), run_seed(3, partial)
    assert one.trace[1:40] == other.trace[1:40]
    assert other.faults == ("second-process",)
