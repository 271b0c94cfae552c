"""A leader's refusal of a forwarded proposal: as an error, and as a message to the node that proposed it."""

from __future__ import annotations

from typing import Final

from syncline.consensus.types import NodeId
from syncline.errors import (
    BacklogFull,
    DiskFull,
    Dropped,
    LimitReached,
    MembershipError,
    NoSpace,
    NotLeader,
    OperationError,
    QuorumAtRisk,
    Rejected,
    SynclineError,
    TooLarge,
)
from syncline.transport.messages import RefusedProposal

__all__ = ["DISK_FULL", "HANDING_OVER", "AskAgain", "dropped", "error_of", "refused", "sendable"]

HANDING_OVER: Final = "handing_over"
"""A leader's refusal that means: ask again, this leader or the next one."""

DISK_FULL: Final = "disk_full"
"""The code of a refusal by a leader whose disk is full: `DiskFull` at the node that had proposed."""

MAX_TEXT_CHARACTERS: Final = 1024
"""Characters of a refusal: a state machine's `check` may say anything."""

_ERRORS: Final[dict[str, type[OperationError]]] = {
    error.code: error
    for error in (Dropped, BacklogFull, LimitReached, NoSpace, NotLeader, MembershipError, QuorumAtRisk, TooLarge)
}


class AskAgain(Dropped):
    """The leader can't decide yet: the node that forwards the proposal keeps it, and asks again."""

    code = HANDING_OVER


def refused(number: int, error: OperationError | DiskFull) -> RefusedProposal:
    """The refusal of the proposal with this number, ready to be sent."""
    text = sendable(str(error))
    if isinstance(error, DiskFull):
        return RefusedProposal(number, DISK_FULL, text)
    if isinstance(error, Rejected):
        return RefusedProposal(number, Rejected.code, text, sendable(str(error.code)))
    return RefusedProposal(number, error.code, text)


def dropped(number: int, backlog: BacklogFull | None, *, transferring: bool) -> RefusedProposal:
    """The refusal of a proposal that the core did not take: for a transfer, for the `backlog`, or for its own limit."""
    if backlog is not None and not transferring:
        return refused(number, backlog)
    text = "the leader takes no proposals: a leadership transfer is under way, or too much is uncommitted"
    return RefusedProposal(number, HANDING_OVER if transferring else Dropped.code, text)


def sendable(text: str) -> str:
    """The text within its limit, without characters that UTF-8 can't hold: a leniently decoded command has such."""
    return text[:MAX_TEXT_CHARACTERS].encode(errors="backslashreplace").decode()


def error_of(item: RefusedProposal, leader: NodeId | None) -> SynclineError:
    """The error of a proposal that the leader refused. A code of a later version counts as `Dropped`."""
    if item.code == DISK_FULL:
        return DiskFull(item.message)
    if item.code == Rejected.code:
        return Rejected(item.message, code=item.reason or None)
    return _ERRORS.get(item.code, Dropped)(item.message, leader=leader)
