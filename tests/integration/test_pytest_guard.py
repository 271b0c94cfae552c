"""`pytest --syncline-guard`, as a project that has Syncline installed sees it."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

MACHINES = """
import logging
import os
import random
import time

import pytest

from syncline import BytesSnapshot, Machine, command
from syncline.errors import Rejected


class Raw:
    def __init__(self):
        self.count = 0

    def apply(self, entry):
        if entry.data == b"clock":
            time.time()
        elif entry.data == b"entry":
            return entry.time_s + entry.random.random()
        elif entry.data == b"log":
            logging.getLogger("raw").warning("applied")
        elif entry.data == b"refuse":
            random.random()
            raise Rejected("no")
        self.count += 1
        return self.count

    def snapshot(self):
        return BytesSnapshot(b"%d" % self.count)

    def restore(self, source):
        self.count = int(source.read())


class Durable(Raw):
    applied_index = 0

    def apply(self, entry):
        with open(__file__) as file:
            file.read(1)
        return super().apply(entry)


class Typed(Machine):
    homes: list[str]

    @command
    def add(self) -> int:
        self.homes.append(str(os.environ.get("HOME")))
        return len(self.homes)

    @command
    def refuse(self) -> None:
        if random.random() < 2:
            raise Rejected("no")

    @command
    def draw(self) -> float:
        return self.entry.random.random() + self.entry.time_s


def test_sound_machines(raft_cluster):
    time.time()  # the test's own code is not a command
    cluster = raft_cluster(Raw, nodes=1)
    assert cluster.apply(b"entry") > 0
    cluster.apply(b"log")
    raft_cluster(Durable, nodes=1).apply(b"x")
    raft_cluster(Typed, nodes=1).apply(Typed.draw.encode())


def test_raw_machine_on_nodes(raft_cluster):
    assert raft_cluster(Raw, nodes=1).apply(b"clock") == 1


def test_refusal(raft_cluster):
    with pytest.raises(Rejected):
        raft_cluster(Raw, nodes=1).apply(b"refuse")


def test_typed_machine_on_nodes(raft_cluster):
    raft_cluster(Typed, nodes=1).apply(Typed.add.encode())


def test_typed_machine_by_hand():
    assert Typed.add(Typed()) == 1


def test_typed_machine_refuses_by_hand():
    with pytest.raises(Rejected):
        Typed.refuse(Typed())


def test_failing(raft_cluster):
    raft_cluster(Raw, nodes=1).apply(b"clock")
    assert False, "the test's own failure"


@pytest.mark.syncline_unguarded
def test_marked(raft_cluster):
    raft_cluster(Raw, nodes=1).apply(b"clock")


@pytest.fixture
def used(raft_cluster):
    raft_cluster(Raw, nodes=1).apply(b"clock")


def test_fixture(used):
    pass
"""

OPTIONS = ("-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:anyio", "-q")


def test_pytest_guard_names_the_line_of_each_call(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_machines=MACHINES)
    result = pytester.runpytest_subprocess(*OPTIONS, "--syncline-guard")
    assert result.parseoutcomes() == {"passed": 2, "failed": 6, "errors": 1}
    text = result.stdout.str()
    lines = MACHINES.lstrip().splitlines()
    for code, what in (
        ("time.time()", "(apply) reads the time: entry.time_s has a time that is the same on all nodes"),
        ("random.random()", "(apply) reads a random number: entry.random has numbers that are the same on all nodes"),
        ("self.homes.append", "(add) reads the environment: pass the value as an argument of the command"),
    ):
        line = next(number for number, found in enumerate(lines, 1) if found.strip().startswith(code))
        assert f"test_machines.py:{line} {what}" in text
    assert "the test's own failure" in text
    failed = {line.split("::")[1].split(" ")[0] for line in text.splitlines() if line.startswith("FAILED")}
    assert failed == {
        *("test_raw_machine_on_nodes", "test_refusal", "test_typed_machine_on_nodes", "test_typed_machine_by_hand"),
        *("test_typed_machine_refuses_by_hand", "test_failing"),
    }
    assert "ERROR test_machines.py::test_fixture" in text


def test_pytest_guard_can_be_a_setting(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_machines=MACHINES)
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nsyncline_guard = true\n")
    result = pytester.runpytest_subprocess(*OPTIONS, "-k", "by_hand")
    assert result.parseoutcomes() == {"failed": 2, "deselected": 7}
