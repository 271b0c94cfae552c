"""Syncline keeps data in sync across machines: your state machine, replicated with the Raft algorithm.

raft = await Raft.open(Config(name="a", data_dir="data/a", listen="10.0.0.1:7100", peers={...}), fsm)
answer = await raft.apply(b"...")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from syncline.version import __version__

if TYPE_CHECKING:
    from syncline.node.config import Config
    from syncline.node.events import Event, EventKind
    from syncline.node.files import read_file, replace_file
    from syncline.node.fsm import (
        FSM,
        BatchingFSM,
        BytesSnapshot,
        CheckingFSM,
        DigestingFSM,
        DurableFSM,
        Entry,
        FSMSnapshot,
        LimitedFSM,
        SnapshotSink,
    )
    from syncline.node.futures import ApplyFuture
    from syncline.node.levels import MemberLevels, UpgradeStatus
    from syncline.node.members import Member, Membership
    from syncline.node.raft import Raft
    from syncline.node.stats import Stats

__all__ = [
    "ApplyFuture",
    "BatchingFSM",
    "BytesSnapshot",
    "CheckingFSM",
    "Config",
    "DigestingFSM",
    "DurableFSM",
    "Entry",
    "Event",
    "EventKind",
    "FSM",
    "FSMSnapshot",
    "LimitedFSM",
    "Member",
    "MemberLevels",
    "Membership",
    "Raft",
    "SnapshotSink",
    "Stats",
    "UpgradeStatus",
    "__version__",
    "read_file",
    "replace_file",
]

# Loaded when they are first used: the command imports this package on every call and must start fast.
_HOMES: Final = {
    "syncline.node.config": ("Config",),
    "syncline.node.events": ("Event", "EventKind"),
    "syncline.node.files": ("read_file", "replace_file"),
    "syncline.node.fsm": (
        *("FSM", "BatchingFSM", "BytesSnapshot", "CheckingFSM", "DigestingFSM", "DurableFSM", "Entry", "FSMSnapshot"),
        *("LimitedFSM", "SnapshotSink"),
    ),
    "syncline.node.futures": ("ApplyFuture",),
    "syncline.node.members": ("Member", "Membership"),
    "syncline.node.raft": ("Raft",),
    "syncline.node.stats": ("Stats",),
    "syncline.node.levels": ("MemberLevels", "UpgradeStatus"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            found: object = getattr(importlib.import_module(module), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
