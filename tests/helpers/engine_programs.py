"""The programs of two jobs, written once, for all engines: only the URL changes.

`run_control_plane`: the memory of a control plane survives its machine. `run_agents`: locks with holders, a registry
and leases for agents on several machines.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import pytest

from syncline import Machine, Store, command, query
from syncline.errors import DeadlineExceeded, Rejected

__all__ = ["ControlPlane", "run_agents", "run_control_plane"]


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
    """Three nodes, five agents: the words of the job as they stand there, then the other words."""
    nodes = await asyncio.gather(*(Store.open(url, timeout=30) for url in urls))
    async with closing(*nodes):
        await _share_a_lock(nodes)
        await _take_turns(nodes)
        await _share_work(nodes)


async def _share_a_lock(nodes: Sequence[Store]) -> None:
    """Three places. All agents are registered while they hold one of them."""
    inside, most, tokens = 0, 0, list[int]()

    async def agent(kv: Store, address: str) -> None:
        nonlocal inside, most
        async with kv.lock("repo", holders=3) as held, kv.register("service/api", address):
            tokens.append(held.token)
            inside += 1
            most = max(most, inside)
            assert address in {found.address for found in await kv.discover("service/api")}
            held.check()
            inside -= 1

    await asyncio.gather(*(agent(nodes[at % 3], f"h{at}:80") for at in range(5)))
    assert most <= 3
    assert len(set(tokens)) == 5, "a fencing token for each holder"
    assert await nodes[0].discover("service/api") == ()
    async with nodes[0].lock("repo") as first, nodes[1].register("service/api", "h9:80"):
        assert first.token > max(tokens)
        with pytest.raises(DeadlineExceeded):
            await nodes[2].lock("repo", wait=0.1).acquire()
        [found] = await nodes[2].discover("service/api")
        assert found.address == "h9:80"


async def _take_turns(nodes: Sequence[Store]) -> None:
    """An election, a barrier, and a function that runs once."""
    led, runs = list[tuple[int, int]](), list[int]()

    async def candidate(at: int) -> None:
        async with contextlib.aclosing(nodes[at].elect("master", ttl=10, value=str(at))) as terms:
            async for term in terms:
                async with term:
                    leader = await nodes[0].leader("master")
                    assert leader is not None
                    assert leader.value == str(at).encode()
                    led.append((term.token, at))
                return

    async def report(at: int) -> None:
        await nodes[at].barrier("start", parties=3).wait(timeout=60)

        @nodes[at].once("nightly")
        async def run() -> None:
            runs.append(at)

        await run()

    await asyncio.gather(*(candidate(at) for at in range(3)))
    assert led == sorted(led)
    assert {at for _, at in led} == {0, 1, 2}
    await asyncio.gather(*(report(at) for at in range(3)))
    assert len(runs) == 1


async def _share_work(nodes: Sequence[Store]) -> None:
    """A queue, a counter, a mapping that follows, and sessions of users."""
    one, two, three = nodes
    await one.queue("mail").put("to: ada")
    async with two.queue("mail").claim(ttl=30, wait=30) as item:
        assert item.value == b"to: ada"
    await asyncio.gather(*(node.counter("visits").add() for node in nodes))
    assert await one.counter("visits").value() == 3
    async with two.mapping("config/") as config:
        await one.put("config/mode", "blue")
        await config.refresh(timeout=30)
        assert config["mode"] == b"blue"
    created = await two.sessions(ttl=60).create({"user": "ada"})
    assert await three.sessions(ttl=60).get(created) == {"user": "ada"}


class _Closes(Protocol):
    async def close(self) -> None: ...


@contextlib.asynccontextmanager
async def closing(*nodes: _Closes) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await asyncio.gather(*(node.close() for node in nodes))
