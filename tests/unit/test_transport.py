"""Links between nodes on loopback: delivery, loss, strangers, limits. Each test runs on both event loops."""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec
import pytest

from syncline.consensus.types import Message, NodeId
from syncline.errors import ConfigError, UsageError
from syncline.platform.network import TcpNetwork
from syncline.transport.authentication import Opening
from syncline.transport.handshake import Refusal, Welcome
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import (
    AcceptedProposal,
    Forward,
    ForwardedProposal,
    ForwardReply,
    PeerAddress,
    PeerMessage,
    RefusedProposal,
)
from tests.helpers.transport import (
    CLUSTER,
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


class TestDelivery:
    def test_every_kind_of_message_arrives_as_it_was_sent(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _, _, second_handler = await nodes.pair()
                sent: list[PeerMessage] = [
                    append(1, 2, 1000),
                    Forward([ForwardedProposal(1, 0, b"data"), ForwardedProposal(2, 1, b"")]),
                    ForwardReply([AcceptedProposal(1, 9, 3)], [RefusedProposal(2, "dropped", "zu voll")], 1),
                ]
                for message in sent:
                    assert first.send(2, message)
                assert await second_handler.received(3) == sent
                assert second_handler.calls[0][0] == 1

        run(scenario())

    def test_messages_arrive_in_order_in_both_directions_at_once(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, first_handler, second, second_handler = await nodes.pair()
                for number in range(2000):
                    assert first.send(2, heartbeat(1, 2, number))
                    assert second.send(1, heartbeat(2, 1, number))
                    if number % 100 == 0:
                        await asyncio.sleep(0)
                for handler in (first_handler, second_handler):
                    received = await handler.received(2000)
                    assert [m.commit for m in received if isinstance(m, Message)] == list(range(2000))

        run(scenario())

    def test_messages_of_one_turn_leave_as_one_frame(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, handler = await nodes.add(1)
                first.set_peer(2, address)
                peer = await welcomed(arrivals)
                await handler.heard("up 2")
                for number in range(5):
                    first.send(2, heartbeat(1, 2, number))
                batch = await peer.read_batch()
                assert [message.commit for message in batch.messages] == [0, 1, 2, 3, 4]

        run(scenario())

    def test_much_of_one_turn_leaves_in_frames_of_the_batch_size(self, run: Run) -> None:
        async def scenario() -> None:
            limits = msgspec.structs.replace(PROMPT, batch_bytes=10_000)
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, handler = await nodes.add(1, limits=limits)
                first.set_peer(2, address)
                peer = await welcomed(arrivals)
                await handler.heard("up 2")
                for number in range(10):
                    first.send(2, append(1, 2, 4000, index=number))
                frames = [[message.index for message in (await peer.read_batch()).messages] for _ in range(5)]
                assert frames == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]

        run(scenario())

    def test_three_nodes_talk_to_each_other(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                members = [await nodes.add(node) for node in (1, 2, 3)]
                for number, (transport, _) in enumerate(members, 1):
                    for other, (peer, _) in enumerate(members, 1):
                        if other != number:
                            transport.set_peer(other, peer.address)
                for number, (transport, handler) in enumerate(members, 1):
                    for other in {1, 2, 3} - {number}:
                        await handler.heard(f"up {other}")
                        assert transport.send(other, heartbeat(number, other))
                for number, (_, handler) in enumerate(members, 1):
                    await handler.received(2)
                    assert {sender for sender, _ in handler.calls} == {1, 2, 3} - {number}

        run(scenario())

    def test_the_figures_of_a_link(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _, second, second_handler = await nodes.pair(msgspec.structs.replace(QUICK, idle_timeout_s=20))
                first.send(2, heartbeat(1, 2))
                await second_handler.received(1)
                assert second.last_contact_s(1) is not None
                assert first.stats()[2].sent_messages == 1
                assert second.stats()[1].received_messages == 1
                while second.stats()[1].received_bytes != first.stats()[2].sent_bytes:
                    first.send(2, heartbeat(1, 2))  # bytes of the second connection may have been on their way
                    await second_handler.received(len(second_handler.messages) + 1)
                while first.stats()[2].rtt_s is None:  # each echo asked for is one more message to wait for
                    first.send(2, heartbeat(1, 2))
                    await second_handler.received(len(second_handler.messages) + 1)
                stats = first.stats()[2]
                assert stats.connected
                assert stats.connected_since_s is not None
                assert stats.connected_since_s >= 0
                assert stats.address == second.address
                assert stats.rtt_s is not None
                assert 0 <= stats.rtt_s < 5  # 0 where the loop's clock counts in milliseconds
                assert (stats.reconnects, stats.dropped_messages, stats.last_error) == (0, 0, None)
                assert first.last_contact_s(2) is not None
                assert first.last_contact_s(99) is None

        run(scenario())


class TestLossAndReturn:
    def test_a_restarted_peer_is_found_again(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, first_handler, second, _ = await nodes.pair()
                address = second.address
                await second.close()
                await first_handler.heard("down 2")
                assert not first.send(2, heartbeat(1, 2))
                assert first.stats()[2].dropped_messages == 1
                again, again_handler = await nodes.add(2, bind=address)
                again.set_peer(1, first.address)
                await first_handler.heard("up 2", times=2)
                assert first.stats()[2].reconnects == 1
                assert first.send(2, heartbeat(1, 2))
                await again_handler.received(1)

        run(scenario())

    def test_view_without_answers_shows_the_reason_once(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1)
                second, _ = await nodes.add(2)
                address = second.address
                await second.close()
                first.set_peer(2, address)
                await nodes.watch.until(lambda: nodes.watch.warned("nothing listens there") > 0)
                stats = first.stats()[2]
                assert stats.last_error == f"can't connect to {address}: nothing listens there"
                assert not stats.connected
                again, _ = await nodes.add(2, bind=address)
                await handler.heard("up 2")
                assert nodes.watch.warned("nothing listens there") == 1
                assert first.stats()[2].last_error is None
                assert first.stats()[2].reconnects == 0
                assert again.address == address

        run(scenario())

    def test_a_host_name_that_can_not_be_resolved_is_said_so(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1)
                first.set_peer(2, "no..such..name:7100")
                await nodes.watch.until(lambda: nodes.watch.warned("can't be resolved") > 0)
                assert "no..such..name" in (first.stats()[2].last_error or "")

        run(scenario())

    def test_link_up_stays_when_the_address_changes(self, run: Run) -> None:
        """An address is a hint: a link that works is not given up for it. It is dialled as soon as the link is lost."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, first_handler, old, _ = await nodes.pair()
                new, new_handler = await nodes.add(2)
                first.set_peer(2, new.address)
                assert first.stats()[2].connected
                assert first.stats()[2].address == old.address
                await old.close()
                await first_handler.heard("up 2", times=2)
                assert first_handler.events == ["up 2", "down 2", "up 2"]
                assert first.stats()[2].address == new.address != old.address
                first.send(2, heartbeat(1, 2))
                await new_handler.received(1)

        run(scenario())

    def test_link_down_dials_each_new_address_at_once(self, run: Run) -> None:
        """The pause of many failed dials is not waited for."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, first_handler = await nodes.add(1, limits=TransportLimits(backoff_first_s=50, backoff_last_s=60))
                second, _ = await nodes.add(2)
                first.set_peer(2, "127.0.0.1:1")
                await nodes.watch.until(lambda: first.stats()[2].last_error is not None)
                first.set_peer(2, second.address)
                await first_handler.heard("up 2")
                assert first.stats()[2].address == second.address

        run(scenario())

    def test_link_dials_hint_when_other_addresses_fail(self, run: Run) -> None:
        """A hint alone makes a link too."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, first_handler = await nodes.add(1)
                second, _ = await nodes.add(2)
                third, _ = await nodes.add(3)
                first.set_peer(2, "127.0.0.1:1")
                first.suggest_peer(2, PeerAddress.parse(second.address))
                first.suggest_peer(3, PeerAddress.parse(third.address))
                await first_handler.heard("up 2")
                await first_handler.heard("up 3")
                assert first.stats()[2].address == second.address

        run(scenario())

    def test_peer_that_moved_is_dialled_where_it_says(self, run: Run) -> None:
        """The address in its greeting is used at once; the old one is another program's by now."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, first_handler = await nodes.add(1)
                stranger, _ = await nodes.add(3)
                first.set_peer(2, stranger.address)
                second, second_handler = await nodes.add(2, advertise="127.0.0.1:0")
                assert second.advertised == second.address, "port 0 is a free one: the real one is told"
                second.set_peer(1, first.address)
                await second_handler.heard("up 1")
                await first_handler.heard("up 2")
                assert first.stats()[2].address == second.address

        run(scenario())

    def test_what_was_sent_before_a_peer_was_removed_still_arrives(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, first_handler, _, second_handler = await nodes.pair()
                first.send(2, heartbeat(1, 2, 7))
                first.remove_peer(2)
                assert not first.send(2, heartbeat(1, 2, 8))
                (message,) = await second_handler.received(1)
                assert isinstance(message, Message)
                assert message.commit == 7
                await first_handler.heard("down 2")
                assert first.stats() == {}

        run(scenario())

    def test_a_peer_that_was_removed_is_told_at_once(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                removed: list[NodeId] = []
                first, _ = await nodes.add(
                    1, refuse_peer=lambda hello: Refusal("removed") if hello.sender in removed else None
                )
                second, second_handler = await nodes.add(2)
                second.set_peer(1, first.address)
                await second_handler.heard("up 1")
                removed.append(2)
                first.remove_peer(2)
                await second_handler.heard("down 1")
                await nodes.watch.until(lambda: "refused by the peer: removed" in str(second.stats()[1].last_error))
                assert not second.stats()[1].connected
                assert not first.stats(), "the removed peer is not dialled"

        run(scenario())

    def test_peer_restarted_unnoticed_is_dialled_when_it_dials(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, handler = await nodes.add(1)
                first.set_peer(2, address)
                stale = await arrivals.get()
                await stale.meet()
                stale.write(Welcome(2, CLUSTER, 2, incarnation=5))
                await handler.heard("up 2")
                same = await RawEnd.enter(first.address, sender=2, to=1, incarnation=5)
                assert handler.events == ["up 2"], "the same incarnation is no news"
                new = await RawEnd.enter(first.address, sender=2, to=1, incarnation=6)
                await handler.heard("down 2")
                assert handler.reasons == ["the peer was restarted"]
                fresh = await arrivals.get()
                assert isinstance(await fresh.read_greeting(), Opening)
                await same.closed_by_other_end()
                await new.close()

        run(scenario())

    def test_a_peer_that_dials_is_dialled_back_without_waiting(self, run: Run) -> None:
        async def scenario() -> None:
            patient = TransportLimits(backoff_first_s=1000, backoff_last_s=1000)
            async with cluster() as nodes:
                first, first_handler = await nodes.add(1, limits=patient)
                second, _ = await nodes.add(2)
                address = second.address
                await second.close()
                first.set_peer(2, address)
                await nodes.watch.until(lambda: nodes.watch.warned("nothing listens there") > 0)
                again, _ = await nodes.add(2, bind=address)
                again.set_peer(1, first.address)
                await first_handler.heard("up 2")
                assert first.send(2, heartbeat(1, 2)), "long before the pause of the first dial has passed"

        run(scenario())


def open_sockets() -> int:
    """How many sockets this process has open."""
    paths = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.islink(path) and os.readlink(path).startswith("socket:") for path in paths)


class TestLife:
    def test_close_is_prompt_and_leaves_nothing_behind(self, run: Run) -> None:
        async def scenario() -> None:
            before = open_sockets()
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, _, second, _ = await nodes.pair()
                first.set_peer(3, address)  # accepts, never greets
                first.set_peer(4, "127.0.0.1:9")
                await arrivals.get()
                stranger = await RawEnd.dial(first.address)
                while first.send(2, append(1, 2, 1_000_000)):
                    pass
                async with asyncio.timeout(1.0):
                    await first.close()
                    await first.close()
                await stranger.closed_by_other_end()
                await second.close()
            assert len(asyncio.all_tasks()) <= 2, asyncio.all_tasks()  # this test, and the loop's own
            await asyncio.sleep(0)
            assert open_sockets() == before

        run(scenario())

    def test_a_closed_transport_sends_nothing_and_can_not_start_again(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler, _, _ = await nodes.pair()
                await first.close()
                assert not first.send(2, heartbeat(1, 2))
                assert handler.events == ["up 2"], "closing is no event"
                first.set_peer(5, "127.0.0.1:1")
                with pytest.raises(UsageError):
                    await first.start()

        run(scenario())

    def test_a_taken_port_is_an_error_that_says_what_to_do(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1)
                with pytest.raises(OSError, match=r"can't listen on 127.0.0.1:\d+: another process holds the port"):
                    await nodes.add(2, bind=first.address)
                with pytest.raises(OSError, match="this machine has no such address"):
                    await nodes.add(2, bind="192.0.2.1:0")
                with pytest.raises(OSError, match="the host name can't be resolved"):
                    await nodes.add(2, bind="no..such..name:0")
                with pytest.raises(ConfigError, match="listen address"):
                    await nodes.add(2, bind="7100")

        run(scenario())

    def test_settings_that_make_no_sense_are_refused(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1)
                with pytest.raises(UsageError, match="no peer of itself"):
                    first.set_peer(1, "127.0.0.1:7100")
                with pytest.raises(ConfigError, match="port 0"):
                    first.set_peer(2, "127.0.0.1:0")
                with pytest.raises(ConfigError, match="address of node 0000000000000002"):
                    first.set_peer(2, "nonsense")

        run(scenario())

    def test_a_dial_to_a_silent_address_ends_in_time(self, run: Run) -> None:
        async def scenario() -> None:
            with socket.socket() as full, socket.socket() as first:
                full.bind(("127.0.0.1", 0))
                full.listen(0)  # one connection fits into the queue that nobody empties; the next gets no answer
                first.connect(full.getsockname())
                with pytest.raises(TimeoutError, match=r"^no answer within 0.05 s$"):
                    await TcpNetwork().connect(asyncio.Protocol, *full.getsockname(), timeout_s=0.05)

        run(scenario())
