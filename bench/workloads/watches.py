"""Watches: 1,000 of a key each, ten of each of 100 keys, and 100 of one prefix, beside etcd's in turns.

Each watcher is a client of its own. Each turn is measured twice, without watchers and with them: the difference is
what the events alone cost. With one event a write it is smaller than the differences between two runs; with ten it is
not, and each event is still sent by itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from bench.figures import Figure, Quiet, Scale
from bench.generators.watching import GrpcWire, HttpWire, Watched, WatchLoad, generate
from bench.load import VALUE_BYTES
from bench.peers import PEERS
from bench.peers.etcd import EtcdCluster
from bench.peers.peer import Cluster
from bench.peers.syncline import SynclineCluster
from bench.stats import median

OURS = "syncline"
LEAST = 0.001
"""What ratios are made of, at least: a microsecond, which is what is measured to. An event may come before the
acknowledgement of its write, and then counts as 0."""
KEYS = [f"watched/{number:04d}" for number in range(1000)]
LOADS = {
    "keys": (
        "1,000 watchers of a key each, 1,000 writes/s",
        WatchLoad([(key, None) for key in KEYS], KEYS, 1, 1000, 0.0, VALUE_BYTES),
    ),
    "shared": (
        "10 watchers of each of 100 keys, 300 writes/s",
        WatchLoad([(key, None) for key in KEYS[:100] for _ in range(10)], KEYS[:100], 10, 300, 0.0, VALUE_BYTES),
    ),
    "prefix": (
        "100 watchers of a prefix, 300 writes/s",
        WatchLoad([("watched/", "watched0")] * 100, KEYS, 100, 300, 0.0, VALUE_BYTES),
    ),
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One system under one load: without watchers and with them."""

    alone: Watched
    watched: Watched

    @property
    def cpu_ms(self) -> float:
        """Of all nodes per 1,000 events, with the writes."""
        return self.watched.nodes_cpu_s / self.watched.events * 1e6

    @property
    def events_cpu_ms(self) -> float:
        """Of all nodes per 1,000 events, without what the writes alone cost."""
        return (self.watched.nodes_cpu_s - self.alone.nodes_cpu_s) / self.watched.events * 1e6

    @property
    def p50_ms(self) -> float:
        return self.watched.after_ack_us.percentile_us(50) / 1000

    @property
    def p99_ms(self) -> float:
        return self.watched.after_ack_us.percentile_us(99) / 1000

    @property
    def whole_p50_ms(self) -> float:
        return self.watched.after_send_us.percentile_us(50) / 1000

    @property
    def whole_p99_ms(self) -> float:
        return self.watched.after_send_us.percentile_us(99) / 1000


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    figures: list[Figure] = []
    clusters: dict[str, Cluster] = {}
    try:
        for name in (OURS, "etcd"):
            if name in scale.peers and not PEERS[name].missing():
                clusters[name] = PEERS[name].start(tempfile.mkdtemp(dir=directory))
        for name, (title, load) in LOADS.items():
            timed = replace(load, seconds=scale.seconds)
            turns: dict[str, list[Turn]] = {system: [] for system in clusters}
            for _ in range(scale.repeats):
                with quiet():
                    for system, cluster in clusters.items():
                        turns[system].append(_turn(cluster, timed))
            figures += _figures(name, title, turns)
    finally:
        for cluster in clusters.values():
            cluster.stop()
    return figures


def _turn(cluster: Cluster, load: WatchLoad) -> Turn:
    if isinstance(cluster, SynclineCluster):
        address = cluster.addresses[cluster.leader()]
        wire: HttpWire | GrpcWire = HttpWire()
    else:
        assert isinstance(cluster, EtcdCluster)
        address = cluster.leader()
        wire = GrpcWire(address)
    alone = generate(address, wire, replace(load, watched=(), events_per_write=0), cluster.cpu_s)
    watched = generate(address, wire, load, cluster.cpu_s)
    cluster.check()
    return Turn(alone, watched)


MEASURES: dict[str, tuple[str, str, Callable[[Turn], float]]] = {
    "cpu": ("processor time of all nodes per 1,000 events, with the writes", "ms", lambda turn: turn.cpu_ms),
    "events_cpu": ("the same without the writes", "ms", lambda turn: turn.events_cpu_ms),
    "p50": ("from acknowledgement to event, p50", "ms", lambda turn: turn.p50_ms),
    "p99": ("from acknowledgement to event, p99", "ms", lambda turn: turn.p99_ms),
    "whole_p50": ("from the sending of the write to its event, p50", "ms", lambda turn: turn.whole_p50_ms),
    "whole_p99": ("the same, p99", "ms", lambda turn: turn.whole_p99_ms),
}


def _figures(name: str, title: str, turns: dict[str, list[Turn]]) -> Iterable[Figure]:
    for measure, (what, unit, of) in MEASURES.items():
        for system, taken in turns.items():
            values = [of(turn) for turn in taken]
            note = f"{min(values):.3g} to {max(values):.3g}"
            if measure == "p99":
                note += "; " + _note(taken)
            yield Figure(f"watch.{name}.{measure}.{system}", f"{system}: {title}: {what}", median(values), unit, note)
        if OURS in turns and "etcd" in turns:
            pairs = zip(turns[OURS], turns["etcd"], strict=True)
            ratios = [max(of(ours), LEAST) / max(of(etcd), LEAST) for ours, etcd in pairs]
            ratio = median(ratios)
            if measure == "events_cpu":  # a difference of two runs: only that of all turns together says something
                ratio = max(sum(map(of, turns[OURS])), LEAST) / max(sum(map(of, turns["etcd"])), LEAST)
            note = f"{min(ratios):.2f} to {max(ratios):.2f}"
            yield Figure(f"watch.{name}.{measure}.ratio", f"against etcd: {title}: {what}", ratio, "x", note)


def _note(turns: list[Turn]) -> str:
    """Whether the run was sound."""
    watched = [turn.watched for turn in turns]
    late = median([one.late_us.percentile_us(99) / 1000 for one in watched])
    own = median([one.generator_cpu_s / one.elapsed_s for one in watched])
    missing = sum(one.missing for one in watched)
    return f"generator {own:.2f} processors; writes sent late by p99 {late:.2f} ms; {missing} events missing or twice"
