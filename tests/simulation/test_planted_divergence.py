"""A state machine that is wrong on one node, and digests of other points: planted in whole nodes, and noticed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from syncline.errors import Rejected
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import CommandResult
from syncline.node.digests import Digests
from syncline.node.fsm import Entry
from syncline.testing.invariants.machines import EqualStates
from syncline.testing.sim.machine import SimMachine
from tests.simulation.test_planted_bugs_of_consensus import found

WRONG_AT = 20
"""The entry that the wrong machine applies differently, counted in commands."""


def test_divergence_of_one_node_is_found_by_the_digest_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the simulator's own look into the machines, which no production cluster has."""
    init, apply_batch, count = SimMachine.__init__, SimMachine.apply_batch, itertools.count()
    applied: dict[SimMachine, int] = {}

    def made(machine: SimMachine) -> None:
        init(machine)
        if next(count) % 3 == 1:
            applied[machine] = 0

    def careless(machine: SimMachine, entries: Sequence[Entry]) -> list[CommandResult | Rejected]:
        if machine not in applied:
            return apply_batch(machine, entries)
        results: list[CommandResult | Rejected] = []
        for entry in entries:
            applied[machine] += 1
            wrong = Entry(entry.index, entry.term, encode_command(Put(b"wrong", b"value")))
            results += apply_batch(machine, [wrong if applied[machine] == WRONG_AT else entry])
        return results

    monkeypatch.setattr(SimMachine, "__init__", made)
    monkeypatch.setattr(SimMachine, "apply_batch", careless)
    monkeypatch.setattr(EqualStates, "applied", lambda *_: None)
    found(monkeypatch, "a sound node goes on", says="differs from that of the majority of the voters")


def test_digests_of_different_points_stop_sound_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that took their digests wherever their batches end would compare states of different indexes."""
    passed = Digests.passed

    def late(own: Digests, point: int, machine: bytes | None, sessions: bytes) -> None:
        if point > own._interval:  # some nodes take this digest for that of the point before
            passed(own, point - own._interval if own._core.raft.id % 2 else point, machine, sessions)

    monkeypatch.setattr(Digests, "passed", late)
    found(monkeypatch, "a sound node goes on", nodes=5, says="differs from that of the majority of the voters")
