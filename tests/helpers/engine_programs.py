"""The programs of two jobs, written once, for all engines: only the URL changes.

`ControlPlane`: the memory of a control plane survives its machine. `Agents`: locks with holders, a registry and leases
for agents on several machines.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from syncline import Machine, command, query
from syncline.errors import Rejected

__all__ = ["Agents", "ControlPlane", "run_agents", "run_control_plane"]


class ControlPlane(Machine):
    """Which worker has which job."""

    assigned: dict[str, str]
    done: list[str]

    @command
    def assign(self, job: str, to: str) -> bool:
        if job in self.assigned or job in self.done:
            return False
        self.assigned[job] = to
        return True

    @command
    def finish(self, job: str, by: str) -> None:
        if self.assigned.get(job) != by:
            raise Rejected(f"{job} is not assigned to {by}", code="not_assigned")
        del self.assigned[job]
        self.done.append(job)

    @query
    def jobs(self) -> dict[str, str]:
        return self.assigned

    @query
    def finished(self) -> list[str]:
        return self.done


class Holder(msgspec.Struct):
    token: int
    ends_s: float


class Agents(Machine):
    """Locks with a number of holders, and addresses of services. Each ends by itself, by the log's own time."""

    holders: dict[str, dict[str, Holder]]
    services: dict[str, dict[str, float]]

    @command
    def lock(self, name: str, agent: str, most: int = 1, ttl_s: float = 30.0) -> int:
        """A fencing token; 0: all places are taken."""
        held = self.holders.setdefault(name, {})
        for other in [other for other, holder in held.items() if holder.ends_s <= self.entry.time_s]:
            del held[other]
        if agent not in held and len(held) >= most:
            return 0
        token = held[agent].token if agent in held else self.entry.index
        held[agent] = Holder(token, self.entry.time_s + ttl_s)
        return token

    @command
    def unlock(self, name: str, agent: str) -> bool:
        return self.holders.get(name, {}).pop(agent, None) is not None

    @command
    def register(self, service: str, address: str, ttl_s: float = 30.0) -> None:
        self.services.setdefault(service, {})[address] = self.entry.time_s + ttl_s

    @query
    def addresses(self, service: str) -> list[str]:
        return sorted(self.services.get(service, {}))


async def run_control_plane(urls: Sequence[str]) -> None:
    """Three nodes. The one that has assigned everything goes; the others know it all."""
    first, second, third = await asyncio.gather(*(ControlPlane.open(url, timeout=30) for url in urls))
    async with closing(second, third):
        async with closing(first):
            answers = await asyncio.gather(*(first.assign(f"t{at}", "w1") for at in range(20)))
            assert answers == [True] * 20
            assert not await second.assign("t3", "w2")
            await second.finish("t3", "w1")
        with pytest.raises(Rejected, match="t3 is not assigned to w1"):
            await second.finish("t3", "w1")
        async with second.session() as once:
            await once.finish("t4", "w1")
        assert await third.finished() == ["t3", "t4"]
        assert len(await third.jobs()) == 18
        assert not await third.assign("t4", "w3")


async def run_agents(urls: Sequence[str]) -> None:
    """Three agents on three nodes, two places; then the registry."""
    one, two, three = nodes = await asyncio.gather(*(Agents.open(url, timeout=30) for url in urls))
    async with closing(*nodes):
        tokens = [await node.lock("repo", f"a{at}", most=2) for at, node in enumerate(nodes)]
        assert 0 < tokens[0] < tokens[1]
        assert tokens[2] == 0
        assert await two.unlock("repo", "a0")
        later = await three.lock("repo", "a2", most=2)
        assert later > tokens[1], "a fencing token"
        assert await one.lock("repo", "a2", most=2) == later
        assert await one.lock("short", "a0", ttl_s=0.0) > 0
        assert await two.lock("short", "a1") > 0, "the lease of the other one is over"
        await asyncio.gather(one.register("api", "h1:80"), two.register("api", "h2:80"))
        assert await three.addresses("api") == ["h1:80", "h2:80"]


@contextlib.asynccontextmanager
async def closing(*machines: Machine) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for machine in machines:
            await machine.close()
