"""The core's face: a node that is driven by hand, one event at a time.

    node = RawNode(RaftConfig(id=1, storage=storage, ...))
    node.tick(), node.step(message), node.propose(data), ...       events in
    while node.has_ready():
        ready = node.ready()                                        effects out
        ... write, send, apply what it holds (see `Ready`) ...
        node.advance()                                              synchronous form only

In the asynchronous form (`async_storage_writes`) there is no `advance`. Storage work leaves as messages to
`LOCAL_APPEND` and `LOCAL_APPLY`, and any number of them may be under way. The responses that each carries are stepped
or sent when its work is durable. Messages to one of the two must be worked off in their order.

In either form writes must become durable in their order: a hard state not later than the entries that were handed out
with it or after it. No response waits for a commit index alone to be durable, but the safety of membership changes
rests on it (see `election.campaign_if_allowed`).

Not safe for threads: all calls come from one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec

from syncline.consensus import append_entries, leader, membership_change
from syncline.consensus.config import RaftConfig
from syncline.consensus.evidence import Evidence
from syncline.consensus.membership import Configuration, ProgressMap, encode_change
from syncline.consensus.progress import Progress
from syncline.consensus.quorum import JointConfig
from syncline.consensus.raft import RaftCore
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    NONE,
    EntryType,
    HardState,
    LogEntry,
    MembershipChange,
    MembershipState,
    Message,
    MessageType,
    NodeId,
    ProposalDropped,
    Ready,
    StateType,
    StepRefusal,
)
from syncline.consensus.validation import examine

__all__ = ["RawNode", "Status"]


class Status(msgspec.Struct, frozen=True):
    """A node at one moment. `progress` is a copy, sorted by id, and empty unless the node leads."""

    id: NodeId
    term: int
    vote: NodeId
    commit_index: int
    applied: int
    state: StateType
    leader: NodeId
    transferee: NodeId
    configuration: Configuration
    membership: MembershipState
    progress: ProgressMap


class RawNode:
    """One node of a Raft group."""

    __slots__ = ("_async_storage", "_hard_state", "_on_advance", "_soft_state", "raft")

    def __init__(self, config: RaftConfig) -> None:
        """Start, or restart, a node from what `config.storage` holds. Raises ValueError if that is inconsistent.

        A node whose storage holds no membership belongs to no group yet: it waits to be added to one.
        """
        self.raft: RaftCore = RaftCore(config)
        self._async_storage = config.async_storage_writes
        self._soft_state = self.raft.soft_state()
        """The soft state of the last `Ready`, as `_hard_state`."""
        self._hard_state = self.raft.hard_state()
        self._on_advance: list[Message] = []
        """In the synchronous form: messages that the node steps itself at `advance`."""

    # -- events ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A tick of the clock has passed."""
        self.raft.tick()

    def campaign(self) -> None:
        """Start an election now (with pre-vote if that is on), unless the node leads or must not lead."""
        self.raft.step(Message(MessageType.HUP))

    def step(self, message: Message) -> StepRefusal | None:
        """Handle a message of a peer, or a response of storage.

        Returns None, or why the message was refused: it then had no effect, and is counted in `raft.dropped`. Never
        raises, whatever the message holds.
        """
        refusal = examine(self.raft, message)
        if refusal is None:
            refusal = self.raft.step(message)
        if refusal is not None:
            self.raft.dropped[refusal] += 1
        return refusal

    def propose(self, data: bytes) -> None:
        """Propose a command; a follower forwards it to the leader. It may be lost before it is committed.

        Raises ProposalDropped if there is no leader, or it takes no proposals.
        """
        self._propose(LogEntry(0, 0, EntryType.NORMAL, data))

    def propose_batch(self, batch: list[bytes]) -> tuple[int, int]:
        """Append commands to the leader's log in one step. Returns the index of the first one, and their term.

        They are committed as of that term, or not at all. Raises ProposalDropped, and appends none of them, if this
        node does not lead or takes no proposals; ValueError if the batch is empty.
        """
        if not batch:
            raise ValueError("an empty batch")
        raft = self.raft
        if raft.state is not StateType.LEADER or not leader.may_propose(raft):
            self._drop()
        first, term = raft.log.last_index + 1, raft.term
        normal = EntryType.NORMAL
        if not leader.replicate(raft, [LogEntry(term, index, normal, data) for index, data in enumerate(batch, first)]):
            self._drop()
        return first, term

    def propose_membership(self, change: MembershipChange, *, v1: bool = False) -> None:
        """Propose a change of the membership; without changes, to leave a joint membership.

        If another change is under way, or it does not fit the membership in force, the leader appends an empty entry
        instead. `v1` writes an entry of the first kind, for a single change. Raises ProposalDropped as `propose`.
        """
        kind = EntryType.CONF_CHANGE if v1 else EntryType.CONF_CHANGE_V2
        assert not v1 or len(change.changes) == 1, "an entry of the first kind holds one change"
        self._propose(LogEntry(0, 0, kind, encode_change(change)))

    def apply_membership(self, change: MembershipChange, *, index: int = 0) -> MembershipState:
        """Put a committed change into force when its entry is applied. Returns the membership in force then.

        `index` is the entry's. Give it if entries are applied asynchronously: a snapshot with a newer membership may
        have arrived since the entry was handed out, and the change must not be applied to that one. Raises
        MembershipRefused if the change does not fit, on every node alike: the membership stays as it is.
        """
        return membership_change.apply_change(self.raft, change, index)

    def preview_membership(self, change: MembershipChange) -> MembershipState:
        """The membership that `apply_membership` would return now. Changes nothing. Raises MembershipRefused."""
        return membership_change.changed(self.raft, change)[0].state()

    def tell_commit(self) -> None:
        """In a leader with `lazy_commit`: send the commit index to all followers that lack it.

        A follower with too much under way gets it after its next answer.
        """
        raft = self.raft
        if raft.state is StateType.LEADER:
            raft.told_commit = raft.log.commit_index
            for node_id, progress in raft.tracker.progress.items():
                if node_id != raft.id:
                    append_entries.tell_commit(raft, node_id, progress)

    def read_index(self, context: bytes) -> bool:
        """Ask for an index from which on a local read is linearizable; it comes as a `ReadState` with this context.

        It does not come if the leader changes or messages are lost. Then ask again with a new context, so that the
        answers can't be confused. False: there is no leader to ask, or too many reads wait.
        """
        raft = self.raft
        request = Message(MessageType.READ_INDEX, entries=(LogEntry(0, 0, EntryType.NORMAL, context),))
        refusal = StepRefusal.NO_LEADER if raft.leader == NONE else raft.step(request)
        if refusal is not None:
            raft.dropped[refusal] += 1
        return refusal is None

    def transfer_leadership(self, to: NodeId) -> None:
        """Transfer the leadership to `to`; a follower forwards the request. It fails after an election timeout."""
        self.raft.step(Message(MessageType.TRANSFER_LEADER, sender=to))

    def forget_leader(self) -> None:
        """Follow no leader until the next message of one, for instance because the leader is known to be gone."""
        self.raft.step(Message(MessageType.FORGET_LEADER))

    def report_unreachable(self, node_id: NodeId) -> None:
        """The transport has lost messages to a peer: probe it instead of pipelining."""
        self.raft.step(Message(MessageType.UNREACHABLE, sender=node_id))

    def set_room(self, node_id: NodeId, room_bytes: int) -> None:
        """Set how many more bytes the connection to a follower takes. Sends one append of missing entries, if it
        fits.

        An append is cut to the room; a single entry may exceed it. Call this again when that append was given to the
        connection.
        """
        raft = self.raft
        progress = raft.tracker.progress.get(node_id)
        if progress is None or raft.state is not StateType.LEADER or node_id == raft.id:
            return
        progress.room_bytes = room_bytes
        if room_bytes <= 0:
            return
        progress.paused_by_room = False
        if progress.next_index <= raft.log.last_index:
            append_entries.maybe_send_append(raft, node_id, progress, send_if_empty=False)

    def has_room(self, node_id: NodeId, least_bytes: int) -> bool:
        """Whether a follower lacks nothing that was not sent, and its connection takes so much more, as last said."""
        progress, unstable = self.raft.tracker.progress.get(node_id), self.raft.log.unstable
        if progress is None or progress.room_bytes < least_bytes:
            return False
        return progress.next_index >= unstable.offset + len(unstable.entries)

    def still_sending(self, node_id: NodeId) -> None:
        """Messages to a follower are still being sent: an append without an answer is not lost yet."""
        progress = self.raft.tracker.progress.get(node_id)
        if progress is not None:
            progress.still_sending()

    def loaded(self) -> None:
        """Entries that storage did not have in memory (`NotLoaded`) can be read now: send them."""
        raft = self.raft
        if raft.state is StateType.LEADER:
            for node_id, progress in raft.tracker.progress.items():
                if node_id != raft.id and progress.next_index <= raft.log.last_index:
                    append_entries.maybe_send_append(raft, node_id, progress, send_if_empty=False)

    def report_snapshot(self, node_id: NodeId, ok: bool) -> None:
        """A snapshot transfer to a peer has ended. Before this, or an answer, the peer is sent nothing else."""
        self.raft.step(Message(MessageType.SNAP_STATUS, sender=node_id, reject=not ok))

    def _propose(self, entry: LogEntry) -> None:
        message = Message(MessageType.PROP, sender=self.raft.id, entries=(entry,))
        if self.raft.step(message) is not None:
            self._drop()

    def _drop(self) -> NoReturn:
        self.raft.dropped[StepRefusal.PROPOSAL_DROPPED] += 1
        raise ProposalDropped(StepRefusal.PROPOSAL_DROPPED.value)

    def take_evidence(self) -> Evidence | None:
        """The newest evidence of a lost promise since the last call (see `evidence`); None if there is none."""
        found, self.raft.evidence = self.raft.evidence, None
        return found

    # -- effects --------------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `ready` would hold anything."""
        raft = self.raft
        if raft.messages or raft.messages_after_append or raft.read_states:
            return True
        log = raft.log
        unstable = log.unstable
        hard_state, soft_state = self._hard_state, self._soft_state
        return (
            unstable.offset_in_progress < unstable.offset + len(unstable.entries)
            or (unstable.snapshot is not None and not unstable.snapshot_in_progress)
            or log.commit_index != hard_state.commit
            or raft.term != hard_state.term
            or raft.vote != hard_state.vote
            or raft.leader != soft_state.leader
            or raft.state is not soft_state.state
            or (log.applying < log.commit_index and log.has_next_committed(allow_unstable=not self._async_storage))
        )

    def ready(self) -> Ready:
        """Return the work to do. The caller must do all of it."""
        raft = self.raft
        log = raft.log
        unstable = log.unstable
        soft_state, hard_state = self._soft_state, self._hard_state
        term, vote = hard_state.term, hard_state.vote
        new_soft = new_hard = None
        if raft.leader != soft_state.leader or raft.state is not soft_state.state:
            new_soft = self._soft_state = raft.soft_state()
        if log.commit_index != hard_state.commit or raft.term != term or raft.vote != vote:
            new_hard = self._hard_state = raft.hard_state()
        entries, snapshot = unstable.next_entries(), unstable.next_snapshot()
        committed: Sequence[LogEntry] = ()
        if log.applying < log.commit_index:
            committed = log.next_committed(allow_unstable=not self._async_storage)
        ready = Ready(
            soft_state=new_soft,
            hard_state=new_hard,
            read_states=raft.read_states,
            entries=entries,
            snapshot=snapshot,
            committed_entries=committed,
            messages=raft.messages,
            must_sync=bool(entries) or raft.term != term or raft.vote != vote,
        )
        if self._async_storage:
            self._add_storage_messages(ready, raft.messages)
        else:
            self._defer_to_advance(ready, raft.messages)
        raft.read_states = []
        raft.messages = []
        raft.messages_after_append = []
        if entries or snapshot is not None:
            unstable.accept_in_progress()
        if committed:
            log.accept_applying(committed, allow_unstable=not self._async_storage)
        return ready

    def advance(self) -> None:
        """The last Ready is done: written, and applied. Only in the synchronous form."""
        assert not self._async_storage, "storage answers for itself in the asynchronous form"
        responses, self._on_advance = self._on_advance, []
        for response in responses:
            self.raft.step(response)

    def _defer_to_advance(self, ready: Ready, messages: list[Message]) -> None:
        """Keep messages that wait for the writes of `ready`: the runtime sends those to peers, `advance` steps the
        node's own.
        """
        assert not self._on_advance, "a second Ready was taken before `advance`"
        for message in self.raft.messages_after_append:
            (self._on_advance if message.to == self.raft.id else messages).append(message)
        if (appended := self._append_response(ready)) is not None:
            self._on_advance.append(appended)
        if ready.committed_entries:
            self._on_advance.append(self._apply_response(ready))

    def _add_storage_messages(self, ready: Ready, messages: list[Message]) -> None:
        """Put the storage work of `ready` into messages to storage."""
        raft = self.raft
        if ready.entries or ready.hard_state or ready.snapshot or raft.messages_after_append:
            # Earlier promises may still be on their way to the disk. Storage works in order, so a response that
            # goes with this message, even if it has nothing to write, waits for all of that.
            responses = raft.messages_after_append
            if (appended := self._append_response(ready)) is not None:
                responses.append(appended)
            hard_state = ready.hard_state or HardState()
            messages.append(
                Message(
                    MessageType.STORAGE_APPEND,
                    to=LOCAL_APPEND,
                    sender=raft.id,
                    term=hard_state.term,
                    vote=hard_state.vote,
                    commit=hard_state.commit,
                    entries=ready.entries,
                    snapshot=ready.snapshot,
                    responses=responses,
                )
            )
        if ready.committed_entries:
            messages.append(
                Message(
                    MessageType.STORAGE_APPLY,
                    to=LOCAL_APPLY,
                    sender=raft.id,
                    entries=ready.committed_entries,
                    responses=[self._apply_response(ready)],
                )
            )

    def _append_response(self, ready: Ready) -> Message | None:
        """The response of storage once everything up to `ready` is durable.

        It carries the present term, and is ignored in another one (see `Unstable.stable_to`). An ignored response
        must not leave entries unstable, so each response covers the whole log and not only this Ready's entries. The
        first response of a new term, whose hard state must always be written, makes up for the ignored ones.
        """
        raft = self.raft
        unstable = raft.log.unstable
        if not unstable.entries and ready.snapshot is None:
            return None
        response = Message(MessageType.STORAGE_APPEND_RESP, to=raft.id, sender=LOCAL_APPEND, term=raft.term)
        if unstable.entries:
            last = unstable.entries[-1]
            response.index, response.log_term = last.index, last.term
        response.snapshot = ready.snapshot
        return response

    def _apply_response(self, ready: Ready) -> Message:
        """The response of the state machine once it has applied the entries of `ready`. It has no term."""
        return Message(
            MessageType.STORAGE_APPLY_RESP, to=self.raft.id, sender=LOCAL_APPLY, entries=ready.committed_entries
        )

    # -- views ----------------------------------------------------------------------------------------------------

    @property
    def id(self) -> NodeId:
        return self.raft.id

    @property
    def leader(self) -> NodeId:
        """The leader, as far as this node knows; NONE if it knows none."""
        return self.raft.leader

    @property
    def state(self) -> StateType:
        return self.raft.state

    @property
    def term(self) -> int:
        return self.raft.term

    @property
    def commit_index(self) -> int:
        return self.raft.log.commit_index

    @property
    def applied(self) -> int:
        return self.raft.log.applied

    @property
    def last_index(self) -> int:
        return self.raft.log.last_index

    def reload(
        self,
        *,
        election_ticks: int,
        max_message_bytes: int,
        max_uncommitted_bytes: int,
        max_inflight_messages: int,
        max_inflight_bytes: int,
    ) -> None:
        """Go on with other timers and limits (see `RaftConfig`). Raises ValueError as `RaftConfig` does."""
        config = self.raft.config
        changed = dataclasses.replace(
            config,
            election_ticks=election_ticks,
            probe_ticks=election_ticks if config.probe_ticks else 0,
            max_message_bytes=max_message_bytes,
            max_uncommitted_bytes=max_uncommitted_bytes,
            max_inflight_messages=max_inflight_messages,
            max_inflight_bytes=max_inflight_bytes,
        )
        self.raft.reload(changed)

    @property
    def election_ticks(self) -> int:
        return self.raft.config.election_ticks

    @property
    def vote(self) -> NodeId:
        return self.raft.vote

    @property
    def transferee(self) -> NodeId:
        """In a leader: the node to which it is transferring leadership."""
        return self.raft.transferee

    @property
    def pending_membership_index(self) -> int:
        """In a leader: no other change is taken before the entry at this index is applied."""
        return self.raft.pending_membership_index

    @property
    def membership(self) -> MembershipState:
        """The membership in force."""
        return self.raft.tracker.configuration.state()

    @property
    def voters(self) -> JointConfig:
        """Those whose quorums decide: of a joint membership both halves."""
        return self.raft.tracker.configuration.voters

    @property
    def progress(self) -> Mapping[NodeId, Progress]:
        """What is known of each member, by id; in a leader only is it up to date."""
        return self.raft.tracker.progress

    @property
    def dropped(self) -> Mapping[StepRefusal, int]:
        """How many messages and requests were refused, by reason."""
        return self.raft.dropped

    def term_at(self, index: int) -> int:
        """The term of an entry of the log. Raises Compacted or Unavailable if it is not there."""
        return self.raft.log.term(index)

    def status(self) -> Status:
        """All of it at once. Copies: for people and metrics rather than for every event."""
        raft = self.raft
        leads = raft.state is StateType.LEADER
        return Status(
            id=raft.id,
            term=raft.term,
            vote=raft.vote,
            commit_index=raft.log.commit_index,
            applied=raft.log.applied,
            state=raft.state,
            leader=raft.leader,
            transferee=raft.transferee,
            configuration=raft.tracker.configuration,
            membership=raft.tracker.configuration.state(),
            progress={node_id: one.copy() for node_id, one in raft.tracker.progress.items()} if leads else {},
        )
