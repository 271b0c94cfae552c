"""Connections that have begun a TLS handshake and not ended it: bounded, and no stranger locks a member out."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import sys
from pathlib import Path

import msgspec
import pytest

from syncline.platform.network import TcpNetwork
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import PeerAddress
from syncline.transport.peers import Transport
from syncline.transport.tls import PeerTls, client_context
from tests.helpers.transport import (
    CLUSTER,
    PROMPT,
    QUICK,
    FakeHandler,
    RawEnd,
    Run,
    TurnTransport,
    Watch,
    heartbeat,
)

FILES = Path(__file__).parent / "tls"
PATIENT = msgspec.structs.replace(PROMPT, unproven_timeout_s=3600.0)
"""No silent connection ends by its time limit."""


def tls_of(node_id: int) -> PeerTls:
    return PeerTls(
        certificate=str(FILES / f"node{node_id}.pem"),
        key=str(FILES / f"node{node_id}.key"),
        authority=str(FILES / "cluster-ca.pem"),
    )


async def start(watch: Watch, node_id: int, limits: TransportLimits = PATIENT) -> tuple[Transport, FakeHandler]:
    handler = FakeHandler(watch)
    transport = TurnTransport(
        TcpNetwork(),
        handler,
        node_id=node_id,
        cluster_id=CLUSTER,
        bind="127.0.0.1:0",
        rng=random.Random(node_id),
        tls=tls_of(node_id),
        limits=limits,
    )
    await transport.start()
    return transport, handler


async def silent(address: str, source: str = "127.0.0.1") -> RawEnd:
    """A connection of a stranger that sends nothing."""
    where = PeerAddress.parse(address)
    return RawEnd(*await asyncio.open_connection(where.host, where.port, local_addr=(source, 0)))


async def gets_in(watch: Watch, target: Transport, heard: FakeHandler) -> None:
    """Node 2 dials node 1 for the first time, and its message arrives."""
    member, handler = await start(watch, 2)
    try:
        member.set_peer(1, target.address)
        await handler.heard("up 1")
        member.send(1, heartbeat(2, 1))
        await heard.received(1)
    finally:
        await member.close()


def test_silent_tls_connections_of_one_address_are_displaced(run: Run) -> None:
    """They are counted from the accept on: more than 8 of one address, and the oldest goes. A member gets in."""

    async def scenario() -> None:
        with Watch() as watch:
            first, handler = await start(watch, 1)
            held = [await silent(first.address) for _ in range(PATIENT.unproven_per_host + 3)]
            for gone in held[:3]:
                await gone.closed_by_other_end()
            assert first.counters.displaced == 3
            await gets_in(watch, first, handler)
            await held[3].closed_by_other_end()
            assert first.counters.displaced == 4
            await first.close()
            for rest in held[4:]:
                assert await rest.closed_by_other_end() == b"", "the node closes handshakes that are under way"

    run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only 127.0.0.1 on loopback")
def test_silent_tls_connections_of_many_addresses_are_displaced(run: Run) -> None:
    """More than 64 in all, and the oldest goes, whichever address it is from."""

    async def scenario() -> None:
        with Watch() as watch:
            first, handler = await start(watch, 1)
            sources = [f"127.0.1.{number % 20 + 1}" for number in range(PATIENT.unproven_connections + 2)]
            held = [await silent(first.address, source) for source in sources]
            for gone in held[:2]:
                await gone.closed_by_other_end()
            assert first.counters.displaced == 2
            await gets_in(watch, first, handler)
            for rest in held[2:]:
                await rest.close()
            await first.close()

    run(scenario())


def test_silent_tls_connection_ends_by_the_limit_of_the_unproven(run: Run) -> None:
    """A TLS handshake has no more time than a proof."""

    async def scenario() -> None:
        with Watch() as watch:
            first, _ = await start(watch, 1, QUICK)
            end = await silent(first.address)
            await end.closed_by_other_end()
            assert watch.warned("no greeting within 0.1 s") == 1
            assert first.counters.strangers == 1
            await first.close()

    run(scenario())


def test_stranger_that_speaks_no_tls_is_told_in_the_log(run: Run) -> None:
    async def scenario() -> None:
        with Watch() as watch:
            first, _ = await start(watch, 1)
            end = await silent(first.address)
            end.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await end.closed_by_other_end()
            await watch.until(lambda: first.counters.strangers == 1)
            assert watch.warned("no TLS") == 1
            await first.close()

    run(scenario())


def test_tls_handshake_that_waits_at_the_accept_is_taken(run: Run) -> None:
    """A busy node accepts late, and the first bytes of the members are there already."""

    async def scenario() -> None:
        with Watch() as watch:
            first, handler = await start(watch, 1)
            where = PeerAddress.parse(first.address)
            context = client_context(tls_of(2))
            dialled = [socket.create_connection((where.host, where.port)) for _ in range(3)]
            handshakes = []
            for end in dialled:
                received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
                handshake = context.wrap_bio(received, sent, server_hostname=where.host)
                with pytest.raises(ssl.SSLWantReadError):
                    handshake.do_handshake()
                handshakes.append((handshake, received, sent))
                end.sendall(sent.read())  # the loop stands still meanwhile
            for end, (handshake, received, sent) in zip(dialled, handshakes, strict=True):
                reader, writer = await asyncio.open_connection(sock=end)
                received.write(await reader.read(1 << 16))
                handshake.do_handshake()
                writer.write(sent.read())
                writer.close()
            await gets_in(watch, first, handler)
            await first.close()

    run(scenario())
