"""Every error that Syncline raises, in one tree, and what each says about the operation that failed.

    SynclineError
    ├── ConfigError               a setting, flag or file that can't be used (also a ValueError)
    ├── UsageError                a call that can't be made here or now (also a RuntimeError)
    ├── OperationError            one operation failed
    │   ├── Rejected              the state machine refused it, the same way on every node
    │   ├── NotLeader             this node does not lead; `leader` says who does, where known
    │   ├── NoLeader              nobody leads: no quorum, or an election is under way
    │   ├── Dropped               the leader let it go before it entered the log (overload, hand-over)
    │   │   └── BacklogFull       too much is committed and not applied yet
    │   ├── NoSpace               the state machine's state has reached its limit; commands that free space pass
    │   ├── TooLarge              above a limit; nothing was stored
    │   ├── DeadlineExceeded      the deadline passed first (also a TimeoutError)
    │   ├── Superseded            another leader's entry was committed in its place
    │   ├── MembershipError       a change of the membership that can't be made
    │   │   └── QuorumAtRisk      after it no quorum of the voters would be alive
    │   ├── TransferFailed        the leadership did not reach the node it was meant for
    │   ├── NothingToSnapshot     nothing was applied since the newest snapshot
    │   ├── Closed                the node was closed before the operation ended
    │   ├── Unreachable           (client) no server could be reached, or the connection was lost (also a
    │   │                         ConnectionError)
    │   └── RequestFailed         (client) the server refused, for a reason that has no class of its own: see `code`
    ├── NodeFailed                the node stopped itself: its disk, its log or its state machine can't be trusted
    ├── StorageError              files on disk
    │   ├── DirectoryLocked       another process holds the data directory
    │   ├── WrongDirectory        the directory belongs to another cluster or node
    │   ├── FormatVersionError    written by a version that this one can't read
    │   ├── CorruptionError       bytes that are not what was written: rot, or foreign files
    │   ├── RepairNeeded          what the node once promised is lost: only `syncline repair` leads on
    │   └── DiskFull              writes are refused to keep the reserve; reads go on
    └── TransportError            links between nodes
        ├── HandshakeRefused      the other end is not who it should be, and said why
        └── FrameError            bytes that are not a frame of ours

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
    "MembershipError",
    "NoLeader",
    "NoSpace",
    "NodeFailed",
    "NotLeader",
    "NothingToSnapshot",
    "OperationError",
    "Outcome",
    "QuorumAtRisk",
    "Rejected",
    "RepairNeeded",
    "RequestFailed",
    "StorageError",
    "Superseded",
    "SynclineError",
    "TooLarge",
    "TransferFailed",
    "TransportError",
    "Unreachable",
    "UsageError",
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
    """A setting that can't be used. The message names the setting, the value and what would be accepted."""

    outcome: Outcome = Outcome.NOT_APPLIED


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


class NotLeader(OperationError):
    """This node does not lead; `leader` is the id of the node that does, where known."""

    code: str = "not_leader"


class NoLeader(OperationError):
    """Nobody leads: no quorum is reachable, or an election is under way."""

    code: str = "no_leader"


class Dropped(OperationError):
    """The leader let the proposal go before it entered the log: too much in flight, or a hand-over under way."""

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
    """After this change those alive would be no quorum, so that nothing could be committed any more.

    The message names the voters that are not alive, or not caught up. Start them first, or pass `force=True`.
    """

    code: str = "quorum_at_risk"


class TransferFailed(OperationError):
    """The leadership did not reach the node that it was meant for before the deadline."""

    code: str = "transfer_failed"


class NothingToSnapshot(OperationError):
    """Nothing was applied since the newest snapshot."""

    code: str = "nothing_to_snapshot"


class Closed(OperationError):
    """The node was closed before the operation ended."""

    code: str = "closed"
    outcome: Outcome = Outcome.UNKNOWN


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
    """Another live process holds the data directory; `pid` is its process id, where known."""

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
    """One of the two ends is not who the other expects; the message says what differs."""

    outcome: Outcome = Outcome.NOT_APPLIED


class FrameError(TransportError):
    """Bytes on a link are not a frame of ours: a wrong port, another protocol, or damage."""
