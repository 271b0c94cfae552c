"""Incoming connections: reject other protocols, admit nodes, and pass their messages on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.consensus.types import NodeId
from syncline.errors import FrameError, HandshakeRefused
from syncline.transport.authentication import AcceptorProof, PeerAuthentication, path_on_loopback
from syncline.transport.connection import Connection, Established
from syncline.transport.handshake import (
    HTTP_ANSWER,
    MAGIC,
    Hello,
    NodeFacts,
    Refusal,
    Welcome,
    check_hello,
    decode_hello,
    describe_stranger,
    is_http,
    is_tls_hello,
)
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import PeerHandler, PeerMessage
from syncline.transport.notices import Notices
from syncline.transport.tls import check_certificate_names
from syncline.transport.unproven import Unproven
from syncline.transport.wire import Batch, check_batch, decode_payload

__all__ = ["Counters", "Acceptor", "IncomingLink"]

MAX_UNSENT_ECHO_BYTES = 64 * 1024
"""A dialler that asks for echoes and does not read them."""

MESSAGES_A_TURN: Final = 256
"""Of one peer in one turn of the event loop: about 5 ms. A read has room for ten thousand. If a broken member sends
without an end, the heartbeats of the others must still be seen in time."""

_batch_decoder = msgspec.msgpack.Decoder(Batch)


class Counters(msgspec.Struct):
    """Incoming connections and messages since the start, and those that were rejected."""

    strangers: int = 0
    """Connections with another protocol, or with no byte before the time limit."""
    refused: int = 0
    """Nodes that were refused for their cluster, id, version or certificate."""
    bad_frames: int = 0
    """Connections of nodes that were closed because of invalid bytes."""
    overflowed: int = 0
    """Connections above the limit on their number."""
    displaced: int = 0
    """Connections that were closed before their proof or introduction, because newer ones came."""


class IncomingLink(Established):
    """A connection on which one node sends its messages to this node."""

    def __init__(
        self,
        sender: NodeId,
        connection: Connection,
        node_id: NodeId,
        handler: PeerHandler,
        limits: TransportLimits,
        known: Callable[[NodeId], bool],
        ended: Callable[[IncomingLink, str], None],
    ) -> None:
        self.sender = sender
        self.connection = connection
        self.received_messages: int = 0
        self.since_s: float = 0.0
        """When it was admitted."""
        self.incarnation = 0
        """Incarnation of the node at the other end."""
        self._node_id = node_id
        self._handler = handler
        self._limits = limits
        self._known = known
        self._ended = ended
        self._waiting: deque[PeerMessage] = deque()
        """Messages for later turns. Meanwhile nothing is read."""
        self._loop = asyncio.get_running_loop()

    def on_frames(self, connection: Connection, payloads: list[memoryview]) -> None:
        """All messages of one read go to the handler in one call, unless there are too many for one turn."""
        if len(payloads) == 1:
            items = self._read(connection, payloads[0])
        else:
            items = [item for payload in payloads for item in self._read(connection, payload)]
        self.received_messages += len(items)
        if self._waiting:
            self._waiting.extend(items)
        elif len(items) > MESSAGES_A_TURN:
            self._waiting.extend(items[MESSAGES_A_TURN:])
            connection.pause_reading()
            self._loop.call_soon(self._go_on)
            self._handler.on_messages(self.sender, items[:MESSAGES_A_TURN])
        elif items:
            self._handler.on_messages(self.sender, items)

    def _go_on(self) -> None:
        """Give the handler the next messages. What waits when the connection is lost, is lost with it."""
        waiting = self._waiting
        if not self.connection.open:
            waiting.clear()
            return
        items = [waiting.popleft() for _ in range(min(MESSAGES_A_TURN, len(waiting)))]
        if waiting:
            self._loop.call_soon(self._go_on)
        else:
            self.connection.resume_reading()
        self._handler.on_messages(self.sender, items)

    def _read(self, connection: Connection, payload: memoryview) -> list[PeerMessage]:
        batch = decode_payload(_batch_decoder, payload)
        check_batch(batch, self.sender, self._node_id, self._known)
        if batch.ping:
            if connection.unsent_bytes > MAX_UNSENT_ECHO_BYTES:
                raise FrameError("the peer asks for echoes and does not read them")
            connection.send(Batch(pong=batch.ping))
        return batch.items()

    def on_lost(self, connection: Connection, reason: str) -> None:  # noqa: ARG002 - it is ours
        self._ended(self, reason)

    def overdue(self, connection: Connection, now_s: float) -> str | None:
        quiet = connection.waited_s(connection.received_s, now_s) > self._limits.idle_timeout_s
        return f"no sign of life for {self._limits.idle_timeout_s:g} s" if quiet else None


class Admission(msgspec.Struct, frozen=True):
    """The parts of the transport that the acceptor uses."""

    refuse_peer: Callable[[Hello], Refusal | None]
    """Why this dialler is refused, or None."""
    before_welcome: Callable[[Hello], asyncio.Future[None] | None]
    """Work that must be done before the dialler is welcomed, or None: a durable note of its incarnation."""
    admitted: Callable[[Connection, Hello], None]
    """The node is admitted: it was answered, and `connection` waits for an owner."""


class Acceptor:
    """The acceptor: owns every incoming connection until the other end is known."""

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
        authentication: PeerAuthentication,
        known_name: Callable[[NodeId], str],
    ) -> None:
        self.counters: Counters = Counters()
        self._admission = admission
        self._notices = notices
        self._limits = limits
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._facts = facts
        self._tls = tls
        self._authentication = authentication
        self._known_name = known_name
        self._unproven: Unproven[Connection] = Unproven(limits.unproven_connections, limits.unproven_per_host)
        self._introducing: Unproven[Connection] = Unproven(limits.introductions, limits.introductions_per_node)
        """Connections with a proof that were not welcomed yet, by the node's id."""
        self._proofs: dict[Connection, AcceptorProof] = {}
        """Connections whose introduction has not come yet."""
        self._loop = asyncio.get_running_loop()

    def on_made(self, connection: Connection) -> None:
        """The dialler speaks first."""
        self._proofs[connection] = AcceptorProof(
            self._authentication, node_id=self._node_id, cluster_id=self._cluster_id
        )
        if connection not in self._unproven:  # with TLS it was counted before
            self.count(connection)

    def count(self, connection: Connection) -> None:
        """Count a connection that has proved nothing; the oldest one may be closed for it.

        With TLS this is called before its handshake: a silent client takes a place from there on.
        """
        displaced = self._unproven.add(connection, _host(connection))
        if displaced is not None:
            self.counters.displaced += 1
            displaced.reset("newer connections came before it had proved itself")

    def on_stranger(self, connection: Connection, received: bytes) -> None:
        error = FrameError(describe_stranger(received))
        if is_http(received):
            connection.refuse(error, HTTP_ANSWER)
        elif is_tls_hello(received):
            connection.refuse(error, MAGIC)  # a node with TLS learns that this one has none
        else:
            raise error

    def on_greeting(self, connection: Connection, payload: memoryview) -> None:
        proof = self._proofs.get(connection)
        if proof is None:
            raise FrameError("a frame came before the introduction was answered")
        try:
            if proof.opening is None:
                path = path_on_loopback(connection.remote_end, connection.local_end)
                connection.send(proof.challenge(payload, path))
            elif proof.awaits_proof:
                answer, keys = proof.prove(payload)
                connection.send(answer)
                if not proof.spared:
                    connection.protect(sending=keys.acceptor, receiving=keys.dialler)
                self._proved(connection, proof.opening.sender)
            else:
                self._introduced(connection, proof, decode_hello(payload))
        except HandshakeRefused as error:
            connection.refuse(error, Refusal(str(error)))

    def _proved(self, connection: Connection, sender: NodeId) -> None:
        """Count a connection of a node that has still to be welcomed; the oldest one may be closed for it."""
        self._unproven.discard(connection)
        if connection in self._introducing:
            return
        displaced = self._introducing.add(connection, f"{sender:016x}")
        if displaced is not None:
            self.counters.displaced += 1
            name = self._known_name(sender)
            who = f"node {name} ({sender:016x})" if name else f"node {sender:016x}"
            fault = "the older one had not introduced itself; if this goes on, restart the node that dials"
            self._notices.warn(
                f"introduction {sender}", f"closed a connection for a newer one of {who}", fault, self._loop.time()
            )
            displaced.reset(fault)

    def _introduced(self, connection: Connection, proof: AcceptorProof, hello: Hello) -> None:
        """Check the dialler's introduction. Raises `HandshakeRefused`."""
        del self._proofs[connection]
        opening = proof.opening
        assert opening is not None
        if (hello.sender, hello.to, hello.purpose) != (opening.sender, opening.to, opening.purpose):
            raise HandshakeRefused(f"node {opening.sender:016x} introduces itself as another one than it began as")
        version = check_hello(hello, cluster_id=self._cluster_id, node_id=self._node_id)
        if self._tls:
            name = self._known_name(hello.sender) or hello.name
            check_certificate_names(connection.certificate, hello.sender, name)
        refusal = self._admission.refuse_peer(hello)
        if refusal is not None:
            connection.refuse(HandshakeRefused(refusal.reason), refusal)
            return
        self._proved(connection, hello.sender)
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
        self._introducing.discard(connection)
        connection.send(
            Welcome(
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
        )
        connection.established()
        self._admission.admitted(connection, hello)

    def on_frames(self, connection: Connection, payloads: list[memoryview]) -> None:
        """Ignore frames behind a refused introduction."""

    def on_lost(self, connection: Connection, reason: str) -> None:
        self._proofs.pop(connection, None)
        self._unproven.discard(connection)
        self._introducing.discard(connection)
        if connection.failure is None:
            return  # a port scan or a health check: it came and went
        host = _host(connection)
        if isinstance(connection.failure, HandshakeRefused):
            self.counters.refused += 1
            self._notices.warn(f"refused {host}", f"refused the node at {connection.remote}", reason, self._loop.time())
        else:
            self.counters.strangers += 1
            self._notices.warn(f"stranger {host}", f"closed {connection.remote}", reason, self._loop.time())

    def overdue(self, connection: Connection, now_s: float) -> str | None:
        limits = self._limits
        limit_s = limits.unproven_timeout_s if connection in self._unproven else limits.handshake_timeout_s
        if connection.waited_s(connection.opened_s, now_s) <= limit_s:
            return None
        connection.failure = FrameError(f"no greeting within {limit_s:g} s")
        return str(connection.failure)


def _host(connection: Connection) -> str:
    return connection.remote.rpartition(":")[0]
