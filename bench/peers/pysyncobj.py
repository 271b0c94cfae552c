"""PySyncObj: replicated method calls in the leader's process."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from bench.load import Workload
from bench.peers import embedded


class PySyncObj:
    name = "pysyncobj"
    workloads = frozenset({Workload.WRITES})
    how = (
        "PySyncObj with its default settings and a journal, which it doesn't sync before it answers; no server: the "
        "calls are made in the leader's process, each with a callback that makes the next."
    )

    def missing(self) -> str:
        return "" if find_spec("pysyncobj") else "pysyncobj is not installed"

    def version(self) -> str:
        return f"PySyncObj {metadata.version('pysyncobj')}"

    def start(self, directory: str) -> embedded.EmbeddedCluster:
        return embedded.start(embedded.EmbeddedCluster, directory, "bench.peers.pysyncobj_node")
