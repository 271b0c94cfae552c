"""Ours as a library: `Raft.apply` in the leader's process, without HTTP."""

from __future__ import annotations

import sys

from bench.load import Workload
from bench.peers import embedded
from syncline import __version__


class Library:
    name = "library"
    workloads = frozenset({Workload.WRITES})
    how = (
        "`syncline.Raft.apply` with default settings and an ordinary state machine (a dictionary, applied on the event "
        "loop: `apply_on_loop`); no server: the clients are tasks in the leader's process, each awaits one `apply` at "
        "a time."
    )

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return f"Syncline {__version__}, Python {sys.version.split()[0]}"

    def start(self, directory: str) -> embedded.EmbeddedCluster:
        return embedded.start(embedded.EmbeddedCluster, directory, "bench.peers.library_node")
