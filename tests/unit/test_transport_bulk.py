"""The connection for appends: what is small overtakes it, and the link does not depend on it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from syncline.consensus.types import Message, MessageType
from syncline.testing.sim.loop import run_simulation
from syncline.testing.sim.net import SimNetwork
from syncline.transport.bulk import is_bulk
from syncline.transport.handshake import Purpose, Refusal, Welcome
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import Forward, ForwardedProposal, ForwardReply, Notice, PeerMessage
from syncline.transport.peers import Transport
from syncline.transport.wire import Batch
from tests.helpers.transport import (
    CLUSTER,
    PROMPT,
    FakeHandler,
    RawEnd,
    Run,
    append,
    cluster,
    heartbeat,
    raw_listener,
)

LIMITS = TransportLimits(stall_timeout_s=5.0)


def kind_of(message: PeerMessage) -> str:
    return message.type.name if isinstance(message, Message) else type(message).__name__


class Two:
    """Transports `a` and `b` on a simulated network, whose links are up, their second connections too."""

    def __init__(self, network: SimNetwork, first: Transport, handler: FakeHandler) -> None:
        self.network = network
        self.first = first
        self.handler = handler
        """Of the second."""


def simulate(main: Callable[[Two, FakeHandler], Awaitable[None]], limits: TransportLimits = LIMITS) -> None:
    async def world(_: object) -> None:
        network = SimNetwork(random.Random(1))
        async with cluster(network.host("a")) as here, cluster(network.host("b")) as there:
            first, first_handler = await here.add(1, bind="a:1", limits=limits)
            second, second_handler = await there.add(2, bind="b:1", limits=limits)
            first.set_peer(2, "b:1")
            second.set_peer(1, "a:1")
            await first_handler.heard("up 2")
            await asyncio.sleep(0.1)
            assert first_handler.rooms == [2], "the second connection is up"
            await main(Two(network, first, second_handler), first_handler)

    run_simulation(world)


def test_bulk_is_overtaken_by_what_is_small_on_a_slow_line() -> None:
    """A heartbeat that is sent behind a megabyte comes within the buffer of the line, not behind the megabyte."""

    async def main(two: Two, _: FakeHandler) -> None:
        two.network.slow("a", "b", bytes_per_s=250_000)
        assert two.first.send(2, append(1, 2, 1_000_000))
        assert two.first.send(2, Forward([ForwardedProposal(1, 0, b"x")]))
        await asyncio.sleep(0.05)
        for _beat in range(10):
            assert two.first.send(2, heartbeat(1, 2))
            await asyncio.sleep(0.1)
        assert [kind_of(message) for message in two.handler.messages] == ["HEARTBEAT"] * len(two.handler.messages)
        assert len(two.handler.messages) >= 6
        await asyncio.sleep(4)
        kinds = [kind_of(message) for message in two.handler.messages]
        assert kinds[-2:] == ["APP", "Forward"]

    simulate(main)


def test_bulk_at_a_megabyte_over_ten_seconds_is_not_taken_for_dead() -> None:
    """The link tells that the peer is alive; a large entry may take longer than any sign of life."""

    async def main(two: Two, first: FakeHandler) -> None:
        two.network.slow("a", "b", bytes_per_s=100_000)
        assert two.first.send(2, append(1, 2, 1_500_000))
        await asyncio.sleep(20)
        assert [kind_of(message) for message in two.handler.messages] == ["APP"]
        assert first.events == ["up 2"]
        assert first.losses == []
        assert not two.first.in_transit(2)

    simulate(main)


def test_bulk_room_follows_what_was_sent_and_returns_with_the_echoes() -> None:
    async def main(two: Two, first: FakeHandler) -> None:
        room = two.first.room_bytes(2)
        assert room > 50_000
        assert two.first.send(2, append(1, 2, 20_000))
        assert two.first.in_transit(2)
        assert two.first.room_bytes(2) <= room - 20_000
        assert two.first.send(2, append(1, 2, room))
        assert two.first.room_bytes(2) == 0
        await asyncio.sleep(0.1)
        assert first.rooms == [2, 2], "told once, because there was none"
        assert two.first.room_bytes(2) > room
        assert not two.first.in_transit(2)
        assert two.first.room_bytes(9) == 0, "no such peer"

    simulate(main)


def test_bulk_append_that_arrived_is_not_in_transit_for_later_forwards() -> None:
    """A follower whose answer was lost forwarded proposals all the time: its leader never sent the append again."""

    async def main(two: Two, _: FakeHandler) -> None:
        assert two.first.send(2, append(1, 2, 1000))
        assert two.first.in_transit(2)
        seen: list[bool] = []
        for number in range(30):
            await asyncio.sleep(0.05)
            assert two.first.send(2, ForwardReply([], [], 1, number))
            seen.append(two.first.in_transit(2))
        first_free = seen.index(False)
        assert first_free <= 22, "an echo is asked for each second"
        assert not any(seen[first_free:])
        assert two.first._links[2].bulk._pacer.in_flight_bytes > 0, "the answers are on their way"
        assert two.first.send(2, append(1, 2, 1000))
        assert two.first.in_transit(2)

    simulate(main)


def test_bulk_lost_alone_is_told_and_dialled_again() -> None:
    async def main(two: Two, first: FakeHandler) -> None:
        bulk = two.first._links[2].bulk
        assert bulk._connection is not None
        bulk._connection.reset("for a test")
        await asyncio.sleep(0.01)
        assert first.losses == [2]
        assert first.events == ["up 2"]
        assert 0 < two.first.room_bytes(2) <= 64 * 1024, "the link carries appends meanwhile"
        assert two.first.send(2, append(1, 2, 1000))
        await asyncio.sleep(1)
        assert bulk.up
        assert first.rooms == [2, 2]
        assert [kind_of(message) for message in two.handler.messages] == ["APP"]

    simulate(main)


def test_bulk_that_comes_up_does_not_overtake_what_the_link_carried() -> None:
    """The proposals of one node keep their order, also when its link is late."""

    async def main(two: Two, first: FakeHandler) -> None:
        bulk = two.first._links[2].bulk
        assert bulk._connection is not None
        bulk._connection.reset("for a test")
        await asyncio.sleep(0.01)
        two.network.hold_back("a", "b", 0.5)
        assert two.first.send(2, Forward([ForwardedProposal(1, 0, b"x")]))
        await asyncio.sleep(0.2)
        assert bulk.up
        for number in (2, 3):
            assert two.first.send(2, Forward([ForwardedProposal(number, 0, b"x")]))
            assert not two.first.in_transit(2), "only appends count"
            await asyncio.sleep(0.1)
        assert two.handler.messages == []
        await asyncio.sleep(1)
        forwards = [message for message in two.handler.messages if isinstance(message, Forward)]
        assert [item.number for message in forwards for item in message.proposals] == [1, 2, 3]
        assert first.rooms == [2, 2]
        assert two.first.send(2, append(1, 2, 1000))
        await asyncio.sleep(0.05)
        assert kind_of(two.handler.messages[-1]) == "APP"

    simulate(main)


def test_bulk_ends_with_its_link() -> None:
    async def main(two: Two, first: FakeHandler) -> None:
        two.first.remove_peer(2)
        await asyncio.sleep(0.5)
        assert two.first.room_bytes(2) == 0
        assert not two.first.in_transit(2)
        assert first.losses == []
        assert two.handler.losses == [], "the link went down, which is told as such"

    simulate(main)


def test_bulk_without_its_link_is_refused(run: Run) -> None:
    """So each peer has two connections at most."""

    async def scenario() -> None:
        async with cluster() as nodes:
            first, _ = await nodes.add(1)
            alone = await RawEnd.enter(first.address, sender=2, to=1, purpose=Purpose.BULK)
            await alone.closed_by_other_end()
            link = await RawEnd.enter(first.address, sender=2, to=1, incarnation=1)
            other_start = await RawEnd.enter(first.address, sender=2, to=1, purpose=Purpose.BULK, incarnation=7)
            await other_start.closed_by_other_end()
            bulk = await RawEnd.enter(first.address, sender=2, to=1, purpose=Purpose.BULK, incarnation=1)
            again = await RawEnd.enter(first.address, sender=2, to=1, purpose=Purpose.BULK, incarnation=1)
            await bulk.closed_by_other_end()
            again.write(Batch([append(2, 1, 10)], ping=3))
            assert (await again.read_batch()).pong == 3
            await link.close()
            await again.closed_by_other_end()

    run(scenario())


def test_bulk_frames_are_checked_as_those_of_the_link(run: Run) -> None:
    async def scenario() -> None:
        async with cluster() as nodes:
            first, handler = await nodes.add(1)
            link = await RawEnd.enter(first.address, sender=2, to=1)
            bulk = await RawEnd.enter(first.address, sender=2, to=1, purpose=Purpose.BULK)
            bulk.write(Batch([append(3, 1, 10)]))  # in another's name
            await bulk.closed_by_other_end()
            assert first.counters.bad_frames == 1
            assert handler.calls == []
            link.write(Batch([heartbeat(2, 1)]))
            await handler.received(1)
            await link.close()

    run(scenario())


def test_bulk_that_is_refused_leaves_the_link_as_it_is(run: Run) -> None:
    """The peer may have no room for one more connection: the link carries everything."""

    async def scenario() -> None:
        async with cluster() as nodes:

            def refuse(hello: object) -> Refusal | None:
                return Refusal("full") if getattr(hello, "purpose", None) is Purpose.BULK else None

            first, handler = await nodes.add(1)
            second, second_handler = await nodes.add(2, refuse_peer=refuse)
            first.set_peer(2, second.address)
            await handler.heard("up 2")
            await nodes.watch.until(
                lambda: nodes.watch.warned("no connection for appends to node 0000000000000002") > 0
            )
            assert "full" in str(first._links[2].bulk.last_error)
            assert first.send(2, append(1, 2, 1000))
            assert [kind_of(message) for message in await second_handler.received(1)] == ["APP"]
            assert handler.events == ["up 2"]

    run(scenario())


def test_bulk_to_a_peer_that_answers_as_another_start_is_given_up(run: Run) -> None:
    async def scenario() -> None:
        async with cluster() as nodes, raw_listener() as (address, arrivals):
            first, handler = await nodes.add(1, limits=PROMPT)
            first.set_peer(2, address)
            link = await arrivals.get()
            assert (await link.meet()).purpose is Purpose.MESSAGES
            link.write(Welcome(2, CLUSTER, 2, incarnation=5))
            await handler.heard("up 2")
            bulk = await arrivals.get()
            assert (await bulk.meet()).purpose is Purpose.BULK
            bulk.write(Welcome(2, CLUSTER, 2, incarnation=6))
            await bulk.closed_by_other_end()
            assert handler.rooms == []

    run(scenario())


def test_bulk_of_the_core_is_appends_alone() -> None:
    for kind in MessageType:
        assert is_bulk(Message(kind)) is (kind is MessageType.APP)
    assert is_bulk(Forward([]))
    assert is_bulk(ForwardReply())
    assert not is_bulk(Notice(1))
