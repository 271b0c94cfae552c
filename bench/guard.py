"""Whether Syncline has become slower: a few seconds, as ratios to fixed yardsticks of the same run.

python -m bench.guard [--seconds 0.5] [--repeats 3] [--directory .] [--record]

The yardsticks are an HTTP echo on loopback (what the machine's processors and network do) and appends with fdatasync
(what its disk does). Each round measures them and Syncline one after the other, and the medians of the rounds' ratios
are set beside those that were recorded in `bench/guard.json`. A report for people: a slow run is no failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time

import msgspec

from bench.echo import echoes_per_s
from bench.generators import http1
from bench.load import Load, Outcome, Workload
from bench.peers.syncline import STALE_QUERY, Syncline, SynclineCluster
from bench.processes import Process
from bench.stats import median

RECORD = os.path.join(os.path.dirname(__file__), "guard.json")
CLIENTS = 64
APPENDED_BYTES = 512
NOTEWORTHY = 0.75
"""Below this share of what was recorded, the report says so. Shared machines make less than that of nothing."""

Ratios = dict[str, float]


def measure(cluster: SynclineCluster, echo_port: int, directory: str, seconds: float) -> Ratios:
    """One round."""
    address = cluster.addresses[cluster.leader()]
    echoes = echoes_per_s(echo_port, CLIENTS, seconds)

    def load(workload: Workload, clients: int) -> Outcome:
        return http1.generate(address, Load(workload, clients, seconds), stale_query=STALE_QUERY)

    before_us = fdatasync_us(directory, seconds)
    alone = load(Workload.WRITES, 1)
    sync_us = (before_us + fdatasync_us(directory, seconds)) / 2  # disks have moods: around it, not only before
    return {
        f"writes, {CLIENTS} clients, to echoes": load(Workload.WRITES, CLIENTS).per_s / echoes,
        f"linearizable reads, {CLIENTS} clients, to echoes": load(Workload.READS, CLIENTS).per_s / echoes,
        f"stale reads, {CLIENTS} clients, to echoes": load(Workload.STALE, CLIENTS).per_s / echoes,
        "fdatasync to the median of a write, 1 client": sync_us / alone.latencies_us.percentile_us(50),
    }


def fdatasync_us(directory: str, seconds: float) -> float:
    """The median of an append with its sync, in microseconds."""
    taken: list[float] = []
    path = os.path.join(directory, "appended")
    with open(path, "wb", buffering=0) as file:
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            file.write(bytes(APPENDED_BYTES))
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - start) * 1e6)
    os.remove(path)
    return median(taken)


def rounds(directory: str, seconds: float, repeats: int) -> Ratios:
    """The median of each ratio."""
    echo = Process([sys.executable, "-m", "bench.echo"], os.path.join(directory, "echo.log"), asked=True)
    try:
        port = echo.ask("port")
        assert isinstance(port, int)
        cluster = Syncline().start(directory)
        try:
            cluster.fill()
            found = [measure(cluster, port, directory, seconds) for _ in range(repeats)]
        finally:
            cluster.stop()
    finally:
        echo.stop()
    return {name: median([one[name] for one in found]) for name in found[0]}


def report(found: Ratios, recorded: Ratios) -> str:
    """A line per ratio, higher is better for all."""
    lines = [f"{'':<48} {'now':>7} {'recorded':>9} {'share':>7}"]
    for name, value in found.items():
        before = recorded.get(name)
        if before is None:
            lines.append(f"{name:<48} {value:>7.3f} {'-':>9} {'-':>7}")
            continue
        note = "   SLOWER" if value / before < NOTEWORTHY else ""
        lines.append(f"{name:<48} {value:>7.3f} {before:>9.3f} {value / before:>7.2f}{note}")
    return "\n".join(lines)


def load_record(path: str) -> Ratios:
    if not os.path.exists(path):
        return {}
    with open(path, "rb") as file:
        return msgspec.json.decode(file.read(), type=Ratios)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description="Whether Syncline has become slower.")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each part of a round (0.5)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (3)")
    parser.add_argument("--directory", default=".", help="a directory on the disk to measure (this one)")
    parser.add_argument("--record", action="store_true", help="keep the ratios, for others to be set beside")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="bench-guard-", dir=os.path.abspath(options.directory))
    try:
        found = rounds(directory, options.seconds, options.repeats)
    finally:
        shutil.rmtree(directory)
    print(report(found, load_record(RECORD)))
    if options.record:
        with open(RECORD, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


if __name__ == "__main__":
    main()
