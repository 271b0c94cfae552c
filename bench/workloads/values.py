"""Writes of large values."""

from __future__ import annotations

from bench.figures import Figure, Quiet, Scale
from bench.generators import http1
from bench.load import key
from bench.workloads.cluster import fresh, generate

KIB = 1 << 10
SIZES_KIB = (16, 256)
KEYS = 100
"""Few, so that the state stays small: what is measured is the way of the bytes."""


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    figures = []
    with fresh(directory) as cluster:
        for size_kib in SIZES_KIB:
            value = b"x" * (size_kib * KIB)
            requests = [http1.request("PUT", f"/key/{key(number)}", value) for number in range(KEYS)]
            for clients in scale.clients:
                with quiet():
                    outcome = generate(cluster, requests, clients, scale.seconds)
                p50, p99 = (outcome.latencies_us.percentile_us(percent) / 1000 for percent in (50, 99))
                mib_per_s = outcome.per_s * size_kib / KIB
                title = f"writes of {size_kib} KiB, {clients} clients"
                note = f"{mib_per_s:.0f} MiB/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, {outcome.errors} errors"
                figures.append(Figure(f"values.{size_kib}.{clients}", title, outcome.per_s, "/s", note))
    return figures
