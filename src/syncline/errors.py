"""Every error that Syncline raises, in one tree, and what each says about the operation that failed.

    SynclineError
    ├── ConfigError               a setting, flag or file that can't be used (also a ValueError)
    ├── UsageError                a call that can't be made here or now (also a RuntimeError)
    ├── OperationError            one operation failed
    │   ├── Rejected              the state machine refused it, the same way on every node
    │   │   ├── RevisionCompacted the revision that is asked for was compacted
    │   │   ├── Unauthenticated   a credential is missing, wrong, expired or withdrawn
    │   │   └── PermissionDenied  the user may not do this
    │   ├── NotLeader             this node does not lead; `leader` is the leader's id, if known
    │   ├── LeadershipLost        a node has lost the leadership under which a block ran: another one may lead
    │   ├── NoLeader              no node leads: no quorum, or an election is under way
    │   ├── Dropped               the leader dropped it before it entered the log (overload, transfer)
    │   │   └── BacklogFull       too much is committed and not applied yet
    │   ├── NoSpace               the state machine's state has reached its limit; commands that free space pass
    │   ├── TooLarge              above a limit; nothing was stored
    │   ├── DeadlineExceeded      the deadline passed first (also a TimeoutError)
    │   ├── Superseded            another leader's entry was committed in its place
    │   ├── MembershipError       a change of the membership that can't be made
    │   │   └── QuorumAtRisk      after it no quorum of the voters would be alive
    │   ├── TransferFailed        the leadership did not reach the node it was meant for
    │   ├── NothingToSnapshot     nothing was applied since the newest snapshot
    │   ├── SessionExpired        a session has ended, or a sequence is below its floor: not applied by this attempt
    │   ├── IdempotencyMismatch   the key of a command was used for another command
    │   ├── AnswerNotKept         a command was applied before, and its answer is not kept
    │   ├── LimitReached          there are too many of something
    │   ├── WatchEnded            a watch has ended; it can be resumed
    │   ├── LeaseLost             (client) a held lease may be over: another client may hold what it stood for
    │   │   └── LockLost          a lock, a leadership or a place in a queue for one is lost
    │   ├── Closed                the node was closed before the operation ended
    │   ├── Unreachable           (client) no server could be reached, or the connection was lost (also a
    │   │                         ConnectionError)
    │   └── RequestFailed         (client) the server refused, for a reason that has no class of its own: see `code`
    ├── NodeFailed                the node stopped itself: its disk, its log or its state machine can't be trusted
    ├── StorageError              files on disk
    │   ├── DirectoryLocked       another process holds the data directory
    │   ├── WrongDirectory        the directory belongs to another cluster or node
    │   ├── FormatVersionError    written by a version that this one can't read
    │   ├── CorruptionError       bytes that are not what was written: corruption, or foreign files
    │   ├── RepairNeeded          a promise of the node is lost: only `syncline repair` helps
    │   └── DiskFull              writes are refused to keep the reserve; reads go on
    └── TransportError            links between nodes
        ├── HandshakeRefused      the other end is another node than expected, or refused with a reason
        └── FrameError            bytes that are not a valid frame

Each error has an `outcome`: after `not_applied` a retry is safe; after `unknown` the operation may or may not take
effect, now or later. Catch `OperationError` around an operation:

    try:
        await raft.apply(b"...")
    except OperationError as error:
        if error.outcome is Outcome.UNKNOWN:
            ...  # read before you try again

`DeadlineExceeded` and `Unreachable` are also `OSError`s, as all of Python's own `TimeoutError` and `ConnectionError`
are: a handler of `OSError` around an operation catches them, too.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "AnswerNotKept",
    "BacklogFull",
    "Closed",
    "ConfigError",
    "CorruptionError",
    "DeadlineExceeded",
    "DirectoryLocked",
    "DiskFull",
    "Dropped",
    "FormatVersionError",
    "FrameError",
    "HandshakeRefused",
    "IdempotencyMismatch",
    "LeadershipLost",
    "LeaseLost",
    "LimitReached",
    "LockLost",
    "MembershipError",
    "NoLeader",
    "NoSpace",
    "NodeFailed",
    "NotLeader",
    "NothingToSnapshot",
    "OperationError",
    "Outcome",
    "PermissionDenied",
    "QuorumAtRisk",
    "Rejected",
    "RepairNeeded",
    "RequestFailed",
    "RevisionCompacted",
    "SessionExpired",
    "StorageError",
    "Superseded",
    "SynclineError",
    "TooLarge",
    "TransferFailed",
    "TransportError",
    "Unauthenticated",
    "Unreachable",
    "UsageError",
    "WatchEnded",
    "WrongDirectory",
]


class Outcome(StrEnum):
    """What is known of an operation that did not succeed."""

    NOT_APPLIED = "not_applied"
    """It has had no effect and never will: safe to retry."""

    UNKNOWN = "unknown"
    """It may have taken effect, or may still: read before retrying, or make the retry idempotent."""


class SynclineError(Exception):
    """The root of the tree. `outcome` says whether the operation that failed can still take effect."""

    outcome: Outcome = Outcome.UNKNOWN
    """What is not known to be safe to retry is `unknown`."""


class ConfigError(SynclineError, ValueError):
    """A setting that can't be used. The message names the setting, the value and what would be accepted.

    `settings` names the settings of a node or server that it is about; empty if it is about something else.
    """

    outcome: Outcome = Outcome.NOT_APPLIED

    def __init__(self, message: str, *, settings: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.settings: tuple[str, ...] = settings


class UsageError(SynclineError, RuntimeError):
    """A call that can't be made in this place or state, such as a second `open` of one node."""

    outcome: Outcome = Outcome.NOT_APPLIED


