"""Fakes for the tests of the transport: a handler that remembers and can be waited on, and raw ends of connections."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import uvloop

from syncline.consensus.types import EntryType, LogEntry, Message, MessageType, NodeId
from syncline.platform.network import Network, TcpNetwork
from syncline.transport.authentication import (
    Challenge,
    DiallerProof,
    FrameKeys,
    Opening,
    PeerAuthentication,
    Proof,
)
from syncline.transport.frame_mac import FrameMac
from syncline.transport.handshake import MAGIC, PROTOCOL_VERSION, Hello, Purpose, Refusal, Welcome
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import IncomingSnapshot, PeerMessage
from syncline.transport.peers import Transport
from syncline.transport.policy import PeerPolicy
from syncline.transport.wire import Batch, FrameDecoder, encode_frame
from tests.helpers.steady_loop import new_steady_loop

CLUSTER = 0xC1
QUICK = TransportLimits(
    keepalive_interval_s=0.02,
    handshake_timeout_s=0.1,
    unproven_timeout_s=0.1,
    stall_timeout_s=0.2,
    idle_timeout_s=0.2,
    dial_timeout_s=1.0,
    backoff_first_s=0.01,
    backoff_last_s=0.02,
)
"""Time limits for tests that wait for one to pass."""

PROMPT = TransportLimits(backoff_first_s=0.01, backoff_last_s=0.02)
"""The usual limits, but no test waits for a redial."""

frame_decoder = msgspec.msgpack.Decoder(Batch)
Greeting = Hello | Welcome | Refusal | Opening | Challenge | Proof
greeting_decoder: msgspec.msgpack.Decoder[Greeting] = msgspec.msgpack.Decoder(Greeting)

SECRET = b"\x05" * 32


def opening(hello: Hello) -> bytes:
    """The first bytes of a dialler that has no secret, for a connection on which `hello` comes next."""
    first = Opening(hello.oldest_version, hello.newest_version, hello.sender, hello.to, hello.purpose)
    return MAGIC + encode_frame(first, 4096)


def challenge() -> bytes:
    """The first bytes of an acceptor that has no secret."""
    return MAGIC + encode_frame(Challenge(PROTOCOL_VERSION), 4096)


Run = Callable[[Coroutine[Any, Any, None]], None]
DEADLINE_S = 20.0


def runner(loop_name: str) -> Run:
    """Runs a test's coroutine on a fresh loop of that kind, with a deadline."""

    def run(work: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(DEADLINE_S):
                await work

        factory = uvloop.new_event_loop if loop_name == "uvloop" else new_steady_loop
        with asyncio.Runner(loop_factory=factory) as loops:
            loops.run(bounded())

    return run


LOOK_S = 0.05
"""How often a condition is looked at while nothing is told."""


class Watch(logging.Handler):
    """Wakes waiting tests whenever something happened: a call of a handler, or a line in the log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self._waiting: list[asyncio.Future[None]] = []

    def __enter__(self) -> Self:
        logger = logging.getLogger("syncline.transport")
        self._level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        logger = logging.getLogger("syncline.transport")
        logger.removeHandler(self)
        logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")
        self.wake()

    def wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition` holds. It is looked at after each event, and at times: not each change is one."""
        while not condition():
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await asyncio.wait([future], timeout=LOOK_S)

    def warned(self, text: str) -> int:
        """How many warnings contain `text`."""
        return sum(line.startswith("WARNING") and text in line for line in self.lines)


class FakeHandler:
    """Remembers what the transport says."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.calls: list[tuple[NodeId, list[PeerMessage]]] = []
        self.events: list[str] = []
        self.reasons: list[str] = []
        self.rooms: list[NodeId] = []
        self.losses: list[NodeId] = []
        self.on_offer: Callable[[NodeId, Message, bytes], IncomingSnapshot] | None = None

    @property
    def messages(self) -> list[PeerMessage]:
        return [message for _, messages in self.calls for message in messages]

    def on_messages(self, sender: NodeId, messages: list[PeerMessage]) -> None:
        self.calls.append((sender, messages))
        self.watch.wake()

    def on_peer_up(self, peer: NodeId) -> None:
        self.events.append(f"up {peer}")
        self.watch.wake()

    def on_peer_down(self, peer: NodeId, reason: str) -> None:
        self.events.append(f"down {peer}")
        self.reasons.append(reason)
        self.watch.wake()

    def on_room(self, peer: NodeId) -> None:
        self.rooms.append(peer)
        self.watch.wake()

    def on_appends_lost(self, peer: NodeId) -> None:
        self.losses.append(peer)
        self.watch.wake()

    async def on_snapshot(self, sender: NodeId, message: Message, manifest: bytes) -> IncomingSnapshot:
        assert self.on_offer is not None
        return self.on_offer(sender, message, manifest)

    async def heard(self, event: str, times: int = 1) -> None:
        await self.watch.until(lambda: self.events.count(event) >= times)

    async def received(self, count: int) -> list[PeerMessage]:
        await self.watch.until(lambda: sum(len(messages) for _, messages in self.calls) >= count)
        return self.messages


class TurnTransport(Transport):
    """One that is flushed at the end of each turn of the event loop in which something was sent, as nodes do it."""

    def send(self, to: NodeId, message: PeerMessage) -> bool:
        asyncio.get_running_loop().call_soon(self.flush)
        return super().send(to, message)


class Cluster:
    """Some transports in one process."""

    def __init__(self, watch: Watch, network: Network | None = None) -> None:
        self.watch = watch
        self.network = network or TcpNetwork()
        self.transports: list[Transport] = []

    async def add(
        self,
        node_id: NodeId,
        *,
        cluster_id: int = CLUSTER,
        bind: str = "127.0.0.1:0",
        limits: TransportLimits = PROMPT,
        refuse_peer: Callable[[Hello], Refusal | None] | None = None,
        advertise: str = "",
        authentication: PeerAuthentication | None = None,
        seed: int = 1,
    ) -> tuple[Transport, FakeHandler]:
        handler = FakeHandler(self.watch)
        transport = TurnTransport(
            self.network,
            handler,
            node_id=node_id,
            cluster_id=cluster_id,
            bind=bind,
            rng=random.Random(f"{seed} {node_id} {len(self.transports)}"),
            limits=limits,
            policy=PeerPolicy(refuse_peer=refuse_peer) if refuse_peer is not None else None,
            advertise=advertise,
            authentication=authentication,
        )
        await transport.start()
        self.transports.append(transport)
        return transport, handler

    async def pair(self, limits: TransportLimits = PROMPT) -> tuple[Transport, FakeHandler, Transport, FakeHandler]:
        """Nodes 1 and 2, each with a link to the other that is up."""
        first, first_handler = await self.add(1, limits=limits)
        second, second_handler = await self.add(2, limits=limits)
        first.set_peer(2, second.address)
        second.set_peer(1, first.address)
        await first_handler.heard("up 2")
        await second_handler.heard("up 1")
        return first, first_handler, second, second_handler


@asynccontextmanager
async def cluster(network: Network | None = None) -> AsyncIterator[Cluster]:
    """Closes every transport in the end."""
    with Watch() as watch:
        nodes = Cluster(watch, network)
        try:
            yield nodes
        finally:
            for transport in nodes.transports:
                await transport.close()


class RawEnd:
    """One end of a connection in the hands of a test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._frames = FrameDecoder(64 * 1024 * 1024)
        self._payloads: list[memoryview] = []
        self.mac: FrameMac | None = None

    @classmethod
    async def dial(cls, address: str) -> Self:
        host, port = address.rsplit(":", 1)
        return cls(*await asyncio.open_connection(host, int(port)))

    @classmethod
    async def enter(
        cls,
        address: str,
        *,
        sender: NodeId,
        to: NodeId,
        cluster_id: int = CLUSTER,
        purpose: Purpose = Purpose.MESSAGES,
        incarnation: int = 1,
    ) -> RawEnd:
        """Dial and be welcomed."""
        end = await cls.dial(address)
        hello = Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, cluster_id, sender, to, purpose, incarnation)
        assert isinstance(await end.introduce(hello), Welcome)
        return end

    async def introduce(self, hello: Hello, secret: bytes = b"") -> Greeting:
        """Go through the handshake as a dialler; return the acceptor's last word."""
        refusal = await self.prove(hello, secret)
        if refusal is not None:
            return refusal
        self.write(hello)
        return greeting_decoder.decode(await self.read_payload())

    async def prove(self, hello: Hello, secret: bytes = b"") -> Refusal | None:
        """Go through the handshake as a dialler, up to the introduction."""
        proof = DiallerProof(
            PeerAuthentication((secret,) if secret else ()),
            node_id=hello.sender,
            peer=hello.to,
            cluster_id=hello.cluster_id,
            purpose=hello.purpose,
        )
        self.writer.write(MAGIC + encode_frame(proof.opening, 4096))
        assert await self.reader.readexactly(len(MAGIC)) == MAGIC
        payload = await self.read_payload()
        if isinstance(first := greeting_decoder.decode(payload), Refusal):
            return first
        mine = proof.answer(payload)
        if mine is not None:
            self.write(mine)
            payload = await self.read_payload()
            if isinstance(second := greeting_decoder.decode(payload), Refusal):
                return second
            self.protect(proof.check(payload))
        return None

    def protect(self, keys: FrameKeys) -> None:
        """As the dialler: frames carry MACs from here on."""
        self._frames.expect_mac(FrameMac(keys.acceptor))
        self.mac = FrameMac(keys.dialler)

    async def meet(self) -> Hello:
        """Take a dialler's greeting as an acceptor without a secret; the answer to its introduction is the test's."""
        assert isinstance(await self.read_greeting(), Opening)
        self.writer.write(challenge())
        hello = greeting_decoder.decode(await self.read_payload())
        assert isinstance(hello, Hello)
        return hello

    async def read_greeting(self) -> Greeting:
        """The other end's first frame."""
        assert await self.reader.readexactly(len(MAGIC)) == MAGIC
        return greeting_decoder.decode(await self.read_payload())

    async def read_payload(self) -> memoryview:
        while not self._payloads:
            data = await self.reader.read(65536)
            if not data:
                raise EOFError
            self._payloads = self._frames.feed(data)
        return self._payloads.pop(0)

    async def read_batch(self) -> Batch:
        return frame_decoder.decode(await self.read_payload())

    def write(self, value: object) -> None:
        self.writer.write(encode_frame(value, 64 * 1024 * 1024, self.mac))

    async def closed_by_other_end(self) -> bytes:
        """Wait for the end of the stream; return what came before it."""
        rest = bytearray()
        with suppress(ConnectionError):
            while data := await self.reader.read(65536):
                rest += data
        await self.close()
        return bytes(rest)

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


