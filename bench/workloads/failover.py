"""Failover: from `kill -9` of the leader to the next acknowledged write, with the default timers.

A client writes to the two nodes that are left, one after the other, with a new request as soon as one is refused or has
waited for `ATTEMPT_S`. The killed node starts again and is ready before the next round.
"""

from __future__ import annotations

import time

from bench.figures import Figure, Quiet, Scale
from bench.peers.peer import ask
from bench.peers.syncline import SynclineCluster
from bench.processes import wait_for
from bench.stats import median
from bench.workloads.cluster import fresh

ATTEMPT_S = 0.25
REFUSED_S = 0.01
"""Between a refusal and the next attempt."""


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    times_s = []
    with fresh(directory) as cluster:
        for _ in range(scale.failovers):
            with quiet():
                times_s.append(once(cluster))
    of = f"of {scale.failovers}, kill -9 of the leader to the next acknowledged write"
    return [
        Figure("failover.median", f"failover, median {of}", median(times_s), "s"),
        Figure("failover.worst", f"failover, worst {of}", max(times_s), "s"),
        Figure("failover.best", f"failover, best {of}", min(times_s), "s"),
    ]


def once(cluster: SynclineCluster) -> float:
    """One failover, in seconds; all nodes are ready before and after."""
    cluster.wait_ready()
    at = cluster.leader()
    leader = cluster.processes[at]
    others = [address for other, address in enumerate(cluster.addresses) if other != at]
    attempts = 0

    def written() -> bool:
        nonlocal attempts
        attempts += 1
        address = others[attempts % len(others)]
        return ask(address, f"/key/failover?timeout={ATTEMPT_S}", method="PUT", body=b"x")[0] == 200

    start = time.monotonic()
    leader.kill()
    wait_for("a write after the leader's end", written, again_s=REFUSED_S)
    elapsed = time.monotonic() - start
    leader.restart()
    cluster.wait_ready()
    return elapsed
