"""Syncline beside other systems, in turns. `bench/README.md` says what has to be installed.

python -m bench [--only writes,reads,stale,mixed] [--clients 1,16,64,256] [--peers syncline,etcd,hashicorp]
                [--seconds 5] [--repeats 3] [--directory .] [--lock FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence

from bench import machine
from bench.load import Load, Workload
from bench.outputs import table
from bench.peers import PEERS
from bench.peers.peer import Cluster, Peer
from bench.turns import Cell, Sample, holding, measure_in_turns

OURS = "syncline"


def main() -> None:
    options = _parse()
    directory = tempfile.mkdtemp(prefix="bench-", dir=options.directory)
    try:
        print("\n".join(machine.describe(directory)), flush=True)
        if machine.filesystem(directory)[0] == "tmpfs":
            sys.exit("this directory is memory: a sync costs nothing there; choose another with --directory")
        samples = measure(directory, options)
    finally:
        shutil.rmtree(directory)
    print("\nmedians")
    print("\n".join(table.medians(samples, OURS)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Syncline beside other systems, in turns.")
    listed = ",".join
    parser.add_argument("--only", type=_listed, default=list(Workload), help=f"workloads: {listed(Workload)}")
    parser.add_argument("--clients", type=_numbers, default=[1, 16, 64, 256], help="numbers of clients (1,16,64,256)")
    parser.add_argument("--peers", type=_listed, default=list(PEERS), help=f"systems: {listed(PEERS)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement, whole ones (default: 5)")
    parser.add_argument("--repeats", type=int, default=3, help="of everything (default: 3)")
    parser.add_argument("--directory", default=".", help="a directory on the disk to measure (default: this one)")
    parser.add_argument("--lock", help="a file to lock around each round of measurements, on a shared machine")
    options = parser.parse_args()
    if unknown := sorted({*options.only} - {*Workload} | {*options.peers} - {*PEERS}):
        parser.error(f"unknown: {', '.join(unknown)}")
    return options


def _listed(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def measure(directory: str, options: argparse.Namespace) -> dict[Cell, list[Sample]]:
    """Start the systems and measure them in turns."""
    with running([PEERS[name] for name in options.peers], directory) as clusters:
        loads = [Load(Workload(name), clients, options.seconds) for name in options.only for clients in options.clients]
        print("\n" + table.HEAD)
        return measure_in_turns(
            clusters,
            loads,
            options.repeats,
            quiet=lambda: holding(options.lock),
            tell=lambda name, load, sample: print(table.line(name, load, sample), flush=True),
        )


@contextlib.contextmanager
def running(peers: Sequence[Peer], directory: str) -> Iterator[dict[str, tuple[Peer, Cluster]]]:
    """Those of the systems that can be had, started and filled. It says which can't."""
    clusters: dict[str, tuple[Peer, Cluster]] = {}
    try:
        for peer in peers:
            if missing := peer.missing():
                print(f"{peer.name}: left out, {missing} (see bench/README.md)", flush=True)
                continue
            own = tempfile.mkdtemp(prefix=f"{peer.name}-", dir=directory)
            clusters[peer.name] = peer, peer.start(own)
            clusters[peer.name][1].fill()
            print(f"{peer.name}: {peer.version()}. {peer.how}", flush=True)
        yield clusters
    finally:
        for _, cluster in clusters.values():
            cluster.stop()


if __name__ == "__main__":
    main()
