"""The engine room: turns events into steps of the consensus core, and what the core asks for into work.

Events of one turn of the event loop (proposals, reads, messages, storage answers) gather; then one `_turn` gives them
to the core and carries out its `Ready`s: storage work to the log writer, committed entries to the applier, messages to
the peers. Messages of a leader leave before its own disk has answered; what promises durability (votes,
acknowledgements) rides on the storage work and leaves after it. Nothing here blocks.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from threading import get_ident

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    NONE,
    Message,
    MessageType,
    NodeId,
    ProposalDropped,
    SoftState,
    StateType,
)
from syncline.errors import Dropped, NodeFailed, NotLeader, OperationError, SynclineError, TransportError, UsageError
from syncline.node.addresses import Addresses
from syncline.node.applier import ApplyWork, RestoreWork
from syncline.node.commits import Commits
from syncline.node.config import Config
from syncline.node.digests import DigestDoors, Digests
from syncline.node.envelope import DATA, MEMBERSHIP
from syncline.node.events import Event, EventKind, Events
from syncline.node.examination import examine_forward, sound_own
from syncline.node.founding import Founding
from syncline.node.futures import Waiter
from syncline.node.horizon import Horizon
from syncline.node.ignored import Ignored
from syncline.node.parts import Parts
from syncline.node.promises import Promises
from syncline.node.proposals import Proposals
from syncline.node.reads import Reads
from syncline.node.reconfiguration import Reconfiguration
from syncline.node.rejections import error_of
from syncline.node.rejections import refused as refused_by
from syncline.node.settlement import Settlement
from syncline.node.snapshotter import Snapshotter
from syncline.node.termguard import TermGuard
from syncline.storage.space import Shortage
from syncline.transport.messages import (
    AcceptedProposal,
    DigestReport,
    Forward,
    ForwardedProposal,
    ForwardReply,
    Notice,
    PeerMessage,
    RefusedProposal,
    SnapshotSink,
)

__all__ = ["Driver"]

log = logging.getLogger("syncline.node")

FORWARD_BATCH_BYTES = 1 << 20
"""Proposals in one message to the leader: they share the link with heartbeats."""

GATHER_BYTES = 1 << 20
"""So much is not held back any more: as much as goes into one append message."""

APPLIES_PER_TURN, APPLIED_PER_TURN = 3, 1024
"""Batches of entries (`assembly.APPLY_BATCH_BYTES` each), and entries, after which a state machine on the loop applies
no more in one turn. Else a start with a long log behind its snapshot would hold the loop until all of it is applied."""

READS_RETRY_HEARTBEATS = 5
"""A read that was not confirmed within so many heartbeats is asked again: the request or its answer was lost."""

ACKNOWLEDGEMENTS = (MessageType.APP_RESP, MessageType.HEARTBEAT_RESP)
"""Answers that carry the durable commit index of this node (see `settlement`)."""

HANDING_OVER = "handing_over"
"""A leader's refusal that means: ask the next one."""

PASSING = (NotLeader.code, HANDING_OVER)
"""Refusals by which a proposal is kept for the next leader: this one did not append it, and is on its way out."""


