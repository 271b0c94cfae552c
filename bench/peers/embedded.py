"""Libraries: three processes, the load generator inside the leader's, which proposes without any server in between.

Each node is a program that reads an order per line, as JSON, and answers each with a line: `"leads"` with true or
false, a load (its fields) with what `answer` makes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from tests.helpers.ports import free_block

from bench.load import Load, Outcome
from bench.peers.peer import NODES, Cluster
from bench.processes import BenchError, Process, wait_for
from bench.stats import Histogram


class EmbeddedCluster(Cluster):
    """Nodes that are asked. `module` is run with a node's name, its directory and all nodes as name=host:port,..."""

    def __init__(self, directory: str, module: str) -> None:
        port = free_block(NODES)
        members = ",".join(f"n{at}=127.0.0.1:{port + at}" for at in range(NODES))
        super().__init__(
            [
                Process(
                    [sys.executable, "-m", module, f"n{at}", os.path.join(directory, f"n{at}"), members],
                    os.path.join(directory, f"n{at}.log"),
                    asked=True,
                )
                for at in range(NODES)
            ]
        )

    def leader(self) -> Process:
        """The node that leads; waits until one does."""
        found: list[Process] = []

        def look() -> bool:
            found.extend(process for process in self.processes if process.ask("leads"))
            return bool(found)

        wait_for("a node leads", look)
        return found[-1]

    def fill(self) -> None:
        """There is nothing to read."""

    def load(self, load: Load) -> Outcome:
        order = {"clients": load.clients, "seconds": load.seconds, "value_bytes": load.value_bytes}
        answered = self.leader().ask(order)
        assert isinstance(answered, dict)
        return outcome(answered)


Embedded = TypeVar("Embedded", bound=EmbeddedCluster)


def start(kind: type[Embedded], directory: str, module: str) -> Embedded:
    """Start the nodes and wait until one leads."""
    cluster = kind(directory, module)
    try:
        cluster.leader()
    except BenchError:
        cluster.stop()
        raise
    return cluster


def answer(latencies_us: Sequence[int], elapsed_s: float, errors: int) -> dict[str, object]:
    """What a node answers to a load."""
    return {"latencies_us": latencies_us, "elapsed_s": elapsed_s, "errors": errors}


def outcome(answered: dict[str, Any]) -> Outcome:
    """What a node answered. The generator's processor time is within the node's."""
    return Outcome(Histogram.of(answered["latencies_us"]), answered["elapsed_s"], answered["errors"], 0.0)
