"""Ours: three `syncline serve` with the default settings."""

from __future__ import annotations

import os
import sys

from tests.helpers.ports import free_block

from bench.generators import http1, wrk
from bench.load import KEYS, VALUE_BYTES, Load, Outcome, Workload, key
from bench.peers.peer import NODES, Cluster, ask, ask_json
from bench.processes import BenchError, Process, wait_for
from syncline import __version__

STALE_QUERY = "?consistency=stale"
PUTS_PER_TXN = 100

KERNEL_SYNCS = "Its processor time is without that of the kernel's threads that sync its log (Linux)."


class SynclineCluster(Cluster):
    """Its HTTP addresses are in the order of its processes.

    `settings` are further ones of `syncline serve`. `module` is what runs it, and `source` the checkout whose Syncline
    it is, if not this one. `scheme` is "https" if the settings have TLS for clients.
    """

    def __init__(
        self, directory: str, *settings: str, module: str = "syncline", source: str = "", scheme: str = ""
    ) -> None:
        port = free_block(2 * NODES)
        listen = [f"127.0.0.1:{port + at}" for at in range(NODES)]
        self.addresses = [f"{scheme}://{address}" if scheme else address for address in listen]
        peers = [f"127.0.0.1:{port + NODES + at}" for at in range(NODES)]
        members = ",".join(f"n{at}={peer}" for at, peer in enumerate(peers))
        super().__init__(
            [
                Process(
                    [
                        *(sys.executable, "-m", module, "serve", "--name", f"n{at}"),
                        *("--data-dir", os.path.join(directory, f"n{at}"), "--initial-cluster", members),
                        *("--http-listen", listen[at], "--peer-listen", peers[at]),
                        *("--log-level", "warning", *settings),
                    ],
                    os.path.join(directory, f"n{at}.log"),
                    variables={"PYTHONPATH": os.path.join(source, "src")} if source else None,
                )
                for at in range(NODES)
            ]
        )

    @classmethod
    def started(
        cls, directory: str, *settings: str, module: str = "syncline", source: str = "", scheme: str = ""
    ) -> SynclineCluster:
        """Started, with a leader, and serving linearizable reads on every node."""
        cluster = cls(directory, *settings, module=module, source=source, scheme=scheme)
        try:
            cluster.wait_ready()
            cluster.leader()
        except BenchError:
            cluster.check()
            cluster.stop()
            raise
        return cluster

    def wait_ready(self) -> None:
        """Until every node serves linearizable reads."""
        wait_for("syncline is ready", lambda: all(ask(address, "/readyz")[0] == 200 for address in self.addresses))

    def leader(self) -> int:
        """Which of the nodes leads; waits until one does."""
        found: list[int] = []

        def look() -> bool:
            for at, address in enumerate(self.addresses):
                try:
                    if ask_json(address, "/raft/status").get("role") == "leader":
                        found.append(at)
                        return True
                except OSError:
                    continue
            return False

        wait_for("syncline has a leader", look)
        return found[-1]

    def fill(self) -> None:
        address, value = self.addresses[self.leader()], "x" * VALUE_BYTES
        for start in range(0, KEYS, PUTS_PER_TXN):
            puts = [{"op": "put", "key": key(start + at), "value": value} for at in range(PUTS_PER_TXN)]
            ask_json(address, "/txn", {"then": puts})

    def load(self, load: Load) -> Outcome:
        address = self.addresses[self.leader()]
        if wrk.missing():
            return http1.generate(address, load, stale_query=STALE_QUERY)
        return wrk.generate(address, load, stale_query=STALE_QUERY)


class Syncline:
    name = "syncline"
    workloads = frozenset(Workload)

    @property
    def how(self) -> str:
        generator = f"the bench's own generator ({wrk.missing()})" if wrk.missing() else "wrk"
        return f"`syncline serve` with its default settings; HTTP/1.1, loaded by {generator}. {KERNEL_SYNCS}"

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return f"Syncline {__version__}, Python {sys.version.split()[0]}"

    def start(self, directory: str) -> SynclineCluster:
        return SynclineCluster.started(directory)
