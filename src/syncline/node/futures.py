"""Futures of operations under way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec

from syncline.errors import SynclineError
from syncline.node.node_future import NodeFuture
from syncline.platform.waiting import result_of

__all__ = [
    "ApplyCall",
    "ApplyFuture",
    "Queued",
    "ReadFuture",
    "Repeated",
    "Then",
    "UNPLACED",
    "Waiter",
    "settle",
    "settle_error",
]

Then: TypeAlias = Callable[[object, SynclineError | None], None]
"""Called once, on the event loop, with the state machine's answer, or with None and the error."""

R = TypeVar("R")
"""What the state machine answers."""

UNPLACED: Final = 0
"""The index of a proposal that has no position in the log yet, as far as this node knows."""


class Waiter(Protocol):
    """Waits for a proposal of this node. `Proposals` sets its fields, and ends it exactly once."""

    number: int
    """Unique on this node, and part of the proposal."""
    size_bytes: int
    """Its size under the limit of waiting proposals."""
    index: int
    """The log index: known once the leader has placed it, final once there is an answer."""
    term: int
    """The term of the leader that placed it."""
    deadline_s: float
    """When it ends, by the loop's clock."""
    attempt: int
    """The term of its newest attempt: sent to the leader of that term, or appended by this node as that leader.

    0 while it stands in this node's queue. From then on silence means `unknown`.
    """
    payload: bytes
    """Data to propose again once an attempt can't take effect any more; empty if it is never proposed again."""
    fence: int
    """The only term in which it may be appended; 0: in any."""
    frees_space: bool
    """Whether the command lets the state shrink."""

    def done(self) -> bool:
        """Whether no caller waits any more."""
        ...

    def answered(self, answer: object) -> None:
        """The state machine has answered."""
        ...

    def failed(self, error: SynclineError) -> None:
        """There is no answer, or it is a refusal."""
        ...


Queued: TypeAlias = tuple[Waiter, int, bytes]
"""A proposal of this node that waits for the leader: its waiter, its kind, its bytes."""


class Repeated(msgspec.Struct, frozen=True):
    """The answer to a command of a session that was applied before: the recorded one, or its error."""

    answer: object


class ApplyFuture(NodeFuture[R]):
    """A proposal under way. Await it for the state machine's answer.

    Ends at the deadline given to `Raft.apply` at the latest. It fails with an `errors.OperationError` whose `outcome`
    says whether the proposal can still take effect. Cancelling it ends the wait, not the proposal itself.

    Another thread may be given it, and waits for it by `result`.

    `index` is its log index: known once the leader has appended it, final once there is an answer; 0 before.
    `term` is the term of the leader that appended it. The other attributes are internal.
    """

    # A `Waiter`. Defaults of the class and not of each object: this is made for every proposal.
    number: int = 0
    size_bytes: int = 0
    index: int = UNPLACED
    """The log index: known once the leader has placed it, final once there is an answer."""
    term: int = 0
    """The term of the leader that placed it."""
    deadline_s: float = 0.0
    attempt: int = 0
    payload: bytes = b""
    fence: int = 0
    frees_space: bool = False

    def answered(self, answer: object) -> None:
        """Resolve, unless the caller has given up."""
        if not self.done():
            self.set_result(answer)  # type: ignore[arg-type]  # what the state machine has answered

    def failed(self, error: SynclineError) -> None:
        """Fail, unless the caller has given up."""
        settle_error(self, error)

    @property
    def response(self) -> R:
        """Return the state machine's answer; raises as `result()` does."""
        return self.result()


class ApplyCall:
    """A proposal whose answer is a callback: without a future, in the turn of the loop that has the answer."""

    # A `Waiter`, with defaults of the class as those of `ApplyFuture`.
    number: int = 0
    size_bytes: int = 0
    index: int = UNPLACED
    term: int = 0
    deadline_s: float = 0.0
    attempt: int = 0
    payload: bytes = b""
    fence: int = 0
    """Commands of `Raft._apply_then` are never fenced."""
    frees_space: bool = False

    def __init__(self, then: Then) -> None:
        self._then: Then | None = then
        """None once it has been called: its entry in a queue must then be ignored."""

    def done(self) -> bool:
        return self._then is None

    def answered(self, answer: object) -> None:
        self._end(answer, None)

    def failed(self, error: SynclineError) -> None:
        self._end(None, error)

    def _end(self, answer: object, error: SynclineError | None) -> None:
        then, self._then = self._then, None
        assert then is not None, "it has ended before"
        try:
            then(answer, error)
        except Exception as raised:  # noqa: BLE001 - the caller's fault must not stop the node that calls it
            report(raised)


def report(error: Exception) -> None:
    """Report an error in a caller's callback to the event loop, as the loop reports errors of its own callbacks."""
    message = "a callback of a proposal failed"
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})


class ReadFuture(NodeFuture[object]):
    """A read being confirmed, shared by all callers of the same moment: a caller that gives up must not end the
    others.

    So it can't be cancelled, and a task that awaits it waits on a future of its own.
    """

    joined_before_s: float = -math.inf
    """A later read with the same time-out may wait for it, too, without asking the node, if its deadline is before
    this. No read may once the confirmation has been asked for: that would not speak of it."""
    deadline_s: float = math.inf
    """When it ends, by the loop's clock: no earlier than the deadline of any read that waits for it."""

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002 - the signature is asyncio's
        """Do nothing: others may wait for it, too."""
        return False

    def __await__(self) -> Generator[Any, None, object]:
        return super().__await__() if self.done() else result_of(self).__await__()

    __iter__ = __await__


def settle(future: asyncio.Future[object], value: object) -> None:
    """Resolve, unless the caller has given up."""
    if not future.done():
        future.set_result(value)


def settle_error(future: asyncio.Future[R], error: SynclineError) -> None:
    """Fail, unless the caller has given up. A caller that never looks is not an error of its own to log."""
    if not future.done():
        future.set_exception(error)
        future.exception()
