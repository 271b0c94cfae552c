"""What the simulator looks at around the core, each broken on purpose and listened to alone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from syncline.consensus import election
from syncline.consensus.raft import RaftCore
from syncline.kv.serving.reads import ConfirmedReads, Read
from syncline.node import startup
from syncline.node.config import Config
from syncline.node.proposals import Proposals
from syncline.node.snapshots import Snapshotter
from syncline.server.http.response import Respond
from syncline.storage import datadir
from syncline.storage.datadir import DataDir, Identity
from syncline.testing.sim.disk import SimDisk
from tests.simulation.test_planted_bugs_of_consensus import found


def test_answers_that_are_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, last = Proposals.resolved, [None]

    def late(self: Proposals, number: int, index: int, term: int, answer: Any) -> None:
        same = type(last[0]) is type(answer)
        resolved(self, number, index, term, last[0] if same else answer)
        last[0] = answer

    monkeypatch.setattr(Proposals, "resolved", late)
    found(monkeypatch, "every answer fits the log")


def test_a_directory_that_does_not_look_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    identify = startup._identify

    def trusting(config: Config, directory: DataDir, rng: random.Random) -> Identity:
        return directory.identity or identify(config, directory, rng)

    monkeypatch.setattr(startup, "_identify", trusting)
    found(monkeypatch, "a foreign disk is refused", "foreign-disk", nodes=5)


def test_a_directory_of_a_later_version_that_is_taken_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = datadir.decode_identity

    def bold(path: str, data: bytes) -> Identity:
        return decode(path, data.replace(b'"format_version": 3', b'"format_version": 2'))

    monkeypatch.setattr(datadir, "decode_identity", bold)
    found(monkeypatch, "a later version's directory is refused", "downgrade", nodes=5)


def test_read_without_confirmation_is_found_in_the_history_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(
        _: ConfirmedReads[Respond], __: float, read: Read[Any, Respond], context: object, respond: Respond
    ) -> None:
        read(context, respond, None)

    monkeypatch.setattr(ConfirmedReads, "within", at_once)
    found(monkeypatch, "linearizable histories", "delay", "isolate-leader")


def test_a_directory_that_is_not_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = SimDisk.lock

    def open_to_all(disk: SimDisk, path: str, content: bytes) -> Any:
        disk._locks.clear()
        return lock(disk, path, content)

    monkeypatch.setattr(SimDisk, "lock", open_to_all)
    found(monkeypatch, "one process at a time", "second-process")


def test_a_cluster_that_elects_no_second_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    promotable = election.promotable
    monkeypatch.setattr(election, "promotable", lambda raft: raft.term < 2 and promotable(raft))
    found(monkeypatch, "a leader after the faults", "isolate-leader", sim_seconds=1.0)


def test_a_snapshot_that_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshotter, "send", lambda *_: None)
    found(monkeypatch, "all catch up after the faults", "add")


def test_a_node_that_stops_itself_for_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    tick = RaftCore.tick

    def tired(raft: RaftCore) -> None:
        assert raft.log.applied < 20, "tired"
        tick(raft)

    monkeypatch.setattr(RaftCore, "tick", tired)
    found(monkeypatch, "a sound node goes on")
