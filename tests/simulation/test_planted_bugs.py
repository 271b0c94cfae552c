"""Each invariant of the simulator, broken on purpose: it is noticed, and named."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from syncline.consensus.quorum import MajorityConfig
from syncline.consensus.types import Message, NodeId
from syncline.errors import DeadlineExceeded, Outcome
from syncline.kv.machine import CommandResult, KvMachine
from syncline.kv.serving.reads import ConfirmedReads, Read
from syncline.node.fsm import Entry
from syncline.node.log_writer import LogWriter
from syncline.node.proposals import Proposals
from syncline.node.proposer import Proposer
from syncline.platform.disk import File
from syncline.platform.worker import Flusher, Worker
from syncline.server.http.response import Respond
from syncline.storage.wal.segment import ActiveSegment
from syncline.testing.sim.disk import SimFile
from syncline.testing.sim.seeds import Options, run_seed
from syncline.testing.sim.workers import SimWorkers

SEEDS = 12
"""Each bug must be found within so many."""


def found(*names: str, **options: Any) -> str:
    """The first failure; it must be of one of these invariants."""
    for seed in range(1, SEEDS + 1):
        failure = run_seed(seed, Options(nodes=3, sim_seconds=4.0, **options)).failure
        if failure is not None:
            assert failure.invariant in names, failure
            return failure.text
    raise AssertionError(f"none of {SEEDS} seeds finds it")


def test_a_log_that_is_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    sync = SimFile.sync

    def only_others(self: SimFile) -> None:
        if ".wal" in self.path:
            self._check_open()
        else:
            sync(self)

    monkeypatch.setattr(SimFile, "sync", only_others)
    found("a sound node starts", "nothing durable is forgotten", faults=("power", "kill-all"))


def test_an_acknowledgement_before_the_write(monkeypatch: pytest.MonkeyPatch) -> None:
    append = LogWriter.append

    def early(self: LogWriter, message: Message) -> None:
        responses, message.responses = list(message.responses), []
        append(self, message)
        self._durable(responses)

    monkeypatch.setattr(LogWriter, "append", early)
    found("nothing is acknowledged before it is durable", faults=())


def test_an_acknowledgement_between_the_write_and_its_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    def flusher(self: SimWorkers, _: File, done: Callable[[BaseException | None], None]) -> Flusher:
        return Hasty(self, done)

    monkeypatch.setattr(SimWorkers, "flusher", flusher)
    found("a sound node starts", "nothing durable is forgotten", faults=("power", "kill-all", "crash-in-write"))


class Hasty:
    """Says that a sync has ended when it has begun. One that is asked for meanwhile is left out.

    It says so once. The sync itself may come after the log has gone to its next segment, and closed this one.
    """

    def __init__(self, workers: SimWorkers, done: Callable[[BaseException | None], None]) -> None:
        def sync(files: list[File]) -> None:
            with contextlib.suppress(OSError):
                files[-1].sync()

        self._worker: Worker[File] = workers.start("syncline-sync", sync, lambda _: None, done)
        self._done = done
        self.close = self._worker.close

    def flush(self, file: File) -> None:
        self._worker.put(file)
        asyncio.get_running_loop().call_soon(self._done, None)


def test_a_commit_without_a_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    def highest(self: MajorityConfig, acked: Mapping[NodeId, int]) -> int:
        return max((acked.get(voter, 0) for voter in self.voters), default=2**64 - 1)

    monkeypatch.setattr(MajorityConfig, "committed_index", highest)
    found("committed is durable on a quorum", faults=())


def test_a_state_machine_that_is_not_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = itertools.count()
    apply: Callable[[KvMachine, Entry], CommandResult] = KvMachine._apply

    def different(self: KvMachine, entry: Entry) -> CommandResult:
        if next(counter) % 7 == 0:
            self.store.put(b"other", b"%d" % next(counter), 0, self.store.revision + 1)
        return apply(self, entry)

    monkeypatch.setattr(KvMachine, "_apply", different)
    found("equal states", faults=())


def test_read_without_confirmation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(
        _: ConfirmedReads[Respond], __: float, read: Read[Any, Respond], context: object, respond: Respond
    ) -> None:
        read(context, respond, None)

    monkeypatch.setattr(ConfirmedReads, "within", at_once)
    found("answers keep the order of time", faults=("delay", "isolate-leader"))


def test_an_unknown_outcome_that_is_told_as_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeadlineExceeded, "outcome", Outcome.NOT_APPLIED)
    names = ("acknowledged writes are there once, refused ones never", "linearizable histories")
    found(*names, faults=("isolate-leader", "pause"))


def test_a_proposal_that_is_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    propose = Proposer.propose

    def twice(self: Proposer, *arguments: Any) -> None:
        propose(self, *arguments)
        self.queue.append(self.queue[-1])

    monkeypatch.setattr(Proposer, "propose", twice)
    found("no proposal is applied twice", faults=())


def test_a_forgotten_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, counter = Proposals.resolved, itertools.count()

    def forgetful(self: Proposals, number: int, index: int, term: int, answer: object) -> None:
        if next(counter) % 50 != 49:
            resolved(self, number, index, term, answer)

    monkeypatch.setattr(Proposals, "resolved", forgetful)
    monkeypatch.setattr(Proposals, "expire", lambda *_: None)
    monkeypatch.setattr(Proposals, "passed", lambda *_: None)
    found("every request is answered", faults=())


def test_a_log_that_loses_its_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    put = ActiveSegment.put

    def shorter(self: ActiveSegment, builder: Any) -> int:
        offset = put(self, builder)
        if offset > 2000:
            self.file.write_at(offset, bytes(32))
        return offset

    monkeypatch.setattr(ActiveSegment, "put", shorter)
    found("a sound node starts", "nothing durable is forgotten", faults=("kill",))
