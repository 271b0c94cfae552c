"""Snapshots from senders that break the protocol: the transfer ends, and the receiver's memory is bounded."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from syncline.consensus.types import Message, MessageType, NodeId
from syncline.errors import TransportError
from syncline.testing.sim.transport import WINDOW_BYTES
from syncline.transport.handshake import Hello, Purpose
from syncline.transport.messages import IncomingSnapshot
from syncline.transport.snapshot_stream.protocol import Accept, Ack, Chunk, Done, End, FromReceiver, Offer
from syncline.transport.wire import encode_frame
from tests.helpers.transport import CLUSTER, RawEnd, cluster, opening
from tests.unit.test_snapshot_stream import (
    LIMITS,
    SNAP,
    MemorySink,
    MemorySource,
    World,
    from_receiver,
    payload,
    simulate,
)


async def flooding(world: World) -> asyncio.Transport:
    """A connection on which the offer of a large snapshot was sent."""
    transport, _ = await world.network.host("a").connect(asyncio.Protocol, "b", 1, timeout_s=1)
    hello = Hello(2, 2, CLUSTER, 1, 2, Purpose.SNAPSHOT)
    transport.write(opening(hello))
    await asyncio.sleep(1)
    transport.write(encode_frame(hello, 4096))
    transport.write(encode_frame(Offer(SNAP, b"", 10_000_000), 1 << 20))
    return transport


class TestBadSenders:
    @pytest.mark.parametrize(
        "frames",
        [
            [Chunk(0, b"x")],
            [Offer(msgspec.structs.replace(SNAP, sender=3, to=1), b"", 10)],
            [Offer(msgspec.structs.replace(SNAP, type=MessageType.APP, sender=2, to=1), b"", 10)],
            [Offer(msgspec.structs.replace(SNAP, sender=2, to=1), b"", 10), Chunk(5, b"x")],
            [Offer(msgspec.structs.replace(SNAP, sender=2, to=1), b"", 10), Chunk(0, bytes(11))],
            [Offer(msgspec.structs.replace(SNAP, sender=2, to=1), b"", 10), Chunk(0, b"")],
            [Offer(msgspec.structs.replace(SNAP, sender=2, to=1), b"", 10), End()],
            [Offer(msgspec.structs.replace(SNAP, sender=2, to=1), b"", 10)] * 2,
            ["nonsense"],
        ],
    )
    async def test_frames_out_of_place_end_the_transfer(self, frames: list[object]) -> None:
        async with cluster() as nodes:
            first, handler = await nodes.add(1)
            sinks: list[MemorySink] = []

            def offered(sender: NodeId, message: Message, manifest: bytes) -> IncomingSnapshot:
                sinks.append(MemorySink(bytearray()))
                return sinks[-1]

            handler.on_offer = offered
            peer = await RawEnd.enter(first.address, sender=2, to=1, purpose=Purpose.SNAPSHOT)
            for frame in frames:
                peer.write(frame)
            await peer.closed_by_other_end()
            assert first.counters.bad_frames == 1
            assert all(sink.events == ["abort"] for sink in sinks)

    async def test_answers_of_the_receiver_step_by_step(self) -> None:
        async with cluster() as nodes:
            first, handler = await nodes.add(1)
            handler.on_offer = lambda sender, message, manifest: MemorySink(bytearray(b"12345"))
            peer = await RawEnd.enter(first.address, sender=2, to=1, purpose=Purpose.SNAPSHOT)

            async def answer() -> FromReceiver:
                return from_receiver.decode(await peer.read_payload())

            peer.write(Offer(msgspec.structs.replace(SNAP, sender=2, to=1), b"", 10))
            assert await answer() == Accept(5)
            peer.write(Chunk(5, b"678"))
            assert await answer() == Ack(8)
            peer.write(Chunk(8, b"90"))
            assert await answer() == Ack(10)
            peer.write(End())
            assert await answer() == Done()
            assert await peer.closed_by_other_end() == b""

    def test_a_sender_that_ignores_the_window_is_not_read_any_more(self) -> None:
        async def main(world: World) -> None:
            def prepare(sink: MemorySink) -> None:
                sink.write_takes_s = 3600.0

            world.prepare = prepare
            transport = await flooding(world)
            for offset in range(0, 10_000_000, 10_000):
                transport.write(encode_frame(Chunk(offset, bytes(10_000)), 1 << 20))
            await asyncio.sleep(10)
            taken = 10_000_000 - transport.get_write_buffer_size()
            assert taken < 2 * WINDOW_BYTES, "what the two systems buffer, and little more"
            transport.abort()

        simulate(main)

    def test_sender_of_tiny_frames_is_not_read_any_more(self) -> None:
        async def main(world: World) -> None:
            def prepare(sink: MemorySink) -> None:
                sink.write_takes_s = 3600.0

            world.prepare = prepare
            transport = await flooding(world)
            sent = encode_frame(b"", 4096) * 500_000
            transport.write(encode_frame(Chunk(0, b"x"), 4096) + sent)
            await asyncio.sleep(10)
            assert len(sent) - transport.get_write_buffer_size() < 2 * WINDOW_BYTES
            transport.abort()

        simulate(main, msgspec.structs.replace(LIMITS, snapshot_window_bytes=500_000))

    def test_sender_that_dials_again_and_again_leaves_two_transfers(self) -> None:
        """One that uses the sink, whose disk stands still, and the newest."""

        async def main(world: World) -> None:
            def prepare(sink: MemorySink) -> None:
                sink.write_takes_s = 100.0

            world.prepare = prepare
            ends = [await flooding(world)]
            ends[0].write(encode_frame(Chunk(0, b"x"), 4096))
            for _ in range(10):
                ends.append(await flooding(world))
            names = [task.get_name() for task in asyncio.all_tasks()]
            assert sum(name.startswith("snapshot from") for name in names) == 2
            await asyncio.sleep(100)
            assert [sink.events for sink in world.sinks] == [["abort"], []], "the newest has the sink"
            for end in ends:
                end.abort()

        simulate(main)

    def test_sender_that_reads_no_answers_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With chunks of a byte the answers are longer than what comes: they must not gather without end."""
        monkeypatch.setattr("syncline.testing.sim.net.WINDOW_BYTES", 4096)
        monkeypatch.setattr("syncline.transport.snapshot_stream.receive.MAX_UNSENT_ANSWER_BYTES", 1024)

        async def main(world: World) -> None:
            transport = await flooding(world)
            transport.pause_reading()
            offset = 0
            while not world.second.counters.bad_frames:
                assert offset < 5000, "answers gather"
                transport.write(encode_frame(Chunk(offset, b"x"), 4096))
                offset += 1
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)
            assert [sink.events for sink in world.sinks] == [["abort"]]
            transport.abort()

        simulate(main)

    def test_a_receiver_that_holds_more_than_there_is_refuses(self) -> None:
        async def main(world: World) -> None:
            world.held += bytes(5001)
            with pytest.raises(TransportError, match="no progress"):
                await world.send(MemorySource(payload(5000)))

        simulate(main)

    def test_a_bug_in_the_sink_is_not_taken_for_the_peer_s_fault(self) -> None:
        async def main(world: World) -> None:
            errors: list[BaseException] = []
            world.loop.set_exception_handler(lambda loop, context: errors.append(context["exception"]))

            def prepare(sink: MemorySink) -> None:
                def broken(written: int) -> None:
                    raise ZeroDivisionError

                sink.on_write = broken

            world.prepare = prepare
            with pytest.raises(TransportError):
                await world.send(MemorySource(payload(5000)))
            assert all(isinstance(error, ZeroDivisionError) for error in errors)
            assert len(errors) == LIMITS.snapshot_attempts
            assert all(sink.events == ["abort"] for sink in world.sinks)
            assert world.second.counters.bad_frames == 0

        simulate(main)
