"""Interpreter settings for a process that runs a node and little else.

They hold for the whole process, so the library never changes them by itself. A program that only runs a node calls
both functions, as `syncline serve` does.
"""

from __future__ import annotations

import gc
import sys
from typing import Final

__all__ = ["freeze", "prepare"]

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread may keep the interpreter while another one waits for it.

A thread that writes a snapshot delays the loop's requests; the loop delays the threads that apply entries or sync the
log. Python's own 5 ms are many times the duration of a sync or a request."""

COLLECT_EVERY: Final = 10_000
"""New objects between two looks for cycles. A request leaves none behind: the usual 700 would look once in ten."""


def prepare() -> None:
    """Set the switch interval and the garbage collector's thresholds. Call it before the node is opened."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(COLLECT_EVERY)


def freeze() -> None:
    """Exempt the objects that exist now from garbage collection. Call it once the node is open."""
    gc.collect()
    gc.freeze()
