"""A bound: the library behind an HTTP server that does nothing. What separates it from `syncline` is what HTTP, the
routes and the store cost; what separates it from the others no HTTP server in front of this library can win."""

from __future__ import annotations

import sys

from bench.generators import http1, wrk
from bench.load import Load, Outcome, Workload
from bench.peers import embedded
from syncline import __version__


class BareCluster(embedded.EmbeddedCluster):
    def load(self, load: Load) -> Outcome:
        generate = http1.generate if wrk.missing() else wrk.generate
        return generate(f"127.0.0.1:{self.leader().ask('port')}", load, stale_query="")


class Bare:
    name = "bare"
    workloads = frozenset({Workload.WRITES, Workload.READS})
    how = (
        "a bound, no system: the library behind an HTTP server that reads nothing of a request but its first letter, "
        "writes the same bytes for each PUT, and gives one answer to all of them, once the write is applied or the "
        "read is confirmed; loaded as Syncline is."
    )

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return f"Syncline {__version__}, Python {sys.version.split()[0]}"

    def start(self, directory: str) -> BareCluster:
        return embedded.start(BareCluster, directory, "bench.peers.bare_node")
