"""etcd's interface of ours beside etcd: the same programs against both, in turns, three nodes each.

etcd3gw with 8 threads of one process, wrk on the JSON gateway and h2load on gRPC with 64 connections, and 1,000 watches
over gRPC, each on a connection of its own. All load goes to the leader.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec

from bench.figures import Figure, Quiet, Scale
from bench.generators import h2load, wrk
from bench.generators.threads import ThreadLoad
from bench.generators.threads import generate as call_in_threads
from bench.generators.watching import GrpcWire
from bench.generators.watching import generate as watch
from bench.load import Load, Outcome, Workload
from bench.peers import PEERS
from bench.peers.etcd import METHODS, message
from bench.peers.peer import Cluster
from bench.stats import median
from bench.workloads.blocking import THREADS, leader_address
from bench.workloads.watches import LOADS

CONNECTIONS = 64
SYSTEMS = ("syncline", "etcd")
CALLS = {"put": Workload.WRITES, "get": Workload.READS}
TITLES = {"put": "writes", "get": "linearizable reads"}


@dataclass(frozen=True, slots=True)
class Served:
    """What one program got from one cluster. `cpu_ms` is of all its nodes, per 1,000 calls."""

    per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_ms: float


Measure = Callable[[Cluster, str, float], Served]
"""Takes the cluster, put or get, and seconds."""


def _etcd3gw(cluster: Cluster, calls: str, seconds: float) -> Served:
    before_s = cluster.cpu_s()
    called = call_in_threads(ThreadLoad("etcd3gw", leader_address(cluster), calls, THREADS, seconds))
    cpu_ms = (cluster.cpu_s() - before_s) / called.calls * 1e6
    return Served(called.per_s, called.p50_ms, called.p99_ms, 0, cpu_ms)


def _gateway(cluster: Cluster, calls: str, seconds: float) -> Served:
    load = Load(CALLS[calls], CONNECTIONS, seconds)
    address = leader_address(cluster)
    return _served(cluster, lambda: wrk.generate(address, load, stale_query="", script=wrk.GATEWAY_SCRIPT))


def _grpc(cluster: Cluster, calls: str, seconds: float) -> Served:
    load = Load(CALLS[calls], CONNECTIONS, seconds)
    address = leader_address(cluster)
    return _served(cluster, lambda: h2load.generate(address, METHODS[load.workload], message(load), load))


def _served(cluster: Cluster, generate: Callable[[], Outcome]) -> Served:
    before_s = cluster.cpu_s()
    outcome = generate()
    latencies = outcome.latencies_us
    return Served(
        outcome.per_s,
        latencies.percentile_us(50) / 1000,
        latencies.percentile_us(99) / 1000,
        outcome.errors,
        (cluster.cpu_s() - before_s) / max(1, latencies.count) * 1e6,
    )


PROGRAMS: dict[str, tuple[str, Measure, Callable[[], bool]]] = {
    "etcd3gw": (f"etcd3gw, {THREADS} threads", _etcd3gw, lambda: find_spec("etcd3gw") is not None),
    "gateway": (f"JSON gateway, {CONNECTIONS} connections (wrk)", _gateway, lambda: not wrk.missing()),
    "grpc": (f"gRPC, {CONNECTIONS} connections (h2load)", _grpc, lambda: not h2load.missing()),
}
"""By name: a title, how it is measured, and whether the program is there."""


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    clusters: dict[str, Cluster] = {}
    figures: list[Figure] = []
    try:
        for name in SYSTEMS:
            if name in scale.peers and not PEERS[name].missing():
                clusters[name] = PEERS[name].start(tempfile.mkdtemp(dir=directory))
                clusters[name].fill()
        for program, (title, measure, is_there) in PROGRAMS.items():
            if not is_there():
                continue
            for calls in CALLS:
                taken = _in_turns(clusters, scale, quiet, measure, calls)
                figures += _figures(f"etcd-face.{program}.{calls}", f"{title}: {TITLES[calls]}", taken)
        figures += _watches(clusters, scale, quiet)
    finally:
        for cluster in clusters.values():
            cluster.stop()
    return figures


def _in_turns(
    clusters: dict[str, Cluster], scale: Scale, quiet: Quiet, measure: Measure, calls: str
) -> dict[str, list[Served]]:
    taken: dict[str, list[Served]] = {name: [] for name in clusters}
    for _ in range(scale.repeats):
        with quiet():
            for name, cluster in clusters.items():
                taken[name].append(measure(cluster, calls, scale.seconds))
                cluster.check()
    return taken


def _figures(key: str, title: str, taken: dict[str, list[Served]]) -> Iterable[Figure]:
    for name, turns in taken.items():
        p50_ms, p99_ms = median([turn.p50_ms for turn in turns]), median([turn.p99_ms for turn in turns])
        cpu_ms, errors = median([turn.cpu_ms for turn in turns]), sum(turn.errors for turn in turns)
        note = f"p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms; nodes {cpu_ms:.0f} ms of processor time per 1,000"
        if errors:
            note += f"; {errors} errors"
        yield Figure(f"{key}.{name}", f"{name}: {title}", median([turn.per_s for turn in turns]), "/s", note)
    if len(taken) == len(SYSTEMS):
        pairs = zip(*(taken[name] for name in SYSTEMS), strict=True)
        ratios = [ours.per_s / other.per_s for ours, other in pairs]
        note = f"{min(ratios):.2f} to {max(ratios):.2f}"
        yield Figure(f"{key}.ratio", f"against etcd: {title}", median(ratios), "x", note)


def _watches(clusters: dict[str, Cluster], scale: Scale, quiet: Quiet) -> Iterable[Figure]:
    """The same generator and the same frames for both."""
    title, load = LOADS["keys"]
    timed = replace(load, seconds=scale.seconds)
    for name, cluster in clusters.items():
        address = leader_address(cluster)
        with quiet():
            seen = watch(address, GrpcWire(address), timed, cluster.cpu_s)
        cluster.check()
        note = f"p50 {seen.after_send_us.percentile_us(50) / 1000:.2f} ms; {seen.missing} events missing or twice"
        whole_ms = seen.after_send_us.percentile_us(99) / 1000
        what = f"{name}: gRPC: {title}: from the sending of the write to its event, p99"
        yield Figure(f"etcd-face.watches.whole_p99.{name}", what, whole_ms, "ms", note)
        cpu_ms = seen.nodes_cpu_s / seen.events * 1e6
        what = f"{name}: gRPC: {title}: processor time of all nodes per 1,000 events, with the writes"
        yield Figure(f"etcd-face.watches.cpu.{name}", what, cpu_ms, "ms")
