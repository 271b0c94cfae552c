"""`Raft.recover`: make a node's state the first member of a new cluster, after the quorum was lost for good.

The log is applied to its end to the state machine, also behind the commit index: what was acknowledged must not be
dropped. The state is then the snapshot of a new cluster, with one voter. Cluster id, node id and directory id are new:
no old member can ever talk to the new cluster, and no promise of the old node binds the new one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from syncline.consensus.types import LogEntry
from syncline.errors import DirectoryLocked, StorageError, UsageError
from syncline.node.applier import restore
from syncline.node.calls import Calls
from syncline.node.config import Config
from syncline.node.envelope import MemberRecord
from syncline.node.fsm import FSM, DurableFSM
from syncline.node.levels import ability_of, check_start
from syncline.node.machine import check_applied_index, check_machine, release
from syncline.node.member_registry import MemberRegistry, format_id, time_of
from syncline.node.quorum_loss.first_snapshot import FirstState, drawn_id, write_first_snapshot
from syncline.node.quorum_loss.replay import OfflineReplay
from syncline.node.quorum_loss.report import RecoveryReport, examine
from syncline.node.quorum_loss.survivor import Survivor, read_survivor
from syncline.node.renumbering import renumber
from syncline.node.session_snapshots import load_sessions
from syncline.node.used_machines import check_unused, claim
from syncline.platform.disk import Disk, LockHandle
from syncline.platform.world import World
from syncline.sessions.table import SessionTable
from syncline.storage import new_cluster
from syncline.storage.datadir import LOCK_NAME, lock_directory
from syncline.storage.new_cluster import NewCluster
from syncline.storage.replace import free_folder

__all__ = ["recover_quorum"]

log: logging.Logger = logging.getLogger("syncline.node")


async def recover_quorum(
    config: Config,
    fsm: FSM[object],
    *,
    compare: Sequence[str],
    dry_run: bool,
    accept_loss: bool,
    world: World,
) -> RecoveryReport:
    """Carry out what `Raft.recover` says."""
    check_machine(fsm)
    check_unused(fsm)
    disk, path = world.disk, config.data_dir.rstrip("/") or config.data_dir
    named = [path, *(other.rstrip("/") or other for other in compare)]
    if len(set(named)) < len(named):
        raise UsageError("the same directory is named twice: compare with the directories of other nodes")
    if not disk.exists(path):
        raise UsageError(f"{path} is not there: name the data directory of the node whose state is to go on")
    locks = [lock_directory(disk, path)]
    calls: Calls | None = None
    try:
        note = new_cluster.read_note(disk, path)
        if note is not None:
            return _completed(disk, path, note, dry_run=dry_run)
        for other in compare:
            locks += _locked(disk, other)
        calls = Calls("syncline-recover", world.workers, _report_fault)
        survivor, others = await calls.run(partial(_read_all, disk, path, compare))
        report = examine(survivor, others)
        if survivor.identity.name != config.name:
            raise UsageError(f"{path} is the directory of node {survivor.identity.name!r}, not of {config.name!r}")
        if dry_run:
            return report
        if report.may_lose and not accept_loss:
            raise UsageError(
                f"acknowledged writes may be lost: {'; '.join(report.reasons)}. Nothing was changed. Compare with the"
                " directories of more voters (`compare`), or accept the loss (`accept_loss`)"
            )
        return await _carry_out(survivor, report, config, fsm, world, calls)
    finally:
        if calls is not None:
            await calls.close()
        for lock in locks:
            lock.release()


def _locked(disk: Disk, path: str) -> list[LockHandle]:
    """Lock a directory that is compared: its log must not grow meanwhile. A copy that can't be written needs no lock.

    Raises:
        DirectoryLocked: a node runs on it, or it is named twice.
    """
    if not disk.exists(f"{path}/{LOCK_NAME}"):
        return []
    try:
        return [lock_directory(disk, path)]
    except DirectoryLocked:
        raise
    except StorageError:
        return []


def _report_fault(error: BaseException) -> None:
    log.critical("the thread of the recovery has failed", exc_info=error)


def _read_all(disk: Disk, path: str, compare: Sequence[str]) -> tuple[Survivor, list[Survivor]]:
    return read_survivor(disk, path), [read_survivor(disk, other.rstrip("/") or other) for other in compare]


async def _carry_out(
    survivor: Survivor, report: RecoveryReport, config: Config, fsm: FSM[object], world: World, calls: Calls
) -> RecoveryReport:
    disk, path, identity = world.disk, survivor.path, survivor.identity
    check_start(identity.name, identity.node_id, ability_of(fsm, world.feature_level), survivor.levels)
    check_applied_index(fsm, survivor.last_index, node=survivor.label, path=path)
    note = NewCluster(
        old_cluster_id=format_id(identity.cluster_id),
        old_node_id=format_id(identity.node_id),
        cluster_id=format_id(drawn_id(world.rng, identity.cluster_id)),
        node_id=format_id(drawn_id(world.rng, identity.node_id)),
        name=identity.name,
        folder=free_folder(disk, path),
        index=survivor.last_index,
    )
    await calls.run(partial(new_cluster.prepare, disk, path))
    await _write_snapshot(survivor, note, config, fsm, world, calls)
    await calls.run(partial(new_cluster.begin, disk, path, note))
    folder = await calls.run(partial(new_cluster.complete, disk, path, note))
    log.warning(
        "node %s was recovered up to entry %d: it is the only member of the new cluster %s; the old files are in %s",
        *(identity.name, survivor.last_index, note.cluster_id, folder),
    )
    return _done(report, note, folder)


async def _write_snapshot(
    survivor: Survivor, note: NewCluster, config: Config, fsm: FSM[object], world: World, calls: Calls
) -> None:
    """Apply the whole log, and write the state as the new cluster's snapshot, durably."""
    path = survivor.path
    manifest = survivor.manifest
    time_s = time_of(manifest.runtime) if manifest is not None else 0.0
    claim(fsm)
    sessions = await calls.run(partial(_load, survivor, fsm))
    replay = OfflineReplay(fsm, survivor.identity.node_id, world, sessions, time_s)
    try:
        chunks = survivor.entries()
        while entries := await calls.run(partial(_next, chunks)):
            await replay.apply(entries)
        await replay.call(partial(renumber, fsm))
        view = await replay.view()
        try:
            book, reserve = _registry(survivor, note, replay.time_s), config.reserve_bytes
            state = FirstState(note, view, survivor.last_index, survivor.last_term, book)
            await calls.run(partial(write_first_snapshot, world.disk, path, state, reserve_bytes=reserve))
        finally:
            release(view)
    finally:
        await replay.close()


