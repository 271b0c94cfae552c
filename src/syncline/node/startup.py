"""Assemble a node from its data directory: its identity, its state, and its components."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Final, Protocol, TypeVar, cast

import msgspec

from syncline.consensus.config import RaftConfig
from syncline.consensus.membership import encode_change
from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import (
    ChangeType,
    EntryType,
    HardState,
    LogEntry,
    MembershipChange,
    NodeId,
    SingleChange,
)
from syncline.errors import ConfigError, CorruptionError, NodeFailed, RepairNeeded, WrongDirectory
from syncline.node.applier import Applier, restore
from syncline.node.calls import Calls
from syncline.node.components import Parts
from syncline.node.config import Config
from syncline.node.connect import connect
from syncline.node.disk_space import DiskWatch
from syncline.node.entry_stamps import EntryStamps
from syncline.node.envelope import ChangeContext, LevelChange, MemberRecord, encode
from syncline.node.events import DiskSpaceLow
from syncline.node.first_election import BOOTSTRAP_TERM
from syncline.node.first_peers import FirstPeers
from syncline.node.fsm import FSM, CheckingFSM, DurableFSM
from syncline.node.idle_sessions import IdleCallbacks, IdleSessions
from syncline.node.intake import Intake
from syncline.node.levels import Ability, Levels, ability_of, check_start
from syncline.node.log_feed import LogFeed
from syncline.node.log_writer import LogWriter
from syncline.node.looks import LookWork
from syncline.node.machine import CommandCheck, check_applied_index, check_machine
from syncline.node.member_registry import (
    MemberRegistry,
    RegistryState,
    derive_cluster_id,
    derive_node_id,
    format_id,
    is_founder,
)
from syncline.node.opening import open_beside
from syncline.node.outcomes import on_outcome
from syncline.node.refusals import refusing
from syncline.node.runtime import Driver
from syncline.node.session_snapshots import load_sessions
from syncline.node.starts.confirmation import Confirmation
from syncline.node.starts.guard import StartGuard, load_starts, older_copy_text
from syncline.node.starts.incarnations import RANDOM_BITS, next_incarnation
from syncline.node.starts.reports import StartReports
from syncline.node.state_digest import DIGEST_INTERVAL
from syncline.node.used_machines import check_unused
from syncline.platform.world import World
from syncline.sessions.table import SessionTable
from syncline.storage.datadir import DataDir, Identity
from syncline.storage.snapshots.store import SnapshotManifest, SnapshotStore
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.writer import Wal, WalWrite
from syncline.transport.authentication import PeerAuthentication
from syncline.transport.handshake import Hello, NodeFacts, Welcome
from syncline.transport.messages import Notice, Refusal, RefusalCode
from syncline.transport.pacing import FIRST_WINDOW_BYTES
from syncline.transport.peers import Transport
from syncline.transport.policy import PeerPolicy

__all__ = ["assemble", "election_ticks_of"]

log: logging.Logger = logging.getLogger("syncline.node")

LEVEL_OF: Final = attrgetter("levels.level")
"""The cluster's feature level, of the member registry. It is read for each entry that is appended."""
ID_BITS = 62
"""Bits of a data directory's id: no two are ever the same."""

APPLY_BATCH_BYTES = 256 * 1024
"""Committed entries that a state machine on the event loop applies together: some 10 ms if they are small. Half of it
held seven values of 16 KiB: to apply so few at a time cost a tenth of the throughput."""


class _Threaded(Protocol):
    """Has a thread, which `close` ends."""

    async def close(self) -> None: ...


_Made = TypeVar("_Made", bound=_Threaded)


async def assemble(config: Config, fsm: FSM[object], world: World, failed: Callable[[NodeFailed], None]) -> Driver:
    """Open the data directory and make the node in it, not started yet. The state machine is restored.

    The log and the state, which take time, are read beside the event loop. Raises TypeError (no state machine),
    ConfigError, StorageError (locked, damaged, another node's), and NodeFailed if the state machine can't load its
    snapshot.
    """
    check_machine(fsm)
    check_unused(fsm)
    opened = await open_beside(world.workers, partial(_open, config, fsm, world), _Opened.release)
    async with AsyncExitStack() as held:  # else a failure below would leave threads behind
        held.callback(opened.release)
        driver = _connect(config, fsm, world, failed, opened, held)
        held.pop_all()
    return driver


