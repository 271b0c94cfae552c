"""`run_simulation` of `testing.sim.loop`, for programs outside this repository that import it from here."""

from __future__ import annotations

from syncline.testing.sim.loop import run_simulation

__all__ = ["run_simulation"]
