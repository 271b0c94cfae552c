"""Whoever should not be on the line: wrong nodes, other protocols, damaged or forbidden frames. On both event loops."""

from __future__ import annotations

import pytest

from syncline.consensus.types import Message, MessageType
from syncline.transport.authentication import PeerAuthentication
from syncline.transport.handshake import MAGIC, Hello, Purpose, Refusal, Welcome
from syncline.transport.wire import Batch, encode_frame
from tests.helpers.transport import (
    CLUSTER,
    QUICK,
    RawEnd,
    Run,
    append,
    cluster,
    heartbeat,
    opening,
    raw_listener,
    welcomed,
)


class TestRefusals:
    def test_another_cluster_is_refused_in_words_at_both_ends(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, first_handler = await nodes.add(1)
                stranger, _ = await nodes.add(2, cluster_id=0xBAD)
                first.set_peer(2, stranger.address)
                await nodes.watch.until(lambda: nodes.watch.warned("refused by the peer") > 0)
                error = first.stats()[2].last_error or ""
                assert "another cluster: node 0000000000000001 belongs to cluster 00000000000000c1" in error
                assert "check the peer addresses" in error
                for _ in range(3):
                    end = await RawEnd.dial(stranger.address)
                    answer = await end.introduce(Hello(2, 2, CLUSTER, 1, 2, Purpose.MESSAGES))
                    assert isinstance(answer, Refusal)
                    assert "bad" not in answer.reason, "the id of its own cluster is not for strangers"
                    await end.closed_by_other_end()
                assert stranger.counters.refused >= 4
                assert nodes.watch.warned("refused the node at") == 1, "dialled again and again, said once"
                assert first_handler.events == []

        run(scenario())

    def test_another_node_at_the_address_is_refused(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1)
                third, third_handler = await nodes.add(3)
                first.set_peer(2, third.address)
                await nodes.watch.until(lambda: nodes.watch.warned("refused by the peer: wrong node") > 0)
                assert "this is node 0000000000000003" in (first.stats()[2].last_error or "")
                assert third_handler.calls == []

        run(scenario())

    def test_an_acceptor_that_is_someone_else_is_not_believed(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, handler = await nodes.add(1)
                first.set_peer(2, address)
                peer = await arrivals.get()
                await peer.meet()
                peer.write(Welcome(2, CLUSTER, 3))
                await peer.closed_by_other_end()
                assert "node 0000000000000003 of cluster" in (first.stats()[2].last_error or "")
                assert handler.events == []

        run(scenario())

    def test_the_user_of_the_transport_may_refuse_with_a_reason(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1)
                second, _ = await nodes.add(2, refuse_peer=lambda hello: Refusal(f"node {hello.sender} was removed"))
                first.set_peer(2, second.address)
                await nodes.watch.until(lambda: first.stats()[2].last_error is not None)
                assert first.stats()[2].last_error == (f"{second.address}: refused by the peer: node 1 was removed")

        run(scenario())

    def test_unknown_node_without_a_proof_is_refused_if_there_is_a_secret(self, run: Run) -> None:
        """To know the id of the cluster is no proof of being a member."""

        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1, authentication=PeerAuthentication((b"s" * 32,)))
                for _ in range(3):
                    end = await RawEnd.dial(first.address)
                    end.writer.write(opening(Hello(2, 2, CLUSTER, 99, 1, Purpose.MESSAGES)))
                    end.write(Batch([heartbeat(99, 1)]))
                    await end.closed_by_other_end()
                assert handler.calls == []
                assert handler.events == []

        run(scenario())

    def test_unknown_node_of_the_cluster_is_let_in_if_there_is_no_secret(self, run: Run) -> None:
        """A node that joins is not known yet, and has nothing else to show (`docs/security.md`).

        What it may say then is the node's concern: `tests/integration/test_peer_auth.py`.
        """

        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1)
                peer = await RawEnd.enter(first.address, sender=99, to=1)
                peer.write(Batch([heartbeat(99, 1)]))
                await handler.received(1)
                assert handler.calls[0][0] == 99
                await peer.close()

        run(scenario())

    def test_a_second_connection_of_one_node_replaces_the_first(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1)
                old = await RawEnd.enter(first.address, sender=2, to=1)
                new = await RawEnd.enter(first.address, sender=2, to=1)
                assert await old.closed_by_other_end() == b""
                new.write(Batch([append(2, 1, 10)]))
                assert await handler.received(1) == [append(2, 1, 10)]
                await new.close()

        run(scenario())


OPENING = opening(Hello(2, 2, CLUSTER, 2, 1, Purpose.MESSAGES))

