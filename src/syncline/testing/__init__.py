"""Tests for replicated state machines, and for Syncline itself.

- `check_fsm(MyFSM, commands)`: does a state machine keep the contract that replication needs?
- `guard_determinism()`: does code read the clock, random numbers or files? With the line of each call.
- `simulate(MyFSM, seed=..., commands=...)`: a cluster of it through crashes, partitions and slow disks, from one
  seed.
- `RaftCluster`, and the pytest fixture `raft_cluster`: a cluster in memory, on virtual time, for plain tests.
- `ProcessCluster`, and the pytest fixtures `syncline_cluster` and `kv`: real nodes for tests of a program that uses a
  client.
- `Recorder` and `judge`: record the operations of a key-value cluster's clients, and check that they are
  linearizable.
- `World`: what a node, a server or a client reaches outside it; a test replaces a part (`Raft.open(..., world=...)`).
  The protocols of its parts (`Disk`, `Network`, `Workers`) may change from release to release.

Each name is loaded when it is first used. Only the fixture needs pytest, and only strategies of commands need
hypothesis.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from syncline.platform.disk import Disk, File, LockHandle
    from syncline.platform.network import Listener, Network
    from syncline.platform.worker import Flusher, Worker, Workers
    from syncline.platform.world import World
    from syncline.testing.cluster import Settings
    from syncline.testing.fsm.check import FSMProblem, check_fsm
    from syncline.testing.fsm.guard import NotDeterministic, guard_determinism
    from syncline.testing.fsm.simulation import Simulated, SimulationFailed, simulate
    from syncline.testing.linearizability.history import (
        CallCompare,
        DeleteCall,
        NotApplied,
        Operation,
        PutCall,
        Ran,
        ReadCall,
        Recorder,
        Refused,
        Seen,
        TxnCall,
        Written,
        read_history,
        write_history,
    )
    from syncline.testing.linearizability.promises import Anomaly
    from syncline.testing.linearizability.verdict import Undecided, assert_linearizable, judge
    from syncline.testing.process_cluster import ProcessCluster
    from syncline.testing.raft_cluster import RaftCluster

__all__ = [
    "Anomaly",
    "CallCompare",
    "DeleteCall",
    "Disk",
    "FSMProblem",
    "File",
    "Flusher",
    "Listener",
    "LockHandle",
    "Network",
    "NotApplied",
    "NotDeterministic",
    "Operation",
    "ProcessCluster",
    "PutCall",
    "RaftCluster",
    "Ran",
    "ReadCall",
    "Recorder",
    "Refused",
    "Seen",
    "Settings",
    "Simulated",
    "SimulationFailed",
    "TxnCall",
    "Undecided",
    "Worker",
    "Workers",
    "World",
    "Written",
    "assert_linearizable",
    "check_fsm",
    "guard_determinism",
    "judge",
    "read_history",
    "simulate",
    "write_history",
]

_HOMES: Final = {
    "syncline.platform.disk": ("Disk", "File", "LockHandle"),
    "syncline.platform.network": ("Listener", "Network"),
    "syncline.platform.worker": ("Flusher", "Worker", "Workers"),
    "syncline.platform.world": ("World",),
    "syncline.testing.linearizability.promises": ("Anomaly",),
    "syncline.testing.cluster": ("Settings",),
    "syncline.testing.fsm.check": ("FSMProblem", "check_fsm"),
    "syncline.testing.linearizability.history": (
        *("CallCompare", "DeleteCall", "NotApplied", "Operation", "PutCall", "Ran", "ReadCall", "Recorder"),
        *("Refused", "Seen", "TxnCall", "Written", "read_history", "write_history"),
    ),
    "syncline.testing.linearizability.verdict": ("Undecided", "assert_linearizable", "judge"),
    "syncline.testing.process_cluster": ("ProcessCluster",),
    "syncline.testing.raft_cluster": ("RaftCluster",),
    "syncline.testing.fsm.guard": ("NotDeterministic", "guard_determinism"),
    "syncline.testing.fsm.simulation": ("Simulated", "SimulationFailed", "simulate"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            found: object = getattr(importlib.import_module(home), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """Keeps the function `simulate`: the import of the module of the same name (`python -m
    syncline.testing.simulate`) would replace it.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
