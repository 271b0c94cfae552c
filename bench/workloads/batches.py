"""What a put costs the leader in a batch of 64, beside one alone, and the rate of puts in batches."""

from __future__ import annotations

import json
import random
import statistics

import msgspec

from bench.figures import Figure, Quiet, Scale
from bench.generators import http1
from bench.load import KEYS, VALUE_BYTES, key
from bench.peers.syncline import SynclineCluster
from bench.workloads.cluster import fresh, generate

PUTS = 64
PREPARED = 300
"""Different batches: the key space is covered about twice."""
TURNS = 5
"""The loads take turns, so that what disturbs the machine disturbs each of them."""
CLIENTS = 16


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    rng = random.Random(1)
    keys = [[key(number) for number in rng.sample(range(KEYS), PUTS)] for _ in range(PREPARED)]
    loads = {
        "one by one": (64, 1, [http1.request("PUT", f"/key/{key(n)}", b"x" * VALUE_BYTES) for n in range(KEYS)]),
        "in JSON": (CLIENTS, PUTS, [_request("json", names) for names in keys]),
        "in MessagePack": (CLIENTS, PUTS, [_request("msgpack", names) for names in keys]),
    }
    costs: dict[str, list[float]] = {name: [] for name in loads}
    rates: dict[str, list[float]] = {name: [] for name in loads}
    with fresh(directory) as cluster:
        for _ in range(TURNS):
            for name, (clients, puts, requests) in loads.items():
                with quiet():
                    cost_us, per_s = _turn(cluster, requests, clients, puts, scale.seconds / TURNS)
                costs[name].append(cost_us)
                rates[name].append(per_s)
    alone_us = statistics.median(costs["one by one"])
    figures = [Figure("batch.alone", "leader's processor time per put, one by one", alone_us, "µs")]
    for form in ("in JSON", "in MessagePack"):
        cost_us = statistics.median(costs[form])
        note = f"{cost_us:.1f} µs per put; {statistics.median(rates[form]):,.0f} puts/s"
        name, title = f"batch.share.{form[3:].lower()}", f"leader's processor time per put, in batches of {PUTS} {form}"
        figures.append(Figure(name, title, 100 * cost_us / alone_us, "% of a put alone", note))
    return figures


def _turn(
    cluster: SynclineCluster, requests: list[bytes], clients: int, puts: int, seconds: float
) -> tuple[float, float]:
    """The leader's processor time per put in microseconds, and puts a second."""
    process = cluster.processes[cluster.leader()]
    before_s = process.cpu_s()
    outcome = generate(cluster, requests, clients, seconds)
    used_s = process.cpu_s() - before_s
    counted = outcome.latencies_us.count * puts
    with_warm_up = counted * (1 + WARM_UP_SHARE)
    return used_s / with_warm_up * 1e6, outcome.per_s * puts


WARM_UP_SHARE = 1 / 5
"""`generate` loads for a fifth of the time before it counts."""


def _request(form: str, names: list[str]) -> bytes:
    if form == "json":
        ops = [{"op": "put", "key": name, "value": "x" * VALUE_BYTES} for name in names]
        return http1.request("POST", "/batch", json.dumps({"ops": ops}).encode())
    packed = [{"op": "put", "key": name.encode(), "value": b"x" * VALUE_BYTES} for name in names]
    body = msgspec.msgpack.encode({"ops": packed})
    fields = f"Host: bench\r\nContent-Type: application/msgpack\r\nContent-Length: {len(body)}"
    return f"POST /batch HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body
