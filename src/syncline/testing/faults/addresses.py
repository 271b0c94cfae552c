"""Nodes that come back at new addresses: one, a majority, or all of them at once."""

from __future__ import annotations

from syncline.testing.faults.base import Trouble
from syncline.testing.simserver import SimServer

__all__ = ["move", "move_all", "move_majority"]


async def move(trouble: Trouble) -> None:
    """Move one server to a new address."""
    while True:
        await trouble.wait(10.0)
        server = trouble.some()
        if server is not None:
            await _move(trouble, [server])


async def move_majority(trouble: Trouble) -> None:
    """Move a majority of the servers at once: those that stay can tell nobody where the others are."""
    while True:
        await trouble.wait(15.0)
        servers = [server for server in trouble.up() if trouble.is_free(server)]
        trouble.rng.shuffle(servers)
        await _move(trouble, servers[: len(servers) // 2 + 1])


async def move_all(trouble: Trouble) -> None:
    """Move all servers at once: each knows only the old address of each other."""
    while True:
        await trouble.wait(20.0)
        await _move(trouble, [server for server in trouble.up() if trouble.is_free(server)])


async def _move(trouble: Trouble, servers: list[SimServer]) -> None:
    for server in servers:
        trouble.crash(server)
    for server in servers:
        server.move()
    for server in servers:
        if trouble.rng.random() < 0.5:
            await trouble.last(0.0, 2.0)
        trouble.start_again(server)