def _open(config: Config, fsm: FSM[object], world: World) -> _Opened:
    """Open the data directory, the log and the snapshots. On a thread. Releases them if a later step fails."""
    with ExitStack() as held:
        directory = DataDir.open(world.disk, config.data_dir)
        held.callback(directory.release)
        if directory.identity is None:
            check_applied_index(fsm, 0, node=config.name, path=config.data_dir)
        # The identity first, with this start in it: peers that this start greets must find it in the history of each
        # later one. Then the format, before a file of a new format can exist.
        identity = _identify(config, directory, world.rng)
        directory.raise_format()
        wal = Wal.open(
            world.disk,
            directory.wal_path,
            segment_bytes=config.segment_bytes,
            reserve_bytes=config.reserve_bytes,
            log_id=identity.node_id,
            must_exist=directory.started,
        )
        held.callback(wal.close)
        opened = _with_log(config, fsm, world, directory, identity, wal)
        held.pop_all()
    return opened


def _with_log(
    config: Config, fsm: FSM[object], world: World, directory: DataDir, identity: Identity, wal: Wal
) -> _Opened:
    for note in (*wal.recovery.notes, *([wal.recovery.torn] if wal.recovery.torn else [])):
        log.warning("%s", note)
    snapshots = SnapshotStore.open(
        world.disk,
        directory.snapshots_path,
        cluster_id=identity.cluster_id,
        retain=config.snapshots_retained,
        reserve_bytes=config.reserve_bytes,
    )
    book = MemberRegistry()
    can = ability_of(fsm, world.feature_level)
    manifest, sessions = _restore(fsm, snapshots, book, identity, can)
    for damage in snapshots.damage:
        log.warning("%s", damage)
    stored = StoredLog.open(wal, manifest.meta if manifest is not None else None)
    node = f"{identity.name} ({format_id(identity.node_id)})"
    check_applied_index(fsm, stored.last_index(), node=node, path=config.data_dir)
    if wal.recovery.is_empty and manifest is None and is_founder(identity.node_id, identity.cluster_id, identity.name):
        if not config.peers:
            raise ConfigError(
                f"{config.data_dir} is of a node that was to start a cluster with others, and never ran: give the same"
                " peers again, or empty the directory"
            )
        if derive_cluster_id(config.cluster, config.peers) != identity.cluster_id:
            raise ConfigError(
                f"{config.data_dir} is of a node that was to start a cluster with other peers, and never ran: give the"
                " same cluster and peers again, or empty the directory"
            )
        bootstrap = _bootstrap(config, identity)
        stored.appended(bootstrap, wal.write([bootstrap]))
    # After the first entries: marked earlier, a crash in between would look like a lost log.
    directory.mark_started()
    assert directory.identity is not None
    identity = directory.identity  # as it is now: later writes start from this
    on_loop = bool(getattr(fsm, "apply_on_loop", False))
    core = RawNode(_core_config(config, identity, stored, manifest, world.rng, apply_on_loop=on_loop))
    return _Opened(identity, directory, wal, stored, snapshots, book, core, can, sessions)


@dataclass(frozen=True, slots=True)
class _Opened:
    identity: Identity
    directory: DataDir
    wal: Wal
    log: StoredLog
    snapshots: SnapshotStore
    book: MemberRegistry
    core: RawNode
    can: Ability
    sessions: SessionTable

    def release(self) -> None:
        """Close the log and the data directory."""
        self.wal.close()
        self.directory.release()


