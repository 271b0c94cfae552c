"""Run a state machine in processes with other hash seeds and time zones, and find the line at which two part."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from syncline.testing.fsm.line_trace import CommandTrace, parting
from syncline.testing.fsm.process import Task, decode
from syncline.testing.fsm.run import Record

__all__ = ["PROCESS_TIMEOUT_S", "run_task", "where_they_part"]

PROCESS_TIMEOUT_S: Final = 120.0

ZONES: Final = ("CHECK+07:30", "CHECK-05:45")
"""Time zones of the other processes, which no machine has: what reads the zone differs."""

OTHER_SEEDS: Final = (0, 1, 2, 3, 4, 5)
"""Tried one after the other until a run parts from the first one: two seeds may order a small set in the same way."""


def run_task(task: Task, hash_seed: int) -> subprocess.CompletedProcess[bytes]:
    """Run the task in a process with this `PYTHONHASHSEED`, and with the time zone of that seed."""
    return subprocess.run(
        [sys.executable, "-m", "syncline.testing.fsm.process"],
        input=msgspec.json.encode(task),
        capture_output=True,
        env={
            **os.environ,
            "PYTHONHASHSEED": str(hash_seed),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TZ": ZONES[hash_seed % len(ZONES)],
        },
        timeout=PROCESS_TIMEOUT_S,
        check=False,
    )


def where_they_part(task: Callable[[int], Task], records: Sequence[Record], hash_seed: int) -> str:
    """The first line at which the run with this hash seed and one with another seed part.

    `task` makes the task that traces the command with a number, or none (0); `records` are the results with
    `hash_seed`. Empty if no two runs part in what a trace shows.
    """
    for other in OTHER_SEEDS:
        if other != hash_seed:
            run = run_task(task(0), other)
            place = (
                "" if run.returncode else _place(task, _first_other(records, decode(run.stdout)), (hash_seed, other))
            )
            if place:
                return place
    return ""


def _first_other(one: Sequence[Record], other: Sequence[Record]) -> int:
    """The number of the first command whose results differ; 0: none."""
    return next((number for number, pair in enumerate(zip(one, other, strict=True), 1) if pair[0] != pair[1]), 0)


def _place(task: Callable[[int], Task], number: int, hash_seeds: tuple[int, int]) -> str:
    while number:
        runs = [run_task(task(number), seed) for seed in hash_seeds]
        if any(run.returncode for run in runs):
            return ""  # the trace itself fails: the problem is reported without a line
        one, other = (msgspec.json.decode(run.stdout, type=CommandTrace) for run in runs)
        earlier, place = parting(one, other)
        if earlier == number:
            return place
        number = earlier
    return ""
