"""Shared by all outgoing connections of one node: labels, the handshake, and the back-off."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from typing import NoReturn

from syncline.consensus.types import NodeId
from syncline.errors import FrameError, HandshakeRefused
from syncline.platform.network import Network
from syncline.transport.authentication import DiallerProof, PeerAuthentication, path_on_loopback
from syncline.transport.connection import Connection, ConnectionOwner, ConnectionRegistry
from syncline.transport.handshake import (
    OLDEST_VERSION,
    PROTOCOL_VERSION,
    SAME_TLS,
    Hello,
    NodeFacts,
    Purpose,
    Welcome,
    check_welcome,
    decode_answer,
    describe_stranger,
    is_tls_alert,
)
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import PeerAddress
from syncline.transport.outbound_handshake import OutgoingHandshake
from syncline.transport.policy import PeerPolicy
from syncline.transport.tls import check_certificate_names

__all__ = ["Dialler", "refuse_unknown_protocol"]


def refuse_unknown_protocol(connection: Connection, received: bytes) -> NoReturn:
    """Raise `FrameError`: what answers a dial does not speak this protocol. `received` is how its answer begins."""
    if is_tls_alert(received):
        raise FrameError(f"the port at {connection.remote} asks for TLS, and peer TLS is off here; {SAME_TLS}")
    raise FrameError(f"what answers at {connection.remote} is no Syncline node: {describe_stranger(received)}")


class Dialler:
    """Settings and facts that all outgoing connections of one node use."""

    def __init__(
        self,
        network: Network,
        registry: ConnectionRegistry,
        *,
        node_id: NodeId,
        cluster_id: int,
        facts: NodeFacts,
        advertise: str,
        rng: random.Random,
        tls: ssl.SSLContext | None,
        limits: TransportLimits,
        policy: PeerPolicy,
        authentication: PeerAuthentication,
    ) -> None:
        self.advertise = advertise
        self.network = network
        self.registry = registry
        self.node_id = node_id
        self.cluster_id = cluster_id
        self._facts = facts
        self.rng = rng
        self.tls = tls
        self.limits = limits
        self._policy = policy
        self._authentication = authentication

    def label(self, peer: NodeId) -> str:
        """A peer for people: its id, and its name if that is known."""
        name = self._policy.known_name(peer)
        return f"node {name} ({peer:016x})" if name else f"node {peer:016x}"

    async def connect(self, owner: ConnectionOwner, address: PeerAddress, made: Callable[[Connection], None]) -> None:
        """Connect to an address. `made` gets the connection as soon as there is one, before its owner hears of it.

        Raises:
            OSError: no connection came up in time.
        """

        def factory() -> Connection:
            connection = Connection(owner, self.registry, max_frame_bytes=self.limits.frame_bytes)
            made(connection)
            return connection

        await self.network.connect(
            factory, address.host, address.port, tls=self.tls, timeout_s=self.limits.dial_timeout_s
        )

    def greeting_overdue(self, connection: Connection, now_s: float) -> str | None:
        """Why a connection whose greeting is not answered must be given up now; None if it may go on."""
        limit_s = self.limits.handshake_timeout_s
        late = connection.waited_s(connection.opened_s, now_s) > limit_s
        return f"no answer to the greeting within {limit_s:g} s" if late else None

    def handshake(self, connection: Connection, peer: NodeId, purpose: Purpose) -> OutgoingHandshake:
        """Begin the handshake with `peer` on a connection that has come up. Raises `HandshakeRefused`."""
        name = self._policy.known_name(peer)
        if self.tls is not None and name:  # else check the peer's own name, which comes with its welcome
            check_certificate_names(connection.certificate, peer, name)
        proof = DiallerProof(
            self._authentication,
            node_id=self.node_id,
            peer=peer,
            cluster_id=self.cluster_id,
            purpose=purpose,
            path=path_on_loopback(connection.local_end, connection.remote_end),
        )
        handshake = OutgoingHandshake(
            proof,
            hello=lambda: self._hello(peer, purpose),
            read_welcome=lambda payload: self._read_welcome(connection, peer, payload),
        )
        handshake.start(connection)
        return handshake

    def _hello(self, peer: NodeId, purpose: Purpose) -> Hello:
        facts = self._facts
        cluster_level, cluster_machine_version = self._policy.cluster_levels()
        return Hello(
            oldest_version=OLDEST_VERSION,
            newest_version=PROTOCOL_VERSION,
            cluster_id=self.cluster_id,
            sender=self.node_id,
            to=peer,
            purpose=purpose,
            incarnation=facts.incarnation,
            address=self.advertise,
            directory=facts.directory,
            known=self._policy.known_directory(peer),
            name=facts.name,
            history=facts.history,
            level=facts.level,
            machine_version=facts.machine_version,
            cluster_level=cluster_level,
            cluster_machine_version=cluster_machine_version,
        )

    def _read_welcome(self, connection: Connection, peer: NodeId, payload: memoryview) -> Welcome:
        welcome = decode_answer(payload)
        if self.tls is not None:
            check_certificate_names(connection.certificate, peer, self._policy.known_name(peer) or welcome.name)
        check_welcome(welcome, cluster_id=self.cluster_id, peer=peer, directory=self._policy.known_directory(peer))
        if reason := self._policy.why_not_dial(welcome):
            raise HandshakeRefused(reason)
        return welcome

    def backoff_s(self, failures: int) -> float:
        """The pause before the next dial after so many failed ones: doubling, capped, less up to half at random."""
        limits = self.limits
        pause_s = min(limits.backoff_last_s, limits.backoff_first_s * 2.0 ** min(failures, 16))
        return pause_s * (1.0 - 0.5 * self.rng.random())
