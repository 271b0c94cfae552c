"""What Syncline aims at, and whether a run shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.load import Workload
from bench.results import Results, ratio


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target beside what was measured. `holds` is None where the run did not measure it."""

    what: str
    target: str
    measured: str
    holds: bool | None


class Target(Protocol):
    def verdict(self, results: Results) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Against:
    """A figure of one system as a multiple of another's in the same run."""

    workload: Workload
    clients: int
    field: str
    other: str
    limit: float
    ours: str = "syncline"
    at_most: bool = False

    def verdict(self, results: Results) -> Verdict:
        names = {"per_s": "throughput", "p50_ms": "p50", "p99_ms": "p99"}
        system = "" if self.ours == "syncline" else f" ({self.ours})"
        what = f"{self.workload}, {_clients(self.clients)}: {names[self.field]} against {self.other}{system}"
        target = f"{'≤' if self.at_most else '≥'} {self.limit:g}x"
        one = results.row(self.ours, self.workload, self.clients)
        other = results.row(self.other, self.workload, self.clients)
        if one is None or other is None:
            return Verdict(what, target, "not measured", None)
        found = ratio(one, other, self.field)
        measured = f"{found.value:.2f}x ({found.lowest:.2f} to {found.highest:.2f})"
        return Verdict(what, target, measured, _holds(found.value, self.limit, at_most=self.at_most))


@dataclass(frozen=True, slots=True)
class Throughput:
    """Operations per second of one system."""

    system: str
    clients: int
    limit: float

    def verdict(self, results: Results) -> Verdict:
        what, target = f"`apply` of the library, {self.clients} in flight", f"≥ {self.limit:,.0f}/s"
        row = results.row(self.system, Workload.WRITES, self.clients)
        if row is None:
            return Verdict(what, target, "not measured", None)
        found = row.median("per_s")
        return Verdict(what, target, f"{found:,.0f}/s", found >= self.limit)


@dataclass(frozen=True, slots=True)
class AtMost:
    """A single figure of ours."""

    key: str
    what: str
    limit: float
    unit: str

    def verdict(self, results: Results) -> Verdict:
        target = f"≤ {self.limit:g} {self.unit}"
        found = results.figure(self.key)
        if found is None:
            return Verdict(self.what, target, "not measured", None)
        return Verdict(self.what, target, f"{found.value:.3g} {self.unit}", found.value <= self.limit)


def _holds(value: float, limit: float, *, at_most: bool) -> bool:
    return value <= limit if at_most else value >= limit


def _clients(number: int) -> str:
    return "1 client" if number == 1 else f"{number} clients"


TARGETS: Sequence[Target] = (
    Against(Workload.WRITES, 64, "per_s", "etcd", 2.5),
    Against(Workload.WRITES, 64, "p99_ms", "etcd", 1.0, at_most=True),
    Against(Workload.WRITES, 256, "per_s", "etcd", 2.5),
    Against(Workload.WRITES, 256, "p99_ms", "etcd", 1.0, at_most=True),
    Against(Workload.WRITES, 1, "p50_ms", "etcd", 0.7, at_most=True),
    Against(Workload.READS, 64, "per_s", "etcd", 5.0),
    Against(Workload.READS, 256, "per_s", "etcd", 5.0),
    Against(Workload.READS, 64, "per_s", "hashicorp", 1.0),
    Against(Workload.READS, 256, "per_s", "hashicorp", 1.0),
    Throughput("library", 64, 25_000),
    Throughput("library", 1, 1_500),
    Against(Workload.WRITES, 64, "per_s", "pysyncobj", 30.0),  # our server, with HTTP, beside calls in its process
    Against(Workload.WRITES, 64, "per_s", "pysyncobj", 30.0, ours="library"),  # like beside like
    AtMost("failover.median", "failover, default timers, median", 2.0, "s"),
    AtMost("failover.worst", "failover, default timers, worst", 4.0, "s"),
    AtMost("restart", "restart with a million keys, to ready", 8.0, "s"),
    AtMost("memory.restarted", "memory per key beyond the value", 450.0, "bytes"),
    AtMost("pause.stale reads", "longest pause of a snapshot of a million keys", 50.0, "ms"),
    AtMost("idle.syncline", "idle", 1.5, "% of a core per node"),
)
