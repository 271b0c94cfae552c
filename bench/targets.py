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


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A single figure of ours that should be high."""

    key: str
    what: str
    limit: float
    unit: str

    def verdict(self, results: Results) -> Verdict:
        target = f"≥ {self.limit:g} {self.unit}"
        found = results.figure(self.key)
        if found is None:
            return Verdict(self.what, target, "not measured", None)
        return Verdict(self.what, target, f"{found.value:.3g} {self.unit}", found.value >= self.limit)


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
    AtMost("batch.share.json", "leader's processor time per put in batches of 64", 30.0, "% of a put alone"),
    AtLeast("clients.put.64.per_s.ratio", "AsyncClient, 64 tasks: writes per second", 4.0, "x etcd by aetcd"),
    AtLeast(
        "clients.get.64.per_s.ratio", "AsyncClient, 64 tasks: linearizable reads per second", 6.0, "x etcd by aetcd"
    ),
    AtMost("clients.put.1.p50.ratio", "AsyncClient, 1 task: p50 of a write", 0.8, "x etcd by aetcd"),
    AtMost("clients.get.1.p50.ratio", "AsyncClient, 1 task: p50 of a read", 0.8, "x etcd by aetcd"),
    AtLeast("blocking.put.ratio", "Client, 8 threads: writes per second", 4.0, "x etcd by etcd3gw"),
    AtLeast("blocking.get.ratio", "Client, 8 threads: linearizable reads per second", 4.0, "x etcd by etcd3gw"),
    AtLeast("etcd-face.etcd3gw.put.ratio", "etcd3gw, 8 threads: writes per second", 3.0, "x etcd by etcd3gw"),
    AtLeast(
        "etcd-face.etcd3gw.get.ratio", "etcd3gw, 8 threads: linearizable reads per second", 3.0, "x etcd by etcd3gw"
    ),
    AtLeast("etcd-face.gateway.put.ratio", "etcd's JSON gateway, 64 connections: writes per second", 4.0, "x etcd"),
    AtLeast("etcd-face.gateway.get.ratio", "etcd's JSON gateway, 64 connections: reads per second", 4.0, "x etcd"),
    AtLeast("etcd-face.grpc.put.ratio", "etcd's gRPC, 64 connections: writes per second", 1.0, "x etcd"),
    AtLeast("etcd-face.grpc.get.ratio", "etcd's gRPC, 64 connections: reads per second", 1.5, "x etcd"),
    AtMost(
        "watch.keys.cpu.ratio", "1,000 watchers of a key each: processor time per event, with the write", 0.7, "x etcd"
    ),
    AtMost("watch.keys.p99.ratio", "1,000 watchers of a key each: p99 from acknowledgement to event", 1.0, "x etcd"),
    AtMost(
        "watch.prefix.cpu.ratio", "100 watchers of a prefix: processor time per event, with the write", 0.7, "x etcd"
    ),
    AtMost(
        "watch.shared.events_cpu.ratio",
        "10 watchers of each of 100 keys: processor time per event alone",
        0.7,
        "x etcd",
    ),
    AtMost("watch.prefix.events_cpu.ratio", "100 watchers of a prefix: processor time per event alone", 0.7, "x etcd"),
    AtMost("watch.prefix.p99.ratio", "100 watchers of a prefix: p99 from acknowledgement to event", 1.0, "x etcd"),
    AtMost("leases.leader.syncline", "10,000 leases kept alive one by one every 10 s: the leader", 10.0, "% of a core"),
    AtMost("leases.held.100", "10,000 leases of 100 clients kept alive every 10 s: the leader", 10.0, "% of a core"),
    AtMost("leases.held.1000", "10,000 leases of 1,000 clients kept alive every 10 s: the leader", 10.0, "% of a core"),
    AtMost("idle.syncline", "idle", 1.5, "% of a core per node"),
)
