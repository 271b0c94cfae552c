"""What a Python program gets: one process with `AsyncClient`, beside one with aetcd and etcd, in turns.

Three nodes of each, values of 256 bytes. 64 tasks write or read (linearizably), or one task does. Both clients run in
their default settings on asyncio's own event loop, and both load the leader.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from bench.figures import Figure, Quiet, Scale
from bench.generators import python_client
from bench.generators.python_client import Run, generate
from bench.peers import PEERS
from bench.peers.etcd import EtcdCluster
from bench.peers.peer import Cluster
from bench.peers.syncline import SynclineCluster
from bench.stats import median

SYSTEMS = {"syncline": "syncline", "etcd": "aetcd"}
"""The client library of each."""

LOADS = (("put", 64), ("get", 64), ("put", 1), ("get", 1))


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    clusters: dict[str, Cluster] = {}
    runs: dict[tuple[str, int, str], list[Run]] = {}
    try:
        for name, client in SYSTEMS.items():
            if reason := PEERS[name].missing() or python_client.missing(client):
                print(f"{name}: left out, {reason} (see bench/README.md)", flush=True)
            elif name in scale.peers:
                clusters[name] = PEERS[name].start(tempfile.mkdtemp(dir=directory))
                clusters[name].fill()
        for load, tasks in LOADS:
            for _ in range(scale.repeats):
                with quiet():
                    for name, cluster in clusters.items():
                        found = generate(SYSTEMS[name], _addresses(cluster), load, tasks, scale.seconds)
                        runs.setdefault((load, tasks, name), []).append(found)
    finally:
        for cluster in clusters.values():
            cluster.stop()
    return [figure for load, tasks in LOADS for figure in _figures(runs, load, tasks)]


def _figures(runs: dict[tuple[str, int, str], list[Run]], load: str, tasks: int) -> Iterator[Figure]:
    what = f"{load}, {tasks} tasks" if tasks > 1 else f"{load}, 1 task"
    for name, client in SYSTEMS.items():
        if not (own := runs.get((load, tasks, name))):
            continue
        p50, p99, cpu_us = (median([getattr(one, field) for one in own]) for field in ("p50_ms", "p99_ms", "cpu_us"))
        note = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms; the client's processor time {cpu_us:.0f} µs each"
        library = "AsyncClient" if client == "syncline" else client
        title = f"{name} by {library}, one Python process: {what}"
        yield Figure(f"clients.{load}.{tasks}.{name}", title, median([one.per_s for one in own]), "/s", note)
    pairs = list(zip(runs.get((load, tasks, "syncline"), []), runs.get((load, tasks, "etcd"), []), strict=False))
    if not pairs:
        return
    rates = [ours.per_s / theirs.per_s for ours, theirs in pairs]
    p50s = [ours.p50_ms / theirs.p50_ms for ours, theirs in pairs]
    for field, title, ratios in (("per_s", "throughput", rates), ("p50", "p50", p50s)):
        note = f"{min(ratios):.2f} to {max(ratios):.2f}"
        name = f"clients.{load}.{tasks}.{field}.ratio"
        yield Figure(name, f"against etcd by aetcd: {what}: {title}", median(ratios), "x", note)


def _addresses(cluster: Cluster) -> list[str]:
    """Of all nodes, the leader first."""
    if isinstance(cluster, EtcdCluster):
        leader = cluster.leader()
        addresses = cluster.addresses
    else:
        assert isinstance(cluster, SynclineCluster)
        addresses = cluster.addresses
        leader = addresses[cluster.leader()]
    return [leader, *(address for address in addresses if address != leader)]
