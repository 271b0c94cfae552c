"""Who measures when."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator

import pytest
from bench.load import Load, Outcome, Workload
from bench.peers.peer import Cluster
from bench.stats import Histogram
from bench.turns import holding, measure, measure_in_turns


class Fake(Cluster):
    """A system that takes 10 µs for everything, of which one half is processor time, and notes when it is asked."""

    def __init__(self, name: str, notes: list[str]) -> None:
        super().__init__([])
        self._name = name
        self._notes = notes
        self._done = 0

    def fill(self) -> None:
        raise NotImplementedError

    def load(self, load: Load) -> Outcome:
        self._notes.append(f"{self._name} {load.seconds:g} s")
        self._done += 1000
        return Outcome(Histogram({10: 1000}), load.seconds, 0, 0.0)

    def cpu_s(self) -> float:
        return self._done * 5e-6


def test_systems_are_measured_in_turns_within_one_lock_per_repeat() -> None:
    notes: list[str] = []

    @contextlib.contextmanager
    def quiet() -> Iterator[None]:
        notes.append("quiet")
        yield
        notes.append("over")

    clusters = {name: Fake(name, notes) for name in ("a", "b")}
    load = Load(Workload.WRITES, 1, 5.0)
    samples = measure_in_turns(clusters, load, 2, quiet, lambda *_: None)
    once = ["quiet", "a 1 s", "a 5 s", "b 1 s", "b 5 s", "over"]
    assert notes == once * 2
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 2, "b": 2}


def test_a_sample_is_of_the_measurement_without_the_warm_up() -> None:
    sample = measure(Fake("a", []), Load(Workload.WRITES, 1, 5.0))
    assert sample.per_s == 200.0
    assert sample.cpu_s_per_1000 == pytest.approx(0.005)
    assert (sample.p50_ms, sample.p999_ms) == (0.01, 0.01)


def test_the_lock_is_held_alone_and_given_back(tmp_path: object) -> None:
    path = f"{tmp_path}/lock"
    with holding(path), open(path, "ab") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with open(path, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_lock_that_others_keep_is_not_waited_for_for_ever(tmp_path: object) -> None:
    path = f"{tmp_path}/lock"
    with open(path, "ab") as other, open(path, "ab") as third:
        fcntl.flock(other, fcntl.LOCK_SH)
        with holding(path, wait_s=0.1):
            fcntl.flock(third, fcntl.LOCK_SH | fcntl.LOCK_NB)  # it goes on without the lock
            fcntl.flock(third, fcntl.LOCK_UN)
        with pytest.raises(BlockingIOError):
            fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)
