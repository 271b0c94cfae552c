"""The conformance suite of engines on a log that is replaced: by an older backup, or by a copy of another machine."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import pytest

from syncline.engines.replica import LogReplica
from syncline.engines.transfer import MachineState, import_into_log
from syncline.errors import NodeFailed, StorageError
from syncline.sessions.snapshot import write_section
from syncline.sessions.table import SessionTable
from tests.helpers.engine_checks import LogCheck, LogSite
from tests.helpers.node_cluster import Listing

__all__ = ["REPLACED"]


async def older_backend_stops_the_node(site: LogSite) -> None:
    """A node that has read what the backend does not have any more must not go on, in no case."""
    machine, other = Listing(), Listing()
    node, _ = await site.open_faulty(machine)
    for number in range(3):
        await node.apply(b"%d" % number, timeout=20)
    await site.save()
    second, _ = await site.open_faulty(other)
    for number in range(3):
        await node.apply(b"lost %d" % number, timeout=20)
    await second.read_index(timeout=20)
    await site.restore()
    failure = await asyncio.wait_for(asyncio.shield(_failed(node)), 30)
    assert "older backup" in str(failure)
    assert "older backup" in str(await asyncio.wait_for(_failed(second), 30))
    fresh = Listing()
    third, _ = await site.open_faulty(fresh)
    assert fresh.items == [b"0", b"1", b"2"]
    assert await third.apply(b"3", timeout=20) == 4


async def _failed(node: LogReplica[object]) -> NodeFailed:
    return await node.failed()


async def older_backend_with_new_records_stops_the_node(site: LogSite) -> None:
    """The log is as long as before, with other records in it."""
    machine, fresh = Listing(), Listing()
    node, faulty = await site.open_faulty(machine)
    await node.apply(b"kept", timeout=20)
    await site.save()
    await node.apply(b"lost", timeout=20)
    faulty.cut = True
    await site.restore()
    third, _ = await site.open_faulty(fresh)
    for number in range(6):
        await third.apply(b"%d" % number, timeout=20)
    faulty.cut = False
    with pytest.raises(NodeFailed) as raised:
        await node.read_index(timeout=20)
    assert "older backup" in str(raised.value)


async def older_backend_takes_nothing_from_the_node(site: LogSite) -> None:
    """A node that has not noticed yet: no node could apply its record, and the log would be of no use any more."""
    machine, other = Listing(), Listing()
    node, faulty = await site.open_faulty(machine)
    await node.apply(b"kept", timeout=20)
    await site.save()
    await node.apply(b"lost", timeout=20)
    faulty.held = asyncio.Event()
    await faulty.holding.wait()
    await site.restore()
    second, _ = await site.open_faulty(other)
    for number in range(3):
        await second.apply(b"%d" % number, timeout=20)
    with pytest.raises(NodeFailed, match="older backup"):
        await node.apply(b"of another log", timeout=20)
    assert await second.apply(b"3", timeout=20) == 5
    fresh = Listing()
    await site.open_faulty(fresh)
    assert fresh.items == other.items == [b"kept", b"0", b"1", b"2", b"3"]


async def older_backend_takes_no_snapshot_of_the_node(site: LogSite) -> None:
    """A node that has not noticed yet: its snapshot would take the place of what the restored log has acknowledged."""
    machine, fresh = Listing(), Listing()
    node, faulty = await site.open_faulty(machine)
    await node.apply(b"kept", timeout=20)
    await site.save()
    for number in range(8):
        await node.apply(b"lost %d" % number, timeout=20)
    faulty.held = asyncio.Event()
    await faulty.holding.wait()
    await site.restore()
    second, _ = await site.open_faulty(Listing())
    for number in range(3):
        await second.apply(b"%d" % number, timeout=20)
    with pytest.raises((StorageError, NodeFailed)):
        await node.snapshot(timeout=20)
    faulty.held.set()
    await site.open_faulty(fresh)
    assert fresh.items == [b"kept", b"0", b"1", b"2"]
    assert await second.apply(b"3", timeout=20) == 5


async def copy_stops_a_node_that_has_the_empty_log_open(site: LogSite) -> None:
    """It has another state than the nodes that load the snapshot, and the same log behind it."""
    idle, faulty = await site.open_faulty(Listing())
    state = MachineState(7, 0.0, _no_sessions(), msgspec.msgpack.encode([b"copied"]))
    copying = (await site.open_faulty(Listing()))[1].inner
    await import_into_log(copying, state)
    with pytest.raises(NodeFailed, match="made again"):
        await idle.apply(b"one", timeout=20)
    machine = Listing()
    node, _ = await site.open_faulty(machine)
    assert await node.apply(b"two", timeout=20) == 2
    assert machine.items == [b"copied", b"two"]
    assert machine.indexes == [8]
    assert not faulty.cut


def _no_sessions() -> bytes:
    data = bytearray()
    write_section(SessionTable().view(), data.extend)
    return bytes(data)


REPLACED: Final[list[LogCheck]] = [
    older_backend_stops_the_node,
    older_backend_with_new_records_stops_the_node,
    older_backend_takes_nothing_from_the_node,
    older_backend_takes_no_snapshot_of_the_node,
    copy_stops_a_node_that_has_the_empty_log_open,
]
