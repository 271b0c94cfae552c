"""What the simulator has found, each in the fewest steps that show it."""

from __future__ import annotations

from syncline.errors import CorruptionError
from syncline.testing.cluster import SimCluster
from syncline.testing.simloop import SimLoop, run_simulation
from syncline.testing.simserver import Condition


def test_a_founder_whose_log_vanishes_does_not_begin_anew() -> None:
    """Its identity was written from an old copy when the founders had met, and had forgotten that there was a log."""

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=1)
        await cluster.start(3)
        await cluster.leader()
        server = cluster.server("n1")
        server.crash()
        for path in server.disk.paths():
            if path.endswith(".wal"):
                server.disk.lose(path)
        server.start()
        await cluster.until(lambda: server.condition is not Condition.STARTING, timeout_s=5.0)
        assert server.condition is Condition.REFUSED
        assert isinstance(server.error, CorruptionError)

    run_simulation(main)
