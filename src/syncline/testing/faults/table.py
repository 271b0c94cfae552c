"""The table of faults: the names by which they are chosen."""

from __future__ import annotations

from typing import Final

from syncline.testing.faults import (
    addresses,
    answers,
    copies,
    disks,
    joints,
    machines,
    memberships,
    networks,
    processes,
    proposals,
    reads,
    snapshots,
)
from syncline.testing.faults.base import Fault

__all__ = ["FAULTS", "LATER", "PENDING"]

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
    "lost-log": disks.lost_log,
    "move": addresses.move,
    "move-majority": addresses.move_majority,
    "move-all": addresses.move_all,
    "rollback": copies.rollback,
    "two-copies": copies.two_copies,
    "empty-at-change": memberships.empty_at_change,
    "shrink": answers.shrink,
    "crash-at-answer": answers.crash_at_answer,
    "lose-at-answer": answers.lose_at_answer,
    "failed-snapshot": disks.failed_snapshot,
    "joint-trouble": joints.joint_trouble,
    "late-reads": reads.late_reads,
    "long-snapshot": snapshots.long_snapshot,
    "raise-in-apply": machines.raise_in_apply,
    "raise-in-snapshot": machines.raise_in_snapshot,
    "bursts": proposals.bursts,
    "late-forwards": proposals.late_forwards,
    "uneven": networks.uneven,
}

LATER: Final[dict[str, float]] = {
    "downgrade": 0.2,
    "overtake": 0.2,
    "lost-log": 0.15,
    "move": 0.1,
    "move-majority": 0.05,
    "move-all": 0.05,
    "rollback": 0.1,
    "two-copies": 0.1,
    "empty-at-change": 0.1,
    "shrink": 0.1,
    "crash-at-answer": 0.15,
    "lose-at-answer": 0.1,
    "failed-snapshot": 0.1,
    "joint-trouble": 0.2,
    "late-reads": 0.15,
    "long-snapshot": 0.2,
    "raise-in-apply": 0.1,
    "raise-in-snapshot": 0.1,
    "bursts": 0.2,
    "late-forwards": 0.15,
    "uneven": 0.15,
}
"""The share of seeds that have each of the faults that came when there were seeds already whose failures are
remembered: drawn apart, so that to most of those seeds nothing has changed."""

PENDING: Final[frozenset[str]] = frozenset()
"""Faults that the product does not survive always: no seed draws them, and `--faults` makes them."""
