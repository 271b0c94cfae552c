"""What `top` shows of one node: two readings of its metrics, and the difference between them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Final

import msgspec

__all__ = ["Metrics", "NodeNumbers", "numbers_between", "parse_metrics"]

_LINE: Final = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
_BOUND: Final = re.compile(r'(?:^|,)le="([^"]*)"')

DURATIONS: Final = "syncline_http_request_duration_seconds"
REQUESTS: Final = "syncline_http_requests_total"
WRITES: Final = "syncline_server_proposals_applied_total"
SYNCS: Final = "syncline_disk_wal_fsync_duration_seconds"
LOOP_LAG: Final = "syncline_server_loop_lag_seconds"
CPU: Final = "process_cpu_seconds_total"

QUANTILE: Final = 0.99


class Metrics(msgspec.Struct, frozen=True):
    """One reading: the sums of all labels by name, and the buckets of the requests' durations by bound."""

    at_s: float
    values: dict[str, float]
    buckets: dict[float, float]


class NodeNumbers(msgspec.Struct, frozen=True):
    """Rates per second, times in seconds; None: it is not known."""

    requests: float | None = None
    writes: float | None = None
    mean_s: float | None = None
    p99_s: float | None = None
    """At most so long: the bound of a bucket of the histogram. `inf`: longer than its last bound."""
    sync_s: float | None = None
    loop_lag_s: float | None = None
    cpu: float | None = None
    """Seconds of one core per second."""
    connections: int | None = None
    watchers: int | None = None
    keys: int | None = None


def parse_metrics(text: str, at_s: float) -> Metrics:
    """Read `/metrics`. `at_s`: a monotonic clock. Lines that are no samples are passed over."""
    values: defaultdict[str, float] = defaultdict(float)
    buckets: defaultdict[float, float] = defaultdict(float)
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        try:
            value = float(found[3])
            bound = _BOUND.search(found[2] or "")
            if bound is None:
                values[found[1]] += value
            elif found[1] == f"{DURATIONS}_bucket":
                buckets[float(bound[1])] += value
        except ValueError:
            continue  # no number: another version's
    return Metrics(at_s, dict(values), dict(buckets))


def numbers_between(before: Metrics | None, now: Metrics) -> NodeNumbers:
    """Rates between two readings, and what the second one says of the present.

    Without a first one, or if the process was started again in between, there are no rates.
    """
    values = now.values
    present = NodeNumbers(
        loop_lag_s=values.get(LOOP_LAG),
        connections=_count(values, "syncline_http_connections"),
        watchers=_count(values, "syncline_mvcc_watchers"),
        keys=_count(values, "syncline_mvcc_keys"),
    )
    if before is None or now.at_s <= before.at_s or values.get(CPU, 0.0) < before.values.get(CPU, 0.0):
        return present
    elapsed_s = now.at_s - before.at_s

    def grown(name: str) -> float:
        return max(0.0, values.get(name, 0.0) - before.values.get(name, 0.0))

    return msgspec.structs.replace(
        present,
        requests=grown(REQUESTS) / elapsed_s,
        writes=grown(WRITES) / elapsed_s,
        mean_s=_mean(grown(f"{DURATIONS}_sum"), grown(f"{DURATIONS}_count")),
        p99_s=_quantile({bound: count - before.buckets.get(bound, 0.0) for bound, count in now.buckets.items()}),
        sync_s=_mean(grown(f"{SYNCS}_sum"), grown(f"{SYNCS}_count")),
        cpu=grown(CPU) / elapsed_s,
    )


def _count(values: dict[str, float], name: str) -> int | None:
    value = values.get(name)
    return None if value is None or not math.isfinite(value) else int(value)


def _mean(total: float, count: float) -> float | None:
    return total / count if count > 0 else None


def _quantile(counts: dict[float, float]) -> float | None:
    """The lowest bound that holds for so many of the requests; `counts` are cumulative."""
    bounds = sorted(counts)
    if not bounds or counts[bounds[-1]] <= 0:
        return None
    needed = counts[bounds[-1]] * QUANTILE
    return next(bound for bound in bounds if counts[bound] >= needed)
