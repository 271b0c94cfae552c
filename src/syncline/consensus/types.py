"""Types of the Raft core: entries, messages, memberships, snapshots, and `Ready`.

Plain data, compared by value. The numbers of the enumerations are part of the log and wire formats: never reused,
never renumbered (they are those of etcd/raft, whose traces the core reproduces).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import Annotated, Final, TypeAlias

import msgspec

NodeId: TypeAlias = int
"""A node's identity: a positive integer below 2**63, never an address, never reused."""

NONE: Final[NodeId] = 0
"""No node: an unknown leader, a vote not given."""

LARGEST_ID: Final[NodeId] = 2**63 - 1
"""The largest id of a node. Above it are ids that no member may have: `LOCAL_APPEND` and `LOCAL_APPLY`."""

LOCAL_APPEND: Final[NodeId] = 2**64 - 1
"""Where storage appends are addressed to: the node's own log writer."""

LOCAL_APPLY: Final[NodeId] = 2**64 - 2
"""Where committed entries are addressed to: the node's own state machine."""

NO_LIMIT: Final[int] = 2**63 - 1
"""A size or count without effect as a limit."""


class EntryType(IntEnum):
    """The kind of an entry's data."""

    NORMAL = 0
    """A command for the state machine. Empty data: the entry a leader appends when it starts its term."""

    CONF_CHANGE = 1
    """One change of one member (`MembershipChange` with a single change, never joint)."""

    CONF_CHANGE_V2 = 2
    """Any change of the membership, joint if it must be. Empty data: leave the joint membership."""


