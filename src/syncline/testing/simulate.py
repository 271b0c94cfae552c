"""`python -m syncline.testing.simulate`: run seeds, and replay failing ones.

    python -m syncline.testing.simulate --seed 7 --trace
    python -m syncline.testing.simulate --seeds 1-1000 --jobs 2
    python -m syncline.testing.simulate --seed 7 --html run.html

It ends with status 1 if a seed fails, 2 if an argument can't be used, and 130 or 143 if it is interrupted.
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import os
import shlex
import signal
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from types import FrameType
from typing import Final, NoReturn

import msgspec

from syncline.testing.faults.table import FAULTS
from syncline.testing.invariants.all import PENDING
from syncline.testing.sim.page import page_of
from syncline.testing.sim.recorded import run_of
from syncline.testing.sim.seeds import SIM_SECONDS, Options, SeedReport, run_seed
from syncline.testing.sim.shrinking import BUDGET_S, shrink

__all__ = ["main"]

TRACE_LINES: Final = 80
"""Lines of the trace before a failure; the whole of it is there with `--trace`."""

PROGRESS_SEEDS: Final = 100


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 1 if a seed failed."""
    parsed = _parser().parse_args(arguments)
    options = Options(
        nodes=parsed.nodes,
        sim_seconds=parsed.sim_seconds,
        faults=parsed.faults,
        without=parsed.without or (),
        chosen_clients=parsed.clients,
        pending=parsed.pending,
    )
    with _quiet():
        if parsed.seed is not None:
            return _one(parsed.seed, options, parsed)
        return _many(parsed.seeds, options, parsed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the nodes' logs: faults are expected. The caller restores them afterwards."""
    logger = logging.getLogger("syncline")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m syncline.testing.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="run one seed")
    which.add_argument("--seeds", metavar="A-B", type=_seeds, help="run the seeds from A to B")
    parser.add_argument(
        "--nodes", type=int, choices=(1, 2, 3, 4, 5, 7), help="first members; by default 3 or 5, by seed"
    )
    parser.add_argument("--sim-seconds", type=_seconds, default=SIM_SECONDS, help="how long clients and faults go on")
    parser.add_argument(
        "--faults", type=_faults, help=f"these and no others, with commas, or `none`: {', '.join(FAULTS)}"
    )
    parser.add_argument(
        "--without", type=_faults, help="leave these faults out; the chance of the others stays as it is"
    )
    parser.add_argument(
        "--clients", type=_numbers, help="have only these clients work, by number, with commas, or `none`"
    )
    parser.add_argument(
        "--shrink-seconds",
        type=float,
        default=BUDGET_S,
        help="how long to look for a smaller run that fails alike; 0: not at all (default: %(default)g)",
    )
    parser.add_argument(
        "--pending",
        type=_pending,
        default="",
        help=f"judge by these that the product does not keep yet, too, or by `all`: {', '.join(sorted(PENDING))}",
    )
    parser.add_argument("--trace", action="store_true", help="print the whole trace (with --seed)")
    parser.add_argument(
        "--html",
        metavar="FILE",
        type=_writable,
        help="write the run as a page: the shrunk one of the (first) seed that fails, or with --seed one that holds",
    )
    parser.add_argument("--jobs", type=_jobs, default=1, help="processes (with --seeds)")
    return parser


