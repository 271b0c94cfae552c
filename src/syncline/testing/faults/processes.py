"""Faults of processes: kills, power losses, pauses, and slowness."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from syncline.testing.faults.base import Trouble
from syncline.testing.sim.disk import Survival
from syncline.testing.sim.server import SimServer
from syncline.testing.sim.workers import SYNC_WORKER, Delay, usual_delay

__all__ = [
    "clock_jump",
    "clock_rate",
    "crash_in_write",
    "kill",
    "kill_all",
    "pause",
    "power",
    "slow_loop",
    "slow_threads",
]


LOG_WORKERS: Final = ("syncline-log", SYNC_WORKER)
"""The workers that write the log: a disk's slowness is another fault."""


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
        down = trouble.up()
        for victim in down:
            victim.crash(survival)
        for victim in down:
            await asyncio.sleep(trouble.rng.choice([0.0, trouble.election_s * trouble.rng.random() * 2]))
            trouble.start_again(victim)


async def pause(trouble: Trouble) -> None:
    """Stop a process for up to some election timeouts, then resume it."""
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


async def slow_loop(trouble: Trouble) -> None:
    """A process that stands still for moments, again and again, as under a garbage collector or a busy neighbour."""
    while True:
        await trouble.wait(8.0)
        server = trouble.some()
        if server is None or server.paused:
            continue
        process = server.process
        longest_s = trouble.rng.choice([0.02, 0.1, 0.5]) * trouble.election_s
        trouble.cluster.note(server.name, f"stalls of up to {longest_s:.3f} s")
        for _ in range(trouble.rng.randint(5, 30)):
            if process is None or process.killed:
                break
            process.pause()
            await asyncio.sleep(trouble.rng.uniform(0.0, longest_s))
            process.resume()
            await asyncio.sleep(trouble.rng.uniform(0.0, longest_s))


async def slow_threads(trouble: Trouble) -> None:
    """The work beside the loop is slow: applying and restoring, writing and receiving snapshots."""
    while True:
        await trouble.wait(8.0)
        server = trouble.some()
        if server is not None:
            slowest_s = trouble.rng.choice([0.1, 1.0]) * trouble.election_s
            trouble.cluster.note(server.name, f"threads take up to {slowest_s:.3f} s")
            trouble.cluster.delays[server.name] = _slow_but_log(slowest_s)
            await trouble.last(1.0, 8.0)
            trouble.cluster.delays.pop(server.name, None)


def _slow_but_log(slowest_s: float) -> Delay:
    def delay(worker: str, rng: random.Random) -> float:
        return usual_delay(worker, rng) if worker in LOG_WORKERS else rng.uniform(0.0, slowest_s)

    return delay


async def clock_rate(trouble: Trouble) -> None:
    """Clocks run at different rates."""
    for server in trouble.cluster.servers.values():
        _set_rate(trouble, server)
    while True:
        await trouble.wait(10.0)
        other = trouble.some()
        if other is not None:
            _set_rate(trouble, other)


def _set_rate(trouble: Trouble, server: SimServer) -> None:
    server.clock_rate = trouble.rng.uniform(0.8, 1.25)
    trouble.cluster.note(server.name, f"its clock runs at a rate of {server.clock_rate:.3f}")
    if server.process is not None:
        server.process.rate = server.clock_rate


async def clock_jump(trouble: Trouble) -> None:
    """A clock leaps ahead, as that of a machine that was suspended."""
    while True:
        await trouble.wait(8.0)
        server = trouble.some()
        if server is not None and server.process is not None:
            leap_s = trouble.rng.choice([0.5, 3.0, 60.0]) * trouble.election_s
            trouble.cluster.note(server.name, f"its clock leaps by {leap_s:.1f} s")
            server.process.leap(leap_s)


async def _start_again(trouble: Trouble, server: SimServer) -> None:
    if trouble.rng.random() < 0.6:
        await trouble.last(0.0, 5.0)
    trouble.start_again(server)
