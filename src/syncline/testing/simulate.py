"""`python -m syncline.testing.simulate`: run seeds, and replay failing ones.

    python -m syncline.testing.simulate --seed 7 --trace
    python -m syncline.testing.simulate --seeds 1-1000 --jobs 2
    python -m syncline.testing.simulate --seed 7 --html run.html

It ends with status 1 if a seed fails.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

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
        faults=_faults(parsed.faults),
        without=_faults(parsed.without) or (),
        chosen_clients=_numbers(parsed.clients),
        pending=_pending(parsed.pending),
    )
    with _quiet():
        if parsed.seed is not None:
            return _one(parsed.seed, options, parsed)
        first, _, last = parsed.seeds.partition("-")
        return _many(range(int(first), int(last or first) + 1), options, parsed)


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
    which.add_argument("--seeds", metavar="A-B", help="run the seeds from A to B")
    parser.add_argument(
        "--nodes", type=int, choices=(1, 2, 3, 4, 5, 7), help="first members; by default 3 or 5, by seed"
    )
    parser.add_argument("--sim-seconds", type=float, default=SIM_SECONDS, help="how long clients and faults go on")
    parser.add_argument("--faults", help=f"these and no others, with commas, or `none`: {', '.join(FAULTS)}")
    parser.add_argument("--without", help="leave these faults out; the chance of the others stays as it is")
    parser.add_argument("--clients", help="have only these clients work, by number, with commas, or `none`")
    parser.add_argument(
        "--shrink-seconds",
        type=float,
        default=BUDGET_S,
        help="how long to look for a smaller run that fails alike; 0: not at all (default: %(default)g)",
    )
    parser.add_argument(
        "--pending",
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
    parser.add_argument("--jobs", type=int, default=1, help="processes (with --seeds)")
    return parser


def _writable(path: str) -> str:
    """A file that can be made, before minutes of work for it."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} can't be written: name a file in a folder that exists")
    return path


def _faults(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name for name in text.split(",") if name != "none")
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise SystemExit(f"no such faults: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return names


def _pending(text: str) -> tuple[str, ...]:
    names = tuple(sorted(PENDING)) if text == "all" else tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in PENDING]
    if unknown:
        raise SystemExit(f"no such pending invariants: {', '.join(unknown)}; there are {', '.join(sorted(PENDING))}")
    return names


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
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


def _many(seeds: range, options: Options, parsed: argparse.Namespace) -> int:
    began_s = time.perf_counter()
    steps, sim_s, failed = 0, 0.0, []
    errors: dict[str, tuple[int, int]] = {}
    for count, report in enumerate(_reports(seeds, options, parsed.jobs), 1):
        steps += report.steps
        sim_s += report.sim_s
        for kind, (ordered, met) in report.disk_errors.items():
            before = errors.get(kind, (0, 0))
            errors[kind] = (before[0] + ordered, before[1] + met)
        if report.failure is not None:
            failed.append(report.seed)
            _print([f"seed {report.seed} fails: {report.failure}", f"  {_command(report.seed, options)}"])
        if count % PROGRESS_SEEDS == 0:
            _print([f"{count} seeds, {steps} steps, {len(failed)} failed, {time.perf_counter() - began_s:.0f} s"])
    elapsed_s = time.perf_counter() - began_s
    total = f"{len(seeds)} seeds, {steps} steps, {sim_s:.0f} simulated seconds in {elapsed_s:.1f} s"
    speed = f"{steps / elapsed_s:.0f} steps/s, {sim_s / elapsed_s:.1f} simulated seconds a second"
    _print([f"{total}: {speed}; {len(failed)} failed"])
    if errors:
        kinds = ", ".join(f"{kind} {met} of {ordered}" for kind, (ordered, met) in sorted(errors.items()))
        _print([f"disk errors that were met: {kinds}"])
    if failed:
        _explain(run_seed(failed[0], options), options, parsed)
    elif parsed.html is not None:
        _print([f"no seed failed: {parsed.html} is not written; take --seed for the page of a run that holds"])
    return 1 if failed else 0


def _reports(seeds: Iterable[int], options: Options, jobs: int) -> Iterator[SeedReport]:
    run = partial(_run_quietly, options=options)
    if jobs == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
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


if __name__ == "__main__":
    raise SystemExit(main())
