"""Snapshots between nodes when one end loses its power: nothing on the connection says so, other things do."""

from __future__ import annotations

import asyncio

import msgspec

from tests.helpers.transport import Cluster
from tests.unit.test_snapshot_stream import LIMITS, SNAP, MemorySink, MemorySource, World, payload, simulate


async def lose_power(world: World, host: str) -> None:
    """And wait until what was on its way is lost, and the other end waits for an answer to it."""
    world.network.crash(host, silent=True)
    await asyncio.sleep(1.0)


def at_byte(count: int, event: asyncio.Event, sink: MemorySink) -> None:
    sink.on_write = lambda written: event.set() if written == count else None


def test_a_receiver_that_is_back_after_a_power_loss_is_dialled_at_once() -> None:
    # The system that could have said that the old connection is gone is gone, too.
    async def main(world: World) -> None:
        source, crash = MemorySource(payload(20_000)), asyncio.Event()

        def prepare(sink: MemorySink) -> None:
            if len(world.sinks) == 1:
                at_byte(10_000, crash, sink)

        world.prepare = prepare
        transfer = asyncio.create_task(world.send(source))
        await crash.wait()
        await lose_power(world, "b")
        world.network.boot("b")
        world.second, handler = await Cluster(world.watch, world.network.host("b")).add(2, bind="b:1", seed=2)
        handler.on_offer = world.offered
        began_s = world.loop.true_time()
        world.second.set_peer(1, "a:1")
        await transfer
        assert world.loop.true_time() - began_s < 2.0
        assert world.held == source.data
        assert world.sinks[-1].events == ["finish"]

    simulate(main)


def test_snapshot_of_a_later_leader_replaces_one_without_sender() -> None:
    async def main(world: World) -> None:
        began = asyncio.Event()

        def prepare(sink: MemorySink) -> None:
            assert all(sink.events for sink in world.sinks[:-1]), "the sink of the one before it is let go"
            if len(world.sinks) == 1:
                at_byte(10_000, began, sink)

        world.prepare = prepare
        lost = asyncio.create_task(world.send(MemorySource(payload(20_000))))
        await began.wait()
        await lose_power(world, "a")
        lost.cancel()
        world.held.clear()
        third, handler = await Cluster(world.watch, world.network.host("c")).add(3, bind="c:1", limits=LIMITS)
        third.set_peer(2, "b:1")
        await handler.heard("up 2")
        source = MemorySource(payload(5_000))
        began_s = world.loop.true_time()
        later = msgspec.structs.replace(SNAP, sender=3, term=SNAP.term + 1)
        await third.send_snapshot(2, later, b"manifest", source)
        assert world.loop.true_time() - began_s < 2.0
        assert world.held == source.data
        assert [sink.events for sink in world.sinks] == [["abort"], ["finish"]]
        world.first = third  # to be closed in the end: the other one is gone

    simulate(main)
