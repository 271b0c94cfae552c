"""The transport of one node: a link to each peer, the incoming links, and snapshot transfers.

Each node dials each other node. The dialler sends its messages on its own connections and gets only echoes back. So
each node knows by itself whether it can reach the other, and a fault in one direction affects one direction. A link
has two connections: appends and forwarded proposals go on the second one, so that no small message waits behind them
(see `bulk`).
"""

from __future__ import annotations

import asyncio
import random

from syncline.consensus.types import Message, NodeId
from syncline.errors import ConfigError, FrameError, TransportError, UsageError
from syncline.platform.network import TLS_TIMEOUT_S, Listener, Network
from syncline.platform.tls_accept import HandshakeTurns, TlsAccept
from syncline.transport.authentication import PeerAuthentication
from syncline.transport.candidates import dialable, with_real_port
from syncline.transport.connection import Connection
from syncline.transport.dialling import Dialler
from syncline.transport.handshake import Hello, NodeFacts, Purpose, answer_without_tls
from syncline.transport.inbound import Acceptor, Admission, Counters, IncomingLink
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import OutgoingSnapshot, PeerAddress, PeerHandler, PeerMessage, PeerStats
from syncline.transport.notices import Notices
from syncline.transport.outbound import PeerLink, State
from syncline.transport.policy import PeerPolicy
from syncline.transport.snapshot_stream.protocol import Offer, SnapshotStream
from syncline.transport.snapshot_stream.receive import SnapshotReceiver
from syncline.transport.snapshot_stream.send import SnapshotSender
from syncline.transport.tls import PeerTls, peer_certificate
from syncline.transport.unknown import UnknownPeers

__all__ = ["Transport"]


