"""`check_fsm` reports the line at which the order of a set, or a hash, comes into the state."""

from __future__ import annotations

import inspect
import json
from typing import BinaryIO

import pytest

from syncline import Entry, FSMSnapshot, Machine, SnapshotSink, command
from syncline.testing import FSMProblem, check_fsm

NAMES = [b"alice", b"bob", b"carol", b"dave", b"erin", b"frank", b"grace"]


class Shown:
    def __init__(self, state: object) -> None:
        self.state = state

    def persist(self, sink: SnapshotSink, /) -> None:
        sink.write(json.dumps(self.state).encode())

    def release(self) -> None:
        pass


class Waiting:
    """Each command adds a name to a set; `draw` takes one out of it."""

    def __init__(self) -> None:
        self.waiting: set[str] = set()
        self.order: dict[str, int] = {}

    def apply(self, entry: Entry) -> object:
        if entry.data == b"draw":
            answer = self.draw()
            self.waiting.discard(min(self.waiting, default=""))
            return answer
        self.waiting.add(entry.data.decode())
        return None

    def draw(self) -> str:
        return min(self.waiting)

    def snapshot(self) -> FSMSnapshot:
        return Shown([sorted(self.waiting), sorted(self.order)])

    def restore(self, source: BinaryIO) -> None:
        waiting, order = json.load(source)
        self.waiting, self.order = set(waiting), dict.fromkeys(order, 0)


class Loop(Waiting):
    def draw(self) -> str:
        for name in self.waiting:  # parts here
            return name
        return ""


class Hashed(Waiting):
    def draw(self) -> str:
        names = sorted(self.waiting)
        place = hash(names[0]) % len(names)  # parts here
        return names[place]


class Branch(Waiting):
    def draw(self) -> str:
        if hash(min(self.waiting)) % 2:  # parts here
            return "odd"
        return "even"


class HiddenBefore(Waiting):
    """The state parts in one command, its snapshot shows nothing of it, and a later command answers by it."""

    def apply(self, entry: Entry) -> object:
        if entry.data == b"fix":
            self.order = dict.fromkeys(self.waiting, 0)  # parts here
            return len(self.order)
        return super().apply(entry)

    def draw(self) -> str:
        return " ".join(self.order)


class Listed(Machine, name="listed"):
    names: list[str]

    @command
    def put(self, given: list[str]) -> str:
        self.names = [name + "!" for name in set(given)]  # parts here
        return self.names[0]


def line_of(owner: type) -> str:
    lines, first = inspect.getsourcelines(owner)
    (at,) = [number for number, line in enumerate(lines, first) if "# parts here" in line]
    return f"{inspect.getsourcefile(owner)}:{at} "


@pytest.mark.parametrize("machine", [Loop, Hashed, Branch])
def test_check_fsm_reports_the_line_at_which_set_order_decides(machine: type[Waiting]) -> None:
    with pytest.raises(FSMProblem, match="another process") as found:
        check_fsm(machine, [*NAMES, *[b"draw"] * len(NAMES)], hash_seeds=(1, 2))
    assert line_of(machine) in found.value.difference
    assert "sort a set" in found.value.difference


def test_check_fsm_reports_the_line_of_an_earlier_command() -> None:
    with pytest.raises(FSMProblem, match="another process") as found:
        check_fsm(HiddenBefore, [*NAMES, b"fix", *[b"draw"] * 3], hash_seeds=(1, 2))
    assert found.value.command == b"draw"
    assert line_of(HiddenBefore) in found.value.difference


def test_check_fsm_reports_the_line_in_a_typed_machine() -> None:
    with pytest.raises(FSMProblem, match="another process") as found:
        check_fsm(Listed, [Listed.put.encode([name.decode() for name in NAMES])], hash_seeds=(1, 2))
    assert line_of(Listed) in found.value.difference
