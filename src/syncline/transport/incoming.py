"""Connections that come in: strangers are told apart, nodes are let in, their messages handed on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from syncline.consensus.types import NodeId
from syncline.errors import FrameError, HandshakeRefused
from syncline.transport.connection import Connection, Established
from syncline.transport.handshake import (
    HTTP_ANSWER,
    Hello,
    NodeFacts,
    Refusal,
    Welcome,
    check_hello,
    decode_hello,
    describe_stranger,
    greeting,
    is_http,
)
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import PeerHandler, PeerMessage
from syncline.transport.notices import Notices
from syncline.transport.tls import check_certificate_names
from syncline.transport.wire import Batch, check_batch, decode_payload, encode_frame

__all__ = ["Counters", "Doorkeeper", "IncomingLink"]

MAX_UNSENT_ECHO_BYTES = 64 * 1024
"""A dialler that asks for echoes and does not read them."""

_batch_decoder = msgspec.msgpack.Decoder(Batch)


class Counters(msgspec.Struct):
    """What came in and was turned away since the start."""

    strangers: int = 0
    """Another protocol, or nothing at all before the time limit."""
    refused: int = 0
    """Nodes with which something was wrong: cluster, id, version, certificate."""
    bad_frames: int = 0
    """Connections of nodes closed because of bytes that are not ours."""
    overflowed: int = 0
    """Connections above the limit on their number."""


class IncomingLink(Established):
    """One node's connection to us, on which it sends its messages."""

    def __init__(
        self,
        sender: NodeId,
        connection: Connection,
        node_id: NodeId,
        handler: PeerHandler,
        limits: TransportLimits,
        ended: Callable[[IncomingLink, str], None],
    ) -> None:
        self.sender = sender
        self.connection = connection
        self.received_messages = 0
        self.incarnation = 0
        """Of the start of the node that is at the other end."""
        self._node_id = node_id
        self._handler = handler
        self._limits = limits
        self._ended = ended

    def on_frames(self, connection: Connection, payloads: list[memoryview]) -> None:
        """All messages of one read go to the handler in one call."""
        if len(payloads) == 1:
            items = self._read(connection, payloads[0])
        else:
            items = [item for payload in payloads for item in self._read(connection, payload)]
        if items:
            self.received_messages += len(items)
            self._handler.on_messages(self.sender, items)

    def _read(self, connection: Connection, payload: memoryview) -> list[PeerMessage]:
        batch = decode_payload(_batch_decoder, payload)
        check_batch(batch, self.sender, self._node_id)
        if batch.ping:
            if connection.unsent_bytes > MAX_UNSENT_ECHO_BYTES:
                raise FrameError("the peer asks for echoes and does not read them")
            connection.write(encode_frame(Batch(pong=batch.ping), self._limits.frame_bytes))
        return batch.items()

    def on_lost(self, connection: Connection, reason: str) -> None:  # noqa: ARG002 - it is ours
        self._ended(self, reason)

    def overdue(self, connection: Connection, now_s: float) -> str | None:
        quiet = connection.waited_s(connection.received_s, now_s) > self._limits.idle_timeout_s
        return f"no sign of life for {self._limits.idle_timeout_s:g} s" if quiet else None


class Admission(msgspec.Struct, frozen=True):
    """What the doorkeeper asks of the transport."""

    refuse_peer: Callable[[Hello], Refusal | None]
    """Why this dialler is refused, or None."""
    before_welcome: Callable[[Hello], asyncio.Future[None] | None]
    """What must be done before the dialler is welcomed, or None: a durable note of its incarnation."""
    admitted: Callable[[Connection, Hello], None]
    """The node is let in: it was answered, and `connection` waits for an owner."""


class Doorkeeper:
    """The owner of every incoming connection until it is known who is there."""

    def __init__(
        self,
        admission: Admission,
        notices: Notices,
        limits: TransportLimits,
        *,
        node_id: NodeId,
        cluster_id: int,
        facts: NodeFacts,
        tls: bool,
    ) -> None:
        self.counters = Counters()
        self._admission = admission
        self._notices = notices
        self._limits = limits
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._facts = facts
        self._tls = tls
        self._loop = asyncio.get_running_loop()

    def on_made(self, connection: Connection) -> None:
        """Nothing: the dialler speaks first."""

    def on_stranger(self, connection: Connection, received: bytes) -> None:
        error = FrameError(describe_stranger(received))
        if is_http(received):
            connection.refuse(error, HTTP_ANSWER)
        else:
            raise error

    def on_greeting(self, connection: Connection, payload: memoryview) -> None:
        hello = decode_hello(payload)
        try:
            version = check_hello(hello, cluster_id=self._cluster_id, node_id=self._node_id)
            if self._tls:
                check_certificate_names(connection.certificate, hello.sender)
        except HandshakeRefused as error:
            connection.refuse(error, greeting(Refusal(str(error))))
            return
        refusal = self._admission.refuse_peer(hello)
        if refusal is not None:
            connection.refuse(HandshakeRefused(refusal.reason), greeting(refusal))
            return
        noted = self._admission.before_welcome(hello)
        if noted is None:
            self._welcome(connection, hello, version)
        else:
            noted.add_done_callback(lambda done: self._after_note(done, connection, hello, version))

    def _after_note(self, noted: asyncio.Future[None], connection: Connection, hello: Hello, version: int) -> None:
        if noted.cancelled() or noted.exception() is not None:
            connection.reset("the incarnation of the node could not be noted")
        elif connection.open:
            self._welcome(connection, hello, version)

    def _welcome(self, connection: Connection, hello: Hello, version: int) -> None:
        facts = self._facts
        welcome = Welcome(
            version,
            self._cluster_id,
            self._node_id,
            incarnation=facts.incarnation,
            directory=facts.directory,
            name=facts.name,
            history=facts.history,
            level=facts.level,
            machine_version=facts.machine_version,
        )
        connection.write(greeting(welcome))
        self._admission.admitted(connection, hello)

    def on_frames(self, connection: Connection, payloads: list[memoryview]) -> None:
        """Frames behind a refused greeting: of no interest."""

    def on_lost(self, connection: Connection, reason: str) -> None:
        if connection.failure is None:
            return  # a port scan or a health check: it came and went
        host = connection.remote.rpartition(":")[0]
        if isinstance(connection.failure, HandshakeRefused):
            self.counters.refused += 1
            self._notices.warn(f"refused {host}", f"refused the node at {connection.remote}", reason, self._loop.time())
        else:
            self.counters.strangers += 1
            self._notices.warn(f"stranger {host}", f"closed {connection.remote}", reason, self._loop.time())

    def overdue(self, connection: Connection, now_s: float) -> str | None:
        if connection.waited_s(connection.opened_s, now_s) <= self._limits.handshake_timeout_s:
            return None
        connection.failure = FrameError(f"no greeting within {self._limits.handshake_timeout_s:g} s")
        return str(connection.failure)
