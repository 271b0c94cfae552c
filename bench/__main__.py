"""Syncline beside other systems, in turns, and Syncline alone. `bench/README.md` says what has to be installed.

python -m bench [--only writes,reads,failover,...] [--clients 1,16,64,256] [--peers syncline,etcd,...] [--seconds 5]
                [--repeats 3] [--directory .] [--lock FILE] [--results FILE] [--page DIRECTORY]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from bench import machine, results
from bench.figures import Scale
from bench.load import Load, Workload
from bench.outputs import page, table
from bench.peers import PEERS
from bench.peers.peer import Cluster
from bench.results import Results, Row, System
from bench.targets import TARGETS
from bench.turns import Sample, holding, measure_in_turns
from bench.workloads import WORKLOADS

ALL = [*Workload, *WORKLOADS]


def main() -> None:
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that what was started is stopped
    directory = tempfile.mkdtemp(prefix="bench-", dir=os.path.abspath(options.directory))
    try:
        found = _results(options, directory)
        print("\n".join(found.machine), flush=True)
        _measure_cells(found, options, directory)
        _measure_figures(found, options, directory)
    finally:
        shutil.rmtree(directory)
    if found.rows:
        print("\n" + "\n".join(table.medians(found, "syncline")))
    verdicts = [verdict for target in TARGETS if (verdict := target.verdict(found)).holds is not None]
    for verdict in verdicts:
        holds = "holds" if verdict.holds else "MISSED"
        print(f"{holds:<7} {verdict.what}: {verdict.measured} (target {verdict.target})")
    if options.page:
        print(f"\nwritten: {page.write(found, options.page)}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Syncline beside other systems, in turns.")
    scale = Scale()
    parser.add_argument("--only", type=_listed, default=ALL, help=", ".join(ALL))
    parser.add_argument("--clients", type=_numbers, default=[1, 16, 64, 256], help="numbers of clients (1,16,64,256)")
    parser.add_argument("--peers", type=_listed, default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--seconds", type=float, default=scale.seconds, help="of each measurement, whole ones (5)")
    parser.add_argument("--repeats", type=int, default=3, help="of what is measured in turns (3)")
    parser.add_argument("--failovers", type=int, default=scale.failovers, help="how many (20)")
    parser.add_argument("--keys", type=int, default=scale.keys, help="of `million`, if it is to be less")
    parser.add_argument("--directory", default=".", help="a directory on the disk to measure (this one)")
    parser.add_argument("--lock", help="a file to lock around each round of measurements, on a shared machine")
    parser.add_argument("--results", help="a file to keep all figures in; what it has of other cells stays")
    parser.add_argument("--page", help="a directory for the page and its plots")
    options = parser.parse_args()
    if unknown := sorted({*options.only} - {*ALL} | {*options.peers} - {*PEERS}):
        parser.error(f"unknown: {', '.join(unknown)}")
    return options


def _listed(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _results(options: argparse.Namespace, directory: str) -> Results:
    """Those that are to be added to, or new ones."""
    date = dt.datetime.now().astimezone().date().isoformat()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    if options.results and os.path.exists(options.results):
        found = results.load(options.results)
        if commit.strip() not in found.commit.split(", "):
            found.commit += f", {commit.strip()}"
        return found
    return Results(date, machine.describe(directory), commit.strip() or "unknown")


def _measure_cells(found: Results, options: argparse.Namespace, directory: str) -> None:
    """All systems under all loads."""
    workloads = [workload for workload in Workload if workload in options.only]
    if not workloads:
        return
    with running(options.peers, found, directory) as clusters:
        print("\n" + table.HEAD)
        for workload in workloads:
            asked = {name: cluster for name, cluster in clusters.items() if workload in PEERS[name].workloads}
            for number in options.clients:
                load = Load(workload, number, options.seconds)
                samples = measure_in_turns(asked, load, options.repeats, lambda: holding(options.lock), _tell)
                found.add_rows([Row(name, workload, number, options.seconds, of) for name, of in samples.items()])
                _keep(found, options)


def _tell(name: str, load: Load, sample: Sample) -> None:
    print(table.line(name, load, sample), flush=True)


def _measure_figures(found: Results, options: argparse.Namespace, directory: str) -> None:
    """What is measured of ours alone."""
    scale = Scale(
        seconds=options.seconds,
        failovers=options.failovers,
        keys=options.keys,
        peers=tuple(options.peers),
        repeats=options.repeats,
    )
    for name, run in WORKLOADS.items():
        if name not in options.only:
            continue
        print(f"\n{name}", flush=True)
        own = tempfile.mkdtemp(prefix=f"{name}-", dir=directory)
        figures = run(own, scale, lambda: holding(options.lock))
        shutil.rmtree(own)
        for figure in figures:
            print(f"{figure.title}: {figure.value:,.3g} {figure.unit}   {figure.note}", flush=True)
        found.add_figures(figures)
        _keep(found, options)


def _keep(found: Results, options: argparse.Namespace) -> None:
    if options.results:
        results.save(found, options.results)


@contextlib.contextmanager
def running(names: list[str], found: Results, directory: str) -> Iterator[dict[str, Cluster]]:
    """Those of the systems that can be had, started and filled. It says which can't."""
    clusters: dict[str, Cluster] = {}
    try:
        for name in names:
            peer = PEERS[name]
            if missing := peer.missing():
                found.systems[name] = System(missing=missing)
                print(f"{name}: left out, {missing} (see bench/README.md)", flush=True)
                continue
            clusters[name] = peer.start(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))
            clusters[name].fill()
            found.systems[name] = System(peer.version(), peer.how)
            print(f"{name}: {peer.version()}. {peer.how}", flush=True)
        yield clusters
    finally:
        for cluster in clusters.values():
            cluster.stop()


if __name__ == "__main__":
    main()
