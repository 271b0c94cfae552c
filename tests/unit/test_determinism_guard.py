"""The guard reports the line of each call that differs from node to node."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import gc
import io
import json
import linecache
import os
import platform
import pprint
import random
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncline import Entry, Machine, command
from syncline.testing import FSMProblem, NotDeterministic, check_fsm, guard_determinism
from syncline.testing.fsm.line_trace import trace


def environment() -> object:
    return os.environ.get("HOME")


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (time.time, "the time"),
        (time.monotonic_ns, "the time"),
        (lambda: dt.datetime.now(dt.UTC), "the time"),
        (dt.date.today, "the time"),
        (random.random, "a random number"),
        (lambda: random.choice("ab"), "a random number"),
        (lambda: random.shuffle([1, 2]), "a random number"),
        (uuid.uuid4, "a random number"),
        (uuid.uuid1, "a random number"),
        (lambda: time.clock_gettime(0), "the time"),
        (time.ctime, "the time"),
        (time.thread_time, "the time"),
        (lambda: os.urandom(1), "a random number"),
        (environment, "the environment"),
        (lambda: os.getenv("HOME"), "the environment"),
        (lambda: Path(__file__).read_text(), "files or the network"),
        (lambda: os.path.lexists(__file__), "files or the network"),
        (lambda: next(os.walk(".")), "files or the network"),
        (lambda: os.access(".", os.R_OK), "files or the network"),
        (os.getcwd, "files or the network"),
        (lambda: os.system("true"), "files or the network"),
        (socket.gethostname, "the machine"),
        (os.uname, "the machine"),
        (os.cpu_count, "the machine"),
        (os.getppid, "the process"),
        (lambda: id(object()), "an address in memory"),
        (lambda: random.Random().random(), "a random number"),
        (random.seed, "a random number"),
        (platform.node, "the machine"),
        (platform.python_version, "the machine"),
        (lambda: dt.datetime(2026, 1, 1).timestamp(), "the time zone"),  # noqa: DTZ001 - that is the fault
        (lambda: dt.datetime(2026, 1, 1).astimezone(), "the time zone"),
        (lambda: dt.date.fromtimestamp(7), "the time zone"),  # noqa: DTZ012
        (lambda: time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, 0)), "the time zone"),
    ],
)
def test_guard_reports_what_is_read(call: Callable[[], object], what: str) -> None:
    with pytest.raises(NotDeterministic, match=f"test_determinism_guard.py:.* reads {what}"), guard_determinism():
        call()


def test_guard_reports_reads_of_a_file_that_is_open_already() -> None:
    with Path(__file__).open() as text, Path(__file__).open("rb") as raw:
        for read in (text.readline, raw.read, lambda: os.read(raw.fileno(), 1)):
            with pytest.raises(NotDeterministic, match="reads files or the network"), guard_determinism():
                read()


def test_guard_passes_what_is_deterministic() -> None:
    """A source that is seeded by the entry, times that are arguments, sorted sets."""
    before = sys.getprofile()
    with guard_determinism():
        assert random.Random(7).random() == random.Random(7).random()
        assert dt.datetime.fromtimestamp(7, dt.UTC) + dt.timedelta(seconds=1) > dt.datetime.fromtimestamp(7, dt.UTC)
        assert sorted({"b", "a"}) == ["a", "b"]
        assert io.TextIOWrapper(io.BytesIO(b"in memory")).read() == "in memory"
        assert dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp() == 1_767_225_600
        assert dt.datetime(2026, 1, 1, tzinfo=dt.UTC).astimezone(dt.timezone(dt.timedelta(hours=1))).hour == 1
    assert sys.getprofile() is before


@dataclasses.dataclass
class Point:
    x: int


def test_guard_passes_addresses_that_the_standard_library_looks_up() -> None:
    """A copy, a representation and the search for a circle take `id` to know an object again, not for a result."""
    with guard_determinism():
        assert copy.deepcopy([[1], [2]]) == [[1], [2]]
        assert repr(Point(1)) == "Point(x=1)"
        assert json.dumps({"a": [1]}, indent=1)
        assert pprint.pformat({"a": [1] * 40})


def test_guard_passes_an_import_and_the_lines_of_a_traceback() -> None:
    """They read the program itself. What an imported module runs at its top was not the command's choice either."""
    sys.modules.pop("colorsys", None)
    linecache.clearcache()
    with guard_determinism():
        import colorsys

        try:
            int("x")
        except ValueError:
            assert "int" in traceback.format_exc()
    assert colorsys.rgb_to_yiq(0, 0, 0) == (0, 0, 0)


def test_guard_reports_a_thread_that_is_started() -> None:
    def work() -> None:
        thread = threading.Thread(target=list)
        thread.start()
        thread.join()

    with pytest.raises(NotDeterministic, match=r"\(work\) starts a thread"), guard_determinism():
        work()


def test_guard_lets_errors_of_the_code_pass() -> None:
    with pytest.raises(KeyError, match="code"), guard_determinism():
        raise KeyError("code")


class Hidden(Machine):
    """It reads the clock, and its state does not show it."""

    count: int

    @command
    def add(self) -> int:
        self.count += 1 if time.time() else 2
        return self.count


def test_guard_finds_the_line_in_a_machine() -> None:
    with pytest.raises(NotDeterministic) as found, guard_determinism():
        Hidden().apply(Entry(1, 1, Hidden.add.encode()))
    (line,) = found.value.findings
    assert "(add) reads the time" in line


def test_check_fsm_reports_hidden_calls() -> None:
    with pytest.raises(FSMProblem, match=r"add.* reads the time") as found:
        check_fsm(Hidden, [Hidden.add.encode()], processes=False)
    assert found.value.index == 1


class Cycle:
    """It is freed by a run of the collector alone."""

    def __init__(self) -> None:
        self.myself = self

    def __del__(self) -> None:
        time.time()


class Allocating(Machine):
    """Its command makes the collector run, unless that is put off."""

    made: list[list[int]]

    @command
    def make(self) -> int:
        self.made = list(map(list, [(1,)] * (3 * gc.get_threshold()[0])))  # within one line
        return len(self.made)


@pytest.fixture
def collector_reads_the_time() -> Iterator[list[str]]:
    """A callback of the collector that reads the time, as one of hypothesis does. The list has its runs."""
    runs: list[str] = []

    def callback(phase: str, info: dict[str, int]) -> None:
        time.time()
        runs.append(phase)

    enabled = gc.isenabled()
    gc.enable()
    gc.callbacks.append(callback)
    yield runs
    gc.callbacks.remove(callback)
    if not enabled:
        gc.disable()


def test_guard_leaves_out_the_garbage_collector(collector_reads_the_time: list[str]) -> None:
    Cycle()
    with guard_determinism():
        assert Allocating().apply(Entry(1, 1, Allocating.make.encode()))
        assert not collector_reads_the_time
    assert gc.isenabled()
    Allocating().apply(Entry(1, 1, Allocating.make.encode()))
    assert collector_reads_the_time


def test_guard_leaves_a_disabled_collector_disabled() -> None:
    enabled = gc.isenabled()
    gc.disable()
    try:
        with guard_determinism():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        if enabled:
            gc.enable()


def test_line_trace_leaves_out_the_garbage_collector(collector_reads_the_time: list[str]) -> None:
    lines = trace(Allocating(), [Allocating.make.encode()], 1).lines
    assert {line.function for line in lines} == {"make"}
