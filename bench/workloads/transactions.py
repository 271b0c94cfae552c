"""Transactions of 100 puts each."""

from __future__ import annotations

import random

from bench.figures import Figure, Quiet, Scale
from bench.generators import http1
from bench.load import KEYS, VALUE_BYTES, key
from bench.workloads.cluster import fresh, generate, txn_of_puts

PUTS = 100
PREPARED = 200
"""Different transactions: the key space is covered twice."""


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    rng, value = random.Random(1), "x" * VALUE_BYTES
    bodies = [txn_of_puts([key(n) for n in rng.sample(range(KEYS), PUTS)], value) for _ in range(PREPARED)]
    requests = [http1.request("POST", "/txn", body) for body in bodies]
    figures = []
    with fresh(directory) as cluster:
        for clients in scale.clients:
            with quiet():
                outcome = generate(cluster, requests, clients, scale.seconds)
            p50, p99 = (outcome.latencies_us.percentile_us(percent) / 1000 for percent in (50, 99))
            title = f"transactions of {PUTS} puts, {clients} in flight"
            note = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, {outcome.errors} errors"
            figures.append(Figure(f"transactions.{clients}", title, outcome.per_s * PUTS, "puts/s", note))
    return figures