class Transport:
    """Links with all peers of one node, on the running event loop. Not thread-safe: everything runs on that loop.

    `bind` is "host:port" (port 0: any free one, see `address`). `facts` is what this node tells about itself, `policy`
    what it knows and decides about others, `authentication` holds the cluster secret. `advertise` is where others reach
    this node; with port 0 the real one is taken once the transport listens. `rng` is for the jitter of redials. Made
    and used on a running event loop.
    """

    def __init__(
        self,
        network: Network,
        handler: PeerHandler,
        *,
        node_id: NodeId,
        cluster_id: int,
        bind: str,
        rng: random.Random,
        advertise: str = "",
        tls: PeerTls | None = None,
        limits: TransportLimits | None = None,
        facts: NodeFacts | None = None,
        policy: PeerPolicy | None = None,
        authentication: PeerAuthentication | None = None,
    ) -> None:
        self._network = network
        self._handler = handler
        self._node_id = node_id
        self._bind = PeerAddress.parse(bind, setting="listen address")
        self._limits = limits = limits or TransportLimits()
        self._loop = asyncio.get_running_loop()
        self._notices = Notices()
        facts = facts or NodeFacts(incarnation=rng.getrandbits(63))
        self._handshakes = HandshakeTurns()
        self._certificate = peer_certificate(tls, node_id, facts.name) if tls is not None else None
        policy, authentication = policy or PeerPolicy(), authentication or PeerAuthentication()
        self._dialler = Dialler(
            network,
            self,
            node_id=node_id,
            cluster_id=cluster_id,
            facts=facts,
            advertise=advertise,
            rng=rng,
            tls=self._certificate.client if self._certificate is not None else None,
            limits=limits,
            policy=policy,
            authentication=authentication,
        )
        self._acceptor = Acceptor(
            Admission(policy.refuse_peer, policy.before_welcome, self._admit),
            self._notices,
            limits,
            node_id=node_id,
            cluster_id=cluster_id,
            facts=facts,
            tls=tls is not None,
            authentication=authentication,
            known_name=policy.known_name,
        )
        self._known = policy.known or self._is_peer
        self._unknown = UnknownPeers(limits.unknown_links)
        self._listener: Listener | None = None
        self._links: dict[NodeId, PeerLink] = {}
        self._incoming: dict[NodeId, IncomingLink] = {}
        self._incoming_bulk: dict[NodeId, IncomingLink] = {}
        self._receivers: dict[NodeId, SnapshotReceiver] = {}
        self._transfers: dict[asyncio.Task[None], SnapshotSender] = {}
        self._received: dict[NodeId, _Received] = {}
        self._connections: dict[Connection, None] = {}
        self._all_gone: asyncio.Future[None] | None = None
        self._unflushed: dict[PeerLink, None] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._tick_due_s = 0.0
        self._closed = False

    # -- life

    @property
    def address(self) -> str:
        """The address on which this node listens, "host:port" with the real port. After `start` only."""
        if self._listener is None:
            raise UsageError("the transport does not listen: call start() first")
        return str(PeerAddress(*self._listener.address))

    @property
    def advertised(self) -> str:
        """The address at which peers reach this node, as its greetings have it; the port is 0 only before `start`."""
        return self._dialler.advertise

    @property
    def certificate_days_left(self) -> float | None:
        """Days until this node's certificate for peers ends, or its authority; None without TLS."""
        return self._certificate.days_left if self._certificate is not None else None

    @property
    def counters(self) -> Counters:
        """Counters of incoming connections and of rejected ones."""
        return self._acceptor.counters

    async def start(self) -> None:
        """Listen, and dial the peers set so far. Raises `OSError` with the next step if the address is taken."""
        if self._listener is not None or self._closed:
            raise UsageError("a transport is started once")
        self._listener = await self._network.listen(self._accept, self._bind.host, self._bind.port)
        self._dialler.advertise = with_real_port(self._dialler.advertise, self._listener.address[1])
        self._schedule_tick()
        if self._certificate is not None:
            self._certificate.watch()
        for link in self._links.values():
            link.dial()

    async def close(self) -> None:
        """Close every connection and stop listening. Prompt: queued messages are dropped. Idempotent.

        The handler is not called; an incoming snapshot is aborted, an outgoing one fails.
        """
        first, self._closed = not self._closed, True
        if self._ticker is not None:
            self._ticker.cancel()
        if self._certificate is not None:
            self._certificate.close()
        tasks = [receiver.task for receiver in self._receivers.values()]
        tasks += self._transfers
        for link in self._links.values():
            tasks += [task for task in (link.dialling.task, link.bulk.dialling.task) if task is not None]
            link.close("this node closes", gently=False, silently=True)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._listener is not None and first:
            await self._listener.close()
        for connection in list(self._connections):
            connection.reset("this node closes")
        if self._connections:
            if self._all_gone is None:
                self._all_gone = self._loop.create_future()
            await asyncio.shield(self._all_gone)

    # -- peers

    def set_peer(self, peer: NodeId, address: str) -> None:
        """Keep a link to `peer` at "host:port". A changed address is dialled at once, unless the link is up.

        Raises `ConfigError` if the address is not one.
        """
        self._set_peer(peer, address)
        self._unknown.discard(peer)

    def _set_peer(self, peer: NodeId, address: str) -> None:
        if peer == self._node_id:
            raise UsageError(f"node {peer:016x} is no peer of itself")
        where = dialable(address, setting=f"address of node {peer:016x}")
        link = self._link_to(peer)
        if link.candidates.replicate(where) and not self._closed:
            link.redial()
        self._dial(link)

    def suggest_peer(self, peer: NodeId, address: PeerAddress) -> None:
        """Dial `peer` at `address` too, if it does not answer at its known address."""
        link = self._link_to(peer)
        link.candidates.suggest(address)
        self._dial(link)

    def _link_to(self, peer: NodeId) -> PeerLink:
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = PeerLink(peer, self._dialler, self._handler, self._notices)
        return link

    def _dial(self, link: PeerLink) -> None:
        if self._listener is not None and not self._closed and not link.was_dialled:
            link.dial()

    def remove_peer(self, peer: NodeId) -> None:
        """End the links with `peer`; bytes already written still go out. Snapshots on their way to it are ended.

        Its own link ends as well: it dials again, and receives the reason of the refusal.
        """
        self._unknown.discard(peer)
        link = self._links.pop(peer, None)
        self._received.pop(peer, None)
        if link is not None:
            link.close("the peer was removed", gently=True)
        incoming = self._incoming.get(peer)
        if incoming is not None:
            incoming.connection.close("the peer was removed")
            self._end_bulk(peer, "the peer was removed")
        for task, sender in list(self._transfers.items()):
            if sender.peer == peer:
                task.cancel()

    def leave_other_starts(self, peer: NodeId, incarnation: int) -> None:
        """End the connections with all starts of `peer` but this one. The link dials again."""
        reason = "another start of the peer is the right one"
        incoming, link = self._incoming.get(peer), self._links.get(peer)
        if incoming is not None and incoming.incarnation != incarnation:
            incoming.connection.reset(reason)
            self._end_bulk(peer, reason)
        if link is not None:
            link.leave_other_starts(incarnation, reason)

    def send(self, to: NodeId, message: PeerMessage) -> bool:
        """Queue a message for the next `flush`. False: dropped (no link, or its buffer is full).

        The message belongs to the transport from here on: it is encoded when it leaves. `SNAP` messages do not go
        this way: see `send_snapshot`.
        """
        link = self._links.get(to)
        if link is None or not link.send(message):
            return False
        self._unflushed[link] = None
        return True

    def flush(self) -> None:
        """Write what was queued, all messages for one peer together. Call it at the end of each turn that sends."""
        if self._unflushed:
            links, self._unflushed = self._unflushed, {}
            for link in links:
                link.flush()

    def room_bytes(self, peer: NodeId) -> int:
        """How many bytes of appends may be sent to `peer` at present; 0 while there is no link."""
        link = self._links.get(peer)
        return link.room_bytes if link is not None else 0

    def in_transit(self, peer: NodeId) -> bool:
        """Whether appends are on their way to `peer` that are not known to have arrived."""
        link = self._links.get(peer)
        return link is not None and link.bulk.in_transit

    async def send_snapshot(self, to: NodeId, message: Message, manifest: bytes, source: OutgoingSnapshot) -> None:
        """Send a snapshot on a connection of its own; done when the receiver has it durably.

        Resumes after a lost connection at the receiver's offset. Always closes `source`. Raises `TransportError`
        (refused, or no progress over several attempts) or `OSError` (the source can't be read).
        """
        try:
            if self._closed or to not in self._links:
                raise TransportError(f"no address is known of node {to:016x}")
            offer = Offer(message, manifest, source.size_bytes)
            sender = SnapshotSender(self._dialler, to, lambda: self._links[to].address, offer, source)
            await self._transfer(sender)
        finally:
            source.close()

    async def _transfer(self, sender: SnapshotSender) -> None:
        to = sender.peer
        task = self._loop.create_task(sender.run(), name=f"snapshot to {to:016x}")
        self._transfers[task] = sender
        try:
            await task
        except asyncio.CancelledError:
            if self._closed or to not in self._links:
                raise TransportError(f"snapshot to node {to:016x}: the link was given up") from None
            raise
        finally:
            del self._transfers[task]

    # -- views

    def last_contact_s(self, peer: NodeId) -> float | None:
        """Age of the last bytes from `peer`, on either link; None: none since the start."""
        times = [time_s for time_s in (self._heard_s(peer), self._echoed_s(peer)) if time_s is not None]
        return self._loop.time() - max(times) if times else None

    def directory_of(self, peer: NodeId) -> int | None:
        """The id of the data directory with which `peer` has welcomed this node; None if the link is not up."""
        link = self._links.get(peer)
        return link.peer_directory if link is not None and link.state is State.UP else None

    def confirmed_address(self, peer: NodeId) -> PeerAddress | None:
        """The address at which `peer` has answered, if it is the one that it announces; None while the link is down."""
        link = self._links.get(peer)
        up = link is not None and link.state is State.UP and link.address == link.candidates.greeted
        return link.address if link is not None and up else None

    def stats(self) -> dict[NodeId, PeerStats]:
        """The state of the links, for every peer set."""
        return {peer: self._peer_stats(link) for peer, link in self._links.items()}

    def _peer_stats(self, link: PeerLink) -> PeerStats:
        received = self._received.get(link.peer, _Received())
        incoming = [one for held in (self._incoming, self._incoming_bulk) if (one := held.get(link.peer)) is not None]
        first, now_s = self._incoming.get(link.peer), self._loop.time()
        return PeerStats(
            connected=link.state is State.UP,
            connected_since_s=now_s - link.up_since_s if link.up_since_s is not None else None,
            last_contact_s=self.last_contact_s(link.peer),
            address=str(link.address),
            sent_bytes=link.sent_bytes,
            received_bytes=received.bytes + sum(one.connection.received_bytes for one in incoming),
            sent_messages=link.sent_messages,
            received_messages=received.messages + sum(one.received_messages for one in incoming),
            dropped_messages=link.dropped_messages,
            reconnects=link.reconnects,
            rtt_s=link.rtt_s,
            last_error=link.last_error,
            last_refusal=link.last_refusal,
            reached_by_since_s=now_s - first.since_s if first is not None else None,
        )

    def _heard_s(self, peer: NodeId) -> float | None:
        incoming = self._incoming.get(peer)
        if incoming is not None:
            bulk = self._incoming_bulk.get(peer, incoming)
            return max(incoming.connection.received_s, bulk.connection.received_s)
        received = self._received.get(peer)
        return received.last_s if received is not None else None

    def _echoed_s(self, peer: NodeId) -> float | None:
        link = self._links.get(peer)
        return link.contact_s if link is not None else None

    # -- connections

    def opened(self, connection: Connection) -> None:
        self._connections[connection] = None

    def ended(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        if self._all_gone is not None and not self._connections and not self._all_gone.done():
            self._all_gone.set_result(None)

    def _accept(self) -> asyncio.Protocol:
        acceptor = self._acceptor
        connection = Connection(acceptor, self, max_frame_bytes=self._limits.frame_bytes, accepted=acceptor.count)
        if self._closed:
            connection.reset("this node closes")
        elif len(self._connections) >= self._limits.incoming_connections:
            self._acceptor.counters.overflowed += 1
            fault = f"{len(self._connections)} connections are open, the limit; check which program dials so often"
            self._notices.warn("overflow", "closed a new connection", fault, self._loop.time())
            connection.reset("too many connections")
        if self._certificate is not None:
            return TlsAccept(connection, self._certificate.server, TLS_TIMEOUT_S, self._handshakes, answer_without_tls)
        return connection

    def _admit(self, connection: Connection, hello: Hello) -> None:
        if hello.purpose is Purpose.SNAPSHOT:
            if hello.sender not in self._links and len(self._receivers) >= self._limits.unknown_links:
                connection.reset("too many snapshots are under way for one of an unknown node")
            else:
                self._receive_snapshot(connection, hello.sender)
            return
        if hello.purpose is Purpose.BULK:
            self._admit_bulk(connection, hello)
            return
        self._end_bulk(hello.sender, "the peer dialled again")
        self._receive(self._incoming, connection, hello)
        self._note_unknown(hello.sender)
        self._answer_at(hello)
        for sender in self._transfers.values():
            if sender.peer == hello.sender:
                sender.peer_seen(hello.incarnation)

    def _receive(self, held: dict[NodeId, IncomingLink], connection: Connection, hello: Hello) -> None:
        """Take messages of a peer on this connection, in place of one of the same kind."""
        earlier = held.get(hello.sender)
        if earlier is not None:
            earlier.connection.reset("the peer dialled again")
            self._note_received(earlier)

        def ended(link: IncomingLink, reason: str) -> None:
            self._incoming_ended(held, link, reason)

        link = IncomingLink(hello.sender, connection, self._node_id, self._handler, self._limits, self._known, ended)
        held[hello.sender] = link
        connection.owner = link
        link.since_s = self._loop.time()
        link.incarnation = hello.incarnation

    def _admit_bulk(self, connection: Connection, hello: Hello) -> None:
        """The second connection of a peer: it comes after the first, and from the same start."""
        first = self._incoming.get(hello.sender)
        if first is None or first.incarnation != hello.incarnation:
            connection.reset("a connection for appends came without the one for messages")
        else:
            self._receive(self._incoming_bulk, connection, hello)

    def _end_bulk(self, peer: NodeId, reason: str) -> None:
        bulk = self._incoming_bulk.get(peer)
        if bulk is not None:
            bulk.connection.reset(reason)

    def _answer_at(self, hello: Hello) -> None:
        """Dial back a node that has dialled. The address in its greeting is tried first from now on."""
        peer, link = hello.sender, self._links.get(hello.sender)
        address = None
        if hello.address:
            try:
                address = dialable(hello.address, setting=f"address of node {peer:016x}")
            except ConfigError as error:
                self._notices.warn(f"address {peer}", self._dialler.label(peer), str(error), self._loop.time())
        if link is None and address is not None:
            link = self._link_to(peer)
        if link is not None:
            link.peer_seen(hello.incarnation, address)

    def _is_peer(self, peer: NodeId) -> bool:
        return peer in self._links

    def _note_unknown(self, sender: NodeId) -> None:
        """Bound the number of admitted nodes that this node does not know."""
        if sender in self._links and sender not in self._unknown:
            return
        oldest = self._unknown.add(sender)
        if oldest is not None:
            self._forget_unknown(oldest, "newer nodes came that this one has not heard of either")

    def _forget_unknown(self, peer: NodeId, reason: str) -> None:
        link, incoming = self._links.pop(peer, None), self._incoming.get(peer)
        if link is not None:
            link.close(reason, gently=True)
        if incoming is not None:
            incoming.connection.close(reason)
            self._end_bulk(peer, reason)
        self._received.pop(peer, None)

    def _incoming_ended(self, held: dict[NodeId, IncomingLink], link: IncomingLink, reason: str) -> None:
        if isinstance(link.connection.failure, FrameError):
            self._acceptor.counters.bad_frames += 1
            subject = f"link from {self._dialler.label(link.sender)}"
            self._notices.warn(f"frame {link.sender}", subject, reason, self._loop.time())
        else:
            subject = f"link from node {link.sender:016x} at {link.connection.remote} ended"
            self._notices.inform(f"ended {link.sender}", subject, reason, self._loop.time())
        if held.get(link.sender) is link:
            self._note_received(link)
            del held[link.sender]
            if held is self._incoming_bulk:
                return
            self._end_bulk(link.sender, "the peer's link has ended")
            if self._unknown.discard(link.sender):
                self._forget_unknown(link.sender, "the node is gone, and this one has not heard of it")

    def _note_received(self, link: IncomingLink) -> None:
        if link.sender in self._links:  # nothing is kept of others: their number has no bound
            total = self._received.setdefault(link.sender, _Received())
            total.bytes += link.connection.received_bytes
            total.messages += link.received_messages
            total.last_s = max(total.last_s or 0.0, link.connection.received_s)

    def _receive_snapshot(self, connection: Connection, sender: NodeId) -> None:
        connection.owner = stream = SnapshotStream(connection, self._limits)
        receivers = self._receivers
        receiver = SnapshotReceiver(
            stream,
            sender,
            self._node_id,
            self._handler,
            self._notices,
            self._limits,
            receivers.get(sender),
            receivers,
        )
        receivers[sender] = receiver
        receiver.task.add_done_callback(lambda task: self._received_snapshot(receiver, sender, task))

    def _received_snapshot(self, receiver: SnapshotReceiver, sender: NodeId, task: asyncio.Task[None]) -> None:
        self._acceptor.counters.bad_frames += receiver.bad_frames
        if self._receivers.get(sender) is receiver:
            del self._receivers[sender]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "receiving a snapshot failed", "exception": error})

    # -- timers

    def _schedule_tick(self) -> None:
        self._tick_due_s = self._loop.time() + self._limits.keepalive_interval_s
        self._ticker = self._loop.call_at(self._tick_due_s, self._tick)

    def _tick(self) -> None:
        now_s = self._loop.time()
        stalled = now_s - self._tick_due_s > self._limits.keepalive_interval_s
        self._schedule_tick()
        for receiver in self._receivers.values():
            receiver.keep_alive()
        for connection in list(self._connections):
            if stalled:  # this loop stood still: messages and answers of that time are still to be read
                connection.excused_s = now_s
            else:
                self._check(connection, now_s)

    def _check(self, connection: Connection, now_s: float) -> None:
        limits = self._limits
        fault: str | None = None
        if connection.unsent_bytes > limits.send_buffer_bytes + limits.frame_bytes:
            # No queue of ours lets so much through: TLS answers each change of the key that the other end asks for.
            fault = f"{connection.unsent_bytes} bytes wait to be sent, and the other end does not read"
        elif connection.closing_s is None:
            fault = connection.owner.overdue(connection, now_s)
        elif connection.waited_s(connection.closing_s, now_s) > limits.handshake_timeout_s:
            fault = "the other end does not take what is left"
        if fault is not None:
            connection.reset(fault)


class _Received:
    """Counters of one peer's connections that have ended."""

    __slots__ = ("bytes", "last_s", "messages")

    def __init__(self) -> None:
        self.bytes = 0
        self.messages = 0
        self.last_s: float | None = None
