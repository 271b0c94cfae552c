"""The blocking client with 8 threads of one process, beside etcd driven by etcd3gw with 8 threads, in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from importlib.util import find_spec

from bench.figures import Figure, Quiet, Scale
from bench.generators.threads import Called, ThreadLoad, generate
from bench.peers import PEERS
from bench.peers.etcd import EtcdCluster
from bench.peers.peer import Cluster
from bench.peers.syncline import SynclineCluster
from bench.stats import median

THREADS = 8
CALLS = {"put": "writes", "get": "linearizable reads"}
CLIENTS = {"syncline": "syncline", "etcd": "etcd3gw"}


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    clusters: dict[str, Cluster] = {}
    taken: dict[tuple[str, str], list[Called]] = {}
    try:
        for name, client in CLIENTS.items():
            if name in scale.peers and not PEERS[name].missing() and find_spec(client) is not None:
                clusters[name] = PEERS[name].start(tempfile.mkdtemp(dir=directory))
        for _ in range(scale.repeats):
            for calls in CALLS:
                with quiet():
                    for name, cluster in clusters.items():
                        load = ThreadLoad(CLIENTS[name], leader_address(cluster), calls, THREADS, scale.seconds)
                        taken.setdefault((calls, name), []).append(generate(load))
                        cluster.check()
    finally:
        for cluster in clusters.values():
            cluster.stop()
    return [figure for calls in CALLS for figure in _figures(calls, list(clusters), taken)]


def _figures(calls: str, names: list[str], taken: dict[tuple[str, str], list[Called]]) -> Iterable[Figure]:
    what = f"blocking client, {THREADS} threads of one process: {CALLS[calls]}"
    for name in names:
        turns = taken[calls, name]
        p50_ms, p99_ms = median([turn.p50_ms for turn in turns]), median([turn.p99_ms for turn in turns])
        own_us = median([turn.cpu_s / turn.calls * 1e6 for turn in turns])
        note = f"p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms; {own_us:.0f} µs of the program's processor time per call"
        rate = median([turn.per_s for turn in turns])
        yield Figure(f"blocking.{calls}.{name}", f"{CLIENTS[name]}: {what}", rate, "/s", note)
    if len(names) == len(CLIENTS):
        pairs = zip(taken[calls, "syncline"], taken[calls, "etcd"], strict=True)
        ratios = [ours.per_s / other.per_s for ours, other in pairs]
        note = f"{min(ratios):.2f} to {max(ratios):.2f}"
        yield Figure(f"blocking.{calls}.ratio", f"against etcd3gw: {what}", median(ratios), "x", note)


def leader_address(cluster: Cluster) -> str:
    """Where the leader serves its clients."""
    if isinstance(cluster, SynclineCluster):
        return cluster.addresses[cluster.leader()]
    assert isinstance(cluster, EtcdCluster)
    return cluster.leader()