def _connect(
    config: Config,
    fsm: FSM[object],
    world: World,
    failed: Callable[[NodeFailed], None],
    opened: _Opened,
    held: AsyncExitStack,
) -> Driver:
    """Make the driver, then the parts that report to it; `connect` brings the two together.

    `held` closes the threads that are started here, if a later step fails.
    """

    def closed_later(made: _Made) -> _Made:
        held.push_async_callback(made.close)
        return made

    def make_room() -> None:
        driver.snapshotter.make_room()

    driver = Driver(config, opened.core, world.rng, failed, world.workers)
    # Before the parts that have threads: a certificate or a file that can't be used leaves none behind.
    transport = _transport(config, world, opened, driver)
    starts = load_starts(world.disk, opened.directory.path)
    noter = closed_later(Calls("syncline-peers", world.workers, driver.fail))
    reader = closed_later(Calls("syncline-read", world.workers, driver.fail))
    parts = Parts(
        identity=opened.identity,
        directory=opened.directory,
        wal=opened.wal,
        log=opened.log,
        snapshots=opened.snapshots,
        book=opened.book,
        core=opened.core,
        writer=closed_later(_log_writer(config, world, opened, driver)),
        machine=closed_later(_applier(fsm, world, opened, driver)),
        check=CommandCheck(fsm, driver.loop.time) if isinstance(fsm, CheckingFSM) else None,
        intake=Intake(opened.core, fsm, config.name, driver.applied_index, driver.loop.time),
        persister=closed_later(Calls("syncline-snapshot", world.workers, driver.fail)),
        receiver=closed_later(Calls("syncline-receive", world.workers, driver.fail)),
        reader=reader,
        entry_reader=opened.wal.reader(),
        disk_watch=DiskWatch(
            opened.wal,
            reader,
            make_room=make_room,
            told=lambda text: driver.emit(DiskSpaceLow(text)),
            failed=driver.fail,
        ),
        transport=transport,
        noter=noter,
        guard=_guard(world, opened, driver, transport, noter, starts),
        confirmation=_confirmation(config, opened, transport),
        first_peers=FirstPeers(opened.book, noter, world.disk, opened.directory.path),
        levels=_levels(config, opened, driver),
        stamps=EntryStamps(opened.identity.cluster_id, partial(LEVEL_OF, opened.book), world.wall_time_s),
        idle_sessions=_idle_sessions(config, opened, driver),
    )
    connect(driver, parts)
    LogFeed(opened.log, parts.entry_reader, reader, loaded=driver.pacing.loaded, failed=driver.fail)
    return driver


def _applier(fsm: FSM[object], world: World, opened: _Opened, driver: Driver) -> Applier:
    return Applier(
        fsm,
        opened.identity.node_id,
        world.workers,
        partial(on_outcome, driver),
        driver.fail,
        DIGEST_INTERVAL if world.digest_interval is None else world.digest_interval,
        opened.sessions,
        opened.book.time_s,
    )


def _log_writer(config: Config, world: World, opened: _Opened, driver: Driver) -> LogWriter:
    writer = LogWriter(
        opened.wal,
        opened.log,
        world.workers,
        driver.on_durable,
        driver.fail,
        on_thread=config.log_sync == "thread",
    )
    if config.log_sync == "kernel" and writer.syncs_on_a_thread:
        log.warning("log_sync is 'kernel', and this system or its sandbox offers no such sync: a thread does it")
    log.info("the log is synced by %s", "a thread" if writer.syncs_on_a_thread else "the kernel")
    return writer


def _levels(config: Config, opened: _Opened, driver: Driver) -> Levels:
    def propose(change: LevelChange) -> bool:
        return driver.reconfiguration.propose_level(change)

    return Levels(
        opened.book,
        opened.can,
        name=opened.identity.name,
        node_id=opened.identity.node_id,
        hold_level=config.hold_level,
        membership=lambda: opened.core.membership,
        propose=propose,
        fail=driver.fail,
    )


def _idle_sessions(config: Config, opened: _Opened, driver: Driver) -> IdleSessions:
    def idle(bound: int, most: int) -> asyncio.Future[tuple[int, ...]]:
        machine = driver.parts.machine
        found: asyncio.Future[tuple[int, ...]] = driver.loop.create_future()
        look = LookWork(lambda: machine.sessions.table.idle(bound, most), found)
        machine.put(cast("LookWork[object]", look))
        return found

    callbacks = IdleCallbacks(idle, opened.wal.check_space, driver.applied_index, driver.schedule, driver.loop.time)
    return IdleSessions(opened.core, callbacks, config.session_idle_s)


