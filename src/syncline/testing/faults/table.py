"""The table of faults: the names by which they are chosen."""

from __future__ import annotations

from typing import Final

from syncline.testing.faults import disks, memberships, networks, processes
from syncline.testing.faults.base import Fault

__all__ = ["FAULTS"]

FAULTS: Final[dict[str, Fault]] = {
    "kill": processes.kill,
    "power": processes.power,
    "crash-in-write": processes.crash_in_write,
    "kill-all": processes.kill_all,
    "pause": processes.pause,
    "slow-loop": processes.slow_loop,
    "slow-threads": processes.slow_threads,
    "clock-rate": processes.clock_rate,
    "clock-jump": processes.clock_jump,
    "cut": networks.cut,
    "cut-one-way": networks.cut_one_way,
    "isolate-leader": networks.isolate_leader,
    "bridge": networks.bridge,
    "flap": networks.flap,
    "delay": networks.delay,
    "reset": networks.reset,
    "overtake": networks.overtake,
    "slow-line": networks.slow_line,
    "failed-sync": disks.failed_sync,
    "failed-write": disks.failed_write,
    "full-disk": disks.full_disk,
    "slow-disk": disks.slow_disk,
    "rot": disks.rot,
    "rot-in-snapshot": disks.rot_in_snapshot,
    "lost-file": disks.lost_file,
    "wipe": disks.wipe,
    "foreign-disk": disks.foreign_disk,
    "downgrade": disks.downgrade,
    "second-process": disks.second_process,
    "add": memberships.add,
    "remove": memberships.remove,
    "replace": memberships.replace,
    "promote": memberships.promote,
    "demote": memberships.demote,
    "joint": memberships.joint,
    "transfer": memberships.transfer,
    "snapshot": memberships.snapshot,
}
