"""Real processes killed at any moment, on a real file system: what was acknowledged is there, and nothing else is.

What a power cut leaves besides is in `test_crash_consistency.py`, on simulated disks.
`SYNCLINE_KILL_ROUNDS=200` kills more often.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from syncline.consensus.types import NO_LIMIT, HardState
from tests.helpers.killed_writer import Opened, entry

ROUNDS = int(os.environ.get("SYNCLINE_KILL_ROUNDS", "8"))
LINES_LIMIT = 400
"""A writer is killed before it has said so many lines: a start, and up to some two hundred steps."""


class Model:
    """What the directory holds, by what the writers have said. `pending` is the step whose end was not heard of."""

    def __init__(self) -> None:
        self.terms: dict[int, int] = {}
        self.state = HardState()
        self.snapshot = 0
        self.pending: list[int | str] | None = None

    def heard(self, line: str) -> None:
        words = line.split()
        if words[0] == "done":
            self.settle(done=True)
        elif words[0] != "ready":
            self.pending = [words[0], *map(int, words[1:])]

    def settle(self, *, done: bool) -> None:
        step, self.pending = self.pending, None
        if step is None or not done:
            return
        numbers = [number for number in step if isinstance(number, int)]
        if step[0] == "snapshot":
            self.snapshot = numbers[0]
            return
        first, final, term, vote, commit = numbers
        self.terms = {index: held for index, held in self.terms.items() if index < first}
        self.terms.update(dict.fromkeys(range(first, final + 1), term))
        self.state = HardState(term, vote, commit)

    def check(self, path: str) -> None:
        """A start finds all that is in the model, with or without the pending step, whole."""
        opened = Opened(path)
        try:
            log, newest = opened.log, opened.snapshots.newest()
            index = newest.index if newest is not None else 0
            state, last = log.hard_state, log.last_index()
            step = self.pending
            if step is not None and step[0] == "snapshot":
                self.settle(done=index != self.snapshot)
            else:
                self.settle(done=(state, last) != (self.state, max(self.terms, default=0)))
            assert (state, last, index) == (self.state, max(self.terms, default=0), self.snapshot), step
            assert log.first_index() <= self.snapshot + 1
            held = log.entries(log.first_index(), last + 1, NO_LIMIT) if log.first_index() <= last else []
            assert held == [entry(self.terms[at], at) for at in range(log.first_index(), last + 1)]
            if newest is not None:
                with opened.snapshots.read(newest) as reader:
                    assert reader.readall() == b"%d" % index * 3000
            assert opened.snapshots.damage == ()
        finally:
            opened.close()


def write_and_kill(path: str, seed: int, model: Model, lines: int) -> int:
    """Run a writer and kill it after it has said so much; how many steps it had done."""
    command = [sys.executable, "-m", "tests.helpers.killed_writer", path, str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    done = 0
    with process.stdout as output:
        for number, line in enumerate(output, 1):
            model.heard(line)
            done += line == "done\n"
            if number == lines:
                process.send_signal(signal.SIGKILL)  # it goes on while the signal is on its way: at any instruction
    assert process.wait() == -signal.SIGKILL, "it ended by itself"
    return done


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    rng = random.Random(4)
    model = Model()
    path = str(tmp_path / "data")
    done = 0
    for number in range(ROUNDS):
        done += write_and_kill(path, number, model, rng.randint(1, LINES_LIMIT))
        model.check(path)
    assert done > 20 * ROUNDS
    assert model.snapshot > 0
