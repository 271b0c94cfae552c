"""What the kernel knows of the nodes' processes, sampled at intervals."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.process_cluster import Cluster, Node
from tests.soak.growth import LIMITS, Growth, grown

__all__ = ["Sampler"]


@dataclass
class Life:
    """The samples of one process."""

    name: str
    pid: int
    times_s: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {measure: [] for measure in LIMITS})


def disk_bytes(directory: str) -> int:
    """What the files take; a file may go while it is looked at."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def look(node: Node) -> dict[str, float]:
    """One sample. Raises `OSError` if the process has ended."""
    status = Path(f"/proc/{node.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "memory": float(fields["VmRSS"].split()[0]) * 1024,
        "descriptors": float(len(os.listdir(f"/proc/{node.pid}/fd"))),
        "threads": float(fields["Threads"]),
        "disk": float(disk_bytes(node.data_dir)),
    }


class Sampler:
    """Samples all running nodes until it is cancelled."""

    def __init__(self, cluster: Cluster, every_s: float) -> None:
        self._cluster = cluster
        self._every_s = every_s
        self.lives: list[Life] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        while True:
            for node in tuple(self._cluster.nodes):
                if node.running:
                    self._sample(node, loop.time() - begun_s)
            await asyncio.sleep(self._every_s)

    def _sample(self, node: Node, now_s: float) -> None:
        try:
            found = look(node)
        except (OSError, KeyError):  # it has ended meanwhile
            return
        life = next((one for one in self.lives if one.pid == node.pid), None)
        if life is None:
            life = Life(f"{node.name} pid {node.pid}", node.pid)
            self.lives.append(life)
        life.times_s.append(now_s)
        for measure, value in found.items():
            life.values[measure].append(value)

    def growth(self) -> list[Growth]:
        """The lines of all lives that were long enough."""
        return [line for life in self.lives for line in grown(life.name, life.times_s, life.values)]
