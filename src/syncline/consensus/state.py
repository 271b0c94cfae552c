"""The state of one node of a Raft group, and the two ways out of it: a message and a line of the trace.

The files of one subject each (`election`, `append_entries`, `leader`, ...) are functions over this class. It imports
none of them, so each of them can import it.
"""

from __future__ import annotations

from collections import Counter

from syncline.consensus.config import RaftConfig
from syncline.consensus.evidence import Evidence
from syncline.consensus.log import RaftLog
from syncline.consensus.membership import Configuration, ProgressMap
from syncline.consensus.progress import Inflights, Progress
from syncline.consensus.quorum import VoteResult
from syncline.consensus.read_queue import ReadQueue
from syncline.consensus.types import (
    NO_LIMIT,
    NONE,
    HardState,
    Message,
    MessageType,
    NodeId,
    ReadState,
    SoftState,
    StateType,
    StepRefusal,
)

__all__ = ["RaftState", "Tracker"]

_TYPES_WITH_TERMS_OF_THEIR_OWN = frozenset(
    {
        *(MessageType.VOTE, MessageType.VOTE_RESP, MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESP),
        *(MessageType.PROP, MessageType.READ_INDEX),  # none
    }
)
_AFTER_APPEND_TYPES = frozenset({MessageType.APP_RESP, MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP})


class Tracker:
    """The membership in force, with what is known of each member: its progress, and its vote in a running election."""

    __slots__ = (
        "_first_room_bytes",
        "_last_session",
        "_max_inflight_bytes",
        "_max_inflight_messages",
        "configuration",
        "progress",
        "votes",
    )

    def __init__(self, max_inflight_messages: int, max_inflight_bytes: int, first_room_bytes: int = NO_LIMIT) -> None:
        self._first_room_bytes = first_room_bytes
        self._max_inflight_messages = max_inflight_messages
        self._max_inflight_bytes = max_inflight_bytes
        self._last_session = 0
        self.configuration: Configuration = Configuration()
        self.progress: ProgressMap = {}
        """Every member, sorted by id: messages to all go out in this order."""
        self.votes: dict[NodeId, bool] = {}

    def limit(self, max_inflight_messages: int, max_inflight_bytes: int) -> None:
        """Have other limits of the appends under way, for each member and for later ones."""
        self._max_inflight_messages, self._max_inflight_bytes = max_inflight_messages, max_inflight_bytes
        for progress in self.progress.values():
            progress.inflights.limit(max_inflight_messages, max_inflight_bytes)

    def switch(self, configuration: Configuration, progress: ProgressMap) -> None:
        """Put `configuration` into force."""
        self.configuration = configuration
        self.progress = dict(sorted(progress.items()))

    def make_progress(self, next_index: int, learner: bool) -> Progress:
        """The progress of a new member, in a session of its own.

        It counts as active: otherwise it would cost the leader its quorum before it could answer.
        """
        return Progress(
            next_index=next_index,
            inflights=Inflights(self._max_inflight_messages, self._max_inflight_bytes),
            learner=learner,
            recent_active=True,
            session=self._new_session(),
            room_bytes=self._first_room_bytes,
        )

    def reset(self, self_id: NodeId, last_index: int) -> None:
        """Drop the state of all members: a new term or role begins. The node's own log is fully known to it."""
        self.votes.clear()
        for node_id, old in self.progress.items():
            self.progress[node_id] = Progress(
                match_index=last_index if node_id == self_id else 0,
                next_index=last_index + 1,
                inflights=Inflights(self._max_inflight_messages, self._max_inflight_bytes),
                learner=old.learner,
                session=self._new_session(),
                room_bytes=self._first_room_bytes,
            )

    def committed_index(self) -> int:
        """The highest index that a quorum is known to hold."""
        return self.configuration.voters.committed_index(
            {node_id: one.match_index for node_id, one in self.progress.items()}
        )

    def quorum_active(self) -> bool:
        """Whether a quorum has answered lately."""
        active = {node_id: one.recent_active for node_id, one in self.progress.items() if not one.learner}
        return self.configuration.voters.vote_result(active) is VoteResult.WON

    def record_vote(self, node_id: NodeId, granted: bool) -> None:
        """Count a vote. The first one of a node counts."""
        self.votes.setdefault(node_id, granted)

    def tally(self) -> tuple[int, int, VoteResult]:
        """Votes granted, votes rejected, and the result."""
        voted = [
            self.votes[node_id] for node_id, one in self.progress.items() if not one.learner and node_id in self.votes
        ]
        granted = sum(voted)
        return granted, len(voted) - granted, self.configuration.voters.vote_result(self.votes)

    def _new_session(self) -> int:
        # Never reused while the node runs, hence unique within a term: a node leads a term only once.
        self._last_session += 1
        return self._last_session


