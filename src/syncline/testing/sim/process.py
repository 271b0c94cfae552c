"""A client's process in a simulation: the product's own `AsyncClient` on the simulated network.

It has a host, a clock and tasks of its own. It can be killed, paused (SIGSTOP), suspended with its machine, cut off.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

from syncline.client import AsyncClient
from syncline.platform.world import World
from syncline.testing.cluster import SimCluster
from syncline.testing.sim.loop import BEGAN_S, SimNode
from syncline.testing.sim.server import HTTP_PORT
from syncline.testing.sim.workers import SimWorkers

__all__ = ["ClientProcess", "Program"]

Program = Callable[[AsyncClient, "ClientProcess"], Awaitable[None]]
"""What a process does with its client, until it ends."""

TIMEOUT_S: Final = 5.0


class ClientProcess:
    """A process that runs `program` with a client of all servers of a cluster. The cluster `serves_http`.

    `rate`: how many of its seconds pass in one. `on_error` is told of an exception that the program raises.
    """

    def __init__(
        self,
        name: str,
        cluster: SimCluster,
        program: Program,
        *,
        seed: int,
        on_error: Callable[[Exception], None],
        rate: float = 1.0,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        assert cluster.serves_http, "the servers of this cluster do not listen for clients"
        self.name: str = name
        self.ended: bool = False
        """Whether the program has ended by itself."""
        self._cluster = cluster
        self._on_error = on_error
        cluster.network.host(name)
        cluster.network.boot(name)
        self.node: SimNode = cluster.loop.add_node(name)
        self.node.rate = rate
        cluster.note(name, "start")
        with cluster.loop.inside(self.node):
            cluster.loop.create_task(self._run(program, seed, timeout_s), name=f"program of {name}")

    @property
    def alive(self) -> bool:
        """Whether it was not killed, and its program has not ended."""
        return not self.node.killed and not self.ended

    def true_time_s(self) -> float:
        """The simulation's time, whatever its own clock shows."""
        return self._cluster.loop.true_time()

    def kill(self) -> None:
        """End it at once: nothing of it runs any more, and its host resets its connections."""
        if not self.node.killed:
            self._cluster.note(self.name, "kill")
            self.node.kill()
            self._cluster.network.crash(self.name)

    def pause(self) -> None:
        """Stop it, as SIGSTOP does: time passes, by its clock too."""
        self._cluster.note(self.name, "pause")
        self.node.pause()

    def suspend(self) -> None:
        """Stop it with its machine: its clock stands still."""
        self._cluster.note(self.name, "suspend")
        self.node.suspend()

    def resume(self) -> None:
        """Let it go on."""
        if self.node.paused:
            self._cluster.note(self.name, "resume")
            self.node.resume()

    def cut(self, *servers: str) -> None:
        """Let nothing through between it and these servers."""
        for server in servers:
            self._cluster.network.cut(self.name, server)

    def heal(self) -> None:
        """End all its cuts."""
        for server in self._cluster.servers:
            self._cluster.network.heal(self.name, server)

    async def _run(self, program: Program, seed: int, timeout_s: float) -> None:
        rng = random.Random(f"{seed} client process")
        workers = _ClientWorkers(random.Random(rng.getrandbits(64)), self.node)
        world = World(
            network=self._cluster.network.host(self.name),
            workers=workers,
            rng=random.Random(rng.getrandbits(64)),
            entropy=random.Random(rng.getrandbits(64)).randbytes,
            wall_time_s=lambda: BEGAN_S + self._cluster.loop.true_time(),
        )
        names = [server.name for server in self._cluster.servers.values() if not server.retired]
        rng.shuffle(names)
        try:
            endpoints = [f"http://{name}:{HTTP_PORT}" for name in names]
            async with AsyncClient(endpoints, timeout=timeout_s, world=world) as client:
                await program(client, self)
        except Exception as error:  # noqa: BLE001 - passed to the owner, which judges it
            self._on_error(error)
        finally:
            self.ended = True


class _ClientWorkers(SimWorkers):
    """Those of a process whose machine may have been suspended."""

    def __init__(self, rng: random.Random, node: SimNode) -> None:
        super().__init__(rng)
        self._node = node

    def asleep_s(self) -> float:
        return self._node.asleep_s
