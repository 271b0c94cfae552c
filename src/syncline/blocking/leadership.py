"""Blocks and jobs of the node that leads, for threads without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import tzinfo
from typing import Generic, TypeVar

from syncline.blocking.operations import BlockingOperations
from syncline.client.blocking.portal import HeldObject, Portal
from syncline.client.blocking.schedule import BlockingSchedule
from syncline.node.leadership import LeaderTerm
from syncline.node.raft import Raft

__all__ = ["BlockingLeaderOperations", "BlockingLeaderTerm"]

R = TypeVar("R")
"""What the state machine answers to a command."""


class BlockingLeaderTerm(HeldObject[LeaderTerm[R]], Generic[R]):
    """One term in which this node leads. Made by `Raft.leadership`.

        with raft.leadership() as term:
            while not term.lost:
                work(fence=term.number)

    No thread can be interrupted: the block looks at `lost`, or calls `check`, before each step that relies on it.
    """

    def __init__(self, portal: Portal, term: LeaderTerm[R]) -> None:
        super().__init__(portal, term, "the term")

    @property
    def number(self) -> int:
        """The term of the Raft log. It grows with each leader, so it is a fencing token for other systems."""
        return self._here().number

    @property
    def lost(self) -> bool:
        """Whether this node knows that it does not lead in this term any more."""
        return self._here().lost

    def check(self) -> None:
        """Make sure that this node leads, as far as it knows. Call it before each step that relies on it.

            term.check()

        Its errors are those of `syncline.LeaderTerm.check`.
        """
        self._here().check()

    def apply(self, data: bytes, *, timeout: float = 5.0, extensions: bytes = b"", frees_space: bool = False) -> R:
        """`Raft.apply`, fenced: the command takes effect in this term or not at all.

            answer = term.apply(b"expire lease 7")

        Its arguments and errors are those of `syncline.LeaderTerm.apply`.
        """
        return self._call(
            lambda term: term.apply(data, timeout=timeout, extensions=extensions, frees_space=frees_space)
        )


class BlockingLeaderOperations(BlockingOperations[R], Generic[R]):
    """Work that only the node that leads does. Base of `BlockingRaft`."""

    @contextmanager
    def leadership(self, *, timeout: float | None = None) -> Iterator[BlockingLeaderTerm[R]]:
        """A block that runs while this node leads: it waits until it does, and is cancelled when that is lost.

            with raft.leadership() as term:
                term.apply(b"expire lease 7")

        A thread can't be cancelled: the block looks at `term.lost`. An error of the block itself passes unchanged. Its
        arguments and errors are those of `syncline.Raft.leadership`.

        Raises:
            LeadershipLost: at the end of the block: the leadership was lost meanwhile.
            Closed, NodeFailed: at the end of the block: the node was closed, or has stopped itself.
        """
        raft: Raft[R] = self._here()
        with self._portal.scope(lambda: raft.leadership(timeout=timeout), "the leadership") as term:
            yield BlockingLeaderTerm(self._portal, term)

    def every(
        self, times: str | float, job: Callable[[], object], *, tz: str | tzinfo | None = None
    ) -> BlockingSchedule:
        """Run a job again and again, on the node that leads. Call it on all nodes: those that follow do nothing.

            with raft.every("5m", clean_up):
                serve()

        A plain function runs in a thread. Its arguments and errors are those of `syncline.Raft.every`.
        """
        return BlockingSchedule(self._portal, self._look(lambda raft: raft.every(times, job, tz=tz)))
