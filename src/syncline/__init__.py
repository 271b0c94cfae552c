"""Syncline keeps data in sync across machines: your state machine, replicated with the Raft algorithm.

    config = Config(name="a", data_dir="data/a", listen="10.0.0.1:7100", peers={...}, secret=...)
    async with Raft.open(config, fsm) as raft:
        answer = await raft.apply(b"...")

The public modules are `syncline`, `syncline.errors`, `syncline.blocking`, `syncline.client`, `syncline.machines`,
`syncline.server` and `syncline.testing`. What stands in their `__all__` is public; everything else may change from
release to release.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from syncline import errors as errors
from syncline.version import __version__

if TYPE_CHECKING:
    from syncline import blocking as blocking
    from syncline import client as client
    from syncline import machines as machines
    from syncline import server as server
    from syncline import testing as testing
    from syncline.client import AsyncClient, Client
    from syncline.client.store import Store
    from syncline.consensus.types import ChangeType
    from syncline.engines.contact import BackendDown, BackendUp
    from syncline.engines.protocol import Engine, EngineFigures
    from syncline.engines.replica import EngineStats, LogReplica
    from syncline.machines.commands import command, query
    from syncline.machines.machine import Machine
    from syncline.machines.opening import open  # noqa: A004 - `syncline.open`
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
        StateRestored,
    )
    from syncline.node.files import read_file, replace_file
    from syncline.node.fsm import (
        FSM,
        AnswerKeepingFSM,
        BatchingFSM,
        BytesSnapshot,
        CheckingFSM,
        DigestingFSM,
        DurableFSM,
        Entry,
        FSMSnapshot,
        LimitedFSM,
        RenumberingFSM,
        SnapshotSink,
    )
    from syncline.node.futures import ApplyFuture, ReadFuture
    from syncline.node.ids import NodeId
    from syncline.node.joining import Ask
    from syncline.node.leadership import LeaderSchedule, LeaderTerm
    from syncline.node.levels import MemberLevels, UpgradeStatus
    from syncline.node.member_registry import Member, Membership
    from syncline.node.quorum_loss.report import RecoveryReport, VoterLine
    from syncline.node.raft import Raft
    from syncline.node.role import Role
    from syncline.node.session import Session
    from syncline.node.session_calls import SessionFuture
    from syncline.node.settings.load import add_config_flags, load_config
    from syncline.node.startups import Startup
    from syncline.node.stats import MemberProgress, SnapshotInfo, Stats, Timings
    from syncline.platform.distribution import Distribution
    from syncline.sessions.entries import OnceKey
    from syncline.transport.messages import PeerStats, Refusal
    from syncline.transport.tls import PeerTls

# Loaded when they are first used: the command imports this package on every call and must start fast.
_HOMES: Final = {
    "syncline.client": ("AsyncClient", "Client"),
    "syncline.client.store": ("Store",),
    "syncline.consensus.types": ("ChangeType",),
    "syncline.machines.commands": ("command", "query"),
    "syncline.machines.machine": ("Machine",),
    "syncline.machines.opening": ("open",),
    "syncline.engines.protocol": ("Engine", "EngineFigures"),
    "syncline.engines.replica": ("EngineStats", "LogReplica"),
    "syncline.engines.contact": ("BackendDown", "BackendUp"),
    "syncline.node.config": ("Config",),
    "syncline.node.events": (
        *("DiskSlow", "DiskSpaceLow", "Event", "LeaderChanged", "MembershipChanged", "NodeStopped", "PeerDown"),
        *("PeerUp", "RoleChanged", "SnapshotInstalled", "SnapshotTaken", "StateRestored"),
    ),
    "syncline.node.files": ("read_file", "replace_file"),
    "syncline.node.fsm": (
        *("FSM", "BatchingFSM", "BytesSnapshot", "CheckingFSM", "DigestingFSM", "DurableFSM", "Entry", "FSMSnapshot"),
        *("AnswerKeepingFSM", "LimitedFSM", "RenumberingFSM", "SnapshotSink"),
    ),
    "syncline.node.futures": ("ApplyFuture", "ReadFuture"),
    "syncline.node.ids": ("NodeId",),
    "syncline.node.joining": ("Ask",),
    "syncline.node.leadership": ("LeaderSchedule", "LeaderTerm"),
    "syncline.node.levels": ("MemberLevels", "UpgradeStatus"),
    "syncline.node.member_registry": ("Member", "Membership"),
    "syncline.node.session": ("Session",),
    "syncline.node.session_calls": ("SessionFuture",),
    "syncline.node.settings.load": ("add_config_flags", "load_config"),
    "syncline.node.startups": ("Startup",),
    "syncline.node.quorum_loss.report": ("RecoveryReport", "VoterLine"),
    "syncline.node.raft": ("Raft",),
    "syncline.node.role": ("Role",),
    "syncline.platform.distribution": ("Distribution",),
    "syncline.node.stats": ("MemberProgress", "SnapshotInfo", "Stats", "Timings"),
    "syncline.sessions.entries": ("OnceKey",),
    "syncline.transport.messages": ("PeerStats", "Refusal"),
    "syncline.transport.tls": ("PeerTls",),
}
_MODULES: Final = frozenset({"blocking", "client", "machines", "server", "testing"})

__all__ = [
    "AnswerKeepingFSM",
    "ApplyFuture",
    "Ask",
    "AsyncClient",
    "BackendDown",
    "BackendUp",
    "BatchingFSM",
    "BytesSnapshot",
    "ChangeType",
    "CheckingFSM",
    "Client",
    "Config",
    "DigestingFSM",
    "DiskSlow",
    "DiskSpaceLow",
    "Distribution",
    "DurableFSM",
    "Engine",
    "EngineFigures",
    "EngineStats",
    "Entry",
    "Event",
    "FSM",
    "FSMSnapshot",
    "LeaderChanged",
    "LeaderSchedule",
    "LeaderTerm",
    "LimitedFSM",
    "LogReplica",
    "Machine",
    "Member",
    "MemberLevels",
    "MemberProgress",
    "Membership",
    "MembershipChanged",
    "NodeId",
    "NodeStopped",
    "OnceKey",
    "PeerDown",
    "PeerStats",
    "PeerTls",
    "PeerUp",
    "Raft",
    "ReadFuture",
    "RecoveryReport",
    "Refusal",
    "RenumberingFSM",
    "Role",
    "RoleChanged",
    "Session",
    "SessionFuture",
    "SnapshotInfo",
    "SnapshotInstalled",
    "SnapshotSink",
    "SnapshotTaken",
    "Startup",
    "StateRestored",
    "Stats",
    "Store",
    "Timings",
    "UpgradeStatus",
    "VoterLine",
    "__version__",
    "add_config_flags",
    "command",
    "load_config",
    "open",
    "query",
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