class OperationError(SynclineError):
    """One operation failed.

    `code` is stable and is what the HTTP interface shows; `outcome` says whether a retry is safe.
    """

    code: str = "operation_failed"
    outcome: Outcome = Outcome.NOT_APPLIED
    leader: int | None
    """The id of the node that leads, if it is known."""

    def __init__(self, message: str, *, outcome: Outcome | None = None, leader: int | None = None) -> None:
        super().__init__(message)
        if outcome is not None:
            self.outcome = outcome
        self.leader = leader


class Rejected(OperationError):
    """The state machine refused the command. Raised by `FSM.apply`; a result like any other, equal on every node.

    Or by its `check`, if it has one: then the command did not even enter the log.

    `code` names the refusal for programs; `details` holds plain data (numbers, texts) for the caller.
    """

    code: str = "rejected"

    def __init__(self, message: str, *, code: str | None = None, details: dict[str, int | str] | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.details: dict[str, int | str] = details or {}


class RevisionCompacted(Rejected):
    """The history no longer has the revision that was asked for. Read the present state, then go on from there.

    `oldest` is the oldest revision that can be read.
    """

    code: str = "compacted"

    def __init__(self, message: str, *, oldest: int = 0) -> None:
        super().__init__(message, details={"oldest": oldest})
        self.oldest = oldest


class Unauthenticated(Rejected):
    """A credential is missing, wrong, expired or withdrawn, and clients need one."""

    code: str = "unauthenticated"


class PermissionDenied(Rejected):
    """The user may not do this. Another attempt fails likewise, until a role allows it."""

    code: str = "permission_denied"


class NotLeader(OperationError):
    """This node does not lead; `leader` is the id of the node that does, if known."""

    code: str = "not_leader"


class LeadershipLost(OperationError):
    """This node has lost the leadership of the term in which a block of `Raft.leadership` ran. Another node may lead.

    What the block did without a fence may have happened beside the work of the next leader.
    """

    code: str = "leadership_lost"
    outcome: Outcome = Outcome.UNKNOWN


class NoLeader(OperationError):
    """No node leads: no quorum is reachable, or an election is under way."""

    code: str = "no_leader"


class Dropped(OperationError):
    """The leader dropped the proposal before it entered the log: too much in flight, or a leadership transfer."""

    code: str = "dropped"


class BacklogFull(Dropped):
    """Too much is committed and not applied yet: the state machine is slower than its callers.

    Nothing was proposed. Wait until some of it is applied, or propose less at a time.
    """

    code: str = "backlog"


class NoSpace(OperationError):
    """The state machine's state has reached its limit. Commands that delete still pass; the message says what helps."""

    code: str = "no_space"


class TooLarge(OperationError):
    """Above a limit that the message names. Nothing was stored."""

    code: str = "too_large"


class DeadlineExceeded(OperationError, TimeoutError):
    """The deadline passed; also a `TimeoutError`.

    `outcome` is `unknown` unless it is certain that nothing was proposed.
    """

    code: str = "deadline_exceeded"
    outcome: Outcome = Outcome.UNKNOWN


class Superseded(OperationError):
    """The leader changed before this was committed: it never takes effect.

    For changes of the membership, and fenced proposals (`apply(data, term=…)`). A command is proposed again instead,
    unless a later command of the same node was applied before it.
    """

    code: str = "superseded"


class MembershipError(OperationError):
    """A change of the membership that can't be made; the message says why and what to do."""

    code: str = "membership"


class QuorumAtRisk(MembershipError):
    """After this change no quorum of the voters would be alive, so that nothing could be committed any more.

    Or a learner would become a voter that has not caught up and is not connected. The message names the members that
    are not alive, or not caught up. Start them first, or pass `force=True`.
    """

    code: str = "quorum_at_risk"


class TransferFailed(OperationError):
    """The leadership did not reach the node that it was meant for before the deadline."""

    code: str = "transfer_failed"


class NothingToSnapshot(OperationError):
    """Nothing was applied since the newest snapshot."""

    code: str = "nothing_to_snapshot"


class SessionExpired(OperationError):
    """The session has ended, or the sequence is below its floor. This attempt is not applied.

    An earlier attempt may have taken effect, so `outcome` is `unknown`, unless the caller knows that there was none.
    """

    code: str = "session_expired"
    outcome: Outcome = Outcome.UNKNOWN


class IdempotencyMismatch(OperationError):
    """The key of a command was used for another command. Nothing was applied."""

    code: str = "idempotency_mismatch"


class AnswerNotKept(OperationError):
    """The command took effect, or was refused, when it came for the first time, and its answer is not kept.

    It is never applied again. Read what it has written.
    """

    code: str = "answer_not_kept"
    outcome: Outcome = Outcome.UNKNOWN


class LimitReached(OperationError):
    """There are too many of something that the message names. Nothing was done."""

    code: str = "limit"


class WatchEnded(OperationError):
    """A watch has ended before its client ended it. Watch again from `resume`, here or elsewhere: nothing is lost.

    `code` says why: `slow_watcher`, `no_leader`, or `closed`.
    """

    code: str = "watch_ended"

    def __init__(self, message: str, *, code: str | None = None, resume: int = 0) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.resume = resume


class Closed(OperationError):
    """The node was closed before the operation ended."""

    code: str = "closed"
    outcome: Outcome = Outcome.UNKNOWN


class LeaseLost(OperationError):
    """A lease that a client held may be over: its keep-alives failed until its time was over, or it was ended.

    Another client may hold by now what it stood for.
    """

    code: str = "lease_lost"
    outcome: Outcome = Outcome.UNKNOWN


class LockLost(LeaseLost):
    """A lock, a leadership or a place in a queue for one is lost: its lease may be over, or its key was deleted.

    Another client may hold it by now. `key` is the key that stood for it.
    """

    code: str = "lock_lost"

    def __init__(self, message: str, *, key: bytes = b"") -> None:
        super().__init__(message)
        self.key = key


class Unreachable(OperationError, ConnectionError):
    """A client reached no server, or lost the connection before the answer came (`outcome` is then `unknown`).

    Also a `ConnectionError`.
    """

    code: str = "unreachable"


class RequestFailed(OperationError):
    """A server refused a client's request; `code` is the server's own, `status` the HTTP status it came with."""

    code: str = "request_failed"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        outcome: Outcome | None = None,
        leader: int | None = None,
    ) -> None:
        super().__init__(message, outcome=outcome, leader=leader)
        if code is not None:
            self.code = code
        self.status = status


