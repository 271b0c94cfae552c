"""What is asked of a system, and what came of it: the words that peers, generators and outputs share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bench.stats import Histogram

KEYS = 10_000
"""The key space. Each request takes a random key of it, except where a generator can't (`h2load`: one key)."""

VALUE_BYTES = 256


class Workload(StrEnum):
    """What the clients do."""

    WRITES = "writes"
    READS = "reads"
    """Linearizable: each sees every write that was acknowledged before it."""
    STALE = "stale"
    """Of the asked node's own state, at once."""
    MIXED = "mixed"
    """Half writes, half linearizable reads."""


@dataclass(frozen=True, slots=True)
class Load:
    """Closed loop: so many clients, each with one request in flight, for so long."""

    workload: Workload
    clients: int
    seconds: float
    value_bytes: int = VALUE_BYTES


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load generator saw."""

    latencies_us: Histogram
    elapsed_s: float
    errors: int
    generator_cpu_s: float

    @property
    def per_s(self) -> float:
        return self.latencies_us.count / self.elapsed_s


def key(number: int) -> str:
    """The same keys for every system."""
    return f"key-{number:05d}"
