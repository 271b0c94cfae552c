"""The users' kit finds each way to break the contract of a state machine, and lets those pass that keep it."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import BinaryIO

import pytest
from examples.state_machine.raffle import FlawedRaffle, Raffle

from syncline import FSM, Entry, FSMSnapshot, SnapshotSink
from syncline.errors import Rejected, UsageError
from syncline.kv.commands import (
    Command,
    Compact,
    Delete,
    DeleteRange,
    Get,
    Increment,
    LeaseCheckpoint,
    LeaseEnd,
    LeaseGrant,
    OperationBatch,
    Put,
    Touch,
    Txn,
    encode_command,
)
from syncline.kv.machine import KvMachine
from syncline.testing import FSMProblem, check_fsm
from tests.helpers.checked_machines import Digesting, DigestOfAnotherProcess, Items, Snapshot

JOIN_AND_DRAW = [f"join person{number}".encode() for number in range(8)] + [b"draw"] * 9
COUNTS = [b"%d" % number for number in range(25)]


class Random(Items):
    def apply(self, entry: Entry) -> object:
        return (super().apply(entry), random.random())


class SharedCounter(Items):
    counter = itertools.count()

    def apply(self, entry: Entry) -> object:
        super().apply(entry)
        return next(self.counter)


class ChangedByRefusal(Items):
    def apply(self, entry: Entry) -> object:
        answer = super().apply(entry)
        if entry.data == b"7":
            raise Rejected("no sevens", code="seven")
        return answer


class HalfASnapshot(Items):
    def snapshot(self) -> FSMSnapshot:
        return Snapshot(self.items[:5])

    def restore(self, source: BinaryIO) -> None:
        self.items = json.load(source)[:4]


class KeepsOldState(Items):
    def restore(self, source: BinaryIO) -> None:
        self.items += json.load(source)


class ForgetsACounter(Items):
    def __init__(self) -> None:
        super().__init__()
        self.applied = 0

    def apply(self, entry: Entry) -> object:
        super().apply(entry)
        self.applied += 1
        return self.applied


class SharedView(Items):
    def snapshot(self) -> FSMSnapshot:
        return Snapshot(self.items)


class LazyView(Items):
    """A copy, but taken when the writing begins."""

    def snapshot(self) -> FSMSnapshot:
        return LazySnapshot(self)


class LazySnapshot(Snapshot):
    def __init__(self, owner: Items) -> None:
        self.owner = owner

    def persist(self, sink: SnapshotSink, /) -> None:
        sink.write(json.dumps(self.owner.items).encode())


class BadBatches(Items):
    def apply_batch(self, entries: Sequence[Entry]) -> list[object]:
        self.items += [entry.data.decode() for entry in entries]
        return [len(self.items)] * len(entries)


class DigestAsText(Items):
    def digest(self) -> bytes:
        return str(self.items)  # type: ignore[return-value]


class DigestOfAPart(Items):
    def digest(self) -> bytes:
        return b"%d" % (len(self.items) // 2)


class DigestOfCalls(Items):
    calls = 0

    def apply(self, entry: Entry) -> object:
        self.calls += 1
        return super().apply(entry)

    def digest(self) -> bytes:
        return b"%d" % self.calls


@pytest.mark.parametrize(
    ("machine", "clause"),
    [
        (DigestAsText, "`digest` returns"),
        (DigestOfAPart, "different states .* have one digest"),
        (DigestOfCalls, "a restored snapshot has another digest"),
        (Random, "second machine"),
        (SharedCounter, "second machine"),
        (ChangedByRefusal, "refused command changed the state"),
        (HalfASnapshot, "does not bring the state back in a new machine"),
        (KeepsOldState, "does not bring the state back in a machine that held another state"),
        (ForgetsACounter, "answered differently"),
        (SharedView, "a view shows what was applied before"),
        (LazyView, "a view shows what was applied before"),
        (BadBatches, "`apply_batch` answers differently"),
    ],
)
def test_each_way_to_break_the_contract_is_found(machine: Callable[[], FSM[object]], clause: str) -> None:
    with pytest.raises(FSMProblem, match=clause):
        check_fsm(machine, COUNTS, processes=False)


def test_an_order_of_strings_that_differs_between_processes_is_found() -> None:
    with pytest.raises(FSMProblem, match="another process") as found:
        check_fsm(FlawedRaffle, JOIN_AND_DRAW)
    assert found.value.command == b"draw"
    assert found.value.index >= 9, "the first draw, or a later one: the first may come out the same by chance"
    assert "answered" in found.value.difference


def test_check_fsm_finds_a_digest_that_differs_between_processes() -> None:
    with pytest.raises(FSMProblem, match="another process") as found:
        check_fsm(DigestOfAnotherProcess, COUNTS)
    assert "digest" in found.value.difference


LEASED: list[Command] = [
    LeaseGrant(1, 5000),
    *[Put(b"shared %d" % (n * 7 % 20), b"%d" % n, 1) for n in range(20)],
    OperationBatch(tuple([Put(b"own %d" % n, b"", n + 10, ttl_ms=5) for n in range(5)])),
    Touch(b"own 3", 9, 99),
    Touch(b"shared 7", 9, 98),
    Increment(b"shared 3", 5),
    LeaseCheckpoint(((1, 70), (11, 2)), 1),
    LeaseEnd((10, 1, 12), 1),
    LeaseEnd((13,), 2),
    Txn(then=(DeleteRange(b"own", None, previous=True), Increment(b"n"), Get(b"shared 3", 21))),
    Compact(8),
]


@pytest.mark.parametrize(
    ("machine", "commands"),
    [
        (Digesting, COUNTS),
        (Raffle, JOIN_AND_DRAW),
        (Items, COUNTS),
        (Items, []),
        (
            KvMachine,
            [encode_command(Put(b"k%d" % (n % 5), b"v%d" % n, expect=0 if n % 3 else None)) for n in range(20)]
            + [encode_command(Delete(b"k1")), b"not a command"],
        ),
        (KvMachine, list(map(encode_command, LEASED))),
    ],
)
def test_a_machine_that_keeps_the_contract_passes(machine: Callable[[], FSM[object]], commands: list[bytes]) -> None:
    check_fsm(machine, commands, hash_seeds=(1,))


def test_a_machine_that_no_other_process_can_import_is_refused_with_advice() -> None:
    class Local(Items):
        pass

    with pytest.raises(UsageError, match="top of a module"):
        check_fsm(Local, COUNTS)


def test_check_fsm_of_an_object_or_of_texts_is_refused() -> None:
    with pytest.raises(TypeError, match="not a Raffle object"):
        check_fsm(Raffle(), [b"draw"])  # type: ignore[arg-type]
    for wrong in (["draw"], b"draw"):
        with pytest.raises(TypeError, match=r"commands must be (bytes|a collection of bytes)"):
            check_fsm(Raffle, wrong)  # type: ignore[arg-type]
