"""Two trees of Syncline side by side: has a change cost or won something?

    python -m bench.paired --base CHECKOUT [--now CHECKOUT] [--only writes,reads,...] [--turns 30] [--seconds 1]
                           [--directory .] [--lock FILE]

A three-node cluster of each tree runs, both at once, with the same interpreter and the same generator. They are loaded
in alternating short turns, so that what disturbs the machine disturbs both; each ratio is of two turns, one directly
after the other. Which tree has the first turn alternates. Which cluster starts first matters too, so both are started
again half-way, in the other order.

The rate depends on what else the machine does. The processor time per operation depends on it far less: it is of the
leader's process, and of all three nodes together. A report for people: a loss is marked and is no failure.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import machine
from bench.figures import Quiet
from bench.generators import closedloop, http1
from bench.load import KEYS, VALUE_BYTES, Load, Workload
from bench.peers.syncline import STALE_QUERY, SynclineCluster
from bench.turns import holding

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

LARGE_BYTES = 16 << 10
LARGE_KEYS = 100
"""Few, so that the state stays small: what is measured is the way of the bytes."""

MAC_NODE = "bench.peers.mac_node"
WARM_UP_S = 0.5
LOSS = 0.97
"""Below it, the median of the rates' ratios is marked: as a loss if three quarters of the ratios are below 1, else as
unsure, because the machine was disturbed."""

SECRET_FLAG = "--peer-secret-file"
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Cell:
    """One load, and the settings of the nodes that it is measured on."""

    name: str
    workload: Workload
    clients: int
    value_bytes: int = VALUE_BYTES
    keys: int = KEYS
    secret: bool = False
    mac: bool = False
    """Whether the links carry the MAC of frames, which they leave out on loopback."""

    @property
    def title(self) -> str:
        clients = "1 client" if self.clients == 1 else f"{self.clients} clients"
        size = f"{self.value_bytes >> 10} KiB" if self.value_bytes >= 1 << 10 else f"{self.value_bytes} B"
        settings = (", secret and MAC" if self.mac else ", secret") if self.secret else ""
        return f"{self.workload}, {clients}, {size}{settings}"


CELLS = (
    Cell("writes", Workload.WRITES, 64),
    Cell("write", Workload.WRITES, 1),
    Cell("reads", Workload.READS, 64),
    Cell("stale", Workload.STALE, 64),
    Cell("large", Workload.WRITES, 64, LARGE_BYTES, LARGE_KEYS),
    Cell("secret", Workload.WRITES, 64, secret=True),
    Cell("secret-large", Workload.WRITES, 64, LARGE_BYTES, LARGE_KEYS, secret=True),
    Cell("mac", Workload.WRITES, 64, secret=True, mac=True),
    Cell("mac-large", Workload.WRITES, 64, LARGE_BYTES, LARGE_KEYS, secret=True, mac=True),
)


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout. `knows_secret`: whether its nodes can have a cluster secret; else it is measured without one."""

    name: str
    path: str
    knows_secret: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """What one cluster did in one turn."""

    operations: int
    per_s: float
    p50_us: int
    leader_cpu_s: float
    cpu_s: float
    others_cores: float
    errors: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A turn of each tree, one directly after the other."""

    base: Turn
    now: Turn


class LeaderMoved(Exception):
    """Another node leads at the end of a turn than at its start: its figures are of no single leader."""


def take_turn(cluster: SynclineCluster, cell: Cell, requests: Sequence[bytes], seconds: float) -> Turn:
    """Load a cluster's leader once. Raises `LeaderMoved`, and `BenchError` if a node has ended."""
    leader = cluster.leader()
    process = cluster.processes[leader]
    host, port = cluster.addresses[leader].split(":")
    load = Load(cell.workload, cell.clients, seconds, cell.value_bytes)
    busy, leader_cpu, cpu, start = machine.busy_s(), process.cpu_s(), cluster.cpu_s(), time.monotonic()
    outcome = closedloop.generate(host, int(port), requests, http1.answer, load)
    elapsed = time.monotonic() - start
    leader_cpu, cpu, busy = process.cpu_s() - leader_cpu, cluster.cpu_s() - cpu, machine.busy_s() - busy
    cluster.check()
    if cluster.leader() != leader:
        raise LeaderMoved
    latencies = outcome.latencies_us
    others = max(0.0, busy - cpu - outcome.generator_cpu_s) / elapsed
    return Turn(latencies.count, outcome.per_s, latencies.percentile_us(50), leader_cpu, cpu, others, outcome.errors)


