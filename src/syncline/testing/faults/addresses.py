"""Nodes that come back at new addresses: one, a majority, or all of them at once."""

from __future__ import annotations

from syncline.testing.faults.base import Trouble
from syncline.testing.sim.server import SimServer

__all__ = ["move", "move_all", "move_majority"]


async def move(trouble: Trouble) -> None:
    """Move one server to a new address. The first one dials the others at the addresses that the cluster knows.

    Later ones get hints: if all running servers have moved and can't reach each other, only their settings help. So
    does one without a log: it knows no member (docs/membership.md), and the members know its old address alone.
    """
    while True:
        await trouble.wait(10.0)
        servers = _movable(trouble)
        if servers:
            server = trouble.rng.choice(servers)
            moved = any(other.moves for other in trouble.cluster.servers.values() if other is not server)
            await _move(trouble, [server], hints=moved or not _knows_members(server))


async def move_majority(trouble: Trouble) -> None:
    """Move a majority of the servers at once: their settings tell the new addresses of each other, as hints."""
    while True:
        await trouble.wait(15.0)
        servers = _movable(trouble)
        trouble.rng.shuffle(servers)
        await _move(trouble, servers[: len(servers) // 2 + 1], hints=True)


async def move_all(trouble: Trouble) -> None:
    """Move all servers at once: their settings tell the new addresses, as hints."""
    while True:
        await trouble.wait(20.0)
        await _move(trouble, _movable(trouble), hints=True)


def _knows_members(server: SimServer) -> bool:
    return server.raft is not None and bool(server.raft.membership().members)


def _movable(trouble: Trouble) -> list[SimServer]:
    """Servers that run: they have a directory, and know from it what they belong to."""
    return [server for server in trouble.cluster.running if trouble.is_whole(server)]


async def _move(trouble: Trouble, servers: list[SimServer], *, hints: bool = False) -> None:
    for server in servers:
        trouble.crash(server)
    for server in servers:
        server.move()
    if hints:
        known = [server for server in trouble.cluster.servers.values() if not server.retired]
        addresses = {server.name: server.config.address for server in known}
        for server in servers:
            server.hint(addresses)
    for server in servers:
        if trouble.rng.random() < 0.5:
            await trouble.last(0.0, 2.0)
        trouble.start_again(server)