def _next(chunks: Iterator[list[LogEntry]]) -> list[LogEntry]:
    """The next entries of the log; none at its end."""
    return next(chunks, [])


def _load(survivor: Survivor, fsm: FSM[object]) -> SessionTable:
    """Load the newest snapshot into the state machine, unless that has a later state of its own; return the sessions
    in it.
    """
    reader = survivor.open_snapshot()
    if reader is None:
        return SessionTable()
    if isinstance(fsm, DurableFSM) and fsm.applied_index >= survivor.snapshot_index:
        return load_sessions(reader)
    return restore(fsm, reader)


def _registry(survivor: Survivor, note: NewCluster, time_s: float) -> MemberRegistry:
    """The new cluster's: one member, with the addresses that the old one announced last. Times go on from `time_s`."""
    node_id = int(note.node_id, 16)
    known = survivor.members.get(survivor.identity.node_id)
    book = MemberRegistry()
    book.membership_index = survivor.last_index
    book.members[node_id] = MemberRecord(
        node_id,
        note.name,
        known.address if known is not None else "",
        known.http if known is not None else "",
        level=known.level if known is not None else 0,
        machine_version=known.machine_version if known is not None else 0,
    )
    book.levels = survivor.levels
    book.time_s = time_s
    return book


def _completed(disk: Disk, path: str, note: NewCluster, *, dry_run: bool) -> RecoveryReport:
    """A recovery was interrupted after the new snapshot was durable: complete it."""
    report = RecoveryReport(
        name=note.name,
        data_dir=path,
        last_index=note.index,
        last_term=0,
        commit_index=note.index,
        uncertain_entries=0,
        voters=(),
        may_lose=False,
        old_cluster_id=int(note.old_cluster_id, 16),
        old_node_id=int(note.old_node_id, 16),
    )
    return report if dry_run else _done(report, note, new_cluster.complete(disk, path, note))


def _done(report: RecoveryReport, note: NewCluster, folder: str) -> RecoveryReport:
    return msgspec.structs.replace(
        report, done=True, cluster_id=int(note.cluster_id, 16), node_id=int(note.node_id, 16), set_aside=folder
    )
