"""Event loop of one node: feeds events to `RawNode` and executes each `Ready`.

Events of one turn of the event loop (proposals, reads, messages, storage answers) gather. Then one `_turn` gives them
to the core and executes its `Ready`s: storage work goes to the log writer, committed entries to the applier, messages
to the peers. Messages of a leader leave before its own disk has answered. Votes and acknowledgements are promises:
they travel with the storage work and leave after it. Nothing here blocks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

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
from syncline.errors import NodeFailed, OperationError, Outcome, SynclineError, TransportError
from syncline.node import ids
from syncline.node.addresses import Addresses
from syncline.node.append_pacing import AppendPacing
from syncline.node.applier import ApplyWork, RestoreWork
from syncline.node.asking import Asking
from syncline.node.bootstrap import Bootstrap
from syncline.node.commit_notifier import CommitNotifier
from syncline.node.components import Parts
from syncline.node.config import Config
from syncline.node.delivery import Deliver
from syncline.node.digests import Digests
from syncline.node.disk_stall import DiskStall
from syncline.node.envelope import DATA, MEMBERSHIP
from syncline.node.events import DiskSlow, Event, Events, LeaderChanged, NodeStopped, PeerDown, PeerUp, RoleChanged
from syncline.node.examination import Examined, examine_forward
from syncline.node.first_election import FirstElection
from syncline.node.forwarding import Forwarding
from syncline.node.futures import Waiter
from syncline.node.ignored_entries import Ignored
from syncline.node.lost_promises import Promises
from syncline.node.member_registry import time_of
from syncline.node.membership import Reconfiguration
from syncline.node.node_log import NodeLog
from syncline.node.proposals import Proposals
from syncline.node.proposer import Proposer
from syncline.node.read_batches import ReadBatches
from syncline.node.recovery_barrier import RecoveryBarrier
from syncline.node.rejections import dropped
from syncline.node.rejections import refused as refused_by
from syncline.node.role import RoleWatch
from syncline.node.running import Running
from syncline.node.settlement import Settlement
from syncline.node.snapshots import Snapshotter
from syncline.node.stage_times import StageTimes
from syncline.node.term_guard import TermGuard
from syncline.platform.texts import named_error
from syncline.platform.worker import Workers
from syncline.storage.space import Shortage
from syncline.transport.messages import (
    AcceptedProposal,
    Forward,
    ForwardReply,
    IncomingSnapshot,
    PeerMessage,
    RefusedProposal,
)

__all__ = ["Driver"]

GATHER_BYTES = 1 << 20
"""Bytes from which proposals are not held back: as much as goes into one append message."""

APPLIES_PER_TURN, APPLIED_PER_TURN = 3, 1024
"""Batches of entries (`startup.APPLY_BATCH_BYTES` each), and entries, that a state machine on the loop applies in one
turn: a start with a long log behind its snapshot must not hold the loop until all of it is applied."""

READS_RETRY_HEARTBEATS = 5
"""A read that was not confirmed within so many heartbeats is asked again: the request or its answer was lost."""

ACKNOWLEDGEMENTS = (MessageType.APP_RESP, MessageType.HEARTBEAT_RESP)
"""Answers that carry the durable commit index of this node (see `settlement`)."""


class Driver:
    """The event loop of one node. Made by `Raft.open`; everything runs on the event loop's thread."""

    parts: Parts
    node_log: NodeLog
    bootstrap: Bootstrap
    first_election: FirstElection
    settlement: Settlement
    promises: Promises
    reconfiguration: Reconfiguration
    addresses: Addresses
    proposer: Proposer
    snapshotter: Snapshotter
    pacing: AppendPacing
    disk_stall: DiskStall
    digests: Digests
    stages: StageTimes
    forwarding: Forwarding
    asking: Asking
    deliver: Deliver
    """These report to the driver, or work with parts that do: `connect` sets them before anything runs."""

    def __init__(
        self,
        config: Config,
        core: RawNode,
        rng: random.Random,
        failed: Callable[[NodeFailed], None],
        workers: Workers,
    ) -> None:
        self.config: Config = config
        self.core: RawNode = core
        self.node_id: NodeId = core.raft.id
        self.rng = rng
        self.events: Events = Events()
        self.running: Running = Running()
        self.loop: asyncio.AbstractEventLoop = self.running.loop
        heartbeat_s = config.heartbeat_s
        self.step_s: float = heartbeat_s
        """Reads whose deadlines are in one such step share a confirmation. It stays if the timers are changed."""
        self.proposals: Proposals = Proposals(rng, max_bytes=config.max_pending_bytes)
        self.reads: ReadBatches = ReadBatches(
            rng,
            retry_s=READS_RETRY_HEARTBEATS * heartbeat_s,
            ask=lambda context: core.read_index(context),  # noqa: PLW0108 - looked up at each call: tests replace it
            asleep_s=workers.asleep_s,
            fine_s=workers.now_s,
        )
        self.ignored: Ignored = Ignored(self.loop.time)
        self.term_guard: TermGuard = TermGuard()
        self.applied: int = core.applied
        self.recovery_barrier: RecoveryBarrier = RecoveryBarrier(
            core, self.reads, self.applied_index, election_s=config.election_s, heartbeat_s=heartbeat_s
        )
        self.commit_notifier: CommitNotifier = CommitNotifier(core, self.schedule)
        self.leader_contact_s: float | None = None
        self.leader_changes: int = 0
        self.loop_lag_s: float = 0.0
        self._failed = failed
        self._appending = False
        """Whether the disk has not answered since this leader appended proposals of its own. Others gather meanwhile.

        They would have to wait for the disk anyway. Gathered, they make one append for each node and not many, each of
        which costs all of them more than the entries in it.
        """
        self._scheduled = self._in_turn = self._stall_told = False
        self._soft = SoftState(NONE, StateType.FOLLOWER)
        self.role_watch: RoleWatch = RoleWatch(core, lambda role: self.emit(RoleChanged(role)))
        self._ticker: asyncio.TimerHandle | None = None
        self._next_tick_s = 0.0

    def applied_index(self) -> int:
        """How far the state machine is."""
        return self.applied

    def late_s(self) -> float:
        """How late the next tick is."""
        return max(0.0, self.loop.time() - self._next_tick_s)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the clock."""
        self._next_tick_s = self.loop.time() + self.config.heartbeat_s
        self._ticker = self.loop.call_at(self._next_tick_s, self._tick)
        self.schedule()

    def opened(self) -> None:
        """The entries that this node knew to be committed at its start are applied."""
        self._elect_at_once()
        self.schedule()

    def _elect_at_once(self) -> None:
        if self.core.leader == NONE and not self.bootstrap.waiting and not self.running.stopped:
            self.first_election.look()

    def reload(self, config: Config) -> None:
        """Go on with other timers and limits: those of the driver itself."""
        self.config = config
        self.proposer.max_entry_bytes = config.max_entry_bytes
        self.proposals.max_bytes = config.max_pending_bytes
        self.reads.retry_s = READS_RETRY_HEARTBEATS * config.heartbeat_s

    def stop(self, sent: SynclineError, unsent: SynclineError) -> None:
        """Take no more events; end all waiting operations."""
        self.running.end(sent, unsent)
        if self._ticker is not None:
            self._ticker.cancel()
        self.commit_notifier.stop()
        self.proposer.clear()
        self.proposals.fail_all(sent, unsent)
        self.reads.fail_all(unsent)
        self.asking.stop(sent, unsent)
        self.snapshotter.stop(unsent)
        self.running.wake()
        self.emit(NodeStopped(str(sent)))
        self.events.close()
        # Last: a logging handler of the program may raise, and all that waits has been told by now.
        self.node_log.stopped(sent, failed=isinstance(sent, NodeFailed))

    def fail(self, error: BaseException) -> None:
        """Fail-stop: an operation that must not fail has failed.

        A callback's error ends here, whatever it is. If it only reached the event loop's log, the node would go on in
        an uncertain state.
        """
        if self.running.stopped:
            return
        text = str(error) if isinstance(error, SynclineError) else named_error(error)
        failure = error if isinstance(error, NodeFailed) else NodeFailed(f"the node has stopped itself: {text}")
        if failure is not error:
            failure.__cause__ = error
        unsent = NodeFailed(str(failure), outcome=Outcome.NOT_APPLIED)
        unsent.__cause__ = failure.__cause__
        try:
            self.stop(failure, unsent)
        finally:
            self._failed(failure)

    def _tick(self) -> None:
        now = self.loop.time()
        self.loop_lag_s = late_s = max(0.0, now - self._next_tick_s)
        self.stages.loop_lag.observe(late_s)
        # After a pause of the process the missed ticks are left out: they say nothing about the leader.
        self._next_tick_s = max(self._next_tick_s + self.config.heartbeat_s, now)
        self._ticker = self.loop.call_at(self._next_tick_s, self._tick)
        try:
            self.node_log.on_tick(late_s)
            self._on_tick(now)
        except Exception as error:  # noqa: BLE001 - see `fail`
            self.fail(error)
        self._run(ask=True)

    def _on_tick(self, now: float) -> None:
        if self.bootstrap.waiting:
            self.bootstrap.look(now)
        elif not self.parts.confirmation.look(now) or self.core.state is StateType.LEADER:
            self.core.tick()  # a leader without a quorum steps down
            self._elect_at_once()
        why_no_leader = self.why_no_leader() if self.core.leader == NONE else ""
        self.proposals.expire(now, self.core.leader, why_no_leader)
        self.reads.expire(now, self.core.leader, why_no_leader)
        self.forwarding.waiting = False
        self.parts.disk_watch.tick()
        self.pacing.tick()
        self.proposer.drop_ended()
        stalled_s = self.disk_stall.look(self.config.heartbeat_s)
        if self.core.state is StateType.LEADER:
            self.leader_contact_s = now
            self._yield_if_disk_stalls(stalled_s)
        self.node_log.tick()
        self.stages.growth.sample(now, self.core.last_index, self.parts.writer.written_bytes)
        self.recovery_barrier.tick()
        self.settlement.tick()
        self.reconfiguration.tick()
        self.snapshotter.tick()
        self.digests.tick()
        self.parts.idle_sessions.tick()

    def _yield_if_disk_stalls(self, stalled_s: float) -> None:
        if stalled_s < self.config.election_s:
            self._stall_told = False
            return
        if not self._stall_told:
            self._stall_told = True
            self.emit(DiskSlow(f"the log has not been synced for {stalled_s:.1f} s"))
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

    def schedule(self) -> None:
        if not self._scheduled and not self.running.stopped:
            self._scheduled = True
            self.loop.call_soon(self._turn)

    def on_messages(self, sender: NodeId, messages: list[PeerMessage]) -> None:
        """From the transport."""
        if self.running.stopped or self.bootstrap.waiting:
            return  # while it waits it must neither vote nor acknowledge
        raft, last_half = self.core.raft, self.parts.disk_watch.shortage is Shortage.LAST_HALF
        try:
            for message in messages:
                if isinstance(message, Message):
                    if last_half and message.type is MessageType.APP and message.entries:
                        continue  # as if the link had lost it: the leader sends it again
                    ahead = message.term > raft.term
                    if ahead and not self.term_guard.admits(sender, message.term, raft.term, self.loop.time()):
                        continue
                    if message.reject and message.type is MessageType.APP_RESP:
                        self.promises.answered(sender, message)
                    self.core.step(message)
                else:
                    self.deliver(sender, message)
            if raft.evidence is not None:
                self.promises.found()
            if self.settlement.index < self.parts.book.membership_index:
                self.settlement.look()
        except Exception as error:  # noqa: BLE001 - see `fail`
            self.fail(error)
        if sender == raft.leader:
            self.leader_contact_s = self.loop.time()
        if self._in_turn:
            self.schedule()  # the turn under way may have checked for work for the last time
        else:
            self._run()

    def on_peer_up(self, peer: NodeId) -> None:
        self.forwarding.waiting = False
        self.parts.confirmation.welcomed(peer)
        self.parts.guard.link_up(peer)
        self.emit(PeerUp(ids.NodeId(peer)))
        self.schedule()

    def on_peer_down(self, peer: NodeId, reason: str) -> None:
        if self.running.stopped:
            return
        self.core.report_unreachable(peer)
        self.asking.link_lost(peer)
        self.emit(PeerDown(ids.NodeId(peer), reason))
        self.running.wake()  # a transfer of the leadership may wait for that peer
        self.schedule()

    def on_room(self, peer: NodeId) -> None:
        self.pacing.room(peer)

    def on_appends_lost(self, peer: NodeId) -> None:
        self.pacing.lost(peer)

    async def on_snapshot(self, sender: NodeId, message: Message, manifest: bytes) -> IncomingSnapshot:
        if self.bootstrap.waiting:
            raise TransportError(self.bootstrap.why_no_leader())
        if not self.term_guard.admits(sender, message.term, self.core.term, self.loop.time()):
            raise TransportError(f"term {message.term} is too far ahead of this node's term {self.core.term}")
        return await self.snapshotter.receive(sender, message, manifest)

    def on_durable(self, responses: list[Message]) -> None:
        """From the log writer: the state that these responses promise is on disk."""
        if self.running.stopped:
            return
        self._appending = False
        self.stages.durable(self.parts.writer.durable_index)
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
            self.parts.intake.look(self.core.commit_index - self.applied)
            self.schedule()

    # -- the turn -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._scheduled = False
        self._run(ask=True)

    def _run(self, *, ask: bool = False) -> None:
        """Give the core the gathered events, and execute its work. An error here stops the node.

        Gathered reads are asked for in turns and ticks alone (`ask`), not after each message or sync.
        """
        if self.running.stopped or self._in_turn:
            return
        self._in_turn = True
        try:
            if self.proposer.queue:
                self._flush_queue()
            if ask and self.reads.to_ask:
                self.reads.ask(self.loop.time())
            if self.core.raft.log.commit_index != self.commit_notifier.known:
                self.commit_notifier.look()
                self.stages.committed(self.commit_notifier.known)
            if self.core.has_ready() and not self.running.stopped:
                self._carry_out_all()
            self.parts.transport.flush()
        except Exception as error:  # noqa: BLE001 - see `fail`
            self.fail(error)
        finally:
            self._in_turn = False

    def _carry_out_all(self) -> None:
        applies, first = 0, self.applied
        while True:
            applied = self.applied
            self._carry_out()
            if self.running.stopped or not self.core.has_ready():
                break
            applies += self.applied != applied
            if applies == APPLIES_PER_TURN or self.applied - first >= APPLIED_PER_TURN:
                self.schedule()
                break
        self.parts.intake.look(self.core.commit_index - self.applied)

    def _carry_out(self) -> None:
        ready = self.core.ready()
        node_log, raft = self.node_log, self.core.raft
        if node_log.term != raft.term or node_log.transferee != raft.transferee:
            node_log.look()
        if ready.soft_state is not None:
            self._on_soft_state(ready.soft_state)
        for message in ready.messages:
            if self.running.stopped:
                return  # a state machine on this loop has failed just now
            if message.to == LOCAL_APPEND:
                self.parts.transport.flush()  # the peers first: their disks can be busy with it meanwhile
                if message.entries:
                    self.stages.stored(message.entries[-1].index, leads=raft.state is StateType.LEADER)
                self.parts.writer.append(message)
                if message.snapshot is not None:
                    self._restore(message)
            elif message.to == LOCAL_APPLY:
                self.parts.machine.put(ApplyWork(message.entries, message.responses))
            else:
                self._send(message)
        if ready.read_states:
            for state in ready.read_states:
                self.reads.confirmed(state)
            self.reads.applied(self.applied)
            if self.reads.gathering:
                # In the turn after next: a caller that was just answered may ask again until then, in the same round.
                self.loop.call_soon(self.schedule)

    def _restore(self, message: Message) -> None:
        assert message.snapshot is not None
        store, meta = self.parts.snapshots, message.snapshot.meta
        held = next((held for held in store.list() if (held.index, held.term) == (meta.index, meta.term)), None)
        if held is None:
            raise AssertionError(f"snapshot {meta.index} is installed, and the store does not have it")
        # Opened now: before its turn comes, a newer one may arrive and make the store drop it.
        self.parts.machine.put(RestoreWork(store.read(held), held.meta, held.runtime, time_of(held.runtime)))

    def _send(self, message: Message) -> None:
        if self.parts.confirmation.withheld:
            return  # another copy of this node may have made other promises; to the core the link has lost it
        kind = message.type
        if kind in ACKNOWLEDGEMENTS:
            message.commit = self.parts.writer.durable_commit
        if kind is MessageType.SNAP:
            self.snapshotter.send(message)
        elif not self.parts.transport.send(message.to, message):
            if kind is MessageType.APP:
                self.core.report_unreachable(message.to)
        elif message.entries and kind is MessageType.APP:
            self.pacing.sent(message.to)

    # -- proposals ----------------------------------------------------------------------------------------------------

    def _flush_queue(self) -> None:
        core, proposals = self.core, self.proposals
        if core.leader == NONE:
            return  # they wait for a leader, or for their deadline
        leads = core.state is StateType.LEADER
        if core.raft.transferee != NONE if leads else self.forwarding.waiting:
            return  # until the next tick, or another leader
        if leads and self._appending and self.proposer.queued_bytes < GATHER_BYTES:
            return  # until `on_durable`
        term = core.term
        if proposals.open_term != term and not proposals.open(term):
            return  # until the attempts of earlier terms are decided
        queue = [item for item in self.proposer.take() if not item[0].done()]
        if proposals.fenced:
            queue = proposals.within_fence(queue, term)
        if leads:
            queue, waiting = self.parts.intake.admitted(queue, core.raft.id, proposals.refused)
            if waiting:
                self.proposer.put_back(waiting)
        if not queue:
            return
        if not leads:
            self.forwarding.forward(queue)
            return
        waiters, kinds, payloads = zip(*queue, strict=True)
        if kinds.count(DATA) == len(kinds):
            self._append_own(waiters, list(payloads))
        else:
            for waiter in waiters:
                waiter.attempt = term
            own = [(waiter.number, kind, payload) for waiter, kind, payload in queue]
            accepted, refused = self.append(core.raft.id, own)
            self.forwarding.on_reply(ForwardReply(accepted, refused, core.leader, term), self.applied)

    def _append_own(self, waiters: Sequence[Waiter], payloads: list[bytes]) -> None:
        """The frequent case: this node leads, and only data has gathered."""
        try:
            stamped = self.parts.stamps.stamped(payloads)
            first, term = self.core.propose_batch(stamped)
        except ProposalDropped:
            for waiter in waiters:
                waiter.attempt = self.core.term
            refused = [self._refused(waiter.number) for waiter in waiters]
            self.forwarding.on_reply(ForwardReply([], refused, self.core.leader, self.core.term), self.applied)
        else:
            self._appending = True
            self.proposals.appended(waiters, first, term)
            if stamped is not payloads:
                for waiter, payload in zip(waiters, stamped, strict=True):
                    if waiter.payload:
                        waiter.payload = payload  # the same bytes as in the log, so that memory holds them once

    def examine(self, sender: NodeId, message: Forward) -> Examined:
        parts = self.parts
        return examine_forward(sender, message, parts.wal.check_space, parts.check, parts.intake.admit)

    def append(
        self, sender: NodeId, proposals: list[tuple[int, int, bytes]]
    ) -> tuple[list[AcceptedProposal], list[RefusedProposal]]:
        """Append proposals of `sender` by the core. Data in one step, changes of the membership one by one."""
        accepted: list[AcceptedProposal] = []
        refused: list[RefusedProposal] = []
        data = [(number, payload) for number, kind, payload in proposals if kind == DATA]
        if data:
            try:
                first, term = self.core.propose_batch(self.parts.stamps.stamped([payload for _, payload in data]))
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
        return dropped(number, self.parts.intake.dropped(), transferring=self.core.raft.transferee != NONE)

    # -- calls to others ---------------------------------------------------------------------------------------------

    def _on_soft_state(self, soft: SoftState) -> None:
        before, self._soft = self._soft, soft
        if soft.leader != before.leader:
            self.leader_changes += soft.leader != NONE
            self.leader_contact_s = self.loop.time() if soft.leader != NONE else self.leader_contact_s
            self.forwarding.waiting = False
            self.reads.leader_changed()
            self.digests.leader_changed()
            self.asking.leader_changed(soft.leader)
            self.emit(LeaderChanged(ids.NodeId(soft.leader) if soft.leader != NONE else None))
        if soft.state is not before.state:
            self.node_log.on_state()
            self.role_watch.look()
            if soft.state is StateType.LEADER:
                self.reconfiguration.became_leader()
        if soft.leader != NONE:
            self.schedule()  # proposals that waited for a leader can be sent now
        self.running.wake()

    def why_no_leader(self) -> str:
        """For people: the members that a first start waits for, or the members that are reached."""
        why = self.bootstrap.why_no_leader()
        return why if self.bootstrap.waiting else f"{why}: {self.node_log.reachability()}"

    def emit(self, event: Event) -> None:
        self.node_log.on_event(event)
        self.events.emit(event, term=self.core.term, index=self.applied)
