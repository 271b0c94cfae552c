"""What happens to processes: they are killed, lose their power, stand still, or are slow."""

from __future__ import annotations

import asyncio

from syncline.testing.faults.base import Trouble
from syncline.testing.simdisk import Survival
from syncline.testing.simserver import Condition, SimServer

__all__ = ["crash_in_write", "kill", "kill_all", "pause", "power"]


async def kill(trouble: Trouble) -> None:
    """Kill a process, and start it again at once or late."""
    while True:
        await trouble.wait(6.0)
        server = trouble.some()
        if server is not None:
            server.crash()
            await _start_again(trouble, server)


async def power(trouble: Trouble) -> None:
    """Cut a machine's power: its disk keeps what was synced, and any part of the rest."""
    while True:
        await trouble.wait(6.0)
        server = trouble.some()
        if server is not None:
            server.crash(trouble.rng.choice(list(Survival)))
            await _start_again(trouble, server)


async def crash_in_write(trouble: Trouble) -> None:
    """Cut a machine's power in the middle of an operation of its disk."""
    while True:
        await trouble.wait(6.0)
        server = trouble.some()
        if server is None:
            continue
        server.crash_at_disk_operation(trouble.rng.randint(1, 40), trouble.rng.choice(list(Survival)))
        await trouble.last(0.5, 4.0)
        server.disk.before = None
        await _start_again(trouble, server)


async def kill_all(trouble: Trouble) -> None:
    """Cut the power of all machines at once."""
    while True:
        await trouble.wait(20.0)
        survival = trouble.rng.choice([None, *Survival])
        down = [server for server in trouble.cluster.servers.values() if server.up]
        for server in down:
            server.crash(survival)
        for server in down:
            await asyncio.sleep(trouble.rng.choice([0.0, trouble.election_s * trouble.rng.random() * 2]))
            if server.condition is Condition.CRASHED:
                server.start()


async def pause(trouble: Trouble) -> None:
    """Stop a process for up to some election timeouts, then let it go on as if nothing had been."""
    while True:
        await trouble.wait(6.0)
        server = trouble.some()
        if server is None or server.paused:
            continue
        process = server.process
        server.pause()
        await trouble.last(0.2, 4.0)
        if process is not None and process is server.process:
            server.resume()


async def _start_again(trouble: Trouble, server: SimServer) -> None:
    if trouble.rng.random() < 0.6:
        await trouble.last(0.0, 5.0)
    if server.condition is Condition.CRASHED:
        server.start()
