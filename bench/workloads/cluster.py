"""A fresh cluster of ours for one workload, and what workloads do with it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence

from bench.generators import closedloop, http1
from bench.load import Load, Outcome, Workload
from bench.peers.syncline import Syncline, SynclineCluster


@contextlib.contextmanager
def fresh(directory: str) -> Iterator[SynclineCluster]:
    """Three nodes without any keys."""
    cluster = Syncline().start(directory)
    try:
        yield cluster
    finally:
        cluster.stop()


def generate(cluster: SynclineCluster, requests: Sequence[bytes], clients: int, seconds: float) -> Outcome:
    """Load the leader with random ones of `requests`, after a short warm-up."""
    host, port = cluster.addresses[cluster.leader()].split(":")
    for length_s in (seconds / 5, seconds):
        load = Load(Workload.WRITES, clients, length_s)
        outcome = closedloop.generate(host, int(port), requests, http1.answer, load)
    cluster.check()
    return outcome


def txn_of_puts(keys: Sequence[str], value: str) -> bytes:
    """The body of a transaction that puts all of them."""
    return json.dumps({"then": [{"op": "put", "key": name, "value": value} for name in keys]}).encode()
