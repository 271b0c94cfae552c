"""10,000 leases, each kept alive every 10 s by a call of its own: what it costs the leader, beside etcd's in turns.

All calls go to the leader, or, for clients that know many nodes, to each node in turn. The other nodes ask the leader
for many leases at once.

Then the same leases are held by clients as programs use them: a hundred of them, or a thousand. A client keeps many
leases alive by one request.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.figures import Figure, Quiet, Scale
from bench.generators import holding
from bench.generators.beating import Beaten, GrpcBeats, HttpBeats, generate
from bench.peers import PEERS
from bench.peers.etcd import EtcdCluster
from bench.peers.peer import Cluster, ask_json
from bench.peers.syncline import SynclineCluster
from bench.processes import Process
from bench.stats import median

LEASES = 10_000
EVERY_S = 10
KEEP_ALIVES = 3
"""Of a held lease, within its TTL."""
PROGRAMS = (100, 1000)
TTL_S = 600
"""Long: a turn keeps alive only as many as it has time for, and none may end between turns."""
GRANTERS = 32
FIRST = 1 << 32
"""The ids are chosen, so that both systems have the same."""


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    clusters: dict[str, Cluster] = {}
    figures: list[Figure] = []
    taken: dict[str, list[tuple[Beaten, Beaten]]] = {}
    ids = range(FIRST, FIRST + LEASES)
    try:
        for name in ("syncline", "etcd"):
            if name in scale.peers and not PEERS[name].missing():
                clusters[name] = PEERS[name].start(tempfile.mkdtemp(dir=directory))
                _grant(clusters[name], ids)
                taken[name] = []
        for _ in range(scale.repeats):
            with quiet():
                for name, cluster in clusters.items():
                    taken[name].append(
                        (_turn(cluster, ids, scale.seconds), _turn(cluster, ids, scale.seconds, all_nodes=True))
                    )
        if isinstance(ours := clusters.get("syncline"), SynclineCluster):
            figures += [_held(ours, programs, directory) for programs in PROGRAMS]
    finally:
        for cluster in clusters.values():
            cluster.stop()
    for name, turns in taken.items():
        for place, (key, where) in enumerate((("leader", "at the leader"), ("spread", "at each node in turn"))):
            figures.append(
                _figure(f"leases.{key}.{name}", f"{name}: 10,000 leases, {where}", [turn[place] for turn in turns])
            )
    return figures


def _held(cluster: SynclineCluster, programs: int, directory: str) -> Figure:
    """What leases cost the leader that programs hold, for the time between two keep-alives of a lease."""
    each = LEASES // programs
    program = holding.command(cluster.addresses, clients=programs, leases=each, ttl_s=KEEP_ALIVES * EVERY_S)
    holders = Process(program, os.path.join(directory, f"holding{programs}.log"), asked=True)
    try:
        holders.ask("hold")
        time.sleep(EVERY_S)  # each lease has been kept alive once
        leader = cluster.processes[cluster.leader()]
        before_s, began_s = leader.cpu_s(), time.monotonic()
        time.sleep(EVERY_S)
        share = 100 * (leader.cpu_s() - before_s) / (time.monotonic() - began_s)
        holders.check()
    finally:
        holders.stop()
    title = f"syncline: 10,000 leases, held by {programs:,} clients of {each} leases each: the leader"
    return Figure(f"leases.held.{programs}", title, share, "% of a core", "")


def _figure(key: str, title: str, turns: Sequence[Beaten]) -> Figure:
    share = median([100 * turn.leader_cpu_s / turn.elapsed_s for turn in turns])
    nodes = median([100 * turn.nodes_cpu_s / turn.elapsed_s for turn in turns])
    p50, p99 = (median([turn.latencies_us.percentile_us(percent) / 1000 for turn in turns]) for percent in (50, 99))
    note = f"all nodes {nodes:.1f} %; p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    return Figure(key, f"{title}, a keep-alive each every {EVERY_S} s: the leader", share, "% of a core", note)


def _grant(cluster: Cluster, ids: Sequence[int]) -> None:
    address = _addresses(cluster)[0]
    ours = isinstance(cluster, SynclineCluster)

    def grant(lease: int) -> None:
        if ours:
            ask_json(address, "/lease", {"id": f"{lease:016x}", "ttl": f"{TTL_S}s"})
        else:
            ask_json(address, "/v3/lease/grant", {"ID": lease, "TTL": TTL_S})

    with ThreadPoolExecutor(GRANTERS) as pool:
        list(pool.map(grant, ids))


def _turn(cluster: Cluster, ids: Sequence[int], seconds: float, *, all_nodes: bool = False) -> Beaten:
    addresses = _addresses(cluster)
    leader = cluster.processes[_every_address(cluster).index(addresses[0])]
    beaten = generate(
        addresses if all_nodes else addresses[:1],
        HttpBeats if isinstance(cluster, SynclineCluster) else GrpcBeats,
        ids,
        LEASES // EVERY_S,
        seconds,
        lambda: (leader.cpu_s(), cluster.cpu_s()),
    )
    cluster.check()
    return beaten


def _every_address(cluster: Cluster) -> list[str]:
    assert isinstance(cluster, SynclineCluster | EtcdCluster)
    return cluster.addresses


def _addresses(cluster: Cluster) -> list[str]:
    """All of them, the leader's first."""
    addresses = _every_address(cluster)
    leader = cluster.addresses[cluster.leader()] if isinstance(cluster, SynclineCluster) else ""
    if isinstance(cluster, EtcdCluster):
        leader = cluster.leader()
    return [leader, *(address for address in addresses if address != leader)]
