"""Slow lines of the simulated network: connections share them, and one of several may be late."""

from __future__ import annotations

import asyncio

from tests.unit.test_sim_net import World, simulate


def test_slow_line_is_shared_by_its_connections() -> None:
    """Each once had the whole speed for itself, so a second connection made a line twice as fast."""

    async def main(world: World) -> None:
        near, far = await world.joined()
        other_near, other_far = await world.joined()
        world.network.slow("a", "b", bytes_per_s=100_000)
        near.sender.write(bytes(100_000))
        other_near.sender.write(bytes(100_000))
        await asyncio.sleep(1.8)
        assert len(far.data) + len(other_far.data) < 200_000
        assert min(len(far.data), len(other_far.data)) > 60_000, "both have a part of it"
        await asyncio.sleep(0.3)
        assert len(far.data) + len(other_far.data) == 200_000

    simulate(main)


def test_slow_line_holds_no_more_of_a_connection_than_its_buffer() -> None:
    """What another connection sends waits behind that, and not behind all that was written."""

    async def main(world: World) -> None:
        near, _ = await world.joined()
        other_near, other_far = await world.joined()
        world.network.slow("a", "b", bytes_per_s=100_000)
        near.sender.write(bytes(1_000_000))
        await asyncio.sleep(1.0)
        other_near.sender.write(b"x")
        await asyncio.sleep(0.35)
        assert other_far.data == b"x"

    simulate(main)


def test_slow_line_is_fast_again_when_it_is_healed() -> None:
    async def main(world: World) -> None:
        near, far = await world.joined()
        world.network.slow("a", "b", bytes_per_s=10_000)
        near.sender.write(bytes(50_000))
        await asyncio.sleep(0.1)
        world.network.heal_all()
        near.sender.write(bytes(200_000))
        await asyncio.sleep(3.0)
        assert len(far.data) == 250_000

    simulate(main)


def test_one_late_connection_is_overtaken_by_the_others() -> None:
    async def main(world: World) -> None:
        near, far = await world.joined()
        other_near, other_far = await world.joined()
        world.network.hold_back("a", "b", 0.5, only=0)
        near.sender.write(b"first")
        other_near.sender.write(b"second")
        await asyncio.sleep(0.1)
        assert (bytes(far.data), bytes(other_far.data)) == (b"", b"second")
        await asyncio.sleep(0.5)
        assert far.data == b"first"
        world.network.hold_back("a", "b", 0.5, only=3)
        other_near.sender.write(b" late")
        await asyncio.sleep(0.1)
        assert other_far.data == b"second"

    simulate(main)