class RaftState:
    """The state of one node, without what it does with an event."""

    __slots__ = (
        "_trace",
        "config",
        "dropped",
        "election_elapsed",
        "evidence",
        "heartbeat_elapsed",
        "id",
        "leader",
        "leader_session",
        "log",
        "max_uncommitted_bytes",
        "messages",
        "messages_after_append",
        "pending_membership_index",
        "randomized_election_timeout",
        "read_states",
        "reads",
        "restored_index",
        "state",
        "term",
        "told_commit",
        "tracker",
        "transferee",
        "uncommitted_bytes",
        "vote",
    )

    def __init__(self, config: RaftConfig) -> None:
        """Continue from the state in `config.storage`. Raises ValueError if that contradicts itself."""
        self.id: int = config.id
        self.config: RaftConfig = config
        self._trace = config.trace
        self.term: int = 0
        self.vote: int = NONE
        self.state: StateType = StateType.FOLLOWER
        self.leader: int = NONE
        """The leader of this term, as far as it is known."""
        self.leader_session: int = 0
        """The newest replication session in which the leader of this term has sent anything."""
        self.transferee: int = NONE
        """In a leader: the transferee of a leadership transfer (thesis, 3.10)."""
        self.log: RaftLog = RaftLog(
            config.storage, config.max_committed_bytes_per_ready or config.max_message_bytes or NO_LIMIT
        )
        self.tracker: Tracker = Tracker(
            config.max_inflight_messages, config.max_inflight_bytes, config.first_room_bytes
        )
        self.reads: ReadQueue = ReadQueue(config.read_only)
        self.read_states: list[ReadState] = []
        self.messages: list[Message] = []
        """May be sent at once."""
        self.messages_after_append: list[Message] = []
        """May be sent once everything that is unstable now is durable: they promise it (thesis, 3.8)."""
        self.pending_membership_index: int = 0
        """In a leader: no change of the membership above this index is in the log. At most one is unapplied at a time:
        another one is taken when this index is applied (thesis, 4.1)."""
        self.restored_index: int = 0
        """The index of the last snapshot that replaced the log while the node ran: the membership in force is at least
        as new as this."""
        self.told_commit: int = 0
        """In a leader with a lazy commit index: all followers must be sent this commit index. A follower with too much
        under way gets it after its next answer."""
        self.max_uncommitted_bytes: int = config.max_uncommitted_bytes or NO_LIMIT
        self.uncommitted_bytes: int = 0
        """In a leader: payload of its uncommitted tail, never overestimated; only counted under a limit."""
        self.election_elapsed: int = 0
        """Ticks since the last election timeout (in a leader or candidate), or since the last message of a leader."""
        self.heartbeat_elapsed: int = 0
        self.randomized_election_timeout: int = 0
        self.dropped: Counter[StepRefusal] = Counter()
        """How many messages and requests were refused, by reason, since the node started."""
        self.evidence: Evidence | None = None
        """The newest piece of evidence of a lost promise. The runtime takes it with `RawNode.take_evidence`."""

    def reload(self, config: RaftConfig) -> None:
        """Go on with other timers and limits. All other settings must be those of before, and so must `NO_LIMIT`: what
        has no limit is not counted.

        Another election timeout begins from zero: what has elapsed was counted in ticks of another length, or towards
        another number. So an election, or a check of the quorum, comes up to one election timeout later.
        """
        before, self.config = self.config, config
        self.log.max_applying_bytes = config.max_committed_bytes_per_ready or config.max_message_bytes or NO_LIMIT
        self.tracker.limit(config.max_inflight_messages, config.max_inflight_bytes)
        self.max_uncommitted_bytes = config.max_uncommitted_bytes or NO_LIMIT
        if config.election_ticks != before.election_ticks:
            self.election_elapsed = 0
            self.draw_timeout()

    def draw_timeout(self) -> None:
        """A new random election timeout, so that two nodes that split a vote do not do so again (thesis, 3.4)."""
        election_ticks = self.config.election_ticks
        self.randomized_election_timeout = election_ticks + self.config.rng.randrange(election_ticks)

    # -- views ----------------------------------------------------------------------------------------------------

    def soft_state(self) -> SoftState:
        return SoftState(self.leader, self.state)

    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.commit_index)

    def note(self, level: str, text: str, *values: object) -> None:
        """Write a trace line; `text` is a %-format for `values`."""
        if self._trace is not None:
            self._trace(level, text % values)

    # -- effects --------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Queue a message. Votes carry the term that they are for, requests none, all others the node's own.

        Votes and acknowledgements of entries are promises, so they wait until their state is durable, rejections
        included (thesis, 3.8). Only these may be addressed to the node itself.
        """
        if message.sender == NONE:
            message.sender = self.id
        kind = message.type
        if kind not in _TYPES_WITH_TERMS_OF_THEIR_OWN:
            message.term = self.term
        if kind in _AFTER_APPEND_TYPES:
            # Sent before its state is durable, a crash could break the promise: a second vote in one term, or a commit
            # that counts an entry which this node then lacks.
            self.messages_after_append.append(message)
        else:
            assert message.to != self.id, "a message to oneself needs no sending"
            self.messages.append(message)

    def respond_to_read(self, request: Message, index: int) -> None:
        """A read is confirmed at `index`: answer the node that asked."""
        if request.sender in (NONE, self.id):
            self.read_states.append(ReadState(index, request.entries[0].data))
        else:
            self.send(Message(MessageType.READ_INDEX_RESP, to=request.sender, index=index, entries=request.entries))
