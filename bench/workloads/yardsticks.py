"""What this machine can do by itself: without it absolute figures mean little."""

from __future__ import annotations

import os
import sys

from bench.echo import echoes_per_s
from bench.figures import Figure, Quiet, Scale
from bench.floor import replicated_us
from bench.guard import CLIENTS, fdatasync_us
from bench.processes import Process


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    echo = Process([sys.executable, "-m", "bench.echo"], os.path.join(directory, "echo.log"), asked=True)
    try:
        port = echo.ask("port")
        assert isinstance(port, int)
        with quiet():
            per_s = echoes_per_s(port, CLIENTS, scale.seconds)
            sync_us = fdatasync_us(directory, scale.seconds)
            floor_us = replicated_us(directory, scale.seconds)
    finally:
        echo.stop()
    return [
        Figure("yardstick.fdatasync", "yardstick: a small append and its fdatasync, median", sync_us / 1000, "ms"),
        Figure(
            "yardstick.replicated",
            "yardstick: a write that three processes pass on and sync, and no more, one after the other, median",
            floor_us / 1000,
            "ms",
            f"{1e6 / floor_us:,.0f} a second at this pace",
        ),
        Figure("yardstick.echo", f"yardstick: a minimal HTTP echo in Python, {CLIENTS} clients", per_s, "/s"),
    ]