def _transport(config: Config, world: World, opened: _Opened, driver: Driver) -> Transport:
    identity = opened.identity
    return Transport(
        world.network,
        driver,
        node_id=identity.node_id,
        cluster_id=identity.cluster_id,
        bind=config.listen,
        advertise=config.address,
        rng=world.rng,
        tls=config.peer_tls,
        facts=NodeFacts(
            directory=identity.directory_id,
            incarnation=identity.incarnations[0],
            history=identity.incarnations[1:],
            name=identity.name,
            level=opened.can.level,
            machine_version=opened.can.machine_version,
        ),
        policy=_policy(driver, opened.book),
        authentication=PeerAuthentication(config.secrets, policy=config.peer_auth, entropy=world.entropy),
    )


def _policy(driver: Driver, book: MemberRegistry) -> PeerPolicy:
    """The node's part of the handshakes. It is asked once the transport listens, so `driver.parts` are there."""

    def refuse_peer(hello: Hello) -> Refusal | None:
        return driver.reconfiguration.refuse_peer(hello)

    def before_welcome(hello: Hello) -> asyncio.Future[None] | None:
        driver.parts.first_peers.greeted(hello)
        return driver.parts.guard.before_welcome(hello)

    def why_not_dial(welcome: Welcome) -> str | None:
        parts = driver.parts
        refusal = parts.levels.refuse(welcome.sender, welcome.name, welcome.level, welcome.machine_version)
        return refusal.reason if refusal is not None else parts.guard.why_not_dial(welcome)

    def known_name(peer: NodeId) -> str:
        member = book.members.get(peer)
        return member.name if member is not None else ""

    def cluster_levels() -> tuple[int, int]:
        levels = driver.parts.levels
        return levels.level, levels.machine_version

    return PeerPolicy(
        refuse_peer=refuse_peer,
        before_welcome=before_welcome,
        why_not_dial=why_not_dial,
        known_directory=partial(_known_directory, driver),
        known_name=known_name,
        known=lambda peer: peer in book.members,
        cluster_levels=cluster_levels,
    )


def _known_directory(driver: Driver, peer: NodeId) -> int:
    return driver.bootstrap.known_directory(peer)


def _guard(
    world: World, opened: _Opened, driver: Driver, transport: Transport, noter: Calls, starts: dict[int, int]
) -> StartGuard:
    def tell(peer: NodeId, notice: Notice) -> None:
        transport.send(peer, notice)
        driver.schedule()  # the turn flushes

    path = opened.directory.path
    return StartGuard(
        starts,
        opened.book,
        noter,
        world.disk,
        path,
        reports=StartReports(opened.identity.node_id, lambda: opened.core.membership),
        known_directory=partial(_known_directory, driver),
        leave=transport.leave_other_starts,
        tell=tell,
    )


def _confirmation(config: Config, opened: _Opened, transport: Transport) -> Confirmation:
    def refused_by() -> Collection[NodeId]:
        refusals = refusing(transport.stats(), RefusalCode.OLDER_START)
        return [peer for peer in refusals if peer in opened.book.members]

    known = opened.core.commit_index
    return Confirmation(
        opened.identity.node_id,
        lambda: opened.core.membership,
        refused_by,
        caught_up=lambda: opened.core.applied >= known,
        has_log=opened.core.last_index > 0,
        patience_s=config.election_s,
    )


def _identify(config: Config, directory: DataDir, rng: random.Random) -> Identity:
    """The node's identity, with the incarnation of this start in it, durable before anything else happens.

    It is read from the data directory, or made from the settings for a new directory.
    """
    held = directory.identity
    if held is None:
        held = _new_identity(config, rng)
    else:
        _check_settings(config, held)
        if not held.directory_id:  # made by a version that drew none
            held = msgspec.structs.replace(held, directory_id=_draw_id(rng))
    started = next_incarnation(held.incarnations, rng.getrandbits(RANDOM_BITS))
    directory.write_identity(msgspec.structs.replace(held, incarnations=started))
    assert directory.identity is not None
    return directory.identity


def _check_settings(config: Config, held: Identity) -> None:
    """Raise if the settings are another node's than the data directory, or no node may start on it."""
    if held.name != config.name:
        raise WrongDirectory(
            f"{config.data_dir} belongs to the node named {held.name!r}, not to {config.name!r}."
            " Give each node a data directory of its own, or correct the name."
        )
    if config.cluster_id and (held.cluster_id, held.node_id) != (config.cluster_id, config.node_id):
        raise WrongDirectory(
            f"{config.data_dir} belongs to node {held.node_id:016x} of cluster {held.cluster_id:016x}, not to node"
            f" {config.node_id:016x} of cluster {config.cluster_id:016x}. Give each node a directory of its own."
        )
    if held.older_copy:
        raise RepairNeeded(older_copy_text(held.name, held.node_id, config.data_dir))


