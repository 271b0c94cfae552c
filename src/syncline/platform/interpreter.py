"""What a process that runs a node, and little else, asks of the interpreter.

These settings belong to the whole process, so the library never touches them by itself: a program that is a node's own
calls both functions, as `syncline serve` does.
"""

from __future__ import annotations

import gc
import sys
from typing import Final

__all__ = ["freeze", "prepare"]

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread may keep the interpreter while another one waits for it: one that writes a snapshot while the loop
has requests, the loop's while one that applies, or syncs the log, has something to tell. Python's own 5 ms are many
times what a sync takes, and what a request takes."""

COLLECT_EVERY: Final = 10_000
"""New objects between two looks for cycles. A request leaves none behind: the usual 700 would look once in ten."""


def prepare() -> None:
    """To be called before the node is opened."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(COLLECT_EVERY)


def freeze() -> None:
    """To be called once it is open: what is there by then stays for good, and need not be looked at again."""
    gc.collect()
    gc.freeze()
