"""The state of one node of a Raft group, and the two ways out of it: a message and a line of the trace.

The files of one subject each (`election`, `append_entries`, `leader`, ...) are functions over this class. It imports
none of them, so each of them can import it.
"""

from __future__ import annotations

from collections import Counter

from syncline.consensus.config import RaftConfig
from syncline.consensus.evidence import Evidence
from syncline.consensus.log import RaftLog
from syncline.consensus.read_queue import ReadQueue
from syncline.consensus.tracker import Tracker
from syncline.consensus.types import (
    NO_LIMIT,
    NONE,
    HardState,
    Message,
    MessageType,
    ReadState,
    Refusal,
    SoftState,
    StateType,
)

__all__ = ["RaftState"]

_TYPES_WITH_TERMS_OF_THEIR_OWN = frozenset(
    {
        *(MessageType.VOTE, MessageType.VOTE_RESP, MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESP),
        *(MessageType.PROP, MessageType.READ_INDEX),  # none
    }
)
_AFTER_APPEND_TYPES = frozenset({MessageType.APP_RESP, MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP})


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
        """An empty node: `Raft` continues from what `config.storage` holds."""
        self.id = config.id
        self.config = config
        self._trace = config.trace
        self.term = 0
        self.vote = NONE
        self.state = StateType.FOLLOWER
        self.leader = NONE
        """Who leads this term, as far as is known."""
        self.leader_session = 0
        """The newest replication session in which the leader of this term has sent anything."""
        self.transferee = NONE
        """In a leader: whom it is handing over to (thesis, 3.10)."""
        self.log = RaftLog(config.storage, config.max_committed_bytes_per_ready or config.max_message_bytes or NO_LIMIT)
        self.tracker = Tracker(config.max_inflight_messages, config.max_inflight_bytes, config.first_room_bytes)
        self.reads = ReadQueue(config.read_only)
        self.read_states: list[ReadState] = []
        self.messages: list[Message] = []
        """May be sent at once."""
        self.messages_after_append: list[Message] = []
        """May be sent once everything unstable at this moment is durable: they promise it (thesis, 3.8)."""
        self.pending_membership_index = 0
        """In a leader: no change of the membership above this index is in the log. At most one is unapplied at a time:
        another one is taken when this index is applied (thesis, 4.1)."""
        self.restored_index = 0
        """The index of the last snapshot that replaced the log while the node ran: the membership in force is at least
        as new as this."""
        self.told_commit = 0
        """In a leader with a lazy commit index: up to here everybody is to be told. Who could not be when that was
        decided, because too much was under way to it, is told with its next answer."""
        self.max_uncommitted_bytes = config.max_uncommitted_bytes or NO_LIMIT
        self.uncommitted_bytes = 0
        """In a leader: payload of its uncommitted tail, never overestimated; only counted under a limit."""
        self.election_elapsed = 0
        """Ticks since the last election timeout (in a leader or candidate), or since a leader was last heard of."""
        self.heartbeat_elapsed = 0
        self.randomized_election_timeout = 0
        self.dropped: Counter[Refusal] = Counter()
        """How many messages and requests were refused, by reason, since the node started."""
        self.evidence: Evidence | None = None
        """The newest piece of evidence of a lost promise. The runtime takes it with `RawNode.take_evidence`."""

    # -- views ----------------------------------------------------------------------------------------------------

    def soft_state(self) -> SoftState:
        return SoftState(self.leader, self.state)

    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)

    def note(self, level: str, text: str, *values: object) -> None:
        """Tell the trace what happens; `text` is a %-format for `values`."""
        if self._trace is not None:
            self._trace(level, text % values)

    # -- effects --------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Queue a message. Votes carry the term they are about, requests none; everything else carries the node's own.

        Votes and acknowledgements of entries promise something that must not be forgotten, so they wait until the
        promise is durable, refusals included (thesis, 3.8). To itself a node sends only these.
        """
        if message.sender == NONE:
            message.sender = self.id
        kind = message.type
        if kind not in _TYPES_WITH_TERMS_OF_THEIR_OWN:
            message.term = self.term
        if kind in _AFTER_APPEND_TYPES:
            self.messages_after_append.append(message)
        else:
            assert message.to != self.id, "a message to oneself needs no sending"
            self.messages.append(message)

    def respond_to_read(self, request: Message, index: int) -> None:
        """A read is confirmed at `index`: tell the node that asked."""
        if request.sender in (NONE, self.id):
            self.read_states.append(ReadState(index, request.entries[0].data))
        else:
            self.send(Message(MessageType.READ_INDEX_RESP, to=request.sender, index=index, entries=request.entries))
