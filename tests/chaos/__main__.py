"""Real chaos: `python -m tests.chaos --minutes M`.

Real nodes, each on a network of its own where this machine can make one; faults by a seed; clients that write down what
they were told; judges. Ends with 0 where nothing is wrong, with 1 and the evidence where something is.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence

from tests.chaos import sandbox
from tests.chaos.clients import TRAFFIC_PER_S
from tests.chaos.fleet import Fleet
from tests.chaos.judge import judge_history
from tests.chaos.lan import Lan
from tests.chaos.planted import PLANTED
from tests.chaos.report import Report, keep_evidence, table, write_evidence
from tests.chaos.run import Run, Settings
from tests.chaos.schedule import KINDS, NEEDS_LAN

MODULE = "tests.chaos"
INSIDE = "--inside"
BROKEN_OFF = 130


def main(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 31) if given.seed is None else given.seed
    if not given.no_netns and not given.inside:
        reason = sandbox.why_not()
        if reason is None:
            sandbox.enter(MODULE, [*arguments, INSIDE, "--seed", str(seed)])
        print(f"no network namespaces here ({reason}): on loopback, without faults of the network", file=sys.stderr)
    kinds = _kinds(given.faults, lan=given.inside)
    network = "each in its own network namespace" if given.inside else "on loopback, without faults of the network"
    report = Report(seed=seed, nodes=given.nodes, network=network)
    settings = Settings(seed=seed, seconds=given.minutes * 60, kinds=kinds, per_s=given.rate)
    directory = tempfile.mkdtemp(prefix="syncline-chaos-")
    evidence, target = os.path.join(directory, "evidence"), given.artifacts or f"chaos-{seed}"
    os.mkdir(evidence)
    complete = False
    _break_off_by_signals()
    try:
        run = asyncio.run(_run(settings, report, directory, evidence, given))
        report.anomalies += judge_history(run.history, run.agreement)
        complete = True
    except KeyboardInterrupt:
        print(f"broken off; what there is of history, schedule and logs: {target}", file=sys.stderr)
        return BROKEN_OFF
    finally:
        if report.anomalies or given.keep or not complete:
            keep_evidence(evidence, target, report)
        shutil.rmtree(directory)
    print(report.as_json().decode() if given.json else f"\n{table(report)}", flush=True)
    return 1 if report.anomalies else 0


async def _run(settings: Settings, report: Report, directory: str, evidence: str, given: argparse.Namespace) -> Run:
    lan = None
    if given.inside:
        lan = Lan(Fleet.names(given.nodes))
        lan.build()
        if lan.slowness[0] != "netem" and "slow" in settings.kinds:
            print("the kernel has no netem: a slow node's line is made thin (tc tbf) instead", file=sys.stderr)

    def tell(line: str) -> None:
        if not given.json:
            print(line, flush=True)

    fleet = Fleet(directory, given.nodes, lan, planted=given.planted)
    run = Run(fleet, settings, report, tell)
    tell(f"seed {settings.seed}, {given.nodes} nodes, {report.network}")
    try:
        await run.go()
    finally:
        fleet.close()
        write_evidence(evidence, fleet, run.history, run.done, report)
    return run


def _break_off_by_signals() -> None:
    """SIGTERM is Ctrl-C, also where this process is the first of its sandbox, which no signal ends by default."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def _kinds(given: str, *, lan: bool) -> list[str]:
    kinds = [kind for kind in KINDS if lan or kind not in NEEDS_LAN]
    if not given:
        return kinds
    chosen = given.split(",")
    for kind in chosen:
        if kind not in kinds:
            sys.exit(f"{kind!r} is no fault that can be had here; there are: {', '.join(kinds)}")
    return chosen


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {kind:15}{what}" for kind, what in KINDS.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description=__doc__,
        epilog=f"faults:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="how long faults go on (1)")
    parser.add_argument("--seed", type=int, help="what happens when; drawn where it is not given")
    parser.add_argument("--nodes", type=int, choices=(3, 5), default=3)
    parser.add_argument("--faults", default="", metavar="A,B", help="these alone")
    parser.add_argument("--rate", type=float, default=TRAFFIC_PER_S, help="operations a second, at most (100)")
    parser.add_argument("--no-netns", action="store_true", help="on loopback, without faults of the network")
    parser.add_argument("--json", action="store_true", help="the report as JSON, and no lines before it")
    parser.add_argument("--artifacts", default="", metavar="DIR", help="where evidence goes (chaos-SEED)")
    parser.add_argument("--keep", action="store_true", help="keep the evidence of a good run as well")
    parser.add_argument("--planted", default="", choices=PLANTED, help="nodes with this fault, which must be found")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
