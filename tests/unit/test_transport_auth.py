"""The transport with a cluster secret, against raw sockets: what a stranger gets, and what a forged frame does."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from syncline.transport.authentication import Challenge, Opening, PeerAuthentication, Proof
from syncline.transport.frame_mac import MAC_BYTES, FrameMac
from syncline.transport.handshake import MAGIC, PROTOCOL_VERSION, Hello, Purpose, Refusal, Welcome
from syncline.transport.messages import RefusalCode
from syncline.transport.unproven import Unproven
from syncline.transport.wire import Batch, encode_frame
from tests.helpers.transport import (
    CLUSTER,
    PROMPT,
    QUICK,
    SECRET,
    Cluster,
    RawEnd,
    Run,
    append,
    challenge,
    cluster,
    greeting_decoder,
    heartbeat,
    raw_listener,
)

OTHER_SECRET = b"\x06" * 32


def hello(sender: int = 2, to: int = 1, cluster_id: int = CLUSTER) -> Hello:
    return Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, cluster_id, sender, to, Purpose.MESSAGES, 1)


def with_secret(*secrets: bytes, spare_loopback: bool = False) -> PeerAuthentication:
    return PeerAuthentication(secrets or (SECRET,), spare_loopback=spare_loopback)


async def member(address: str) -> RawEnd:
    """Node 2, which knows the secret, on a connection whose frames carry MACs."""
    end = await RawEnd.dial(address)
    assert isinstance(await end.introduce(hello(), SECRET), Welcome)
    return end


async def closed_with_bad_frame(nodes: Cluster, end: RawEnd, text: str) -> None:
    await end.closed_by_other_end()
    await nodes.watch.until(lambda: nodes.watch.warned(text) == 1)


class TestMembers:
    @pytest.mark.parametrize("spare_loopback", [False, True])
    def test_nodes_with_one_secret_exchange_messages(self, run: Run, spare_loopback: bool) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                ends = [
                    await nodes.add(node_id, authentication=with_secret(spare_loopback=spare_loopback))
                    for node_id in (1, 2)
                ]
                ends[0][0].set_peer(2, ends[1][0].address)
                await ends[0][1].heard("up 2")
                for size in (0, 300, 200_000, 1_500_000):
                    assert ends[0][0].send(2, append(1, 2, size))
                assert len(await ends[1][1].received(4)) == 4

        run(scenario())

    def test_nodes_with_different_secrets_say_so_at_both_ends(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1, authentication=with_secret(SECRET))
                second, _ = await nodes.add(2, authentication=with_secret(OTHER_SECRET))
                first.set_peer(2, second.address)
                await nodes.watch.until(lambda: nodes.watch.warned("it has another cluster secret") >= 2)
                assert handler.events == []
                assert not any(secret.hex() in line for line in nodes.watch.lines for secret in (SECRET, OTHER_SECRET))

        run(scenario())

    def test_rotation_takes_three_rolling_restarts_and_no_stop(self, run: Run) -> None:
        """Each pair of neighbouring steps can talk, in both directions."""

        async def scenario() -> None:
            steps = [(SECRET,), (SECRET, OTHER_SECRET), (OTHER_SECRET, SECRET), (OTHER_SECRET,)]
            async with cluster() as nodes:
                for old, new in itertools.pairwise(steps):
                    first, first_handler = await nodes.add(1, authentication=with_secret(*old))
                    second, second_handler = await nodes.add(2, authentication=with_secret(*new))
                    first.set_peer(2, second.address)
                    second.set_peer(1, first.address)
                    await first_handler.heard("up 2")
                    await second_handler.heard("up 1")
                    await first.close()
                    await second.close()

        run(scenario())

    def test_refusal_code_counts_only_after_the_proof(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, _ = await nodes.add(1, authentication=with_secret())
                first.set_peer(2, address)
                end = await arrivals.get()
                await end.read_greeting()
                end.writer.write(MAGIC)
                end.write(Refusal("you were removed", RefusalCode.REMOVED))
                await nodes.watch.until(lambda: "you were removed" in str(first.stats()[2].last_error))
                assert first.stats()[2].last_refusal is None

                second, _ = await nodes.add(
                    3, authentication=with_secret(), refuse_peer=lambda _: Refusal("gone", RefusalCode.REMOVED)
                )
                first.set_peer(3, second.address)
                await nodes.watch.until(lambda: first.stats()[3].last_refusal is not None)

        run(scenario())

    def test_dialler_tells_nothing_to_an_acceptor_without_a_proof(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, _ = await nodes.add(1, authentication=with_secret())
                first.set_peer(2, address)
                end = await arrivals.get()
                assert isinstance(await end.read_greeting(), Opening)
                end.writer.write(MAGIC)
                end.write(Challenge(PROTOCOL_VERSION, bytes(32)))
                proof = greeting_decoder.decode(await end.read_payload())
                assert isinstance(proof, Proof)
                end.write(proof)  # reflected
                assert await end.closed_by_other_end() == b""
                end = await arrivals.get()
                assert isinstance(await end.read_greeting(), Opening)
                end.writer.write(challenge())  # says that no proof is needed
                assert await end.closed_by_other_end() == b""

        run(scenario())


class TestForgedFrames:
    def test_frames_of_a_member_arrive(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1, authentication=with_secret())
                end = await member(first.address)
                end.write(Batch([heartbeat(2, 1)], ping=7))
                await handler.received(1)
                assert (await end.read_batch()).pong == 7
                await end.close()

        run(scenario())

    def test_frame_with_a_checksum_instead_of_a_mac_ends_the_link(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1, authentication=with_secret())
                end = await member(first.address)
                end.writer.write(encode_frame(Batch([heartbeat(2, 1)]), 1000) * 2)
                await closed_with_bad_frame(nodes, end, "does not match its authentication code")
                assert handler.calls == []

        run(scenario())

    def test_replayed_frame_ends_the_link(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1, authentication=with_secret())
                end = await member(first.address)
                frame = encode_frame(Batch([heartbeat(2, 1)]), 1000, end.mac)
                end.writer.write(frame)
                await handler.received(1)
                end.writer.write(frame)
                await closed_with_bad_frame(nodes, end, "does not match its authentication code")
                assert len(handler.messages) == 1

        run(scenario())

    @pytest.mark.parametrize("place", [0, 5, 4 + MAC_BYTES, -1])
    def test_changed_byte_ends_the_link(self, run: Run, place: int) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1, authentication=with_secret())
                end = await member(first.address)
                frame = bytearray(encode_frame(Batch([heartbeat(2, 1)]), 1000, end.mac))
                frame[place] ^= 0x80
                end.writer.write(frame)
                await end.closed_by_other_end()
                assert first.counters.bad_frames == 1
                assert handler.calls == []

        run(scenario())

    def test_frame_sent_back_ends_the_link(self, run: Run) -> None:
        """The two directions have keys of their own."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1, authentication=with_secret())
                end = await member(first.address)
                end.write(Batch(ping=7))
                header = await end.reader.readexactly(4)
                end.writer.write(header + await end.reader.readexactly(MAC_BYTES + int.from_bytes(header, "big")))
                await end.closed_by_other_end()
                assert first.counters.bad_frames == 1
                assert handler.calls == []

        run(scenario())

    def test_frame_behind_a_proof_is_not_taken_for_the_introduction(self, run: Run) -> None:
        """An attacker in the middle adds a frame, which no MAC guards yet, behind the proof of a member."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1, authentication=with_secret())
                end = await RawEnd.dial(first.address)
                write = end.write

                def write_more(value: object) -> None:
                    if isinstance(value, Proof):
                        end.writer.write(encode_frame(value, 4096) + encode_frame(hello(sender=3), 4096))
                    else:
                        write(value)

                end.write = write_more  # type: ignore[method-assign]
                with pytest.raises(EOFError):
                    await end.introduce(hello(), SECRET)
                end.write = write  # type: ignore[method-assign]
                assert first.counters.strangers == 1
                assert handler.calls == []
                await end.close()

        run(scenario())


class TestStrangers:
    @pytest.mark.parametrize("secret", [b"", OTHER_SECRET])
    def test_stranger_learns_nothing_of_the_cluster(self, run: Run, secret: bytes) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1, authentication=with_secret())
                end = await RawEnd.dial(first.address)
                answer = await end.introduce(hello(), secret)
                assert isinstance(answer, Refusal)
                assert f"{CLUSTER:x}" not in answer.reason
                assert (answer.code, answer.index, answer.voters) == ("", 0, ())
                assert await end.closed_by_other_end() == b""
                assert handler.calls == []
                assert first.stats() == {}

        run(scenario())

    def test_stranger_without_a_secret_does_not_learn_the_cluster_id(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1)
                end = await RawEnd.dial(first.address)
                answer = await end.introduce(hello(cluster_id=5))
                assert isinstance(answer, Refusal)
                assert f"{CLUSTER:x}" not in answer.reason
                await end.closed_by_other_end()

        run(scenario())

    def test_large_first_frame_is_refused_unread(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1, authentication=with_secret())
                end = await RawEnd.dial(first.address)
                end.writer.write(MAGIC + (4097).to_bytes(4, "big") + bytes(4))
                assert await end.closed_by_other_end() == b""
                assert nodes.watch.warned("it may have 1 to 4096") == 1

        run(scenario())

    def test_silent_stranger_goes_before_the_handshake_limit(self, run: Run) -> None:
        async def scenario() -> None:
            limits = msgspec.structs.replace(QUICK, unproven_timeout_s=0.05, handshake_timeout_s=3600.0)
            async with cluster() as nodes:
                first, _ = await nodes.add(1, limits=limits, authentication=with_secret())
                end = await RawEnd.dial(first.address)
                await end.closed_by_other_end()
                assert nodes.watch.warned("no greeting within 0.05 s") == 1

        run(scenario())

    def test_member_gets_in_while_strangers_hold_every_place(self, run: Run) -> None:
        async def scenario() -> None:
            limits = msgspec.structs.replace(PROMPT, unproven_timeout_s=3600.0)
            async with cluster() as nodes:
                first, handler = await nodes.add(1, limits=limits, authentication=with_secret())
                held = [await RawEnd.dial(first.address) for _ in range(limits.unproven_per_host)]
                extra = await RawEnd.dial(first.address)
                await held[0].closed_by_other_end()
                end = await member(first.address)
                await held[1].closed_by_other_end()
                end.write(Batch([heartbeat(2, 1)]))
                await handler.received(1)
                assert first.counters.displaced == 2
                for stranger in (*held[2:], extra, end):
                    await stranger.close()

        run(scenario())

    @pytest.mark.parametrize("senders", [[2], list(range(100, 164))])
    def test_member_gets_in_while_a_silent_one_dials_on(self, run: Run, senders: list[int]) -> None:
        """It proves that it knows the secret, under its own id or under made-up ones, and introduces itself never."""

        async def scenario() -> None:
            limits = msgspec.structs.replace(PROMPT, handshake_timeout_s=3600.0, incoming_connections=80)
            most = limits.introductions_per_node if len(senders) == 1 else limits.introductions
            async with cluster() as nodes:
                first, handler = await nodes.add(1, limits=limits, authentication=with_secret())
                held: list[RawEnd] = []
                for number in range(limits.incoming_connections + 1):
                    silent = await RawEnd.dial(first.address)
                    assert await silent.prove(hello(sender=senders[number % len(senders)]), SECRET) is None
                    held.append(silent)
                    if len(held) > most:
                        await held.pop(0).closed_by_other_end()
                assert first.counters.overflowed == 0
                assert first.counters.displaced == limits.incoming_connections + 1 - most
                assert nodes.watch.warned("had not introduced itself") >= 1
                newest, end = held[-1], await RawEnd.dial(first.address)
                assert isinstance(await end.introduce(hello(sender=3), SECRET), Welcome)
                end.write(Batch([heartbeat(3, 1)]))
                await handler.received(1)
                newest.write(hello(sender=senders[limits.incoming_connections % len(senders)]))
                assert isinstance(greeting_decoder.decode(await newest.read_payload()), Welcome)
                for one in (*held, end):
                    await one.close()

        run(scenario())

    def test_welcomed_links_take_no_place_of_introductions(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                limits = msgspec.structs.replace(PROMPT, introductions=1, introductions_per_node=1)
                first, handler = await nodes.add(1, limits=limits, authentication=with_secret())
                ends = [await RawEnd.dial(first.address) for _ in range(3)]
                for sender, end in enumerate(ends, start=2):
                    assert isinstance(await end.introduce(hello(sender=sender), SECRET), Welcome)
                for sender, end in enumerate(ends, start=2):
                    end.write(Batch([heartbeat(sender, 1)]))
                await handler.received(3)
                assert first.counters.displaced == 0
                for end in ends:
                    await end.close()

        run(scenario())

    def test_greetings_under_made_up_ids_leave_nothing_behind(self, run: Run) -> None:
        """Without a secret: with one they do not get that far. Five times as many as may be let in at a time."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1)
                held: list[RawEnd] = []
                for number in range(5 * PROMPT.unknown_links):
                    end = await RawEnd.dial(first.address)
                    greeting = msgspec.structs.replace(hello(sender=1000 + number), address="127.0.0.1:9")
                    assert isinstance(await end.introduce(greeting), Welcome)
                    held.append(end)
                    if len(held) > 20:
                        await held.pop(0).close()
                assert len(first.stats()) <= PROMPT.unknown_links
                for end in held:
                    await end.close()
                await nodes.watch.until(lambda: not first.stats())
                assert not first._incoming
                assert not first._received

        run(scenario())


def test_frame_mac_of_one_key_depends_on_place_and_payload() -> None:
    first, second = FrameMac(SECRET), FrameMac(SECRET)
    code = first.next(b"payload")
    assert second.next(b"payload") == code
    assert len(code) == MAC_BYTES
    assert first.next(b"payload") != code, "the second frame is not the first"
    assert FrameMac(OTHER_SECRET).next(b"payload") != code


def test_unproven_connections_of_many_hosts_are_bounded_oldest_first() -> None:
    places: Unproven[int] = Unproven(4, 2)
    assert [places.add(number, host) for number, host in enumerate("aabb")] == [None] * 4
    assert places.add(4, "c") == 0, "all places are taken: the oldest goes"
    assert places.add(5, "b") == 2, "the oldest of its own host"
    places.discard(4)
    assert places.add(6, "c") is None
    assert len(places) == 4
