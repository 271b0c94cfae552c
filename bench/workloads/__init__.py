"""What is measured of ours alone, one file each. `WORKLOADS` is in the order of the pages."""

from __future__ import annotations

from collections.abc import Callable

from bench.figures import Figure, Quiet, Scale
from bench.workloads import (
    batches,
    blocking,
    clients,
    engines,
    etcd_face,
    failover,
    idle,
    importing,
    leases,
    million,
    tls,
    transactions,
    values,
    watches,
    yardsticks,
)

WORKLOADS: dict[str, Callable[[str, Scale, Quiet], list[Figure]]] = {
    "yardsticks": yardsticks.run,
    "transactions": transactions.run,
    "batches": batches.run,
    "blocking": blocking.run,
    "clients": clients.run,
    "etcd-face": etcd_face.run,
    "engines": engines.run,
    "watches": watches.run,
    "leases": leases.run,
    "values": values.run,
    "import": importing.run,
    "failover": failover.run,
    "million": million.run,
    "tls": tls.run,
    "idle": idle.run,
}
"""By name; each is given a directory for its data."""
