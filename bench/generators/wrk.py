"""HTTP/1.1: wrk with `wrk.lua` or `wrk_gateway.lua`, one thread, one connection a client."""

from __future__ import annotations

import os
import shutil

from bench.load import KEYS, Load, Outcome
from bench.processes import BenchError, run
from bench.stats import Histogram, uncorrected

SCRIPT = os.path.join(os.path.dirname(__file__), "wrk.lua")
GATEWAY_SCRIPT = os.path.join(os.path.dirname(__file__), "wrk_gateway.lua")
"""Writes and reads of etcd's JSON gateway."""

LONGEST_S = 5
"""A request that takes longer counts as an error."""

SLACK_S = 60.0


def missing() -> str:
    return "" if shutil.which("wrk") else "wrk is not installed"


def generate(address: str, load: Load, *, stale_query: str, script: str = SCRIPT) -> Outcome:
    """Load the key-value server at `address` (host:port, or a URL) that keeps its keys under /key/.

    With `GATEWAY_SCRIPT` it is one that has etcd's JSON gateway.
    """
    whole_s = max(1, round(load.seconds))
    command = ["wrk", "-t1", f"-c{load.clients}", f"-d{whole_s}s", "--timeout", f"{LONGEST_S}s", "-s", script]
    command += [
        address if "://" in address else f"http://{address}",
        "--",
        load.workload,
        str(KEYS),
        str(load.value_bytes),
        stale_query,
    ]
    ran = run(command, timeout_s=whole_s + SLACK_S)
    return parse(ran.output, load.clients, ran.cpu_s)


def parse(output: str, clients: int, cpu_s: float) -> Outcome:
    """Read what `wrk.lua` writes at the end."""
    duration_us = requests = errors = 0
    counts: dict[int, int] = {}
    for line in output.splitlines():
        match line.split():
            case ["summary", first, second, third]:
                duration_us, requests, errors = int(first), int(second), int(third)
            case ["latency", value, count]:
                counts[int(value)] = int(count)
            case _:
                pass  # what wrk itself prints
    if not requests or not duration_us:
        raise BenchError(f"wrk completed nothing:\n{output[-500:]}")
    if per_client := requests // clients:
        counts = uncorrected(counts, duration_us // per_client)
    latencies = Histogram(counts)
    if latencies.count != requests:
        raise BenchError(f"wrk shows {latencies.count} latencies of {requests} requests")
    return Outcome(latencies, duration_us / 1e6, errors, cpu_s)
