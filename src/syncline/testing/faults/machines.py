"""State machines that raise: in `apply`, until their code is corrected, and in `snapshot`, for a while."""

from __future__ import annotations

from syncline.testing.faults.base import Trouble
from syncline.testing.sim.machine import SimMachine
from syncline.testing.sim.server import SimServer

__all__ = ["raise_in_apply", "raise_in_snapshot"]


async def raise_in_apply(trouble: Trouble) -> None:
    """The next command makes one machine raise, or all of them: the nodes stop. They start with corrected code."""
    while True:
        await trouble.wait(12.0)
        servers = [server for server in trouble.up() if trouble.is_free(server)]
        if servers and trouble.rng.random() < 0.6:
            servers = [trouble.rng.choice(servers)]
        for server in servers:
            server.damages += 1
            trouble.cluster.note(server.name, "its machine raises at the next command")
            _machine(server).raises_in_apply = True
        try:
            await trouble.last(1.0, 3.0)
        finally:
            for server in servers:
                server.damages -= 1
                _machine(server).raises_in_apply = False
        for server in servers:
            trouble.start_again(server)


async def raise_in_snapshot(trouble: Trouble) -> None:
    """A machine can't be looked at for a while: its node warns, tries again later, and goes on."""
    while True:
        await trouble.wait(8.0)
        server = trouble.some()
        if server is None:
            continue
        machine = _machine(server)
        trouble.cluster.note(server.name, "its machine raises when it is asked for a snapshot")
        machine.raises_in_snapshot = True
        try:
            await trouble.last(1.0, 6.0)
        finally:
            machine.raises_in_snapshot = False


def _machine(server: SimServer) -> SimMachine:
    assert isinstance(server.machine, SimMachine), "this fault is for the key-value machine of the simulator"
    return server.machine
