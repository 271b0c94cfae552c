"""The components of one node, assembled by `startup`."""

from __future__ import annotations

from dataclasses import dataclass

from syncline.consensus.rawnode import RawNode
from syncline.node.applier import Applier
from syncline.node.calls import Calls
from syncline.node.disk_space import DiskWatch
from syncline.node.entry_stamps import EntryStamps
from syncline.node.first_peers import FirstPeers
from syncline.node.idle_sessions import IdleSessions
from syncline.node.intake import Intake
from syncline.node.levels import Levels
from syncline.node.log_writer import LogWriter
from syncline.node.machine import CommandCheck
from syncline.node.member_registry import MemberRegistry
from syncline.node.starts.confirmation import Confirmation
from syncline.node.starts.guard import StartGuard
from syncline.storage.datadir import DataDir, Identity
from syncline.storage.snapshots.store import SnapshotStore
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.reader import EntryReader
from syncline.storage.wal.writer import Wal
from syncline.transport.peers import Transport

__all__ = ["Parts"]


@dataclass(slots=True)
class Parts:
    """The components that the event loop of a node uses."""

    identity: Identity
    directory: DataDir
    wal: Wal
    log: StoredLog
    snapshots: SnapshotStore
    book: MemberRegistry
    core: RawNode
    writer: LogWriter
    machine: Applier
    check: CommandCheck | None
    """The `check` of the state machine, if it has one."""
    intake: Intake
    persister: Calls
    """Writes snapshots of the own state machine."""
    receiver: Calls
    """Writes snapshots that a leader sends."""
    reader: Calls
    """Reads of the log and of snapshots, for followers; and asks the disk for its space."""
    entry_reader: EntryReader
    disk_watch: DiskWatch
    noter: Calls
    """Writes what is known of the starts of peers."""
    guard: StartGuard
    first_peers: FirstPeers
    confirmation: Confirmation
    transport: Transport
    levels: Levels
    stamps: EntryStamps
    idle_sessions: IdleSessions
