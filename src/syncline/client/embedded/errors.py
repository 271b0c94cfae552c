"""Errors of a node as those that `AsyncClient` raises: a program catches the same ones, wherever its keys are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from syncline.errors import (
    Closed,
    DiskFull,
    Dropped,
    LimitReached,
    NodeFailed,
    NoLeader,
    NotLeader,
    OperationError,
    Outcome,
    Rejected,
    RequestFailed,
    RevisionCompacted,
    StorageError,
    Superseded,
    SynclineError,
    TooLarge,
)

__all__ = ["client_error", "closed", "node_errors", "tried_again"]

TRIED_AGAIN: Final = (NoLeader, NotLeader, Dropped, Superseded)
"""Refusals after which the same call may succeed a moment later."""

CLASSES: Final[dict[str, type[OperationError]]] = {kind.code: kind for kind in (TooLarge, LimitReached, Superseded)}
"""Refusals of the state machine that have a class of their own for callers."""


def closed(outcome: Outcome = Outcome.NOT_APPLIED) -> Closed:
    """The error of a call that was under way when the store was closed."""
    return Closed("the store was closed before the operation ended", outcome=outcome)


def tried_again(error: SynclineError) -> bool:
    """Whether the same call may be made again: it was not applied, and may succeed later."""
    if error.outcome is not Outcome.NOT_APPLIED:
        return False
    return isinstance(error, TRIED_AGAIN) or (isinstance(error, RequestFailed) and error.code == "too_stale")


def client_error(error: BaseException, *, read: bool = False) -> BaseException:
    """The error to raise in one caller; a new one, for a node gives one error to all callers of a moment.

    `read`: the call only reads, so it has taken no effect.
    """
    if not isinstance(error, SynclineError):
        return error
    made = _made(error)
    if read:
        made.outcome = Outcome.NOT_APPLIED
    return made


def _made(error: SynclineError) -> SynclineError:
    match error:
        case Rejected(code="compacted"):
            oldest = error.details.get("oldest", 0)
            made: SynclineError = RevisionCompacted(str(error), oldest=oldest if isinstance(oldest, int) else 0)
        case Rejected() if error.code in CLASSES:
            made = CLASSES[error.code](str(error))
        case NodeFailed():
            made = RequestFailed(str(error), code="node_failed", status=503, outcome=error.outcome)
        case DiskFull():
            made = RequestFailed(str(error), code="disk_full", status=507, outcome=error.outcome)
        case StorageError():
            made = RequestFailed(str(error), code="storage", status=500, outcome=error.outcome)
        case _:
            return copy.copy(error)
    made.__cause__ = error
    return made


@contextmanager
def node_errors(*, read: bool = False) -> Iterator[None]:
    """Errors of the node's own calls in this block become those of a client."""
    try:
        yield
    except SynclineError as error:
        made = client_error(error, read=read)
        raise made from (made.__cause__ or error.__cause__)