class NodeFailed(SynclineError):
    """The node stopped itself (fail-stop): going on would risk the data. The message says what, where, what to do.

    `outcome` is `not_applied` for an operation that began after the stop, and `unknown` for those before.
    """

    def __init__(self, message: str, *, outcome: Outcome = Outcome.UNKNOWN) -> None:
        super().__init__(message)
        self.outcome = outcome


class StorageError(SynclineError):
    """A file or directory on disk can't be used. The message names it and the next step."""


class DirectoryLocked(StorageError):
    """Another live process holds the data directory; `pid` is its process id, if known."""

    outcome: Outcome = Outcome.NOT_APPLIED

    def __init__(self, message: str, *, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class WrongDirectory(StorageError):
    """The data directory belongs to another cluster or another node."""

    outcome: Outcome = Outcome.NOT_APPLIED


class FormatVersionError(StorageError):
    """The files were written in a format that this version can't read. The message says which one can."""

    outcome: Outcome = Outcome.NOT_APPLIED


class CorruptionError(StorageError):
    """Bytes on disk are not what was written. The node must not start on them.

    `file` and `offset` say where; `first_index` and `last_index` which entries are affected, where known.
    """

    outcome: Outcome = Outcome.NOT_APPLIED

    def __init__(
        self,
        message: str,
        *,
        file: str,
        offset: int | None = None,
        first_index: int | None = None,
        last_index: int | None = None,
    ) -> None:
        super().__init__(message)
        self.file = file
        self.offset = offset
        self.first_index = first_index
        self.last_index = last_index


class RepairNeeded(StorageError):
    """The node can't start on this directory under its identity, though no byte of it is wrong. The message says why,
    and how `syncline repair` is called."""

    outcome: Outcome = Outcome.NOT_APPLIED


class DiskFull(StorageError):
    """A write was refused so that the reserve is kept. Reads go on; the refusal ends when space returns."""

    outcome: Outcome = Outcome.NOT_APPLIED


class TransportError(SynclineError):
    """A link between two nodes."""


class HandshakeRefused(TransportError):
    """One end is another node than the other end expects; the message names the difference."""

    outcome: Outcome = Outcome.NOT_APPLIED


class FrameError(TransportError):
    """Bytes on a link are no valid frame: a wrong port, another protocol, or damage."""
