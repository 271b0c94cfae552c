"""Interleaved measurements: per cell and repeat every system once, so that what disturbs the machine disturbs all."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from bench import machine
from bench.figures import Quiet
from bench.load import Load
from bench.peers.peer import Cluster

WARM_UP_S = 1.0
"""Of the same load, before each measurement."""

LOCK_WAIT_S = 20.0
LOCK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one cell. `others_cores` is how many processors other programs used meanwhile."""

    per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_s_per_1000: float
    resident_mib: float
    generator_cores: float
    others_cores: float
    errors: int


def measure(cluster: Cluster, load: Load, *, warm_up_s: float = WARM_UP_S) -> Sample:
    """Warm up, then measure once."""
    cluster.load(Load(load.workload, load.clients, warm_up_s, load.value_bytes))
    busy, cpu, start = machine.busy_s(), cluster.cpu_s(), time.monotonic()
    outcome = cluster.load(load)
    elapsed = time.monotonic() - start
    cpu, busy = cluster.cpu_s() - cpu, machine.busy_s() - busy
    cluster.check()
    latencies = outcome.latencies_us
    return Sample(
        per_s=outcome.per_s,
        p50_ms=latencies.percentile_us(50) / 1000,
        p99_ms=latencies.percentile_us(99) / 1000,
        p999_ms=latencies.percentile_us(99.9) / 1000,
        cpu_s_per_1000=cpu / latencies.count * 1000,
        resident_mib=cluster.resident_bytes() / (1 << 20),
        generator_cores=outcome.generator_cpu_s / elapsed,
        others_cores=max(0.0, busy - cpu - outcome.generator_cpu_s) / elapsed,
        errors=outcome.errors,
    )


def measure_in_turns(
    clusters: Mapping[str, Cluster], load: Load, repeats: int, quiet: Quiet, tell: Callable[[str, Load, Sample], None]
) -> dict[str, list[Sample]]:
    """Each cluster's samples of one load. Those of one repeat are taken within one `quiet()`."""
    samples: dict[str, list[Sample]] = {name: [] for name in clusters}
    for _ in range(repeats):
        with quiet():
            for name, cluster in clusters.items():
                sample = measure(cluster, load)
                samples[name].append(sample)
                tell(name, load, sample)
    return samples


@contextlib.contextmanager
def holding(path: str | None, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock of the file at `path` alone: for a machine whose other users keep quiet while somebody has it.

    Where they don't let go of it for `wait_s`, it goes on without: what they use meanwhile is in the figures.
    """
    if path is None:
        yield
        return
    with open(path, "ab") as file:
        end = time.monotonic() + wait_s
        while not _locked(file) and time.monotonic() < end:
            time.sleep(LOCK_AGAIN_S)
        yield


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
