"""Syncline keeps data in sync across machines: your state machine, replicated with the Raft algorithm.

    config = Config(name="a", data_dir="data/a", listen="10.0.0.1:7100", peers={...}, secret=...)
    async with Raft.open(config, fsm) as raft:
        answer = await raft.apply(b"...")

The public modules are `syncline`, `syncline.errors`, `syncline.client`, `syncline.server` and `syncline.testing`. What
stands in their `__all__` is public; everything else may change from release to release.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from syncline import errors as errors
from syncline.version import __version__

if TYPE_CHECKING:
    from syncline import client as client
    from syncline import server as server
    from syncline import testing as testing
    from syncline.consensus.types import ChangeType
    from syncline.node.config import Config
    from syncline.node.events import (
        DiskSlow,
        DiskSpaceLow,
        Event,
        LeaderChanged,
        MembershipChanged,
        NodeStopped,
        PeerDown,
        PeerUp,
        RoleChanged,
        SnapshotInstalled,
        SnapshotTaken,
    )
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
    from syncline.node.futures import ApplyFuture, ReadFuture
    from syncline.node.ids import NodeId
    from syncline.node.joining import Ask
    from syncline.node.levels import MemberLevels, UpgradeStatus
    from syncline.node.member_registry import Member, Membership
    from syncline.node.raft import Raft
    from syncline.node.role import Role
    from syncline.node.startups import Startup
    from syncline.node.stats import MemberProgress, SnapshotInfo, Stats
    from syncline.transport.messages import PeerStats, Refusal
    from syncline.transport.tls import PeerTls

# Loaded when they are first used: the command imports this package on every call and must start fast.
_HOMES: Final = {
    "syncline.consensus.types": ("ChangeType",),
    "syncline.node.config": ("Config",),
    "syncline.node.events": (
        *("DiskSlow", "DiskSpaceLow", "Event", "LeaderChanged", "MembershipChanged", "NodeStopped", "PeerDown"),
        *("PeerUp", "RoleChanged", "SnapshotInstalled", "SnapshotTaken"),
    ),
    "syncline.node.files": ("read_file", "replace_file"),
    "syncline.node.fsm": (
        *("FSM", "BatchingFSM", "BytesSnapshot", "CheckingFSM", "DigestingFSM", "DurableFSM", "Entry", "FSMSnapshot"),
        *("LimitedFSM", "SnapshotSink"),
    ),
    "syncline.node.futures": ("ApplyFuture", "ReadFuture"),
    "syncline.node.ids": ("NodeId",),
    "syncline.node.joining": ("Ask",),
    "syncline.node.levels": ("MemberLevels", "UpgradeStatus"),
    "syncline.node.member_registry": ("Member", "Membership"),
    "syncline.node.startups": ("Startup",),
    "syncline.node.raft": ("Raft",),
    "syncline.node.role": ("Role",),
    "syncline.node.stats": ("MemberProgress", "SnapshotInfo", "Stats"),
    "syncline.transport.messages": ("PeerStats", "Refusal"),
    "syncline.transport.tls": ("PeerTls",),
}
_MODULES: Final = frozenset({"client", "server", "testing"})

__all__ = [
    "ApplyFuture",
    "Ask",
    "BatchingFSM",
    "BytesSnapshot",
    "ChangeType",
    "CheckingFSM",
    "Config",
    "DigestingFSM",
    "DiskSlow",
    "DiskSpaceLow",
    "DurableFSM",
    "Entry",
    "Event",
    "FSM",
    "FSMSnapshot",
    "LeaderChanged",
    "LimitedFSM",
    "Member",
    "MemberLevels",
    "MemberProgress",
    "Membership",
    "MembershipChanged",
    "NodeId",
    "NodeStopped",
    "PeerDown",
    "PeerStats",
    "PeerTls",
    "PeerUp",
    "Raft",
    "ReadFuture",
    "Refusal",
    "Role",
    "RoleChanged",
    "SnapshotInfo",
    "SnapshotInstalled",
    "SnapshotSink",
    "SnapshotTaken",
    "Startup",
    "Stats",
    "UpgradeStatus",
    "__version__",
    "read_file",
    "replace_file",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    for module, names in _HOMES.items():
        if name in names:
            found: object = getattr(importlib.import_module(module), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
