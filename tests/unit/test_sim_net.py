"""The network in memory behaves as TCP does, and its faults do what they say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.consensus.types import Message, MessageType, Snapshot
from syncline.errors import Rejected
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.net import SimHost, SimNetwork
from syncline.testing.sim.transport import WINDOW_BYTES
from syncline.transport.handshake import Hello, Purpose
from syncline.transport.limits import TransportLimits
from syncline.transport.snapshot_stream.protocol import Chunk, End, Offer
from syncline.transport.wire import Batch, encode_frame
from tests.helpers.transport import CLUSTER, Cluster, Watch, append, cluster, heartbeat, opening

Result = TypeVar("Result")


class Recorder(asyncio.Protocol):
    """Writes down what it sees."""

    def __init__(self, echo: bool = False) -> None:
        self.echo = echo
        self.data = bytearray()
        self.pieces = 0
        self.events: list[str] = []
        self.transport: asyncio.Transport | None = None

    @property
    def sender(self) -> asyncio.Transport:
        assert self.transport is not None
        return self.transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.pieces += 1
        if self.echo:
            self.sender.write(data)

    def eof_received(self) -> bool | None:
        self.events.append("eof")
        return None

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append(f"lost {type(exc).__name__}" if exc else "lost")


class World:
    """Hosts a and b, b listening on port 1."""

    def __init__(self, loop: SimLoop, seed: int = 1) -> None:
        self.loop = loop
        self.network = SimNetwork(random.Random(seed))
        self.a: SimHost = self.network.host("a")
        self.b: SimHost = self.network.host("b")
        self.accepted: list[Recorder] = []

    def accept(self) -> Recorder:
        self.accepted.append(Recorder())
        return self.accepted[-1]

    async def dial(self) -> Recorder:
        _, protocol = await self.a.connect(Recorder, "b", 1, timeout_s=5)
        assert isinstance(protocol, Recorder)
        return protocol

    async def joined(self) -> tuple[Recorder, Recorder]:
        """The two ends of a connection."""
        if 1 not in self.b.listeners:
            await self.b.listen(self.accept, "b", 1)
        dialler = await self.dial()
        await asyncio.sleep(0.1)
        return dialler, self.accepted[-1]


def simulate(main: Callable[[World], Coroutine[Any, Any, Result]], seed: int = 1) -> Result:
    async def start(loop: SimLoop) -> Result:
        return await main(World(loop, seed))

    return run_simulation(start)


class TestConnections:
    def test_bytes_arrive_in_order_whatever_the_pieces(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            sent = random.Random(7).randbytes(3_000_000)
            for start in range(0, len(sent), 10_007):
                near.sender.write(sent[start : start + 10_007])
            await asyncio.sleep(10)
            assert far.data == sent
            assert far.pieces not in {1, len(sent) // 10_007}

        simulate(main)

    def test_both_directions_at_once(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            far.echo = True
            near.sender.write(b"there and back")
            await asyncio.sleep(1)
            assert near.data == b"there and back"

        simulate(main)

    def test_closing_lets_what_was_written_through_and_tells_the_other_end(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            near.sender.write(bytes(1_000_000))
            near.sender.close()
            near.sender.write(b"too late")
            await asyncio.sleep(10)
            assert len(far.data) == 1_000_000
            assert far.events == ["made", "eof", "lost"]
            assert near.events[-1] == "lost"

        simulate(main)

    def test_aborting_resets_the_other_end(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            near.sender.abort()
            await asyncio.sleep(1)
            assert near.events == ["made", "lost"]
            assert far.events == ["made", "lost ConnectionResetError"]

        simulate(main)

    def test_pausing_reader_stops_the_writer_and_bounds_the_bytes(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            far.sender.pause_reading()
            near.sender.write(bytes(2_000_000))
            await asyncio.sleep(10)
            assert near.events == ["made", "pause"]
            assert near.sender.get_write_buffer_size() == 2_000_000 - WINDOW_BYTES
            assert far.data == b""
            far.sender.resume_reading()
            await asyncio.sleep(10)
            assert len(far.data) == 2_000_000
            assert near.events == ["made", "pause", "resume"]

        simulate(main)

    def test_dial_where_nothing_listens_is_refused(self) -> None:
        async def main(world: World) -> None:
            with pytest.raises(ConnectionRefusedError, match="nothing listens"):
                await world.dial()
            with pytest.raises(OSError, match="can't be resolved"):
                await world.a.connect(Recorder, "elsewhere", 1, timeout_s=1)

        simulate(main)

    def test_ports_are_taken_and_given_back(self) -> None:
        async def main(world: World) -> None:
            listener = await world.b.listen(world.accept, "b", 1)
            with pytest.raises(OSError, match="another process holds the port"):
                await world.b.listen(world.accept, "b", 1)
            with pytest.raises(OSError, match="this is host b"):
                await world.b.listen(world.accept, "a", 1)
            await listener.close()
            again = await world.b.listen(world.accept, "0.0.0.0", 1)
            assert again.address == ("b", 1)

        simulate(main)


class TestFaults:
    def test_a_cut_holds_bytes_back_and_healing_delivers_them(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            world.network.cut("a", "b")
            near.sender.write(b"x")
            far.sender.write(b"y")
            await asyncio.sleep(100)
            assert near.data + far.data == b""
            assert near.events == far.events == ["made"], "nobody is told"
            world.network.heal("a", "b")
            await asyncio.sleep(2)
            assert near.data == b"y"
            assert far.data == b"x"

        simulate(main)

    def test_a_cut_in_one_direction(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            world.network.cut("a", "b", one_way=True)
            near.sender.write(b"x")
            far.sender.write(b"y")
            await asyncio.sleep(100)
            assert near.data == b"y"
            assert far.data == b""
            far.sender.write(bytes(1_000_000))
            await asyncio.sleep(100)
            assert len(near.data) == 1 + WINDOW_BYTES - 1, "without confirmation no more than a window gets through"
            world.network.heal("a", "b")
            await asyncio.sleep(10)
            assert len(near.data) == 1 + 1_000_000
            assert far.data == b"x"

        simulate(main)

    def test_a_dial_through_a_cut_waits_until_its_limit_or_the_healing(self) -> None:
        async def main(world: World) -> None:
            await world.b.listen(world.accept, "b", 1)
            world.network.cut("b", "a", one_way=True)
            started = world.loop.time()
            with pytest.raises(TimeoutError, match="no answer within 5 s"):
                await world.dial()
            assert world.loop.time() == started + 5
            world.loop.call_later(2, world.network.heal, "a", "b")
            await world.dial()
            assert 7 < world.loop.time() < 9

        simulate(main)

    def test_a_partition_by_groups(self) -> None:
        async def main(world: World) -> None:
            names = ["a", "b", "c", "d"]
            for name in names:
                world.network.host(name)
            world.network.partition(["a", "b"], ["c", "d"])
            cut = {(x, y) for x in names for y in names if world.network.is_cut(x, y)}
            assert cut == {(x, y) for x in "ab" for y in "cd"} | {(y, x) for x in "ab" for y in "cd"}
            world.network.partition(["a"], ["b", "c", "d"])
            assert not world.network.is_cut("b", "c")
            assert world.network.is_cut("d", "a")
            world.network.heal_all()
            assert not any(world.network.is_cut(x, y) for x in names for y in names)

        simulate(main)

    def test_a_reset_tells_both_ends(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            near.sender.write(b"lost on the way")
            world.network.reset("b", "a")
            await asyncio.sleep(1)
            assert near.events == far.events == ["made", "lost ConnectionResetError"]
            assert far.data == b""

        simulate(main)

    def test_bytes_of_a_lost_connection_arrive_behind_the_next_ones(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            near.sender.write(b"before")
            world.network.hold_back("a", "b", 0.5)
            near.sender.write(b"on the way")
            await asyncio.sleep(0.1)
            assert far.data == b"before"
            world.network.lose("a", "b")
            await asyncio.sleep(0.1)
            assert near.events == ["made", "lost ConnectionResetError"]
            assert far.events == ["made"], "nobody has told it yet"
            again, other = await world.joined()
            again.sender.write(b"on the way")
            await asyncio.sleep(0.1)
            assert far.data == b"before"
            assert other.data == b"on the way"
            await asyncio.sleep(0.5)
            assert far.data == b"beforeon the way", "for the second time"
            assert far.events == ["made", "lost ConnectionResetError"]
            assert again.events == other.events == ["made"]

        simulate(main)

    def test_a_slow_line(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            world.network.slow("a", "b", latency_s=(0.5, 0.5), bytes_per_s=100_000)
            near.sender.write(bytes(200_000))
            await asyncio.sleep(2.4)
            assert len(far.data) < 200_000
            await asyncio.sleep(0.2)
            assert len(far.data) == 200_000

        simulate(main)

    def test_a_crashed_process_frees_its_ports_and_its_peers_are_told(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            world.network.crash("b")
            await asyncio.sleep(1)
            assert near.events == ["made", "lost ConnectionResetError"]
            assert far.events == ["made"], "a dead process hears nothing"
            with pytest.raises(ConnectionRefusedError):
                await world.dial()
            await world.joined()

        simulate(main)

    def test_power_loss_is_silent_until_the_machine_is_back(self) -> None:
        async def main(world: World) -> None:
            near, far = await world.joined()
            world.network.crash("b", silent=True)
            near.sender.write(b"hello?")
            await asyncio.sleep(100)
            assert near.events == ["made"]
            with pytest.raises(TimeoutError):
                await world.dial()
            world.network.boot("b")
            near.sender.write(b"hello?")
            await asyncio.sleep(1)
            assert near.events == ["made", "lost ConnectionResetError"]
            assert far.data == b""

        simulate(main)

    def test_a_paused_process_reads_later_and_its_system_keeps_the_connection(self) -> None:
        async def main(world: World) -> None:
            node = world.loop.add_node("b")
            with world.loop.inside(node):
                await world.b.listen(world.accept, "b", 1)
            near, far = await world.joined()
            node.pause()
            near.sender.write(bytes(1_000_000))
            await asyncio.sleep(10)
            assert far.data == b""
            assert near.sender.get_write_buffer_size() == 1_000_000 - WINDOW_BYTES
            node.resume()
            await asyncio.sleep(10)
            assert len(far.data) == 1_000_000

        simulate(main)


def ring_of_transports(seed: int) -> tuple[list[str], float]:
    """Three nodes that talk through cuts, resets and crashes: the trace of all packets, and when it ended."""

    async def main(loop: SimLoop) -> tuple[list[str], float]:
        rng = random.Random(seed)
        network = SimNetwork(random.Random(seed))
        lines: list[str] = []
        network.on_event = lines.append
        with Watch() as watch:
            nodes = [Cluster(watch, network.host(name)) for name in "abc"]
            members = [await nodes[i].add(i + 1, bind=f"{name}:1", seed=seed) for i, name in enumerate("abc")]
            for number, (transport, _) in enumerate(members, 1):
                for other, name in enumerate("abc", 1):
                    if other != number:
                        transport.set_peer(other, f"{name}:1")
            for step in range(300):
                await asyncio.sleep(rng.random() * 0.2)
                sender, receiver = rng.sample((1, 2, 3), 2)
                members[sender - 1][0].send(receiver, heartbeat(sender, receiver, step))
                here, there = rng.sample("abc", 2)
                fault = rng.random()
                if fault < 0.1:
                    network.cut(here, there, one_way=rng.random() < 0.5)
                elif fault < 0.3:
                    network.heal(here, there)
                elif fault < 0.35:
                    network.reset(here, there)
            network.heal_all()
            for transport, handler in members:
                await watch.until(lambda t=transport: all(s.connected for s in t.stats().values()))  # type: ignore[misc]
                lines += [f"{sender} {m}" for sender, messages in handler.calls for m in messages]
            for transport, _ in members:
                await transport.close()
        return lines, loop.time()

    return run_simulation(main)


class TestTransportsOnIt:
    def test_two_runs_with_one_seed_give_the_same_trace_to_the_last_packet(self) -> None:
        first, second, other = ring_of_transports(1), ring_of_transports(1), ring_of_transports(2)
        assert first == second
        assert first[0] != other[0]
        assert len(first[0]) > 1000

    def test_links_come_back_after_a_power_loss(self) -> None:
        async def main(loop: SimLoop) -> None:
            network = SimNetwork(random.Random(3))
            async with cluster(network.host("a")) as nodes:
                others = Cluster(nodes.watch, network.host("b"))
                first, first_handler = await nodes.add(1, bind="a:1")
                process = loop.add_node("b")
                with loop.inside(process):
                    second, second_handler = await others.add(2, bind="b:1")
                    second.set_peer(1, "a:1")
                first.set_peer(2, "b:1")
                await first_handler.heard("up 2")
                await second_handler.heard("up 1")
                process.kill()
                network.crash("b", silent=True)
                lost_s = loop.time()
                await first_handler.heard("down 2")
                assert first_handler.reasons == ["no sign of life for 5 s"]
                assert loop.time() - lost_s < 7.5
                network.boot("b")
                again, _ = await others.add(2, bind="b:1")
                back_s = loop.time()
                again.set_peer(1, "a:1")
                await first_handler.heard("up 2", times=2)
                assert loop.time() - back_s < 0.1, "the peer that dials is dialled back at once"
                await again.close()

        run_simulation(main)

    def test_cut_in_one_direction_ends_one_link_first(self) -> None:
        async def main(loop: SimLoop) -> None:
            network = SimNetwork(random.Random(3))
            async with cluster(network.host("a")) as nodes:
                others = Cluster(nodes.watch, network.host("b"))
                first, first_handler = await nodes.add(1, bind="a:1")
                second, second_handler = await others.add(2, bind="b:1")
                first.set_peer(2, "b:1")
                second.set_peer(1, "a:1")
                await first_handler.heard("up 2")
                await second_handler.heard("up 1")
                network.cut("a", "b", one_way=True)
                assert second.send(1, heartbeat(2, 1))
                await first_handler.received(1)
                await first_handler.heard("down 2")
                await second_handler.heard("down 1")
                network.heal("a", "b")
                healed_s = loop.time()
                await first_handler.heard("up 2", times=2)
                await second_handler.heard("up 1", times=2)
                assert loop.time() - healed_s < 4
                await second.close()

        run_simulation(main)

    def test_echoes_that_are_not_read_end_the_link(self) -> None:
        async def main(loop: SimLoop) -> None:
            network = SimNetwork(random.Random(3))
            async with cluster(network.host("a")) as nodes:
                first, _ = await nodes.add(1, bind="a:1")
                peer, _ = await network.host("b").connect(asyncio.Protocol, "a", 1, timeout_s=1)
                hello = Hello(2, 2, CLUSTER, 2, 1, Purpose.MESSAGES)
                peer.write(opening(hello))
                await asyncio.sleep(1)
                peer.pause_reading()
                peer.write(encode_frame(hello, 1000))
                ping = bytes(encode_frame(Batch(ping=2**63), 1000))
                peer.write(ping * 100_000)
                await nodes.watch.until(lambda: first.counters.bad_frames == 1)
                assert nodes.watch.warned("does not read them") == 1

        run_simulation(main)

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from(list(Purpose)),
        st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
        st.data(),
    )
    def test_damaged_streams_are_refused(
        self, purpose: Purpose, damage: list[tuple[int, int]], data: st.DataObject
    ) -> None:
        hello = Hello(2, 2, CLUSTER, 2, 1, purpose)
        start = len(opening(hello))
        stream = bytearray(opening(hello) + encode_frame(hello, 4096))
        if purpose is Purpose.MESSAGES:
            for number in range(10):
                stream += encode_frame(Batch([append(2, 1, 50, number)], ping=number), 1 << 20)
        else:
            snapshot = Message(MessageType.SNAP, to=1, sender=2, snapshot=Snapshot())
            for part in (Offer(snapshot, b"manifest", 100), Chunk(0, bytes(100)), End()):
                stream += encode_frame(part, 1 << 20)
        for place, value in damage:
            stream[place % len(stream)] = value
        del stream[data.draw(st.integers(1, len(stream))) :]

        async def main(loop: SimLoop) -> None:
            faults: list[dict[str, object]] = []
            loop.set_exception_handler(lambda loop, context: faults.append(context))
            network = SimNetwork(random.Random(3))
            async with cluster(network.host("a")) as nodes:
                _, handler = await nodes.add(1, bind="a:1")

                def refuse(sender: int, message: Message, manifest: bytes) -> NoReturn:
                    raise Rejected("not now")

                handler.on_offer = refuse
                stranger, _ = await network.host("b").connect(asyncio.Protocol, "a", 1, timeout_s=1)
                stranger.write(stream[:start])
                await asyncio.sleep(1)  # for the acceptor's answer
                stranger.write(stream[start:])
                await asyncio.sleep(60)
                other = Cluster(nodes.watch, network.host("c"))
                third, third_handler = await other.add(3, bind="c:1")
                third.set_peer(1, "a:1")
                await third_handler.heard("up 1")
                assert third.send(1, heartbeat(3, 1))
                await nodes.watch.until(lambda: any(sender == 3 for sender, _ in handler.calls))
                await third.close()
            assert faults == []

        run_simulation(main)

    def test_a_process_that_stood_still_does_not_blame_its_peers(self) -> None:
        async def main(loop: SimLoop) -> None:
            network = SimNetwork(random.Random(3))
            async with cluster(network.host("a")) as nodes:
                others = Cluster(nodes.watch, network.host("b"))
                process = loop.add_node("a")
                with loop.inside(process):
                    first, first_handler = await nodes.add(1, bind="a:1", limits=TransportLimits(stall_timeout_s=2))
                second, second_handler = await others.add(2, bind="b:1", limits=TransportLimits(stall_timeout_s=100))
                first.set_peer(2, "b:1")
                second.set_peer(1, "a:1")
                await first_handler.heard("up 2")
                await second_handler.heard("up 1")
                process.pause()
                await asyncio.sleep(10)
                process.resume()
                await asyncio.sleep(10)
                assert first_handler.events == ["up 2"], "what was said meanwhile lay in the buffers"
                assert second_handler.events == ["up 1"]
                await second.close()

        run_simulation(main)

    def test_a_peer_that_is_not_there_costs_a_dial_a_second(self) -> None:
        async def main(loop: SimLoop) -> int:
            network = SimNetwork(random.Random(3))
            async with cluster(network.host("a")) as nodes:
                network.host("b")
                first, _ = await nodes.add(1, bind="a:1", limits=TransportLimits())
                first.set_peer(2, "b:1")
                await asyncio.sleep(10)
                before = loop.steps
                await asyncio.sleep(100)
                return loop.steps - before

        assert run_simulation(main) / 100 < 30, "turns of the loop per second"
