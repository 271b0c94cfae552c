"""The second half of making a driver: the parts that report to it exist, and what works with them is made."""

from __future__ import annotations

from syncline.consensus.types import NONE
from syncline.node.addresses import Addresses
from syncline.node.append_pacing import AppendPacing
from syncline.node.bootstrap import Founding
from syncline.node.components import Parts
from syncline.node.digests import DigestDoors, Digests
from syncline.node.first_election import FirstElection
from syncline.node.forwarding import Forwarding, ForwardingDoors
from syncline.node.lost_promises import Promises
from syncline.node.membership import MembershipDoors, MembershipParts, Reconfiguration
from syncline.node.node_log import NodeLog
from syncline.node.runtime import Driver
from syncline.node.settlement import Settlement
from syncline.node.snapshots import SnapshotDoors, SnapshotParts, Snapshotter

__all__ = ["connect"]


def connect(driver: Driver, parts: Parts) -> None:
    """Give `driver` its parts. Once, before anything runs: `Driver.start` needs all of them."""
    assert not hasattr(driver, "parts"), "a driver is connected once"
    core, config, book, transport = driver.core, driver.config, parts.book, parts.transport
    driver.parts = parts
    driver.founding = Founding(
        core,
        book,
        parts.directory,
        transport,
        applied=driver.applied_index,
        stopped=lambda: driver.stopped,
        fail=driver.fail,
    )
    driver.node_log = NodeLog(
        core, book, transport.stats, driver.loop.time, name=config.name, election_s=config.election_s
    )
    driver.first_election = FirstElection(core, lambda peer: transport.directory_of(peer) is not None)
    driver.settlement = Settlement(core, book, parts.writer, send=transport.send, changed=driver.wake_watchers)
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
    doors = DigestDoors(
        transport.send, parts.wal.check_space, driver.reconfiguration.is_alive, driver.fail, driver.loop.time
    )
    driver.digests = Digests(core, book, doors, parts.machine.digests, config.name, config.election_s)
    forwarding_doors = ForwardingDoors(
        examine=driver.examine,
        append=driver.append,
        awaited=driver.commits.awaited,
        propose_again=driver.propose_again,
    )
    driver.forwarding = Forwarding(core, driver.proposals, transport, forwarding_doors)


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
            founding=driver.founding,
            settlement=driver.settlement,
            proposals=driver.proposals,
        ),
        MembershipDoors(
            propose=driver.propose,
            restoring=lambda: driver.restoring,
            emit=driver.emit,
            ignored=driver.ignored.note,
            changed=driver.wake_watchers,
            look_at_addresses=lambda: driver.addresses.look(leader_known=core.leader != NONE),
            stopped=lambda: driver.stopped,
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
        SnapshotDoors(
            applied=driver.applied_index,
            restoring=lambda: driver.restoring,
            label=driver.node_log.label,
            emit=driver.emit,
            step=driver.on_messages,
            schedule=driver.schedule,
            fail=driver.fail,
        ),
    )
