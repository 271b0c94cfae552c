"""Apply the log of a stopped node to a state machine, without a node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from syncline.consensus.types import LogEntry, NodeId
from syncline.errors import NodeFailed, StorageError
from syncline.node.applier import Applied, Applier, ApplyWork, NotViewed, Outcome, SnapshotWork, Viewed
from syncline.node.fsm import FSM, FSMSnapshot
from syncline.node.looks import LookWork
from syncline.node.state_digest import DIGEST_INTERVAL
from syncline.platform.world import World
from syncline.sessions.table import SessionTable

__all__ = ["OfflineReplay"]


class OfflineReplay:
    """A state machine to which entries are applied as a node applies them. Close it.

    `time_s`: the newest time of an entry so far; at first that in the snapshot that was loaded.
    """

    def __init__(self, fsm: FSM[object], node_id: NodeId, world: World, sessions: SessionTable, time_s: float) -> None:
        self.time_s: float = time_s
        self._loop = asyncio.get_running_loop()
        self._outcomes: asyncio.Queue[Outcome | BaseException] = asyncio.Queue()
        interval = DIGEST_INTERVAL if world.digest_interval is None else world.digest_interval
        put = self._outcomes.put_nowait
        self._applier = Applier(fsm, node_id, world.workers, put, put, interval, sessions, time_s)

    async def apply(self, entries: list[LogEntry]) -> None:
        """Apply entries, in order.

        Raises:
            NodeFailed: the state machine can't apply one of them.
        """
        self._applier.put(ApplyWork(entries, ()))
        applied = 0
        while applied < entries[-1].index:
            outcome = await self._next()
            assert isinstance(outcome, Applied), outcome
            applied, self.time_s = outcome.last_index, outcome.time_s

    async def call(self, work: Callable[[], None]) -> None:
        """Call `work` on the state machine's thread, and raise what it raises."""
        future: asyncio.Future[None] = self._loop.create_future()
        look = LookWork(work, future)
        self._applier.put(cast("LookWork[object]", look))
        await self._next()
        look.deliver()
        await future

    async def view(self) -> FSMSnapshot:
        """A view of the state, with the sessions before it. The caller releases it.

        Raises:
            StorageError: the state machine gave none.
        """
        self._applier.put(SnapshotWork())
        outcome = await self._next()
        if isinstance(outcome, NotViewed):
            raise StorageError(f"the state machine gave no snapshot: {outcome.error}") from outcome.error
        assert isinstance(outcome, Viewed), outcome
        return outcome.view

    async def close(self) -> None:
        """End the state machine's thread."""
        await self._applier.close()

    async def _next(self) -> Outcome:
        outcome = await self._outcomes.get()
        if isinstance(outcome, NodeFailed):
            raise outcome
        if isinstance(outcome, BaseException):
            raise NodeFailed(f"the log could not be applied: {type(outcome).__name__}: {outcome}") from outcome
        return outcome
