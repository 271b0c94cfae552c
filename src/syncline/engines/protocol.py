"""`Engine`: what each engine offers to a program. `Raft` offers it, and so does `LogReplica` on the other engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from syncline.node.events import Event
from syncline.node.futures import ApplyFuture, ReadFuture
from syncline.node.leadership import LeaderTerm
from syncline.node.session import Session
from syncline.node.startups import Startup
from syncline.node.stats import SnapshotInfo

__all__ = ["Engine", "EngineFigures"]

Answer = TypeVar("Answer")
R = TypeVar("R")
"""What the state machine answers to a command."""


class EngineFigures(Protocol):
    """The figures that `stats` has on each engine."""

    @property
    def term(self) -> int:
        """Of the Raft log; on other engines the newest fencing token of this node."""
        ...

    @property
    def applied(self) -> int:
        """The index of the last entry that was applied here."""
        ...

    @property
    def snapshot_index(self) -> int:
        """The index of the last entry in the newest snapshot that this node knows."""
        ...

    @property
    def lag(self) -> int:
        """Entries that are known here and not applied yet."""
        ...

    @property
    def proposals_pending(self) -> int:
        """Commands of this node that wait for their answer."""
        ...

    @property
    def proposals_failed(self) -> int:
        """Commands of this node that got none."""
        ...

    @property
    def reads_pending(self) -> int:
        """Reads that wait for their confirmation."""
        ...

    @property
    def snapshots_taken(self) -> int:
        """Snapshots that this node has taken."""
        ...

    @property
    def sessions(self) -> int:
        """Open sessions."""
        ...


class Engine(Protocol[R]):
    """A state machine that is replicated by some engine. Made by `syncline.open`.

        async with syncline.open("raft:cluster.toml", Jobs()) as replica:
            answer = await replica.apply(b"a command")

    All operations have the outcomes of errors that those of `Raft` have, and the arguments with the same meaning.
    """

    def apply(
        self,
        data: bytes,
        *,
        timeout: float = 5.0,
        extensions: bytes = b"",
        term: int | None = None,
        frees_space: bool = False,
    ) -> ApplyFuture[R]:
        """Replicate a command, and await the state machine's answer."""
        ...

    def apply_many(self, commands: Sequence[bytes], *, timeout: float = 5.0) -> list[ApplyFuture[R]]:
        """Replicate several commands in this order. They are not atomic together."""
        ...

    def read_index(self, *, timeout: float = 5.0) -> ReadFuture:
        """Confirm the local state: when it is done, a read of the state machine here is linearizable."""
        ...

    async def read(self, look: Callable[[], Answer], *, timeout: float = 5.0, stale: bool = False) -> Answer:
        """Call `look()` linearizably, between two applies."""
        ...

    def session(self, *, timeout: float = 5.0) -> Startup[Session[R]]:
        """Open a session: commands that take effect exactly once."""
        ...

    async def snapshot(self, *, timeout: float = 600.0) -> SnapshotInfo:
        """Take a snapshot now, and remove the log before it."""
        ...

    def leadership(self, *, timeout: float | None = None) -> AbstractAsyncContextManager[LeaderTerm[R]]:
        """A block for work of one node alone. It is cancelled when the leadership is lost."""
        ...

    def events(self, *kinds: type[Event]) -> AsyncIterator[Event]:
        """What happens from now on."""
        ...

    def stats(self) -> EngineFigures:
        """The figures of this moment."""
        ...

    @property
    def machine_version(self) -> int:
        """Commands of a later version must not be proposed yet."""
        ...

    async def reach_machine_version(self, version: int, *, timeout: float = 5.0) -> bool:
        """Wait until `machine_version` is at least this."""
        ...

    async def reach_level(self, level: int, *, timeout: float = 5.0) -> bool:
        """Wait until entries have what this feature level brings."""
        ...

    async def close(self) -> None:
        """Leave the log, and end what waits."""
        ...
