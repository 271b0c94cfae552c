"""What TLS costs: two clusters of ours, one of which has TLS for clients and peers, in turns on kept connections."""

from __future__ import annotations

import os
import statistics

from bench.figures import Figure, Quiet, Scale
from bench.generators import wrk
from bench.load import Load, Workload
from bench.peers.peer import NODES
from bench.peers.syncline import SynclineCluster
from bench.turns import measure
from syncline.cli.certificates import CERTIFICATE_DAYS, make_authority, make_node

CLIENTS = 64
WARM_UP_S = 3.0
"""The handshakes of all clients are made in it."""
LOADS = (Workload.WRITES, Workload.READS, Workload.STALE)


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    if wrk.missing():
        return []  # our own generator would be the larger part of the cost
    certs = os.path.join(directory, "certs")
    make_authority(certs, days=CERTIFICATE_DAYS)
    for at in range(NODES):
        make_node(certs, f"n{at}", (), days=CERTIFICATE_DAYS, replace=False)
    for name in ("plain", "tls"):
        os.mkdir(os.path.join(directory, name))
    plain = SynclineCluster.started(os.path.join(directory, "plain"))
    try:
        secure = SynclineCluster.started(os.path.join(directory, "tls"), "--tls-dir", certs, scheme="https")
        try:
            return _measure(plain, secure, scale, quiet)
        finally:
            secure.stop()
    finally:
        plain.stop()


def _measure(plain: SynclineCluster, secure: SynclineCluster, scale: Scale, quiet: Quiet) -> list[Figure]:
    for cluster in (plain, secure):
        cluster.fill()
    figures = []
    for workload in LOADS:
        load = Load(workload, CLIENTS, scale.seconds)
        pairs = []
        for number in range(scale.repeats):
            order = (plain, secure) if number % 2 else (secure, plain)
            with quiet():
                taken = {id(cluster): measure(cluster, load, warm_up_s=WARM_UP_S) for cluster in order}
            pairs.append((taken[id(plain)], taken[id(secure)]))
        rate = statistics.median(second.per_s / first.per_s for first, second in pairs)
        cost = statistics.median(second.cpu_s_per_1000 / first.cpu_s_per_1000 for first, second in pairs)
        others = max(sample.others_cores for pair in pairs for sample in pair)
        rates = [statistics.median(pair[at].per_s for pair in pairs) for at in (0, 1)]
        note = f"{rates[0]:,.0f}/s to {rates[1]:,.0f}/s; nodes' processor time {cost:.2f}x; others {others:.2f} cores"
        figures.append(Figure(f"tls.{workload}", f"{workload}, {CLIENTS} clients, with TLS", rate, "of without", note))
    return figures