def _new_identity(config: Config, rng: random.Random) -> Identity:
    cluster_id = config.cluster_id or (derive_cluster_id(config.cluster, config.peers) if config.peers else 0)
    if not cluster_id:
        raise ConfigError(
            f"{config.data_dir} is empty, so the settings must name the cluster: give peers (to start a cluster),"
            " or cluster_id and node_id (to join one)"
        )
    return Identity(
        cluster_id=cluster_id,
        node_id=config.node_id or derive_node_id(cluster_id, config.name),
        name=config.name,
        directory_id=_draw_id(rng),
        founding=len(config.peers) > 1,
    )


def _draw_id(rng: random.Random) -> int:
    return rng.getrandbits(ID_BITS) + 1


def _restore(
    fsm: FSM[object], snapshots: SnapshotStore, book: MemberRegistry, identity: Identity, can: Ability
) -> tuple[SnapshotManifest | None, SessionTable]:
    """Load the newest intact snapshot into the state machine; a corrupt one is set aside.

    Of a snapshot that a durable state machine does not need, the table of sessions alone is read.
    """
    while (manifest := snapshots.newest()) is not None:
        levels = msgspec.msgpack.decode(manifest.runtime, type=RegistryState).levels
        check_start(identity.name, identity.node_id, can, levels)  # a later machine's state could not be read
        try:
            if isinstance(fsm, DurableFSM) and fsm.applied_index >= manifest.index:
                sessions = load_sessions(snapshots.read(manifest))
            else:
                sessions = restore(fsm, snapshots.read(manifest))
        except CorruptionError as error:
            if error.file.endswith(".snap"):
                snapshots.set_aside(manifest, str(error))
                continue
            raise
        book.load(manifest.runtime)
        return manifest, sessions
    return None, SessionTable()


def _bootstrap(config: Config, identity: Identity) -> WalWrite:
    """The first entries of a new cluster, the same on all its first members: one change for each of them."""
    entries = []
    for index, name in enumerate(sorted(config.peers), 1):
        node_id = derive_node_id(identity.cluster_id, name)
        context = encode(ChangeContext(0, 0, (MemberRecord(node_id, name, config.peers[name]),)))
        change = MembershipChange(changes=(SingleChange(ChangeType.ADD_NODE, node_id),), context=context)
        entries.append(LogEntry(BOOTSTRAP_TERM, index, EntryType.CONF_CHANGE_V2, encode_change(change)))
    return WalWrite(entries=entries, hard_state=HardState(BOOTSTRAP_TERM, 0, len(entries)))


def election_ticks_of(config: Config) -> int:
    """The election timeout of the core: at least two ticks, which are heartbeats long."""
    return max(2, round(config.election_s / config.heartbeat_s))


def _core_config(
    config: Config,
    identity: Identity,
    stored: StoredLog,
    manifest: SnapshotManifest | None,
    rng: random.Random,
    *,
    apply_on_loop: bool,
) -> RaftConfig:
    election_ticks = election_ticks_of(config)
    return RaftConfig(
        id=identity.node_id,
        storage=stored,
        election_ticks=election_ticks,
        heartbeat_ticks=1,
        applied=manifest.index if manifest is not None else 0,
        async_storage_writes=True,
        max_message_bytes=config.max_message_bytes,
        max_committed_bytes_per_ready=APPLY_BATCH_BYTES if apply_on_loop else 0,
        max_uncommitted_bytes=config.max_uncommitted_bytes,
        max_inflight_messages=config.max_inflight_messages,
        max_inflight_bytes=config.max_inflight_bytes,
        probe_ticks=election_ticks,
        first_room_bytes=FIRST_WINDOW_BYTES,
        check_quorum=True,
        pre_vote=True,
        disable_proposal_forwarding=True,
        step_down_on_removal=True,
        lazy_commit=True,
        commit_in_votes=True,
        rng=rng,
    )