def _writable(path: str) -> str:
    """A file that can be made, before minutes of work for it."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} can't be written: name a file in a folder that exists")
    return path


def _seeds(text: str) -> range:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: write the first and the last seed, as in 1-1000")
    seeds = range(int(first), int(last or first) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text!r} has no seed: the first one is above the last one")
    return seeds


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no time that clients and faults can go on: it must be above 0")
    return seconds


def _jobs(text: str) -> int:
    jobs = int(text)
    if jobs < 1:
        raise argparse.ArgumentTypeError(f"{text}: there must be at least 1 process")
    return jobs


def _faults(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name != "none")
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such faults: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return names


def _pending(text: str) -> tuple[str, ...]:
    names = tuple(sorted(PENDING)) if text == "all" else tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in PENDING]
    if unknown:
        there = ", ".join(sorted(PENDING)) or "none now"
        raise argparse.ArgumentTypeError(f"no such pending invariants: {', '.join(unknown)}; there are {there}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number != "none")


def _one(seed: int, options: Options, parsed: argparse.Namespace) -> int:
    began_s = time.perf_counter()
    report = run_seed(seed, _traced(options) if parsed.trace else options)
    elapsed_s = time.perf_counter() - began_s
    if parsed.trace:
        _print(report.trace)
    if report.failure is not None:
        _explain(report, options, parsed)
        return 1
    if parsed.html is not None:
        _write_page(parsed.html, seed, options)
    _print([f"seed {seed} holds: {report.steps} steps, {report.sim_s:.1f} simulated seconds in {elapsed_s:.2f} s"])
    return 0


class _Totals:
    """What many seeds came to."""

    def __init__(self, options: Options) -> None:
        self.failed: list[int] = []
        self._options = options
        self._began_s = time.perf_counter()
        self._seeds, self._steps, self._sim_s = 0, 0, 0.0
        self._errors: dict[str, tuple[int, int]] = {}

    def add(self, report: SeedReport) -> None:
        """Count a seed; print it if it fails."""
        self._seeds += 1
        self._steps += report.steps
        self._sim_s += report.sim_s
        for kind, (ordered, met) in report.disk_errors.items():
            before = self._errors.get(kind, (0, 0))
            self._errors[kind] = (before[0] + ordered, before[1] + met)
        if report.failure is not None:
            self.failed.append(report.seed)
            _print([f"seed {report.seed} fails: {report.failure}", f"  {_command(report.seed, self._options)}"])
        if self._seeds % PROGRESS_SEEDS == 0:
            elapsed_s = time.perf_counter() - self._began_s
            _print([f"{self._seeds} seeds, {self._steps} steps, {len(self.failed)} failed, {elapsed_s:.0f} s"])

    def show(self) -> None:
        elapsed_s = time.perf_counter() - self._began_s
        total = f"{self._seeds} seeds, {self._steps} steps, {self._sim_s:.0f} simulated seconds in {elapsed_s:.1f} s"
        speed = f"{self._steps / elapsed_s:.0f} steps/s, {self._sim_s / elapsed_s:.1f} simulated seconds a second"
        _print([f"{total}: {speed}; {len(self.failed)} failed"])
        if self._errors:
            kinds = ", ".join(f"{kind} {met} of {ordered}" for kind, (ordered, met) in sorted(self._errors.items()))
            _print([f"disk errors that were met: {kinds}"])


def _many(seeds: range, options: Options, parsed: argparse.Namespace) -> int:
    totals = _Totals(options)
    try:
        with closing(_reports(seeds, options, parsed.jobs)) as reports:
            for report in reports:
                totals.add(report)
    except KeyboardInterrupt:
        _print([f"interrupted, of {len(seeds)} seeds:"])
        totals.show()
        raise
    totals.show()
    failed = totals.failed
    if failed:
        _explain(run_seed(failed[0], options), options, parsed)
    elif parsed.html is not None:
        _print([f"no seed failed: {parsed.html} is not written; take --seed for the page of a run that holds"])
    return 1 if failed else 0


def _reports(seeds: Iterable[int], options: Options, jobs: int) -> Generator[SeedReport, None, None]:
    run = partial(_run_quietly, options=options)
    if jobs == 1:
        yield from map(run, seeds)
        return
    # Ctrl-C goes to all processes of a terminal: this one tells the others, and they print nothing of it.
    with multiprocessing.get_context("spawn").Pool(jobs, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield from pool.imap_unordered(run, seeds, chunksize=8)


def _run_quietly(seed: int, options: Options) -> SeedReport:
    with _quiet():
        report = run_seed(seed, options)
    report.history = []  # of no use to the other process
    return report


def _explain(report: SeedReport, options: Options, parsed: argparse.Namespace) -> None:
    """Shrink the run, and print the end of the smallest one that fails alike."""
    shrink_s: float = parsed.shrink_seconds
    again = run_seed(report.seed, options)
    if str(again.failure) != str(report.failure):
        _print([f"NOT DETERMINISTIC: the replay came to {again.failure}"])
    _print(["", f"seed {report.seed} fails: {report.failure}", f"replay: {_command(report.seed, options)} --trace"])
    shrunk = shrink(report.seed, options, clock=time.monotonic, budget_s=shrink_s) if shrink_s > 0 else None
    if shrunk is not None:
        options = shrunk.options
    traced = run_seed(report.seed, _traced(options))
    _print(["", f"the end of the trace of seed {report.seed}:", *traced.trace[-TRACE_LINES:], ""])
    if shrunk is not None:
        _print([str(shrunk)])
    _print([f"seed {report.seed} fails: {traced.failure}", f"replay: {_command(report.seed, options)} --trace"])
    if parsed.html is not None:
        _write_page(parsed.html, report.seed, options, str(shrunk or ""))


def _write_page(path: str, seed: int, options: Options, shrunk: str = "") -> None:
    run = run_of(seed, _traced(options), command=_command(seed, options), shrunk=shrunk)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(page_of(run))
    except OSError as error:
        raise SystemExit(f"{path} can't be written: {error.strerror or error}") from error
    _print([f"the run as a page: {path}"])


def _traced(options: Options) -> Options:
    return msgspec.structs.replace(options, trace=True)


def _command(seed: int, options: Options) -> str:
    words = [f"python -m syncline.testing.simulate --seed {seed}"]
    if options.nodes is not None:
        words.append(f"--nodes {options.nodes}")
    if options.sim_seconds != SIM_SECONDS:
        words.append(f"--sim-seconds {options.sim_seconds:g}")
    if options.faults is not None:
        words.append(f"--faults {','.join(options.faults) or 'none'}")
    if options.without:
        words.append(f"--without {','.join(options.without)}")
    if options.chosen_clients is not None:
        words.append(f"--clients {','.join(map(str, options.chosen_clients)) or 'none'}")
    if options.pending:
        words.append(f"--pending {shlex.quote(','.join(options.pending))}")
    return " ".join(words)


def _print(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends the other processes as Ctrl-C does."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the form of a handler
    raise _Terminated


def _program() -> int:
    """`main` as a program, which a signal ends without a traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return main()
    except KeyboardInterrupt as ended:
        return 128 + (signal.SIGTERM if isinstance(ended, _Terminated) else signal.SIGINT)


if __name__ == "__main__":
    raise SystemExit(_program())
