"""What the client processes of a run do: the words of coordination, used as a program would use them."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from syncline.client import AsyncClient
from syncline.errors import LeaseLost, OperationError, Outcome
from syncline.testing.coordination.counts import Additions, Parties
from syncline.testing.coordination.ledger import Contest, Holding, Ledger
from syncline.testing.coordination.works import Claimed, Items, Runs
from syncline.testing.sim.process import ClientProcess, Program

__all__ = [
    "LONGEST_TTL_S",
    "adder",
    "election_place",
    "elector",
    "lock_place",
    "locker",
    "party",
    "producer",
    "runner",
    "worker",
]

SHORTEST_TTL_S: Final = 2.0
LONGEST_TTL_S: Final = 3.0

MAX_DELIVERIES: Final = 1000
"""No item of a run is given up."""

PERIOD_S: Final = 1.0
"""Functions that run once have another name in each."""

LEAST_S: Final = 0.001
"""A shorter sleep may not move a clock of another rate, whose numbers are rounded."""

LATEST_WRITE_S: Final = 6.0
"""A write may be on its way for so long."""


def lock_place(name: str, holders: int = 1) -> Contest:
    """The lock of that name, for a ledger."""
    return Contest(f"locks/{name}/".encode(), holders)


def election_place(name: str) -> Contest:
    """The election of that name, for a ledger."""
    return Contest(f"elections/{name}/".encode())


def locker(name: str, ledger: Ledger, rng: random.Random, *, holders: int = 1, busy_s: float = 1.0) -> Program:
    """Take a lock again and again, work, and release it; give up to wait sometimes, in either way."""
    place = lock_place(name, holders)

    async def program(kv: AsyncClient, process: ClientProcess) -> None:
        while True:
            ttl_s = rng.uniform(SHORTEST_TTL_S, LONGEST_TTL_S)
            wait_s = rng.choice([None, None, None, 0, rng.uniform(0.1, 3.0)])
            limit_s = rng.choice([60.0, 60.0, 60.0, rng.uniform(0.0, 3.0)])
            with suppress(OperationError, TimeoutError):  # it was lost, or did not become free in time
                async with asyncio.timeout(limit_s), kv.lock(name, ttl=ttl_s, holders=holders, wait=wait_s) as held:
                    await _hold(ledger, place, process, held.token, held.check, rng, busy_s)
            await asyncio.sleep(rng.expovariate(1.0 / rng.choice([0.01, 0.3])))

    return program


def elector(name: str, ledger: Ledger, rng: random.Random, *, busy_s: float = 1.0) -> Program:
    """Campaign again and again, and resign after some terms of leadership."""
    place = election_place(name)

    async def program(kv: AsyncClient, process: ClientProcess) -> None:
        while True:
            ttl_s = rng.uniform(SHORTEST_TTL_S, LONGEST_TTL_S)
            with suppress(OperationError):  # no server was reached at the begin
                async for term in kv.elect(name, value=process.name.encode(), ttl=ttl_s):
                    async with term:
                        await _hold(ledger, place, process, term.token, term.check, rng, busy_s)
                    if rng.random() < 0.3:
                        break
            await asyncio.sleep(rng.expovariate(1.0 / rng.choice([0.01, 0.3])))

    return program


def producer(name: str, items: Items, rng: random.Random) -> Program:
    """Put items into a queue."""

    async def program(kv: AsyncClient, process: ClientProcess) -> None:
        queue = kv.queue(name, max_deliveries=MAX_DELIVERIES)
        while True:
            with suppress(OperationError):  # it may have been put, or not
                items.put[await queue.put(process.name)] = None
            await asyncio.sleep(rng.expovariate(1.0 / 0.3))

    return program


def worker(name: str, items: Items, rng: random.Random, *, busy_s: float = 0.5) -> Program:
    """Claim items of a queue, and finish them, or fail sometimes."""

    async def program(kv: AsyncClient, process: ClientProcess) -> None:
        queue = kv.queue(name, max_deliveries=MAX_DELIVERIES)
        while True:
            claim: Claimed | None = None
            ttl_s = rng.uniform(SHORTEST_TTL_S, LONGEST_TTL_S)
            try:
                async with queue.claim(ttl=ttl_s, wait=rng.choice([None, 0, 1.0])) as item:
                    claim = items.claimed(item.id, process, item.check)
                    try:
                        await asyncio.sleep(rng.expovariate(1.0 / busy_s))
                        if rng.random() < 0.1:
                            raise RuntimeError("this work fails")
                    finally:
                        items.left(claim)
                items.done(claim)
            except (OperationError, RuntimeError) as error:
                if claim is not None and isinstance(error, OperationError):
                    items.failed(claim, error)
            await asyncio.sleep(rng.expovariate(1.0 / 0.05))

    return program


def runner(runs: Runs, rng: random.Random, *, busy_s: float = 0.5) -> Program:
    """Run functions once, one after the other: some at most once, some at least once."""

    async def program(kv: AsyncClient, process: ClientProcess) -> None:
        while True:
            at_most_once = rng.random() < 0.5
            name = f"{'skip' if at_most_once else 'rerun'}-{process.true_time_s() // PERIOD_S:.0f}"

            async def work(name: str = name, most: int | None = 1 if at_most_once else None) -> str:
                runs.start(name, process, most=most)
                await asyncio.sleep(rng.expovariate(1.0 / busy_s))
                runs.complete(name)
                return name

            once = kv.once(name, on_crash="skip" if at_most_once else "rerun", ttl=SHORTEST_TTL_S)
            with suppress(OperationError):  # its lease was lost, or no server was reached
                if await once(work)() is None and not at_most_once:
                    runs.elsewhere(name, process)
            await asyncio.sleep(rng.expovariate(1.0 / 0.1))

    return program


def adder(additions: Additions, rng: random.Random) -> Program:
    """Add to a counter."""

    async def program(kv: AsyncClient, process: ClientProcess) -> None:
        counter = kv.counter("visits")
        while True:
            before = additions.made
            additions.begun += 1
            try:
                additions.answered(process, await counter.add(), before)
            except OperationError as error:
                additions.refused += error.outcome is Outcome.NOT_APPLIED
            await asyncio.sleep(rng.expovariate(1.0 / 0.1))

    return program


def party(parties: Parties, rng: random.Random) -> Program:
    """Wait at a barrier, and give up sometimes."""

    async def program(kv: AsyncClient, process: ClientProcess) -> None:
        barrier = kv.barrier("start", parties.size, ttl=SHORTEST_TTL_S)
        while True:
            parties.arrived += 1
            try:
                await barrier.wait(timeout=rng.choice([None, rng.uniform(0.05, 2.0)]))
            except OperationError as error:
                parties.withdrawn += error.outcome is Outcome.NOT_APPLIED
            else:
                parties.passes(process)
            await asyncio.sleep(rng.expovariate(1.0 / rng.choice([0.01, 0.5])))

    return program


async def _hold(
    ledger: Ledger,
    place: Contest,
    process: ClientProcess,
    token: int,
    check: Callable[[], None],
    rng: random.Random,
    busy_s: float,
) -> None:
    """Work under a lock: check, write, wait, again."""
    hold = ledger.entered(place, process, token, check)
    try:
        end_s = asyncio.get_running_loop().time() + rng.expovariate(1.0 / busy_s)
        while True:
            check()
            ledger.write(hold)
            if rng.random() < 0.2:
                _send_late(ledger, hold, rng)
            left_s = end_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                return
            await asyncio.sleep(max(LEAST_S, min(left_s, rng.uniform(0.01, 0.4))))
    except LeaseLost:
        ledger.left(hold)
        raise
    finally:
        ledger.left(hold)


def _send_late(ledger: Ledger, hold: Holding, rng: random.Random) -> None:
    """A write that the network delivers later, whatever becomes of the process."""
    late_s = rng.uniform(0.0, LATEST_WRITE_S)
    asyncio.get_running_loop().call_later(late_s, ledger.write_late, hold, context=contextvars.Context())