def take_pairs(
    clusters: Mapping[str, SynclineCluster], cell: Cell, turns: int, seconds: float, quiet: Quiet
) -> list[Pair]:
    """So many pairs of turns. Pairs in which a leader changed are left out."""
    load = Load(cell.workload, cell.clients, seconds, cell.value_bytes)
    requests = http1.requests(load, stale_query=STALE_QUERY, keys=cell.keys)
    pairs: list[Pair] = []
    for number in range(-1, turns):
        order = ("base", "now") if number % 2 else ("now", "base")
        try:
            with quiet():
                length_s = seconds if number >= 0 else WARM_UP_S
                taken = {name: take_turn(clusters[name], cell, requests, length_s) for name in order}
        except LeaderMoved:
            print(f"{cell.title}: a leader changed, a pair is left out", flush=True)
            continue
        if number >= 0:
            pairs.append(Pair(taken["base"], taken["now"]))
    return pairs


def measure(
    trees: Sequence[Tree], cells: Sequence[Cell], options: argparse.Namespace, directory: str
) -> dict[str, list[Pair]]:
    """All pairs by the names of the cells. The cells' nodes have the same settings."""
    found: dict[str, list[Pair]] = {cell.name: [] for cell in cells}
    for half, order in enumerate((trees, trees[::-1])):
        turns = (options.turns + 1 - half) // 2
        clusters: dict[str, SynclineCluster] = {}
        own = tempfile.mkdtemp(dir=directory)
        try:
            for tree in order:
                clusters[tree.name] = start(tree, cells[0], os.path.join(own, tree.name))
            for cluster in clusters.values():
                cluster.fill()
            for cell in cells:
                found[cell.name] += take_pairs(clusters, cell, turns, options.seconds, lambda: holding(options.lock))
                print(f"started first: {order[0].name:<5} {line(cell, found[cell.name][-turns:])}", flush=True)
        finally:
            for cluster in clusters.values():
                cluster.stop()
            shutil.rmtree(own)
    return found


def start(tree: Tree, cell: Cell, directory: str) -> SynclineCluster:
    """A cluster of a tree, with the settings of a cell as far as the tree knows them."""
    os.mkdir(directory)
    if not (cell.secret and tree.knows_secret):
        return SynclineCluster.started(directory, source=tree.path)
    secret = os.path.join(directory, "peer-secret")
    with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(os.urandom(SECRET_BYTES).hex() + "\n")
    module = MAC_NODE if cell.mac else "syncline"
    return SynclineCluster.started(directory, SECRET_FLAG, secret, module=module, source=tree.path)


def look_at(name: str, path: str) -> Tree:
    """Raises `SystemExit` if there is no Syncline in the checkout at `path`, or it does not run."""
    path = os.path.abspath(path)
    source = os.path.join(path, "src")
    if not os.path.isdir(os.path.join(source, "syncline")):
        raise SystemExit(f"{path} is no checkout of Syncline: it has no directory src/syncline")
    command = [sys.executable, "-m", "syncline", "serve", "--help"]
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the Syncline in {path} does not run with this interpreter:\n{done.stderr[-500:]}")
    return Tree(name, path, SECRET_FLAG in done.stdout)


# -- the report -------------------------------------------------------------------------------------------------------

HEAD = (
    f"{'':<38} {'base /s':>9} {'now /s':>9} {'rate':>6} {'quartiles':>13} {'p50':>6}"
    f" {'leader µs':>15} {'ratio':>6} {'quartiles':>13} {'nodes µs':>15} {'ratio':>6} {'others':>6} {'errors':>6}"
)


