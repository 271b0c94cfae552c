"""The second half of making a driver: the parts that report to it exist, and what works with them is made."""

from __future__ import annotations

from functools import partial

from syncline.consensus.types import NONE
from syncline.node.addresses import Addresses
from syncline.node.append_pacing import AppendPacing
from syncline.node.asking import Asking
from syncline.node.bootstrap import Bootstrap
from syncline.node.changes import ChangeCallbacks, ChangeParts, Changes
from syncline.node.components import Parts
from syncline.node.delivery import delivering
from syncline.node.digests import DigestCallbacks, Digests
from syncline.node.disk_stall import DiskStall
from syncline.node.first_election import FirstElection
from syncline.node.forwarding import Forwarding, ForwardingCallbacks
from syncline.node.lost_promises import Promises
from syncline.node.membership import MembershipCallbacks, MembershipParts, Reconfiguration
from syncline.node.node_log import NodeLog
from syncline.node.proposer import Proposer
from syncline.node.runtime import Driver
from syncline.node.settlement import Settlement
from syncline.node.snapshots import SnapshotCallbacks, SnapshotParts, Snapshotter
from syncline.node.stage_times import StageTimes

__all__ = ["connect", "membership_operations"]


def connect(driver: Driver, parts: Parts) -> None:
    """Give `driver` its parts. Once, before anything runs: `Driver.start` needs all of them."""
    assert not hasattr(driver, "parts"), "a driver is connected once"
    core, config, book, transport = driver.core, driver.config, parts.book, parts.transport
    driver.parts = parts
    driver.proposer = _proposer(driver, parts)
    driver.bootstrap = Bootstrap(
        core,
        book,
        parts.directory,
        transport,
        applied=driver.applied_index,
        stopped=lambda: driver.running.stopped,
        fail=driver.fail,
    )
    driver.node_log = NodeLog(
        core,
        book,
        transport.stats,
        driver.loop.time,
        name=config.name,
        election_s=config.election_s,
        contact_s=partial(_contact_s, driver),
        late_s=driver.late_s,
    )
    driver.stages = StageTimes(parts.writer.now_s)
    driver.first_election = FirstElection(core, lambda peer: transport.directory_of(peer) is not None)
    driver.disk_stall = DiskStall(parts.writer.now_s, parts.writer.oldest_s)
    driver.settlement = Settlement(core, book, parts.writer, send=transport.send, changed=driver.running.wake)
    driver.promises = Promises(
        core,
        parts.guard.has_copies,
        name=config.name,
        data_dir=config.data_dir,
        send=transport.send,
        fail=driver.fail,
    )
    driver.reconfiguration = _reconfiguration(driver, parts)
    driver.addresses = Addresses(
        config.peers, parts.first_peers.known, parts.identity, book, transport, driver.reconfiguration.update
    )
    driver.snapshotter = _snapshotter(driver, parts)
    driver.pacing = AppendPacing(core, transport, driver.schedule)
    callbacks = DigestCallbacks(
        transport.send, parts.wal.check_space, driver.reconfiguration.is_alive, driver.fail, driver.loop.time
    )
    driver.digests = Digests(core, book, callbacks, parts.machine.digests, config.name, config.election_s)
    forwarding_callbacks = ForwardingCallbacks(
        examine=driver.examine,
        append=driver.append,
        awaited=driver.commit_notifier.awaited,
        propose_again=driver.proposer.add_again,
    )
    driver.forwarding = Forwarding(core, driver.proposals, transport, forwarding_callbacks)
    driver.asking = Asking(
        core, driver.loop, driver.rng, transport.send, driver.schedule, heartbeat_s=config.heartbeat_s
    )
    driver.deliver = delivering(
        driver.forwarding,
        (driver.settlement.on_notice, driver.promises.on_notice, parts.guard.on_notice),
        driver.digests,
        driver.asking,
        driver.applied_index,
    )


def _proposer(driver: Driver, parts: Parts) -> Proposer:
    return Proposer(
        driver.node_id,
        driver.running,
        driver.proposals,
        parts.intake,
        check_space=parts.wal.check_space,
        check=parts.check,
        schedule=driver.schedule,
        max_entry_bytes=driver.config.max_entry_bytes,
    )


def _contact_s(driver: Driver) -> float | None:
    """The age of the last message of the leader, or of the leader before; None before the first."""
    return None if driver.leader_contact_s is None else driver.loop.time() - driver.leader_contact_s


def membership_operations(driver: Driver) -> Changes:
    """Make what `Raft` changes the membership with."""
    parts = ChangeParts(
        core=driver.core,
        book=driver.parts.book,
        proposals=driver.proposals,
        reads=driver.reads,
        reconfiguration=driver.reconfiguration,
        settlement=driver.settlement,
        running=driver.running,
    )
    return Changes(
        driver.config, parts, ChangeCallbacks(propose=driver.proposer.add, schedule=driver.schedule), driver.rng
    )


def _reconfiguration(driver: Driver, parts: Parts) -> Reconfiguration:
    core = driver.core
    return Reconfiguration(
        driver.config,
        MembershipParts(
            core=core,
            identity=parts.identity,
            book=parts.book,
            writer=parts.writer,
            transport=parts.transport,
            guard=parts.guard,
            levels=parts.levels,
            bootstrap=driver.bootstrap,
            settlement=driver.settlement,
            proposals=driver.proposals,
        ),
        MembershipCallbacks(
            propose=driver.proposer.add,
            restoring=lambda: driver.restoring,
            emit=driver.emit,
            ignored=driver.ignored.note,
            changed=driver.running.wake,
            look_at_addresses=lambda: driver.addresses.look(leader_known=core.leader != NONE),
            stopped=lambda: driver.running.stopped,
            fail=driver.fail,
        ),
        driver.loop,
        election_ticks=core.election_ticks,
    )


def _snapshotter(driver: Driver, parts: Parts) -> Snapshotter:
    return Snapshotter(
        driver.config,
        SnapshotParts(
            core=driver.core,
            book=parts.book,
            store=parts.snapshots,
            wal=parts.wal,
            log=parts.log,
            writer=parts.writer,
            machine=parts.machine,
            intake=parts.intake,
            transport=parts.transport,
            persister=parts.persister,
            receiver=parts.receiver,
            reader=parts.reader,
        ),
        SnapshotCallbacks(
            applied=driver.applied_index,
            restoring=lambda: driver.restoring,
            label=driver.node_log.label,
            emit=driver.emit,
            step=driver.on_messages,
            schedule=driver.schedule,
            fail=driver.fail,
        ),
    )
