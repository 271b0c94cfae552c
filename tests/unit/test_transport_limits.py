"""The transport's limits in bytes, time and number, on loopback and on both event loops."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from syncline.consensus.types import Message
from syncline.transport.handshake import Purpose
from syncline.transport.inbound import MESSAGES_A_TURN
from syncline.transport.messages import DIGEST_BYTES, DigestReport
from syncline.transport.wire import MAX_BATCH_REPORTS, Batch
from tests.helpers.transport import (
    PROMPT,
    QUICK,
    RawEnd,
    Run,
    append,
    cluster,
    heartbeat,
    raw_listener,
    welcomed,
)


class TestLimits:
    def test_a_full_buffer_drops_and_counts(self, run: Run) -> None:
        async def scenario() -> None:
            limits = msgspec.structs.replace(PROMPT, send_buffer_bytes=1_000_000)
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, handler = await nodes.add(1, limits=limits)
                first.set_peer(2, address)
                peer = await welcomed(arrivals)
                await handler.heard("up 2")
                accepted = 0
                while first.send(
                    2, append(1, 2, 100_000, index=accepted)
                ):  # the peer reads no more than its own buffer
                    accepted += 1
                    await asyncio.sleep(0)
                assert first.stats()[2].dropped_messages == 1
                indexes: list[int] = []
                while len(indexes) < accepted:
                    indexes += [message.index for message in (await peer.read_batch()).messages]
                assert indexes == list(range(accepted)), "what was accepted arrives, in order"
                assert first.send(2, heartbeat(1, 2)), "there is room again"

        run(scenario())

    def test_a_message_above_the_buffer_is_taken_when_nothing_waits(self, run: Run) -> None:
        async def scenario() -> None:
            limits = msgspec.structs.replace(PROMPT, send_buffer_bytes=1000)
            async with cluster() as nodes:
                first, _, _, second_handler = await nodes.pair(limits)
                assert first.send(2, append(1, 2, 50_000))
                assert not first.send(2, append(1, 2, 50_000))
                await second_handler.received(1)

        run(scenario())

    def test_reports_above_the_limit_of_a_batch_are_split(self, run: Run) -> None:
        """A node that applies many entries in one turn reports many digests: its peer must not refuse the frame."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, _, _, second_handler = await nodes.pair(QUICK)
                for point in range(2 * MAX_BATCH_REPORTS + 1):
                    assert first.send(2, DigestReport(point + 1, 1, bytes(DIGEST_BYTES)))
                    assert first.send(2, heartbeat(1, 2, point))
                received = await second_handler.received(4 * MAX_BATCH_REPORTS + 2)
                points = [message.point for message in received if isinstance(message, DigestReport)]
                assert points == list(range(1, 2 * MAX_BATCH_REPORTS + 2))
                assert first.stats()[2].connected
                assert first.stats()[2].last_error is None

        run(scenario())

    def test_a_message_above_the_frame_limit_is_dropped_alone(self, run: Run) -> None:
        async def scenario() -> None:
            limits = msgspec.structs.replace(PROMPT, frame_bytes=10_000)
            async with cluster() as nodes:
                first, _, _, second_handler = await nodes.pair(limits)
                for message in (heartbeat(1, 2, 1), append(1, 2, 20_000), heartbeat(1, 2, 2)):
                    first.send(2, message)
                received = await second_handler.received(2)
                assert [message.commit for message in received if isinstance(message, Message)] == [1, 2]
                assert first.stats()[2].dropped_messages == 1
                assert "above the limit of 10000 bytes" in (first.stats()[2].last_error or "")
                assert first.stats()[2].connected

        run(scenario())

    def test_a_frame_above_the_limit_closes_the_connection_of_the_sender(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1, limits=msgspec.structs.replace(PROMPT, frame_bytes=10_000))
                peer = await RawEnd.enter(first.address, sender=2, to=1)
                peer.write(Batch([append(2, 1, 20_000)]))
                await peer.closed_by_other_end()
                assert first.counters.bad_frames == 1
                assert nodes.watch.warned("it may have 1 to 10000") == 1

        run(scenario())

    def test_a_peer_that_takes_nothing_is_reset(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, handler = await nodes.add(1, limits=QUICK)
                first.set_peer(2, address)
                await welcomed(arrivals)
                await handler.heard("up 2")
                while first.send(2, append(1, 2, 1_000_000)):
                    pass  # the peer takes what the system buffers, and no more
                await handler.heard("down 2")
                assert handler.reasons == ["no sign of life for 0.2 s"]

        run(scenario())

    def test_link_is_reset_if_more_waits_than_its_queues_let_through(self, run: Run) -> None:
        """The event loop's TLS answers changes of the key, which no queue counts, whether or not the peer reads."""

        async def scenario() -> None:
            limits = msgspec.structs.replace(
                PROMPT, frame_bytes=10_000, send_buffer_bytes=10_000, keepalive_interval_s=0.1, stall_timeout_s=600.0
            )
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, handler = await nodes.add(1, limits=limits)
                first.set_peer(2, address)
                await welcomed(arrivals)
                await handler.heard("up 2")
                connection = first._links[2]._connection
                assert connection is not None
                connection.write(bytes(64_000_000))  # more than the system and the peer's reader take
                await handler.heard("down 2")
                assert "and the other end does not read" in handler.reasons[0]

        run(scenario())

    def test_a_quiet_link_that_answers_is_kept(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, handler = await nodes.add(1, limits=QUICK)
                first.set_peer(2, address)
                peer = await welcomed(arrivals)
                for _ in range(15):  # at 0.02 s each: longer than the time limit of 0.2 s
                    batch = await peer.read_batch()
                    assert batch.ping
                    peer.write(Batch(pong=batch.ping))
                assert handler.events == ["up 2"]

        run(scenario())

    def test_a_quiet_incoming_link_is_closed(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1, limits=QUICK)
                peer = await RawEnd.enter(first.address, sender=2, to=1)
                await peer.closed_by_other_end()
                assert any("no sign of life" in line for line in nodes.watch.lines)

        run(scenario())

    @pytest.mark.parametrize(
        ("purpose", "line"),
        [
            (Purpose.MESSAGES, "link from node 0000000000000002"),
            (Purpose.SNAPSHOT, "snapshot from node 0000000000000002"),
        ],
    )
    def test_links_opened_and_closed_in_a_loop_do_not_fill_the_log(self, run: Run, purpose: Purpose, line: str) -> None:
        """A broken member wrote 64 KB of the log in a second, one line for each connection."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1)
                for _ in range(40):
                    await (await RawEnd.enter(first.address, sender=2, to=1, purpose=purpose)).close()
                end = await RawEnd.enter(first.address, sender=2, to=1)
                told = [told for told in nodes.watch.lines if line in told]
                assert 1 <= len(told) <= 10
                await end.close()

        run(scenario())

    def test_link_flood_of_messages_shares_the_turns(self, run: Run) -> None:
        """A broken member sends without an end: a turn of 10,000 messages cost the leader its term."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1)
                end = await RawEnd.enter(first.address, sender=2, to=1)
                count = 20 * MESSAGES_A_TURN
                for start in range(0, count, 1_000):
                    numbers = range(start, min(start + 1_000, count))
                    end.write(Batch([heartbeat(2, 1, commit=number) for number in numbers]))
                messages = await handler.received(count)
                numbered = [message.commit for message in messages if isinstance(message, Message)]
                assert numbered == list(range(count)), "none is lost, in their order"
                assert max(len(items) for _, items in handler.calls) <= MESSAGES_A_TURN
                await end.close()

        run(scenario())

    def test_connections_above_the_limit_are_closed_at_once(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1, limits=msgspec.structs.replace(PROMPT, incoming_connections=2))
                held = [await RawEnd.enter(first.address, sender=sender, to=1) for sender in (2, 3)]
                for _ in range(3):
                    assert await (await RawEnd.dial(first.address)).closed_by_other_end() == b""
                assert first.counters.overflowed == 3
                assert nodes.watch.warned("connections are open, the limit") == 1
                for end in held:
                    end.write(Batch([heartbeat(2, 1)]))
                    await end.close()

        run(scenario())