def line(cell: Cell, pairs: Sequence[Pair]) -> str:
    """Medians of the rates and of their ratios; processor time per operation, of all turns together."""
    if not pairs:
        return f"{cell.title:<38} nothing was measured"
    rates = [pair.now.per_s / pair.base.per_s for pair in pairs]
    latency = statistics.median(pair.now.p50_us / pair.base.p50_us for pair in pairs)
    leader = [_per_operation(turns, "leader_cpu_s") for turns in _by_tree(pairs)]
    nodes = [_per_operation(turns, "cpu_s") for turns in _by_tree(pairs)]
    shares = [
        _per_operation([pair.now], "leader_cpu_s") / _per_operation([pair.base], "leader_cpu_s") for pair in pairs
    ]
    others = statistics.mean((pair.base.others_cores + pair.now.others_cores) / 2 for pair in pairs)
    rate = statistics.median(rates)
    return (
        f"{cell.title:<38} {statistics.median(pair.base.per_s for pair in pairs):>9,.0f}"
        f" {statistics.median(pair.now.per_s for pair in pairs):>9,.0f} {rate:>6.3f} {_quartiles(rates):>13}"
        f" {latency:>6.3f} {_both(leader):>15} {leader[1] / leader[0]:>6.3f} {_quartiles(shares):>13}"
        f" {_both(nodes):>15} {nodes[1] / nodes[0]:>6.3f} {others:>6.2f}"
        f" {sum(pair.base.errors + pair.now.errors for pair in pairs):>6}{_mark(rates)}"
    )


def _mark(rates: Sequence[float]) -> str:
    if statistics.median(rates) >= LOSS:
        return ""
    return "   LOSS" if _quartile(rates, 3) < 1 else "   UNSURE"


def _by_tree(pairs: Sequence[Pair]) -> tuple[list[Turn], list[Turn]]:
    return [pair.base for pair in pairs], [pair.now for pair in pairs]


def _per_operation(turns: Sequence[Turn], field: str) -> float:
    """Processor time per operation in microseconds. The kernel counts it in steps of some ms, so of all turns."""
    used_s: float = sum(getattr(turn, field) for turn in turns)
    return used_s / sum(turn.operations for turn in turns) * 1e6


def _both(values: Sequence[float]) -> str:
    return " to ".join(f"{value:.1f}" for value in values)


def _quartiles(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    return f"{_quartile(values, 1):.3f}-{_quartile(values, 3):.3f}"


def _quartile(values: Sequence[float], number: int) -> float:
    return statistics.quantiles(values, n=4, method="inclusive")[number - 1] if len(values) > 1 else values[0]


def main() -> None:
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that what was started is stopped
    trees = (look_at("base", options.base), look_at("now", options.now))
    directory = tempfile.mkdtemp(prefix="bench-paired-", dir=os.path.abspath(options.directory))
    lines: list[str] = []
    try:
        print("\n".join([*machine.describe(directory), *(f"{tree.name}: {tree.path}" for tree in trees)]))
        print(f"{options.turns} pairs of turns of {options.seconds:g} s each\n\n{'':<21}{HEAD}", flush=True)
        for group in groups(options.only):
            found = measure(trees, group, options, directory)
            lines += [line(cell, found[cell.name]) for cell in group]
    finally:
        shutil.rmtree(directory)
    print("\n" + "\n".join([HEAD, *lines]))
    for tree in trees:
        if not tree.knows_secret and any(CELLS_BY_NAME[name].secret for name in options.only):
            print(f"{tree.name} knows no secret: it was measured without one")


CELLS_BY_NAME = {cell.name: cell for cell in CELLS}


def groups(names: Sequence[str]) -> list[list[Cell]]:
    """The cells of these names, those together whose nodes have the same settings."""
    found: dict[tuple[bool, bool], list[Cell]] = {}
    for cell in CELLS:
        if cell.name in names:
            found.setdefault((cell.secret, cell.mac), []).append(cell)
    return list(found.values())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.paired", description="Two trees of Syncline side by side.")
    parser.add_argument("--base", required=True, help="a checkout: the tree before")
    parser.add_argument("--now", default=ROOT, help="a checkout: the tree after (the one that the bench is in)")
    parser.add_argument("--only", type=_cells, default=[*CELLS_BY_NAME], help=", ".join(CELLS_BY_NAME))
    parser.add_argument("--turns", type=_turns, default=30, help="pairs of turns of each load (30)")
    parser.add_argument("--seconds", type=_seconds, default=1.0, help="of each turn (1)")
    parser.add_argument("--directory", default=".", help="a directory on the disk to measure (this one)")
    parser.add_argument("--lock", help="a file to lock around each pair of turns, on a shared machine")
    return parser.parse_args()


def _cells(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted({*names} - {*CELLS_BY_NAME}):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known are {', '.join(CELLS_BY_NAME)}")
    return names


def _turns(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("at least 2: one for each order in which the clusters start")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError("more than 0")
    return seconds


if __name__ == "__main__":
    main()
