"""What a cluster costs that nobody asks anything: each system alone on the machine, filled with the keys."""

from __future__ import annotations

import tempfile
import time

from bench.figures import Figure, Quiet, Scale
from bench.peers import PEERS
from bench.peers.peer import NODES

SETTLE_S = 3.0
"""After the start, before it counts."""


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    figures = []
    for peer in PEERS.values():
        if peer.missing():
            continue
        cluster = peer.start(tempfile.mkdtemp(dir=directory))
        try:
            cluster.fill()
            with quiet():
                time.sleep(SETTLE_S)
                before = cluster.cpu_s()
                time.sleep(scale.idle_s)
                used = cluster.cpu_s() - before
        finally:
            cluster.stop()
        share = used / scale.idle_s / NODES * 100
        figures.append(Figure(f"idle.{peer.name}", f"idle, {peer.name}", share, "% of a core per node"))
    return figures
