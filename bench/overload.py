"""What becomes of a cluster that is offered several times its capacity: `python -m bench.overload [--systems …]`.

The capacity is that of 64 clients, each with one request in flight. Then `--connections` connections offer `--factor`
times as many writes a second for `--seconds`. Reported are the rate of acknowledged writes as a share of the capacity,
the memory above that of the idle cluster, whether the leader stayed leader, and the capacity afterwards. Syncline and
etcd get the same load: HTTP/1.1, etcd by its JSON gateway.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import uvloop

from bench.generators import closedloop, http1
from bench.generators.openloop import offer
from bench.load import KEYS, VALUE_BYTES, Load, Workload, key
from bench.peers.etcd import EtcdCluster
from bench.peers.peer import Cluster, ask_json
from bench.peers.syncline import SynclineCluster
from bench.processes import BenchError, wait_for

CLIENTS = 64
CAPACITY_S = 8.0
MIB = 1 << 20
LOOK_S = 0.25
PREFIX = "http://"


@dataclass
class Overloaded:
    """One run. Rates are acknowledged writes a second; memory is of the node that took most."""

    system: str
    capacity_per_s: float
    offered_per_s: float
    sent_per_s: float
    acknowledged_per_s: float
    refused_per_s: float
    connections_lost: int
    p50_ms: float
    p99_ms: float
    idle_mib: float
    grown_mib: float
    same_leader: bool
    afterwards_per_s: float

    @property
    def share(self) -> float:
        return self.acknowledged_per_s / self.capacity_per_s

    @property
    def recovered(self) -> float:
        return self.afterwards_per_s / self.capacity_per_s


class Memory:
    """Looks at the memory of a cluster's nodes beside a load."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.idle = [process.resident_bytes() for process in cluster.processes]
        self.most = list(self.idle)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.most = [
                max(most, process.resident_bytes())
                for most, process in zip(self.most, self._cluster.processes, strict=True)
            ]

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        return max(most - idle for most, idle in zip(self.most, self.idle, strict=True))


class System:
    """One running system: where its leader is, and its writes."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.cluster: SynclineCluster | EtcdCluster
        if name == "syncline":
            self.cluster = SynclineCluster.started(directory)
            self.requests = http1.requests(Load(Workload.WRITES, CLIENTS, 0.0), stale_query="")
        else:
            self.cluster = EtcdCluster(directory)
            self.requests = gateway_puts()
        self.address = self.leader()[0]

    def leader(self) -> tuple[str, object]:
        """The leader's address, and what names its term."""
        if isinstance(self.cluster, SynclineCluster):
            address = self.cluster.addresses[self.cluster.leader()].removeprefix(PREFIX)
            return address, ask_json(address, "/raft/status")["term"]
        address = self.cluster.leader()
        return address, ask_json(address, "/v3/maintenance/status", {})["raftTerm"]

    def capacity(self) -> float:
        host, _, port = self.address.rpartition(":")
        load = Load(Workload.WRITES, CLIENTS, CAPACITY_S)
        return closedloop.generate(host, int(port), self.requests, http1.answer, load).latencies_us.count / CAPACITY_S


def gateway_puts() -> list[bytes]:
    """Puts of the keys of the other systems, as etcd's JSON gateway takes them."""
    value = base64.b64encode(b"x" * VALUE_BYTES).decode()
    bodies = [{"key": base64.b64encode(key(number).encode()).decode(), "value": value} for number in range(KEYS)]
    return [http1.request("POST", "/v3/kv/put", json.dumps(body).encode()) for body in bodies]


def run(name: str, directory: str, *, connections: int, factor: float, seconds: float) -> Overloaded:
    """Overload one system.

    Raises:
        BenchError: it did not start, answered nothing, or a node has ended.
    """
    system = System(name, directory)
    try:
        system.cluster.fill()
        capacity = system.capacity()
        leader = system.leader()
        memory = Memory(system.cluster)
        try:
            load = offer(
                system.address, system.requests, http1.answer,
                connections=connections, per_s=factor * capacity, seconds=seconds,
            )  # fmt: skip
            found = uvloop.run(load)
        finally:
            memory.stop()
        system.cluster.check()
        wait_for("the cluster has a leader", lambda: bool(system.leader()))
        return Overloaded(
            system=name,
            capacity_per_s=capacity,
            offered_per_s=factor * capacity,
            sent_per_s=found.sent / seconds,
            acknowledged_per_s=found.per_s,
            refused_per_s=found.refused / seconds,
            connections_lost=found.lost,
            p50_ms=found.latency_ms(50),
            p99_ms=found.latency_ms(99),
            idle_mib=max(memory.idle) / MIB,
            grown_mib=memory.grown / MIB,
            same_leader=system.leader() == leader,
            afterwards_per_s=system.capacity(),
        )
    finally:
        system.cluster.stop()


def shown(found: Sequence[Overloaded]) -> str:
    """A table."""
    rows = [
        ("", *(one.system for one in found)),
        ("capacity, writes/s", *(f"{one.capacity_per_s:,.0f}" for one in found)),
        ("offered, writes/s", *(f"{one.offered_per_s:,.0f}" for one in found)),
        ("sent, writes/s", *(f"{one.sent_per_s:,.0f}" for one in found)),
        ("acknowledged, writes/s", *(f"{one.acknowledged_per_s:,.0f}" for one in found)),
        ("share of the capacity", *(f"{one.share:.0%}" for one in found)),
        ("refused, writes/s", *(f"{one.refused_per_s:,.0f}" for one in found)),
        ("connections lost", *(str(one.connections_lost) for one in found)),
        ("latency p50 / p99, ms", *(f"{one.p50_ms:,.0f} / {one.p99_ms:,.0f}" for one in found)),
        ("memory idle, grown, MiB", *(f"{one.idle_mib:.0f}, +{one.grown_mib:.0f}" for one in found)),
        ("leader stayed", *("yes" if one.same_leader else "NO" for one in found)),
        ("capacity afterwards", *(f"{one.recovered:.0%}" for one in found)),
    ]
    return "\n".join("  ".join([f"{row[0]:<26}", *(f"{cell:>18}" for cell in row[1:])]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description="A cluster above its capacity.")
    parser.add_argument("--systems", default="syncline,etcd", help="syncline,etcd")
    parser.add_argument("--connections", type=int, default=2000, help="(2000)")
    parser.add_argument("--factor", type=float, default=5.0, help="of the capacity (5)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload (60)")
    parser.add_argument("--directory", default=".", help="a directory on the disk to measure (this one)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if soft < options.connections:
        sys.stderr.write(f"descriptors: {soft} raised to {hard}\n")
    found = []
    for name in options.systems.split(","):
        if name == "etcd" and shutil.which("etcd") is None:
            sys.stderr.write("etcd is not installed: it is left out (Debian: etcd-server)\n")
            continue
        directory = tempfile.mkdtemp(prefix="overload-", dir=os.path.abspath(options.directory))
        try:
            limits = {"connections": options.connections, "factor": options.factor, "seconds": options.seconds}
            found.append(run(name, directory, **limits))
        except BenchError as error:
            sys.exit(f"{name}: {error}")
        finally:
            shutil.rmtree(directory)
    if options.json:
        print(json.dumps([asdict(one) | {"share": one.share, "recovered": one.recovered} for one in found]))
    else:
        print(shown(found))


if __name__ == "__main__":
    main()