class Driver:
    """One node's loop. Made by `Raft.open`; everything runs on the event loop's thread."""

    def __init__(self, config: Config, parts: Parts, rng: random.Random, failed: Callable[[NodeFailed], None]) -> None:
        self.config = config
        self.parts = parts
        self.core: RawNode = parts.core
        self.rng = rng
        self.events = Events()
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.proposals = Proposals(rng, step_s=config.heartbeat_s, max_bytes=config.max_pending_bytes)
        self.reads = Reads(
            rng,
            step_s=config.heartbeat_s,
            retry_s=READS_RETRY_HEARTBEATS * config.heartbeat_s,
            ask=lambda context: void(self.core.read_index(context)),
            asleep_s=parts.asleep_s,
        )
        self.ignored = Ignored(self.loop.time)
        self.term_guard = TermGuard()
        self.founding = Founding(self)
        self.settlement = Settlement(
            self.core, parts.book, parts.writer, send=parts.transport.send, changed=self.wake_watchers
        )
        self.promises = Promises(
            self.core, name=config.name, data_dir=config.data_dir, send=parts.transport.send, fail=self.fail
        )
        self.reconfiguration = Reconfiguration(self)
        self.addresses = Addresses(
            config.peers, parts.identity, parts.book, parts.transport, self.reconfiguration.update
        )
        self.snapshotter = Snapshotter(self)
        self.applied = self.core.applied
        self.horizon = Horizon(self)
        self.commits = Commits(self)
        doors = DigestDoors(
            parts.transport.send, parts.wal.check_space, self.reconfiguration.is_alive, self.fail, self.loop.time
        )
        self.digests = Digests(self.core, parts.book, doors, parts.machine.digests, config.name, config.election_s)
        self.stopped_by: SynclineError | None = None
        self.stopped = False
        self.leader_contact_s: float | None = None
        self.leader_changes = 0
        self.loop_lag_s = 0.0
        self._failed = failed
        self._queue: list[tuple[Waiter, int, bytes]] = []
        self._queued_bytes = 0
        self._appending = False
        """Whether the disk has not answered since this leader appended proposals of its own. Others gather meanwhile.

        They would have to wait for the disk anyway. Gathered, they make one append for each node and not many, each of
        which costs all of them more than the entries in it.
        """
        self._scheduled = False
        self._in_turn = False
        self._hold = False
        self._stall_told = False
        self.shortage = Shortage.NONE
        self._soft = SoftState(NONE, StateType.FOLLOWER)
        self._watchers: dict[asyncio.Future[None], None] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._next_tick_s = 0.0

    def check_running(self) -> None:
        """Raise what stopped the node, if something did, and `UsageError` on another thread than the loop's."""
        if get_ident() != self.thread:
            raise UsageError(
                "this node belongs to the event loop of another thread: use loop.call_soon_threadsafe or"
                " asyncio.run_coroutine_threadsafe to call it there"
            )
        if self.stopped_by is not None:
            raise self.stopped_by

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the clock."""
        self._next_tick_s = self.loop.time() + self.config.heartbeat_s
        self._ticker = self.loop.call_at(self._next_tick_s, self._tick)
        self.schedule()

    def stop(self, sent: SynclineError, unsent: SynclineError) -> None:
        """Take no more events; end whatever waits."""
        self.stopped_by, self.stopped = unsent, True
        if self._ticker is not None:
            self._ticker.cancel()
        self.commits.stop()
        self._queue.clear()
        self.proposals.fail_all(sent, unsent)
        self.reads.fail_all(unsent)
        self.snapshotter.stop(unsent)
        self.wake_watchers()
        self.emit(EventKind.STOPPED, detail=str(sent))
        self.events.close()

    def fail(self, error: BaseException) -> None:
        """Fail-stop: something that must not fail did.

        What runs as a callback ends here whatever it raises: in the event loop's log an error would be forgotten, and
        the node would go on in a state that is in doubt.
        """
        if self.stopped:
            return
        text = str(error) if isinstance(error, SynclineError) else f"{type(error).__name__}: {error}"
        failure = error if isinstance(error, NodeFailed) else NodeFailed(f"the node has stopped itself: {text}")
        failure.__cause__ = error if failure is not error else None
        self.stop(failure, failure)
        self._failed(failure)

    def _tick(self) -> None:
        now = self.loop.time()
        self.loop_lag_s = max(0.0, now - self._next_tick_s)
        # After a pause of the process the missed ticks are left out: they say nothing about the leader.
        self._next_tick_s = max(self._next_tick_s + self.config.heartbeat_s, now)
        self._ticker = self.loop.call_at(self._next_tick_s, self._tick)
        try:
            self._on_tick(now)
        except Exception as error:  # noqa: BLE001 - see `fail`
            self.fail(error)
        self._run(ask=True)

    def _on_tick(self, now: float) -> None:
        if self.founding.waiting:
            self.founding.look(now)
        else:
            self.core.tick()
        why_no_leader = self.founding.why_no_leader()
        self.proposals.expire(now, self.core.leader, why_no_leader)
        self.reads.expire(now, self.core.leader, why_no_leader)
        self._hold = False
        self._watch_disk()
        if self._queue:  # what has ended while it waited for a leader must not stay in memory until there is one
            self._queue = [item for item in self._queue if not item[0].done()]
        if self.core.state is StateType.LEADER:
            self.leader_contact_s = now
            self._yield_if_disk_stalls()
        self.horizon.tick()
        self.settlement.tick()
        self.reconfiguration.tick()
        self.snapshotter.tick()
        self.digests.tick()

    def _watch_disk(self) -> None:
        """While the disk is short of space make some; where the last of it is reached take no entries of a leader."""
        before, self.shortage = self.shortage, self.parts.wal.shortage()
        if self.shortage is not Shortage.NONE:
            self.snapshotter.make_room()
        if self.shortage is before or Shortage.LAST_HALF not in (before, self.shortage):
            return
        if self.shortage is Shortage.LAST_HALF:
            self.emit(EventKind.DISK_FULL, detail="no entries of a leader are taken until space returns")
            log.warning("the disk is full but for the last of the reserve: no entries are taken until space returns")
        else:
            log.info("the disk has room again: entries are taken")

    def _yield_if_disk_stalls(self) -> None:
        stalled_s = self.parts.writer.oldest_s()
        if stalled_s < self.config.election_s:
            self._stall_told = False
            return
        if not self._stall_told:
            self._stall_told = True
            self.emit(EventKind.DISK_SLOW, detail=f"the log has not been synced for {stalled_s:.1f} s")
        if self.core.raft.transferee != NONE:
            return
        target = self.reconfiguration.best_successor()
        if target != NONE:
            self.core.transfer_leadership(target)

    @property
    def restoring(self) -> bool:
        """Whether the core has accepted a snapshot that the state machine has not loaded: the core is ahead then.

        True from the step of the message on, before any work has followed from it.
        """
        return self.core.raft.restored_index > self.applied

    # -- events in ----------------------------------------------------------------------------------------------------

    def propose(self, waiter: Waiter, kind: int, payload: bytes) -> None:
        """Queue a proposal of this node; all of one turn go together."""
        assert not self.stopped, "a proposal on a stopped node would never end"
        self._queue.append((waiter, kind, payload))
        self._queued_bytes += len(payload)
        if not self._scheduled:
            self.schedule()

    def schedule(self) -> None:
        if not self._scheduled and self.stopped_by is None:
            self._scheduled = True
            self.loop.call_soon(self._turn)

    def on_messages(self, sender: NodeId, messages: list[PeerMessage]) -> None:
        """From the transport."""
        if self.stopped or self.founding.waiting:
            return  # while it waits it must neither vote nor acknowledge
        try:
            for message in messages:
                if isinstance(message, Message):
                    if message.type is MessageType.APP and self.shortage is Shortage.LAST_HALF and message.entries:
                        continue  # as if the link had lost it: the leader sends it again
                    term = self.core.term
                    if message.term > term and not self.term_guard.admits(sender, message.term, term, self.loop.time()):
                        continue
                    if message.reject and message.type is MessageType.APP_RESP:
                        self.promises.answered(sender, message)
                    self.core.step(message)
                elif isinstance(message, Forward):
                    self._on_forward(sender, message)
                elif isinstance(message, Notice):
                    self.settlement.on_notice(sender, message)
                    self.promises.on_notice(sender, message)
                elif isinstance(message, DigestReport):
                    self.digests.on_report(sender, message)
                else:
                    self._on_forward_reply(message)
            if self.core.raft.evidence is not None:
                self.promises.found()
            self.settlement.look()
        except Exception as error:  # noqa: BLE001 - see `fail`
            self.fail(error)
        if sender == self.core.leader:
            self.leader_contact_s = self.loop.time()
        if self._in_turn:
            self.schedule()  # the turn under way may have looked for what there is to do for the last time
        else:
            self._run()

    def on_peer_up(self, peer: NodeId) -> None:
        self._hold = False
        self.emit(EventKind.PEER_UP, peer)
        self.schedule()

    def on_peer_down(self, peer: NodeId, reason: str) -> None:
        if self.stopped:
            return
        self.core.report_unreachable(peer)
        self.emit(EventKind.PEER_DOWN, peer, reason)
        self.schedule()

    async def on_snapshot(self, sender: NodeId, message: Message, manifest: bytes) -> SnapshotSink:
        if self.founding.waiting:
            raise TransportError(self.founding.why_no_leader())
        if not self.term_guard.admits(sender, message.term, self.core.term, self.loop.time()):
            raise TransportError(f"term {message.term} is too far ahead of this node's term {self.core.term}")
        return await self.snapshotter.receive(sender, message, manifest)

    def on_durable(self, responses: list[Message]) -> None:
        """From the log writer: what these answer is on disk."""
        if self.stopped:
            return
        self._appending = False
        try:
            for response in responses:
                if response.to == self.core.raft.id:
                    self.core.step(response)
                else:
                    self._send(response)
            self.reconfiguration.durable()
        except Exception as error:  # noqa: BLE001 - see `fail`
            self.fail(error)
        self._run()

    def on_applied(self, responses: Sequence[Message]) -> None:
        """From the applier, by way of `Machine`: the core may hand out more."""
        for response in responses:
            self.core.step(response)
        if not self._in_turn:  # else the turn sees it
            self.schedule()

    # -- the turn -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._scheduled = False
        self._run(ask=True)

    def _run(self, *, ask: bool = False) -> None:
        """Give the core what has gathered, and carry out what it asks for. An error here is the node's end.

        Reads that gather are asked for in turns and ticks alone (`ask`), not whenever a message or the disk has news.
        """
        if self.stopped_by is not None or self._in_turn:
            return
        self._in_turn = True
        try:
            if self._queue:
                self._flush_queue()
            if ask and self.reads.to_ask:
                self.reads.ask(self.loop.time())
            self.commits.look()
            applies, first = 0, self.applied
            while not self.stopped and self.core.has_ready():
                if applies == APPLIES_PER_TURN or self.applied - first >= APPLIED_PER_TURN:
                    self.schedule()
                    break
                applied = self.applied
                self._carry_out()
                applies += self.applied != applied
            self.parts.transport.flush()
        except Exception as error:  # noqa: BLE001 - see `fail`
            self.fail(error)
        finally:
            self._in_turn = False

    def _carry_out(self) -> None:
        ready = self.core.ready()
        if ready.soft_state is not None:
            self._on_soft_state(ready.soft_state)
        for message in ready.messages:
            if self.stopped_by is not None:
                return  # a state machine on this loop has failed just now
            if message.to == LOCAL_APPEND:
                self.parts.transport.flush()  # the peers first: their disks can be busy with it meanwhile
                self.parts.writer.append(message)
                if message.snapshot is not None:
                    self._restore(message)
            elif message.to == LOCAL_APPLY:
                self.parts.machine.put(ApplyWork(message.entries, message.responses))
            else:
                self._send(message)
        for state in ready.read_states:
            self.reads.confirmed(state)
        self.reads.applied(self.applied)
        if ready.read_states and self.reads.gathering:
            # In the turn after next: whoever has just been answered may ask again until then, in the same round.
            self.loop.call_soon(self.schedule)

    def _restore(self, message: Message) -> None:
        assert message.snapshot is not None
        store, meta = self.parts.snapshots, message.snapshot.meta
        held = next((held for held in store.list() if (held.index, held.term) == (meta.index, meta.term)), None)
        if held is None:
            raise AssertionError(f"snapshot {meta.index} is installed, and the store does not have it")
        # Opened now: before its turn comes, a newer one may arrive and make the store drop it.
        self.parts.machine.put(RestoreWork(store.read(held), held.meta, held.runtime))

    def _send(self, message: Message) -> None:
        if message.type in ACKNOWLEDGEMENTS:
            message.commit = self.parts.writer.durable_commit
        if message.type is MessageType.SNAP:
            self.snapshotter.send(message)
        elif not self.parts.transport.send(message.to, message) and message.type is MessageType.APP:
            self.core.report_unreachable(message.to)

    # -- proposals ----------------------------------------------------------------------------------------------------

    def _flush_queue(self) -> None:
        core = self.core
        if core.leader == NONE:
            return  # they wait for a leader, or for their deadline
        if self._hold if core.state is not StateType.LEADER else core.raft.transferee != NONE:
            return  # until the next tick, or another leader
        if core.state is StateType.LEADER and self._appending and self._queued_bytes < GATHER_BYTES:
            return  # until `on_durable`
        queue, self._queue, self._queued_bytes = self._queue, [], 0
        queue = [item for item in queue if not item[0].done()]
        if core.state is StateType.LEADER:
            queue = sound_own(queue, core.raft.id, self.proposals.refused)
        if not queue:
            return
        if core.state is not StateType.LEADER:
            self._forward(queue)
            return
        waiters, kinds, payloads = zip(*queue, strict=True)
        if kinds.count(DATA) == len(kinds):
            self._append_own(waiters, list(payloads))
        else:
            own = [(waiter.number, kind, payload) for waiter, kind, payload in queue]
            accepted, refused = self._append(core.raft.id, own)
            for waiter in waiters:
                waiter.sent = True
            self._on_forward_reply(ForwardReply(accepted, refused, core.leader))

    def _append_own(self, waiters: Sequence[Waiter], payloads: list[bytes]) -> None:
        """The usual case: this node leads, and nothing but data has gathered."""
        try:
            first, term = self.core.propose_batch(payloads)
        except ProposalDropped:
            refused = [self._refused(waiter.number) for waiter in waiters]
            self._on_forward_reply(ForwardReply([], refused, self.core.leader))
        else:
            self._appending = True
            self.proposals.appended(waiters, first, term)

    def _append(
        self, sender: NodeId, proposals: list[tuple[int, int, bytes]]
    ) -> tuple[list[AcceptedProposal], list[RefusedProposal]]:
        """Have the core append what `sender` proposed. Data in one step, changes of the membership one by one."""
        accepted: list[AcceptedProposal] = []
        refused: list[RefusedProposal] = []
        data = [(number, payload) for number, kind, payload in proposals if kind == DATA]
        if data:
            try:
                first, term = self.core.propose_batch([payload for _, payload in data])
                accepted.extend(AcceptedProposal(number, first + place, term) for place, (number, _) in enumerate(data))
            except ProposalDropped:
                refused.extend(self._refused(number) for number, _ in data)
        for number, kind, payload in proposals:
            if kind == MEMBERSHIP:
                try:
                    index, term = self.reconfiguration.append(payload, sender, number)
                    accepted.append(AcceptedProposal(number, index, term))
                except OperationError as error:
                    refused.append(refused_by(number, error))
        return accepted, refused

    def _refused(self, number: int) -> RefusedProposal:
        """The core took none of a batch."""
        code = HANDING_OVER if self.core.raft.transferee != NONE else Dropped.code
        text = "the leader takes no proposals: a hand-over is under way, or too much is uncommitted"
        return RefusedProposal(number, code, text)

    def _forward(self, queue: list[tuple[Waiter, int, bytes]]) -> None:
        leader = self.core.leader
        start = size = 0
        for end, item in enumerate(queue, 1):
            size += len(item[2])
            if size < FORWARD_BATCH_BYTES and end < len(queue):
                continue
            if not self._forward_batch(leader, queue[start:end]):
                self._hold = True
                self._queue = queue[start:] + self._queue  # the link is down or full: the rest waits, in its order
                return
            start, size = end, 0

    def _forward_batch(self, leader: NodeId, batch: list[tuple[Waiter, int, bytes]]) -> bool:
        message = Forward([ForwardedProposal(waiter.number, kind, payload) for waiter, kind, payload in batch])
        if not self.parts.transport.send(leader, message):
            return False
        for waiter, kind, payload in batch:
            waiter.sent = True
            waiter.forwarded = kind, payload
        return True

    def _on_forward(self, sender: NodeId, message: Forward) -> None:
        core = self.core
        if core.state is StateType.LEADER:
            sound, refused = examine_forward(sender, message, self.parts.wal.check_space, self.parts.check)
            accepted, dropped = self._append(sender, sound)
            refused += dropped
            if accepted:
                self.commits.awaited(accepted[-1].index)
        else:
            text = "this node does not lead (any more)"
            accepted = []
            refused = [RefusedProposal(item.number, NotLeader.code, text) for item in message.proposals]
        self.parts.transport.send(sender, ForwardReply(accepted, refused, core.leader))

    def _on_forward_reply(self, reply: ForwardReply) -> None:
        for placed in reply.accepted:
            self.proposals.placed(placed.number, placed.index, placed.term)
        if reply.accepted and reply.accepted[0].index <= self.applied:
            # The answer came after the entry: what is applied there is not this proposal, or it would be resolved.
            self.proposals.passed(placed.index for placed in reply.accepted if placed.index <= self.applied)
        turned_back = []
        for item in reply.refused:
            again = self.proposals.turned_back(item.number) if item.code in PASSING else None
            if again is not None:
                turned_back.append(again)
                continue
            self.proposals.refused(item.number, error_of(item, reply.leader or None))
        if turned_back:
            self._hold = True
            self._queue = sorted([*turned_back, *self._queue], key=lambda item: item[0].number)  # in their order

    # -- what others are told -----------------------------------------------------------------------------------------

    def _on_soft_state(self, soft: SoftState) -> None:
        before, self._soft = self._soft, soft
        if soft.leader != before.leader:
            self.leader_changes += soft.leader != NONE
            self.leader_contact_s = self.loop.time() if soft.leader != NONE else self.leader_contact_s
            self._hold = False
            self.reads.leader_changed()
            self.digests.leader_changed()
            self.emit(EventKind.LEADER, soft.leader)
        if soft.state is not before.state:
            self.emit(EventKind.STATE, detail=soft.state.name.lower())
            if soft.state is StateType.LEADER:
                self.reconfiguration.became_leader()
        if soft.leader != NONE:
            self.schedule()  # what has queued for a leader can go now
        self.wake_watchers()

    def emit(self, kind: EventKind, subject: NodeId = NONE, detail: str = "") -> None:
        self.events.emit(Event(kind, self.core.term, self.applied, subject, detail))

    def changed(self) -> asyncio.Future[None]:
        """Done at the next change of leader, role, membership or applied index of a change; for waiting in a loop."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._watchers[future] = None
        future.add_done_callback(self._forget_watcher)
        return future

    def _forget_watcher(self, future: asyncio.Future[None]) -> None:
        self._watchers.pop(future, None)

    def wake_watchers(self) -> None:
        for future in list(self._watchers):
            if not future.done():
                future.set_result(None)


def void(_: object) -> None:
    """The core answers by a `ReadState`, or not at all: then the read is asked again."""
