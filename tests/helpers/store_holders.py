"""Processes with a store each that hold one lock, on any engine: one is killed or stopped, and the next one comes.

The program is the same on each engine: only the URL changes.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from syncline import LeaderChanged, Store
from tests.helpers.ports import free_block
from tests.helpers.programs import RunningProgram, running_program

__all__ = ["RAFT_TTL_S", "raft_urls", "survive_holders"]

TTL_S: Final = 2.0
RAFT_TTL_S: Final = 5.0
"""The process that is killed may be the leader: the other one has to keep its lease over the election."""
ALLOWANCE_S: Final = 5.0
"""Beside the TTL: the end is proposed within a quarter of a second, and the machine that runs the nodes, the holders
and this test is busy. `tests/unit/test_locks.py` has the time on a virtual clock."""
OPEN_S: Final = 30.0

HOLDER: Final = """
import asyncio, json, os, time
from syncline import Store
from syncline.errors import LeaseLost

def say(**fields):
    print(json.dumps({"at": time.monotonic(), **fields}), flush=True)

async def main():
    believed = 0.0
    async with Store.open(os.environ["URL"], timeout=20) as kv:
        try:
            async with kv.lock("repo", ttl=float(os.environ["TTL"])) as held:
                say(token=held.token)
                while True:
                    now = time.monotonic()
                    held.check()
                    believed = now
                    await asyncio.sleep(0.02)
        except LeaseLost as error:
            say(lost=type(error).__name__, believed=believed)

asyncio.run(main())
"""
"""Holds the lock until it is killed, or has lost it. `believed`: when `check` has last said that it holds it."""


def raft_urls(path: Path) -> list[str]:
    """Three nodes of Raft: a file of settings for each."""
    port = free_block(3)
    members = [f'{name} = "127.0.0.1:{port + at}"' for at, name in enumerate("abc")]
    for at, name in enumerate("abc"):
        settings = [f'data_dir = "{path}/{name}"', f'peer_listen = "127.0.0.1:{port + at}"', "insecure = true"]
        timers = ["heartbeat_s = 0.05", "election_s = 0.5"]
        lines = [f'name = "{name}"', *settings, *timers, "[initial_cluster]", *members]
        (path / f"{name}.toml").write_text("\n".join(lines))
    return [f"raft:{path}/{name}.toml" for name in "abc"]


async def survive_holders(urls: Sequence[str], rounds: int, ttl_s: float = TTL_S) -> None:
    """A holder is killed, and another one stopped, again and again. A store of this process looks on.

    No two hold the lock at a time, the next one comes in time, and the tokens grow.
    """
    token = 0
    store = await Store.open(urls[2], timeout=OPEN_S)
    leaders = Leaders(store) if urls[2].startswith("raft:") else None
    try:
        for at in range(rounds):
            async with _holder(urls[0], ttl_s) as one, _holder(urls[1], ttl_s) as two:
                first, second, held = await _holder_and_waiter(one, two, store)
                assert held > token, "a fencing token"
                token = await (_stopped if at % 2 else _killed)(first, second, held, ttl_s, leaders)
    finally:
        await store.close()


class Leaders:
    """Notes when the leader last changed: a new one counts the time of each lease from its own beginning."""

    def __init__(self, store: Store) -> None:
        self.changed_s = 0.0
        self._task = asyncio.create_task(self._follow(store))

    async def _follow(self, store: Store) -> None:
        async for _ in store.raft.events(LeaderChanged):
            self.changed_s = time.monotonic()


@asynccontextmanager
async def _holder(url: str, ttl_s: float) -> AsyncIterator[RunningProgram]:
    async with running_program(HOLDER, [], prelude="", URL=url, TTL=str(ttl_s)) as program:
        yield program


async def _holder_and_waiter(
    one: RunningProgram, two: RunningProgram, store: Store
) -> tuple[RunningProgram, RunningProgram, int]:
    """The process that holds the lock, the one that waits for it, and the token."""
    both = {asyncio.ensure_future(each.until("token", deadline_s=OPEN_S)): each for each in (one, two)}
    done, waiting = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    for each in waiting:
        each.cancel()
    async with asyncio.timeout(OPEN_S):
        while len((await store.list("locks/repo/")).items) < 2:  # noqa: ASYNC110 - it is asked for
            await asyncio.sleep(0.02)
    held = done.pop()
    first = both[held]
    return first, two if first is one else one, int(held.result()["token"])


async def _killed(
    first: RunningProgram, second: RunningProgram, token: int, ttl_s: float, leaders: Leaders | None
) -> int:
    killed_s = time.monotonic()
    first.kill()
    return await _next_holder(second, token, killed_s, ttl_s, leaders)


async def _stopped(
    first: RunningProgram, second: RunningProgram, token: int, ttl_s: float, leaders: Leaders | None
) -> int:
    """The holder that goes on learns first that it has lost the lock."""
    stopped_s = await first.pause()
    try:
        later = await _next_holder(second, token, stopped_s, ttl_s, leaders)
    finally:
        first.send(signal.SIGCONT)
    lost = await first.until("lost")
    assert lost["believed"] <= stopped_s, "it checks, and holds it, after it was stopped"
    assert [said for said in second.said if "lost" in said] == []
    return later


async def _next_holder(
    program: RunningProgram, token: int, ended_s: float, ttl_s: float, leaders: Leaders | None
) -> int:
    """It comes soon after the time of the one before is over."""
    held = await program.until("token", deadline_s=OPEN_S)
    assert held["token"] > token
    over_s = ttl_s + (ended_s if leaders is None else max(ended_s, leaders.changed_s))
    assert held["at"] - over_s <= ALLOWANCE_S, f"{held['at'] - over_s:.2f} s"
    return int(held["token"])
