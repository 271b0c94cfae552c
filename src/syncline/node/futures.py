"""Results in waiting: what a caller holds while an operation is under way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Generator
from typing import Any, Final

from syncline.errors import SynclineError

__all__ = ["ApplyFuture", "ReadFuture", "settle", "settle_error"]

UNPLACED: Final = 0
"""The index of a proposal that has no position in the log yet, as far as this node knows."""


class ApplyFuture(asyncio.Future[object]):
    """A proposal on its way. Await it for what the state machine answered.

    Ends at the deadline given to `Raft.apply` at the latest. It fails with an `errors.OperationError` whose `outcome`
    says whether the proposal can still take effect. Cancelling it gives up waiting, not the proposal itself.
    """

    def __init__(self, *, number: int, size_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.number = number
        self.size_bytes = size_bytes
        self.index = UNPLACED
        """The log index: known once the leader has placed it, final once the future has a result."""
        self.term = 0
        """The term of the leader that placed it."""
        self.bucket = 0
        """Where its deadline is kept."""
        self.sent = False
        """Whether it has left this node's queue: from then on silence means `unknown`."""
        self.forwarded: tuple[int, bytes] | None = None
        """Kind and payload while the leader has them, should it turn them back."""

    @property
    def response(self) -> object:
        """What the state machine answered; raises as `result()` does."""
        return self.result()


class ReadFuture(asyncio.Future[object]):
    """A read being confirmed, shared by all that came close together: one that gives up must not end the others.

    So it can't be cancelled, and a task that awaits it waits on a future of its own.
    """

    joined_before_s = -math.inf
    """A later read with the same time-out may wait for it, too, without asking the node, if its deadline is before
    this. No read may once the confirmation has been asked for: that would not speak of it."""

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002 - the signature is asyncio's
        return False

    def __await__(self) -> Generator[Any, None, object]:
        return super().__await__() if self.done() else asyncio.shield(self).__await__()

    __iter__ = __await__


def settle(future: asyncio.Future[object], value: object) -> None:
    """Resolve, unless the caller has given up."""
    if not future.done():
        future.set_result(value)


def settle_error(future: asyncio.Future[object], error: SynclineError) -> None:
    """Fail, unless the caller has given up. A caller that never looks is not an error of its own to log."""
    if not future.done():
        future.set_exception(error)
        future.exception()
