"""The first step of a stop in order, shared by `up` and its nodes."""

from __future__ import annotations

import signal
from typing import Final

__all__ = ["DRAINED_LINE", "DRAIN_SIGNAL"]

DRAIN_SIGNAL: Final = signal.SIGUSR1
"""Under `up`: answer what clients have asked and take no more from them. The node goes on for its peers.

All nodes get this before the first one stops: a write that is in flight still finds a quorum."""

DRAINED_LINE: Final = "syncline: no client waits"
"""The line that a node prints when that is done."""
