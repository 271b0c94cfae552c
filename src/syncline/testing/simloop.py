"""`run_simulation` under a name of its own, for programs that run a `SimCluster`: the loop is in `testing.sim.loop`."""

from __future__ import annotations

from syncline.testing.sim.loop import run_simulation

__all__ = ["run_simulation"]
