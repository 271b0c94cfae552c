"""Whole nodes under faults whose store has a small limit: it is never passed, and what is deleted can be used again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from syncline.errors import NoSpace, Rejected
from syncline.kv.machine import CommandResult
from syncline.node.fsm import Entry, LimitedFSM
from syncline.node.intake import Intake
from syncline.node.rejections import AskAgain
from syncline.testing.sim.machine import SimMachine
from syncline.testing.sim.seeds import Options, run_seed

LIMIT_BYTES = 1300
"""Room for three of the keys that the clients of a simulation use."""

SEEDS = range(100, 108)


class Watched:
    """What the leaders decided, and how large a store became."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.refused = self.waited = self.largest_bytes = 0
        init, apply_batch, admit = SimMachine.__init__, SimMachine.apply_batch, Intake._admit

        def made(machine: SimMachine) -> None:
            init(machine)
            machine.max_bytes = LIMIT_BYTES

        def watched(machine: SimMachine, entries: Sequence[Entry]) -> list[CommandResult | Rejected]:
            results = apply_batch(machine, entries)
            self.largest_bytes = max(self.largest_bytes, machine.size_bytes)
            return results

        def noted(intake: Intake, limited: LimitedFSM, data: bytes) -> None:
            try:
                admit(intake, limited, data)
            except NoSpace:
                self.refused += 1
                raise
            except AskAgain:
                self.waited += 1
                raise

        patch.setattr(SimMachine, "__init__", made)
        patch.setattr(SimMachine, "apply_batch", watched)
        patch.setattr(Intake, "_admit", noted)


def test_store_limit_is_never_passed_under_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way counts, through changes of leader as well, as far as few clients can tell."""
    watched = Watched(monkeypatch)
    for seed in SEEDS:
        # The words of coordination write keys: at the limit they are refused, and promise nothing.
        failure = run_seed(seed, Options(sim_seconds=1.5, without=("coordination",))).failure
        assert failure is None, f"seed {seed}: {failure}"
    assert watched.largest_bytes <= LIMIT_BYTES
    assert watched.refused, "the limit was never met"
    assert watched.waited, "no put ever met a delete that was on its way"
