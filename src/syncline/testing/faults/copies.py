"""Data directories that are restored from an older copy, and directories that are copied and run twice.

Such a node has lost promises, or makes them twice. So it counts as lost from that moment on: it must be refused or
stop itself, and its operator replaces it. The others are a quorum without it, and lose nothing.
"""

from __future__ import annotations

from syncline.testing.faults.base import Trouble
from syncline.testing.sim.disk import SimDisk, Survival
from syncline.testing.sim.server import SimServer

__all__ = ["rollback", "two_copies"]

CONFIRMED_LOOKS = 20
"""Looks, a fifth of an election timeout apart, for a quorum that knows a start."""


async def rollback(trouble: Trouble) -> None:
    """A directory is put back from a copy of two lives ago: its start count is below the one that its peers saw.

    A quorum of the others has let the last of these lives in. A start that fewer know can't be told from a lost one, if
    those few are unreachable (docs/membership.md).
    """

    async def harm(server: SimServer) -> None:
        old = server.disk.crashed(Survival.EVERYTHING)
        lived = await _lives_on(trouble, server) and await _lives_on(trouble, server, confirmed=True)
        # The membership may have shrunk meanwhile, or the server may have become a voter that is needed.
        if lived and trouble.can_spare(0):
            await _roll_back(trouble, server, old)
        elif not server.up:
            server.start()

    await trouble.strike(15.0, harm)


async def _lives_on(trouble: Trouble, server: SimServer, *, confirmed: bool = False) -> bool:
    """Start it, let it take part for a while, and kill it.

    False, and nothing killed, if it never followed a leader; with `confirmed` also if no quorum of the others knows it.
    """
    server.start()
    await trouble.settled(server)
    await trouble.last(1.0, 5.0)
    if not server.running or server.raft is None or server.raft.leader is None:
        return False
    if confirmed and not (await _is_confirmed(trouble, server) and server.running):
        return False
    trouble.crash(server)
    return True


async def _roll_back(trouble: Trouble, server: SimServer, old: SimDisk) -> None:
    server.roll_back(old)
    await trouble.last(0.0, 3.0)
    server.start()
    await trouble.last(1.0, 6.0)
    await trouble.operator.replace(server)


async def two_copies(trouble: Trouble) -> None:
    """A directory is copied, and both copies run at once, each on a machine of its own.

    The second one is started when a quorum of the others knows the first: from then on it must never be counted,
    whatever the network does. Copies that are kept apart before that can both be counted, which can't be prevented
    (docs/membership.md). Other tests cover copies that meet later.
    """

    async def harm(server: SimServer) -> None:
        twin = trouble.cluster.twin(server)
        try:
            first, second = trouble.rng.sample([server, twin], 2)
            first.start()
            if await _is_confirmed(trouble, first):
                await trouble.last(0.0, 2.0)
                second.start()
                if await _is_confirmed(trouble, second):
                    trouble.broken("one copy is confirmed", f"a quorum lets in {second.name} beside {first.name}")
            await trouble.last(1.0, 6.0)
        finally:
            if twin.up:
                twin.crash()
        await trouble.operator.replace(server)

    await trouble.strike(15.0, harm)


async def _is_confirmed(trouble: Trouble, server: SimServer) -> bool:
    """Wait a while until a quorum of the others has admitted this start; it may be disconnected, or have stopped."""
    for _ in range(CONFIRMED_LOOKS):
        if server.driver is not None and server.driver.parts.confirmation.confirmed:
            return True
        await trouble.last(0.2, 0.2)
    return False
