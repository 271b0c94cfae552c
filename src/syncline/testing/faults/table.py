"""The table of faults: the names by which they are chosen."""

from __future__ import annotations

from typing import Final

from syncline.testing.faults import networks, processes
from syncline.testing.faults.base import Fault

__all__ = ["FAULTS"]

FAULTS: Final[dict[str, Fault]] = {
    "kill": processes.kill,
    "power": processes.power,
    "crash-in-write": processes.crash_in_write,
    "kill-all": processes.kill_all,
    "pause": processes.pause,
    "cut": networks.cut,
    "cut-one-way": networks.cut_one_way,
    "isolate-leader": networks.isolate_leader,
    "bridge": networks.bridge,
    "flap": networks.flap,
    "delay": networks.delay,
    "reset": networks.reset,
    "slow-line": networks.slow_line,
}
