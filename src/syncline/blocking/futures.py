"""Futures of proposals, for threads without an event loop."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from syncline.client.blocking.portal import HeldObject, Portal
from syncline.errors import Closed, DeadlineExceeded, Outcome, UsageError
from syncline.node.arguments import check_timeout
from syncline.node.futures import ApplyFuture
from syncline.node.session_calls import SessionFuture

__all__ = ["BlockingFuture"]

R = TypeVar("R")
"""What the state machine answers."""


class BlockingFuture(HeldObject[ApplyFuture[R]], Generic[R]):
    """A proposal under way. Any thread may wait for it.

        first, second = raft.apply_many([b"one", b"two"])
        print(first.result(), second.result(timeout=1.0))

    It ends at the deadline of the proposal at the latest, also if the node is closed.
    """

    def __init__(self, portal: Portal, future: ApplyFuture[R]) -> None:
        super().__init__(portal, future, "the future")

    def result(self, timeout: float | None = None) -> R:
        """Wait for the state machine's answer, and return it.

            answer = future.result(timeout=1.0)

        `timeout`: seconds to wait; None: until the deadline of the proposal.

        Raises:
            DeadlineExceeded: it is not answered within `timeout` seconds, and goes on (`unknown`).
            OperationError, NodeFailed: as the future of `syncline.Raft.apply` fails.
            UsageError: an event loop runs in this thread, or the future belongs to the parent of this process.
        """
        limit_s = None if timeout is None else check_timeout(timeout)
        future = self._here()
        if not future.done():  # else there is nothing to wait for, and the node may be closed
            try:
                self._call(lambda future: _done(future, limit_s))
            except (Closed, UsageError):
                # The node was closed just now, which has ended the proposal: its own outcome is the one that counts.
                if not future.done():
                    raise
        return future.result()

    def done(self) -> bool:
        """Whether it has an answer or an error. It does not wait.

            while not future.done():
                work()

        In a forked child it is a `UsageError`.
        """
        return self._here().done()

    @property
    def index(self) -> int:
        """The log index: known once the leader has placed it, final once there is an answer; 0 before."""
        return self._here().index

    @property
    def term(self) -> int:
        """The term of the leader that placed it; 0 before."""
        return self._here().term

    @property
    def repeated(self) -> bool:
        """Whether the command was applied before, and this is the recorded answer. Only for `Raft.apply_once`."""
        future = self._here()
        return isinstance(future, SessionFuture) and future.repeated


async def _done(future: ApplyFuture[R], timeout_s: float | None) -> None:
    await asyncio.wait([future], timeout=timeout_s)
    if not future.done():
        raise DeadlineExceeded(f"no answer within {timeout_s:g} s; the proposal goes on", outcome=Outcome.UNKNOWN)