class LogEntry(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One position of the replicated log."""

    term: int
    index: int
    type: EntryType = EntryType.NORMAL
    data: bytes = b""


class HardState(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """State that must survive a crash beside the entries, always written as one record (thesis, figure 3.1)."""

    term: int = 0
    vote: NodeId = NONE
    commit: int = 0


class MembershipState(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A membership as data: its voters and learners. Tuples are sorted.

    `voters_outgoing` is empty unless the membership is joint (thesis, 4.3); `learners_next` are members of the
    outgoing half that become learners when the joint membership is left.
    """

    voters: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    voters_outgoing: tuple[NodeId, ...] = ()
    learners_next: tuple[NodeId, ...] = ()
    auto_leave: bool = False


class SnapshotMeta(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The index and term of a snapshot, and the membership at that index."""

    index: int = 0
    term: int = 0
    membership: MembershipState = MembershipState()


class Snapshot(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A snapshot as the core sees it. The runtime keeps the state itself in files and leaves `data` empty."""

    meta: SnapshotMeta = SnapshotMeta()
    data: bytes = b""


class ChangeType(IntEnum):
    """The change of one member."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3


class Transition(IntEnum):
    """How a change is carried out (thesis, 4.3)."""

    AUTO = 0
    """Simple if one voter changes, else joint and left automatically."""

    JOINT_IMPLICIT = 1
    """Joint, left automatically once the joint membership is committed."""

    JOINT_EXPLICIT = 2
    """Joint, left by an empty `MembershipChange`."""


class SingleChange(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The change of one member as a part of a `MembershipChange`."""

    type: ChangeType
    node_id: NodeId


class MembershipChange(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A change of the membership. Without changes: leave the joint membership.

    `context` is the proposer's and is carried along unread.
    """

    transition: Transition = Transition.AUTO
    changes: tuple[SingleChange, ...] = ()
    context: bytes = b""


class MessageType(IntEnum):
    """Every event of the core. `raft.py` dispatches them.

    | messages | RPC of the paper | sender |
    | --- | --- | --- |
    | `APP`, `APP_RESP` | AppendEntries | leader |
    | `HEARTBEAT`, `HEARTBEAT_RESP` | AppendEntries without entries | leader |
    | `VOTE`, `VOTE_RESP` | RequestVote | candidate |
    | `PRE_VOTE`, `PRE_VOTE_RESP` | RequestVote before the term rises (PreVote: thesis, 9.6) | pre-candidate |
    | `SNAP` (answered by `APP_RESP`) | InstallSnapshot | leader |
    | `TIMEOUT_NOW` | TimeoutNow (leadership transfer: thesis, 3.10) | leader |
    | `READ_INDEX`, `READ_INDEX_RESP` | ReadIndex (thesis, 6.4) | any node, answered by the leader |
    | `PROP`, `TRANSFER_LEADER` | a client's request | the node itself, or forwarded by a follower |
    | `STORAGE_…` | none: work for the node's own log and state machine | the node itself |
    | the others | none: events of the node itself | the node itself |
    """

    HUP = 0  # an election timeout: campaign
    BEAT = 1  # a heartbeat interval: send heartbeats
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10  # the transport could not deliver
    SNAP_STATUS = 11  # a snapshot transfer ended
    CHECK_QUORUM = 12  # an election timeout of the leader: is a quorum active?
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18
    STORAGE_APPEND = 19  # to the log writer
    STORAGE_APPEND_RESP = 20
    STORAGE_APPLY = 21  # to the state machine
    STORAGE_APPLY_RESP = 22
    FORGET_LEADER = 23  # follow no leader until the next message of one


class Message(msgspec.Struct, array_like=True, gc=False):
    """One message between nodes, or between a node and its own storage. Fields keep their zero if unused.

    `vote` is set on `STORAGE_APPEND` only (with `term` and `commit` it is the hard state to write). `session` numbers
    the replication session of an append, a snapshot and their answers. A peer that is removed and added again within a
    term gets a new one: it is never credited with an answer to the old one.
    `responses` are delivered once the storage work that carries them is done. None are decoded: storage is no peer, and
    a frame full of nested messages would take eighty times its size.
    `commit_term` is the term of the entry at `commit`, in votes and their answers (0: not given).
    In the answers to appends and heartbeats `commit` is the sender's durable commit index; the runtime fills it in.
    """

    type: MessageType
    to: NodeId = NONE
    sender: NodeId = NONE
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: Sequence[LogEntry] = ()
    commit: int = 0
    vote: NodeId = NONE
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""
    session: int = 0
    responses: Annotated[Sequence[Message], msgspec.Meta(max_length=0)] = ()
    commit_term: int = 0


class StateType(IntEnum):
    """A node's role."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


class SoftState(msgspec.Struct, gc=False, frozen=True):
    """State that is reported but need not survive a crash."""

    leader: NodeId
    state: StateType


class ReadState(msgspec.Struct, gc=False, frozen=True):
    """A confirmed read: once `index` is applied, a local read is linearizable (thesis, 6.4)."""

    index: int
    context: bytes


class Ready(msgspec.Struct):
    """The work that a node asks its runtime to do, all at once.

    Synchronous form: write `entries`, `hard_state` and `snapshot` durably, then send `messages`, apply
    `committed_entries`, and call `RawNode.advance()`. Asynchronous form: everything but soft state and read states is
    in `messages`: those to `LOCAL_APPEND` and `LOCAL_APPLY` are work for the node's own storage, the rest is sent at
    once. The responses carried by a storage message are stepped (or sent) when its work is durable. (`hard_state`,
    `entries`, `committed_entries` and `snapshot` are filled in this form too, for information.)
    """

    soft_state: SoftState | None = None
    hard_state: HardState | None = None
    read_states: Sequence[ReadState] = ()
    entries: Sequence[LogEntry] = ()
    snapshot: Snapshot | None = None
    committed_entries: Sequence[LogEntry] = ()
    messages: Sequence[Message] = ()
    must_sync: bool = False


class StepRefusal(StrEnum):
    """Why a message was not taken. The first three texts are those of etcd/raft's errors."""

    PROPOSAL_DROPPED = "raft proposal dropped"
    """There is no leader, or it takes no proposals now (leadership transfer, removal, or too much uncommitted)."""

    UNKNOWN_PEER = "raft: cannot step as peer not found"
    """An answer of a node that is not a member."""

    LOCAL_MESSAGE = "raft: cannot step raft local message"
    """An event that only the node itself may raise came from outside."""

    MISROUTED = "raft: message is for another node"
    MALFORMED = "raft: malformed message"
    """Fields that contradict each other, or the message's type."""

    IMPOSSIBLE_INDEX = "raft: message speaks of entries that can't exist"
    """A commit index, or an acknowledgement, beyond the end of the log. A node that has lost a part of its log
    gets one: it refuses to commit entries that it lacks, and reports it (see `evidence`)."""

    STALE_SESSION = "raft: answer to another replication session"
    """An answer to a message that was sent before the peer was removed and added again (see `Message.session`)."""

    SECOND_LEADER = "raft: this term has another leader"
    """It is reported (see `evidence`), and the node goes on following the first leader."""

    TOO_MANY_READS = "raft: too many reads are waiting"
    NO_LEADER = "raft: no leader to ask"


class ProposalDropped(Exception):
    """The core did not take a proposal (no leader, a transfer, too much uncommitted): nothing entered the log."""


class Compacted(Exception):
    """The asked-for entries are older than the log's first: they are in a snapshot."""


class Unavailable(Exception):
    """The asked-for entries are beyond the log's last."""


class NotLoaded(Exception):
    """The requested entries are on disk and are being read; `RawNode.loaded` reports when they can be read."""


class SnapshotUnavailable(Exception):
    """A snapshot can't be given at the moment; ask again later."""