ACCEPT_TURNS: Final = 5
"""Turns of the loop from the accept of a connection to its arrival: one that is on its way must be closed, too."""


@asynccontextmanager
async def raw_listener() -> AsyncIterator[tuple[str, asyncio.Queue[RawEnd]]]:
    """A port on which the test itself answers: its address, and the connections that come."""
    arrivals: asyncio.Queue[RawEnd] = asyncio.Queue()
    ends: list[RawEnd] = []

    async def arrive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = RawEnd(reader, writer)
        ends.append(end)
        arrivals.put_nowait(end)

    server = await asyncio.start_server(arrive, "127.0.0.1", 0, limit=1 << 20)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}", arrivals
    finally:
        server.close()
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        for end in ends:
            end.writer.transport.abort()
            await end.close()


async def welcomed(arrivals: asyncio.Queue[RawEnd]) -> RawEnd:
    """The next connection that comes, greeted as node 2 of the cluster does."""
    peer = await arrivals.get()
    await peer.meet()
    peer.write(Welcome(2, CLUSTER, 2))
    return peer


def heartbeat(sender: NodeId, to: NodeId, commit: int = 0) -> Message:
    return Message(MessageType.HEARTBEAT, to=to, sender=sender, commit=commit)


def append(sender: NodeId, to: NodeId, size_bytes: int, index: int = 1) -> Message:
    entry = LogEntry(1, index, EntryType.NORMAL, bytes(size_bytes))
    return Message(MessageType.APP, to=to, sender=sender, index=index, entries=[entry], responses=[])