STRANGERS = {
    "random": bytes(range(200, 256)) * 20,
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "zeros": bytes(5000),
    "magic, then rubbish": MAGIC + bytes(range(256)),
    "magic, then zeros": MAGIC + bytes(1000),
    "magic, then a long frame": MAGIC + b"\x7f\xff\xff\xff\x00\x00\x00\x00",
    "a greeting of another kind": MAGIC + encode_frame(Welcome(2, CLUSTER, 2), 4096),
    "a refusal": MAGIC + encode_frame(Refusal("go away"), 4096),
}


class TestStrangers:
    @pytest.mark.parametrize("name", STRANGERS)
    def test_other_bytes_close_the_connection_and_are_counted(self, run: Run, name: str) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1)
                for _ in range(3):
                    end = await RawEnd.dial(first.address)
                    end.writer.write(STRANGERS[name])
                    answer = MAGIC if name == "tls" else b""  # so that a node with TLS knows what it has reached
                    assert await end.closed_by_other_end() == answer
                assert first.counters.strangers == 3
                assert nodes.watch.warned("closed 127.0.0.1:") == 1, nodes.watch.lines
                assert handler.calls == []

        run(scenario())

    def test_http_on_the_peer_port_gets_an_answer_that_says_so(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1)
                end = await RawEnd.dial(first.address)
                end.writer.write(b"GET /key/x HTTP/1.1\r\nHost: here\r\n\r\n")
                answer = await end.closed_by_other_end()
                head, body = answer.split(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
                assert f"Content-Length: {len(body)}".encode() in head
                assert b"peer" in body or b"among themselves" in body
                assert nodes.watch.warned("HTTP on the peer port; clients use the HTTP address") == 1

        run(scenario())

    @pytest.mark.parametrize("start", [b"", MAGIC[:3], MAGIC, OPENING[:-2], OPENING])
    def test_an_unfinished_greeting_is_given_up(self, run: Run, start: bytes) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, _ = await nodes.add(1, limits=QUICK)
                end = await RawEnd.dial(first.address)
                end.writer.write(start)
                await end.closed_by_other_end()
                assert first.counters.strangers == 1
                assert nodes.watch.warned("no greeting within 0.1 s") == 1

        run(scenario())

    def test_an_acceptor_that_never_greets_is_given_up(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, _ = await nodes.add(1, limits=QUICK)
                first.set_peer(2, address)
                await (await arrivals.get()).closed_by_other_end()
                await arrivals.get()
                assert "no answer to the greeting within 0.1 s" in (first.stats()[2].last_error or "")

        run(scenario())

    def test_an_acceptor_of_another_protocol_is_named(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, _ = await nodes.add(1)
                first.set_peer(2, address)
                end = await arrivals.get()
                end.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                await end.closed_by_other_end()
                assert "is no Syncline node: HTTP" in (first.stats()[2].last_error or "")

        run(scenario())

    def test_a_port_scan_leaves_no_trace(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1)
                await (await RawEnd.dial(first.address)).close()
                peer = await RawEnd.enter(first.address, sender=2, to=1)
                peer.write(Batch([heartbeat(2, 1)]))
                await handler.received(1)
                assert first.counters.strangers == 0
                assert nodes.watch.warned("") == 0
                await peer.close()

        run(scenario())


class TestBadFrames:
    @pytest.mark.parametrize(
        "batch",
        [
            Batch([Message(MessageType.STORAGE_APPEND_RESP, to=1, sender=2)]),
            Batch([Message(MessageType.HUP, to=1, sender=2)]),
            Batch([heartbeat(3, 1)]),
            Batch([heartbeat(2, 3)]),
        ],
    )
    def test_what_a_peer_must_not_say_closes_its_link(self, run: Run, batch: Batch) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1)
                peer = await RawEnd.enter(first.address, sender=2, to=1)
                peer.write(batch)
                await peer.closed_by_other_end()
                assert handler.calls == []
                assert first.counters.bad_frames == 1

        run(scenario())

    def test_a_damaged_frame_closes_the_link_with_a_reason(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes:
                first, handler = await nodes.add(1)
                peer = await RawEnd.enter(first.address, sender=2, to=1)
                peer.writer.write(b"\x00\x00\x00\x05\x00\x00\x00\x00hello")
                await peer.closed_by_other_end()
                assert handler.calls == []
                assert nodes.watch.warned("does not match its checksum") == 1

        run(scenario())

    def test_messages_in_the_wrong_direction_reset_the_link(self, run: Run) -> None:
        async def scenario() -> None:
            async with cluster() as nodes, raw_listener() as (address, arrivals):
                first, handler = await nodes.add(1)
                first.set_peer(2, address)
                peer = await welcomed(arrivals)
                peer.write(Batch([heartbeat(2, 1)]))
                await handler.heard("down 2")
                assert handler.calls == []

        run(scenario())


def test_purposes_are_part_of_the_protocol() -> None:
    assert [(purpose.name, purpose.value) for purpose in Purpose] == [("MESSAGES", 0), ("SNAPSHOT", 1), ("BULK", 2)]
