"""Faults of the network: cuts of every shape, resets, and slow lines."""

from __future__ import annotations

from itertools import combinations

from syncline.testing.faults.base import Trouble

__all__ = [
    "bridge",
    "cut",
    "cut_one_way",
    "delay",
    "flap",
    "isolate_leader",
    "overtake",
    "reset",
    "slow_line",
    "uneven",
]


async def cut(trouble: Trouble) -> None:
    """Cut the cluster in two groups."""
    while True:
        names = await _names(trouble, 6.0)
        size = trouble.rng.randint(1, max(1, len(names) // 2))
        trouble.cluster.partition(names[:size], names[size:])
        await trouble.last(0.5, 6.0)
        trouble.cluster.heal()


async def cut_one_way(trouble: Trouble) -> None:
    """Let nothing through from one server to another, or to all others; the way back is open."""
    while True:
        names = await _names(trouble, 6.0)
        source, *others = names
        targets = others if trouble.rng.random() < 0.4 else others[:1]
        inwards = trouble.rng.random() < 0.5
        trouble.cluster.note("network", f"one way {'to' if inwards else 'from'} {source}: {' '.join(targets)}")
        for target in targets:
            pair = (target, source) if inwards else (source, target)
            trouble.cluster.network.cut(*pair, one_way=True)
        await trouble.last(0.5, 6.0)
        trouble.cluster.heal()


async def isolate_leader(trouble: Trouble) -> None:
    """Cut off the leader."""
    while True:
        await trouble.wait(6.0)
        leader = trouble.cluster.current_leader()
        if leader is not None:
            trouble.cluster.partition([leader.name], [name for name in trouble.names() if name != leader.name])
            await trouble.last(0.5, 6.0)
            trouble.cluster.heal()


async def bridge(trouble: Trouble) -> None:
    """Two groups that do not see each other, and one server that both see."""
    while True:
        names = await _names(trouble, 8.0)
        _, *others = names
        half = len(others) // 2
        trouble.cluster.note("network", f"bridge between {' '.join(others[:half])} | {' '.join(others[half:])}")
        for one in others[:half]:
            for other in others[half:]:
                trouble.cluster.network.cut(one, other)
        await trouble.last(1.0, 8.0)
        trouble.cluster.heal()


async def flap(trouble: Trouble) -> None:
    """A line that comes and goes."""
    while True:
        names = await _names(trouble, 8.0)
        one, other = names[:2]
        trouble.cluster.note("network", f"flapping between {one} and {other}")
        for _ in range(trouble.rng.randint(2, 10)):
            trouble.cluster.network.cut(one, other)
            await trouble.last(0.05, 0.8)
            trouble.cluster.network.heal(one, other)
            await trouble.last(0.05, 0.8)


async def delay(trouble: Trouble) -> None:
    """Packets take long, between two servers or between all; those of different connections overtake each other."""
    while True:
        names = await _names(trouble, 8.0)
        pairs = list(combinations(names, 2)) if trouble.rng.random() < 0.5 else [(names[0], names[1])]
        slowest_s = trouble.rng.choice([0.02, 0.1, 0.4]) * trouble.election_s
        trouble.cluster.note("network", f"packets take up to {slowest_s:.3f} s: {len(pairs)} lines")
        for one, other in pairs:
            trouble.cluster.network.slow(one, other, latency_s=(0.0, slowest_s))
        await trouble.last(1.0, 8.0)
        trouble.cluster.heal()


async def reset(trouble: Trouble) -> None:
    """Reset the connections between two servers."""
    while True:
        names = await _names(trouble, 4.0)
        one, other = names[:2]
        trouble.cluster.note("network", f"reset between {one} and {other}")
        trouble.cluster.network.reset(one, other)


async def overtake(trouble: Trouble) -> None:
    """A connection is lost at one end while what it sent is still on its way: that arrives among what the next one
    brings, and much of it for the second time."""
    while True:
        names = await _names(trouble, 4.0)
        one, other = names[:2]
        late_s = trouble.rng.choice([0.02, 0.2, 1.0]) * trouble.rng.uniform(0.5, 1.5)
        trouble.cluster.note(
            "network", f"{one} loses its connections to {other} with {late_s:.3f} s of them on the way"
        )
        trouble.cluster.network.hold_back(one, other, late_s)
        try:
            await trouble.last(0.02, 0.3)
        finally:
            trouble.cluster.network.lose(one, other)


async def uneven(trouble: Trouble) -> None:
    """One of the connections between two servers is late: heartbeats overtake appends, or appends heartbeats."""
    while True:
        names = await _names(trouble, 4.0)
        one, other = names[:2]
        late_s = trouble.rng.choice([0.02, 0.2, 1.0]) * trouble.rng.uniform(0.5, 1.5)
        only = trouble.rng.randrange(12)
        trouble.cluster.note("network", f"one connection from {one} to {other} is {late_s:.3f} s late")
        trouble.cluster.network.hold_back(one, other, late_s, only=only)
        try:
            await trouble.last(0.2, 3.0)
        finally:
            trouble.cluster.network.hold_back(one, other, 0.0)


async def slow_line(trouble: Trouble) -> None:
    """A line that carries a few kilobytes a second: buffers fill up."""
    while True:
        names = await _names(trouble, 8.0)
        one, other = names[:2]
        speed = trouble.rng.choice([2_000.0, 20_000.0, 200_000.0])
        trouble.cluster.note("network", f"{speed:.0f} bytes/s between {one} and {other}")
        trouble.cluster.network.slow(one, other, bytes_per_s=speed)
        await trouble.last(1.0, 8.0)
        trouble.cluster.heal()


async def _names(trouble: Trouble, mean_s: float) -> list[str]:
    """Wait for the turn of a fault of lines. The names of the servers in any order, two at least: one has no line."""
    while True:
        await trouble.wait(mean_s)
        names = trouble.names()
        if len(names) > 1:
            return names
