"""`check_fsm` reports the line at which the order of a set, or a hash, comes into the state."""

from __future__ import annotations

import inspect

import pytest

from syncline import Machine, command
from syncline.testing import FSMProblem, check_fsm
from tests.helpers.checked_machines import Branch, Hashed, HiddenBefore, Loop, Waiting

NAMES = [b"alice", b"bob", b"carol", b"dave", b"erin", b"frank", b"grace"]


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
