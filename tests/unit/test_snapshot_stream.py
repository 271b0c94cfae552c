"""Snapshots between nodes: whole, resumed, refused, given up; with bounded memory. On the simulated network, so that
time limits cost no time and every run of a test is the same."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from syncline.consensus.types import MembershipState, Message, MessageType, NodeId, Snapshot, SnapshotMeta
from syncline.errors import CorruptionError, Rejected, TransportError
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.net import SimNetwork
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import IncomingSnapshot
from syncline.transport.peers import Transport
from syncline.transport.snapshot_stream.protocol import FromReceiver, Reject
from tests.helpers.transport import Cluster, FakeHandler, Watch, cluster, heartbeat

LIMITS = TransportLimits(snapshot_chunk_bytes=1000, snapshot_window_bytes=5000)
SNAP = Message(
    MessageType.SNAP,
    to=2,
    sender=1,
    term=3,
    entries=[],
    snapshot=Snapshot(SnapshotMeta(9, 3, MembershipState((1, 2)))),
    responses=[],
)
from_receiver: msgspec.msgpack.Decoder[FromReceiver] = msgspec.msgpack.Decoder(FromReceiver)


class MemorySource:
    """A snapshot to send."""

    def __init__(self, data: bytes, *, fail_at: int | None = None, size_bytes: int | None = None) -> None:
        self.data = data
        self.closed = 0
        self.reads: list[int] = []
        self.fail_at = fail_at
        self._size = len(data) if size_bytes is None else size_bytes

    @property
    def size_bytes(self) -> int:
        return self._size

    async def read(self, offset: int, size: int) -> bytes:
        assert not self.closed
        if self.fail_at is not None and offset >= self.fail_at:
            raise OSError("the disk is broken")
        self.reads.append(offset)
        return self.data[offset : offset + size]

    def close(self) -> None:
        self.closed += 1


class MemorySink:
    """A snapshot that comes in. What was written is kept over an abort, as storage keeps it."""

    def __init__(self, held: bytearray) -> None:
        self.data = held
        self.events: list[str] = []
        self.on_write: Callable[[int], None] | None = None
        self.write_takes_s = 0.0
        self.finish_takes_s = 0.0
        self.abort_takes_s = 0.0
        self.fails: Exception | None = None

    @property
    def offset(self) -> int:
        return len(self.data)

    async def write(self, data: bytes) -> None:
        if self.write_takes_s:
            await asyncio.sleep(self.write_takes_s)
        self.data += data
        if self.on_write is not None:
            self.on_write(len(self.data))

    async def finish(self) -> None:
        if self.finish_takes_s:
            await asyncio.sleep(self.finish_takes_s)
        if self.fails is not None:
            raise self.fails
        self.events.append("finish")

    async def abort(self) -> None:
        if self.abort_takes_s:
            await asyncio.sleep(self.abort_takes_s)
        self.events.append("abort")


class World:
    """Node 1 on host a, node 2 on host b, both linked; `sinks` are the transfers that came to node 2."""

    def __init__(self, loop: SimLoop, watch: Watch) -> None:
        self.loop = loop
        self.watch = watch
        self.network = SimNetwork(random.Random(5))
        self.sinks: list[MemorySink] = []
        self.held = bytearray()
        self.offers: list[tuple[NodeId, Message, bytes]] = []
        self.prepare: Callable[[MemorySink], None] = lambda sink: None
        self.first: Transport
        self.second: Transport
        self.second_handler: FakeHandler

    async def start(self, limits: TransportLimits) -> None:
        first = Cluster(self.watch, self.network.host("a"))
        second = Cluster(self.watch, self.network.host("b"))
        self.first, first_handler = await first.add(1, bind="a:1", limits=limits)
        self.second, self.second_handler = await second.add(2, bind="b:1", limits=limits)
        self.second_handler.on_offer = self.offered
        self.first.set_peer(2, "b:1")
        await first_handler.heard("up 2")

    def offered(self, sender: NodeId, message: Message, manifest: bytes) -> IncomingSnapshot:
        self.offers.append((sender, message, manifest))
        sink = MemorySink(self.held)
        self.sinks.append(sink)
        self.prepare(sink)
        return sink

    async def send(self, source: MemorySource) -> None:
        await self.first.send_snapshot(2, SNAP, b"manifest", source)

    def connections(self) -> int:
        return len(self.network._ends)


def simulate(main: Callable[[World], Coroutine[Any, Any, None]], limits: TransportLimits = LIMITS) -> None:
    async def start(loop: SimLoop) -> None:
        with Watch() as watch:
            world = World(loop, watch)
            await world.start(limits)
            await main(world)
            await world.first.close()
            await world.second.close()
            await asyncio.sleep(1)
            assert world.connections() == 0

    run_simulation(start)


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


class TestTransfer:
    @pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 123_456])
    def test_the_snapshot_arrives_whole_with_its_message_and_manifest(self, size: int) -> None:
        async def main(world: World) -> None:
            source = MemorySource(payload(size))
            await world.send(source)
            assert world.held == source.data
            assert world.sinks[0].events == ["finish"]
            assert world.offers == [(1, SNAP, b"manifest")]
            assert source.closed == 1

        simulate(main)

    def test_the_sender_is_never_more_than_a_window_ahead_of_what_is_written(self) -> None:
        async def main(world: World) -> None:
            source = MemorySource(payload(100_000))
            ahead: list[int] = []
            slow = 0.01

            def prepare(sink: MemorySink) -> None:
                sink.write_takes_s = slow
                sink.on_write = lambda written: ahead.append(source.reads[-1] + 1000 - written)

            world.prepare = prepare
            await world.send(source)
            assert max(ahead) <= LIMITS.snapshot_window_bytes
            assert max(ahead) >= LIMITS.snapshot_window_bytes - 1000, "and the window is used"

        simulate(main)

    def test_messages_go_on_beside_it(self) -> None:
        async def main(world: World) -> None:
            world.network.slow("a", "b", bytes_per_s=20_000)
            transfer = asyncio.create_task(world.send(MemorySource(payload(100_000))))
            for number in range(20):
                assert world.first.send(2, heartbeat(1, 2, number))
                await world.second_handler.received(number + 1)
            assert not transfer.done()
            await transfer

        simulate(main)

    def test_a_receiver_that_checks_for_long_is_waited_for(self) -> None:
        async def main(world: World) -> None:
            def prepare(sink: MemorySink) -> None:
                sink.finish_takes_s = 20 * LIMITS.snapshot_stall_timeout_s

            world.prepare = prepare
            await world.send(MemorySource(payload(3000)))
            assert [sink.events for sink in world.sinks] == [["finish"]]

        simulate(main)

    def test_what_the_receiver_has_already_is_not_sent_again(self) -> None:
        async def main(world: World) -> None:
            source = MemorySource(payload(10_000))
            world.held += source.data[:6500]
            await world.send(source)
            assert world.held == source.data
            assert min(source.reads) == 6500

        simulate(main)


class TestLoss:
    @pytest.mark.parametrize("reset_at", [1000, 50_000, 99_000])
    def test_after_a_lost_connection_it_goes_on_where_the_receiver_stands(self, reset_at: int) -> None:
        async def main(world: World) -> None:
            source = MemorySource(payload(100_000))

            def prepare(sink: MemorySink) -> None:
                if len(world.sinks) == 1:
                    sink.on_write = lambda written: world.network.reset("a", "b") if written == reset_at else None

            world.prepare = prepare
            await world.send(source)
            assert world.held == source.data
            assert [sink.events for sink in world.sinks] == [["abort"], ["finish"]]
            assert len(source.reads) <= 100 + LIMITS.snapshot_window_bytes // 1000, "what was in flight, and no more"

        simulate(main)

    def test_many_losses_do_not_matter_while_there_is_progress(self) -> None:
        async def main(world: World) -> None:
            source = MemorySource(payload(100_000))

            def prepare(sink: MemorySink) -> None:
                def lose(written: int) -> None:
                    if written % 10_000 == 0 and written < 100_000:
                        world.network.reset("a", "b")

                sink.on_write = lose

            world.prepare = prepare
            await world.send(source)
            assert world.held == source.data
            assert [sink.events for sink in world.sinks] == [["abort"]] * 9 + [["finish"]]

        simulate(main)

    def test_silent_connection_is_given_up_and_dialled_again(self) -> None:
        async def main(world: World) -> None:
            source = MemorySource(payload(20_000))

            def prepare(sink: MemorySink) -> None:
                if len(world.sinks) == 1:
                    sink.on_write = lambda written: world.network.cut("a", "b") if written == 10_000 else None

            world.prepare = prepare
            world.loop.call_later(LIMITS.snapshot_stall_timeout_s + 5, world.network.heal, "a", "b")
            await world.send(source)
            assert world.held == source.data
            assert world.sinks[-1].events == ["finish"]
            assert all(sink.events == ["abort"] for sink in world.sinks[:-1])

        simulate(main)

    def test_new_transfer_waits_for_the_sink_of_the_last_one(self) -> None:
        async def main(world: World) -> None:
            order: list[str] = []

            def prepare(sink: MemorySink) -> None:
                order.append("offer")
                if len(world.sinks) == 1:
                    sink.write_takes_s = 3.0  # still writing when the sender is back

                    def written(size: int) -> None:
                        order.append("written")

                    sink.on_write = written
                    world.loop.call_later(1.0, world.network.reset, "a", "b")

            world.prepare = prepare
            source = MemorySource(payload(20_000))
            await world.send(source)
            assert order == ["offer", "written", "offer"]
            assert world.held == source.data

        simulate(main)

    def test_without_progress_it_fails_after_some_attempts(self) -> None:
        async def main(world: World) -> None:
            source = MemorySource(payload(20_000))
            await world.second.close()
            with pytest.raises(
                TransportError, match=r"no progress in 5 attempts: can't connect to b:1: nothing listens"
            ):
                await world.send(source)
            assert source.closed == 1

        simulate(main)


class TestRefusal:
    def test_the_receiver_s_reason_reaches_the_sender(self) -> None:
        async def main(world: World) -> None:
            def refuse(sink: MemorySink) -> None:
                raise Rejected("a newer snapshot is here already\n" + "x" * 5000)

            world.prepare = refuse
            source = MemorySource(payload(5000))
            with pytest.raises(TransportError, match="refused the snapshot: a newer snapshot is here already") as told:
                await world.send(source)
            assert "\n" not in str(told.value), "it comes into the log"
            assert len(str(told.value)) < 700
            assert source.closed == 1
            assert world.held == b""

        simulate(main)

    def test_a_failed_check_at_the_end_is_reported_and_not_retried(self) -> None:
        async def main(world: World) -> None:
            def prepare(sink: MemorySink) -> None:
                sink.fails = CorruptionError("SHA-256 differs", file="snapshot")

            world.prepare = prepare
            with pytest.raises(TransportError, match="SHA-256 differs"):
                await world.send(MemorySource(payload(5000)))
            assert [sink.events for sink in world.sinks] == [["abort"]]

        simulate(main)

    def test_a_full_disk_at_the_receiver_is_reported(self) -> None:
        async def main(world: World) -> None:
            def full(written: int) -> None:
                raise OSError("no space left on device")

            def prepare(sink: MemorySink) -> None:
                sink.on_write = full

            world.prepare = prepare
            with pytest.raises(TransportError, match="no space left on device"):
                await world.send(MemorySource(payload(5000)))
            assert [sink.events for sink in world.sinks] == [["abort"]]
            assert world.watch.warned("no space left on device") == 1

        simulate(main)

    def test_an_unreadable_source_is_the_sender_s_own_error(self) -> None:
        async def main(world: World) -> None:
            source = MemorySource(payload(50_000), fail_at=20_000)
            with pytest.raises(OSError, match="the disk is broken"):
                await world.send(source)
            assert source.closed == 1
            await asyncio.sleep(1)
            assert [sink.events for sink in world.sinks] == [["abort"]]

        simulate(main)

    def test_a_source_shorter_than_it_said_is_an_error(self) -> None:
        async def main(world: World) -> None:
            with pytest.raises(OSError, match="ends at byte 5000; its size should be 6000"):
                await world.send(MemorySource(payload(5000), size_bytes=6000))

        simulate(main)

    def test_an_unknown_peer(self) -> None:
        async def main(world: World) -> None:
            source = MemorySource(payload(10))
            with pytest.raises(TransportError, match="no address is known of node 0000000000000009"):
                await world.first.send_snapshot(9, SNAP, b"", source)
            assert source.closed == 1

        simulate(main)


class TestGivingUp:
    @pytest.mark.parametrize("way", ["cancel", "remove", "close"])
    @pytest.mark.parametrize("after_s", [0.0, 0.0005, 0.002, 0.05])
    def test_the_sender_gives_up(self, way: str, after_s: float) -> None:
        async def main(world: World) -> None:
            world.network.slow("a", "b", bytes_per_s=20_000)
            source = MemorySource(payload(100_000))
            transfer = asyncio.create_task(world.send(source))
            await asyncio.sleep(after_s)
            if way == "cancel":
                transfer.cancel()
            elif way == "remove":
                world.first.remove_peer(2)
            else:
                await world.first.close()
            expected = asyncio.CancelledError if way == "cancel" else TransportError
            with pytest.raises(expected):
                await transfer
            assert source.closed == 1
            await asyncio.sleep(10)
            assert all(sink.events == ["abort"] for sink in world.sinks)
            if way != "remove":  # its link to the peer goes on
                assert world.connections() <= 4

        simulate(main)

    def test_the_receiver_closes(self) -> None:
        async def main(world: World) -> None:
            def prepare(sink: MemorySink) -> None:
                sink.abort_takes_s = 0.5

            world.prepare = prepare
            world.network.slow("a", "b", bytes_per_s=20_000)
            transfer = asyncio.create_task(world.send(MemorySource(payload(100_000))))
            await asyncio.sleep(1)
            await world.second.close()
            assert [sink.events for sink in world.sinks] == [["abort"]], "done when `close` returns"
            with pytest.raises(TransportError, match="no progress"):
                await transfer

        simulate(main)


class CountingSink(MemorySink):
    """Keeps nothing."""

    def __init__(self) -> None:
        super().__init__(bytearray())
        self.count = 0

    @property
    def offset(self) -> int:
        return self.count

    async def write(self, data: bytes) -> None:
        self.count += len(data)
        await asyncio.sleep(0)


class ZeroSource(MemorySource):
    """A large snapshot that takes no memory."""

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(size)


@pytest.mark.deadline(60)
async def test_a_large_snapshot_over_loopback_takes_little_memory() -> None:
    size = 128 * 1024 * 1024
    async with cluster() as nodes:
        first, _, _, second_handler = await nodes.pair(TransportLimits())
        sink = CountingSink()
        second_handler.on_offer = lambda sender, message, manifest: sink
        tracemalloc.start()
        try:
            await first.send_snapshot(2, SNAP, b"", ZeroSource(b"", size_bytes=size))
            assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
        finally:
            tracemalloc.stop()
        assert sink.count == size


def test_the_reason_of_a_refusal_is_part_of_the_answer() -> None:
    assert from_receiver.decode(msgspec.msgpack.encode(Reject("why"))) == Reject("why")
