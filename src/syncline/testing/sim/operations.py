"""An operator's actions: add, remove and replace members, from outside and through any running server.

Every step may fail or have an unknown outcome; then the operator reads the membership and repeats the step.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias, TypeVar

from syncline.consensus.types import ChangeType, NodeId
from syncline.errors import NodeFailed, OperationError, Outcome, SynclineError
from syncline.node.member_registry import Membership
from syncline.node.raft import Raft
from syncline.testing.cluster import PEER_PORT, Answer, SimCluster
from syncline.testing.sim.server import SimServer

__all__ = ["Operator", "Unknown"]

Result = TypeVar("Result")
Wanted: TypeAlias = Sequence[tuple[ChangeType, NodeId]]


class Unknown(Exception):
    """The outcome of a step is unknown: it may have been made, or be made later."""


TRY_S: Final = 3.0
"""Time limit of one attempt, by the server's clock."""

PATIENCE_S: Final = 4.0
"""Time limit of one attempt, by the simulation's clock: the server may be killed, or stand still."""


class Operator:
    """Works on a cluster with its own random numbers."""

    def __init__(self, cluster: SimCluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng

    def membership(self) -> Membership | None:
        """As the leader sees it; None while there is none."""
        leader = self._cluster.current_leader()
        return leader.raft.membership() if leader is not None and leader.raft is not None else None

    async def ask(self, what: Callable[[Raft[object]], Awaitable[Result]], changes: Wanted = ()) -> Result | None:
        """Have some server do it, once. None if it failed, or the outcome is unknown."""
        try:
            return await self.ask_surely(what, changes)
        except Unknown:
            return None

    async def ask_surely(
        self, what: Callable[[Raft[object]], Awaitable[Result]], changes: Wanted = ()
    ) -> Result | None:
        """The same; None if it certainly had no effect. Raises `Unknown` if that is not certain.

        `changes` are the changes of members that the operation asks for: the answer is checked against them.
        """
        servers = [server for server in self._cluster.running if not server.paused and not server.retired]
        if not servers:
            await asyncio.sleep(self._cluster.settings.election_s)
            return None
        server = self._rng.choice(servers)
        raft = server.raft
        assert raft is not None
        since = raft.membership().index
        task = await _within(server.call(lambda: _begin(what(raft))))
        if task is None or not await _ended(task):
            raise Unknown
        try:
            result = task.result()
        except (SynclineError, NodeFailed) as error:
            self._cluster.note("operator", f"{server.name} says: {type(error).__name__}: {error}")
            if isinstance(error, OperationError) and error.outcome is Outcome.NOT_APPLIED:
                return None
            raise Unknown from error
        if isinstance(result, Membership):
            self._cluster.answered(server, Answer(result, tuple(changes), since))
        return result

    async def add(self) -> SimServer:
        """Add a member on a new machine: a learner, which is promoted by itself. Or nothing comes of it."""
        cluster = self._cluster
        name = cluster.new_name()
        node_id = self._rng.getrandbits(62) + 1
        cluster.note("operator", f"add {name}")
        address = f"{name}:{PEER_PORT}"
        server = cluster.add_server(name, node_id)
        try:
            await self.ask(lambda raft: raft.add_learner(name, address, node_id=node_id, timeout=TRY_S))
        finally:
            server.start()  # whatever was said: it may have been added
        return server

    async def remove(self, server: SimServer) -> None:
        """Remove a member, and take its machine out of service: until it is certain that it is none any more."""
        node_id = self._cluster.node_id(server)
        self._cluster.note("operator", f"remove {server.name}")
        server.retired = True
        while True:
            membership = await self.ask(
                lambda raft: raft.remove(node_id, timeout=TRY_S), [(ChangeType.REMOVE_NODE, node_id)]
            )
            if membership is not None and node_id not in membership.members:
                return
            await asyncio.sleep(self._cluster.settings.election_s * self._rng.random())

    async def promote(self, node_id: NodeId) -> None:
        await self.ask(lambda raft: raft.promote(node_id, timeout=TRY_S), [(ChangeType.ADD_NODE, node_id)])

    async def demote(self, node_id: NodeId) -> Membership | None:
        """As `ask_surely`."""
        return await self.ask_surely(
            lambda raft: raft.demote(node_id, timeout=TRY_S), [(ChangeType.ADD_LEARNER_NODE, node_id)]
        )

    async def change(self, changes: Sequence[tuple[ChangeType, NodeId]]) -> Membership | None:
        """Any changes of known members at once. As `ask_surely`."""
        return await self.ask_surely(lambda raft: raft.change_membership(changes, timeout=TRY_S), changes)

    async def transfer(self, to: NodeId) -> None:
        """Transfer the leadership to a voter, or to the most up-to-date one (0)."""
        await self.ask(lambda raft: raft.transfer_leadership(to or None, timeout=TRY_S))

    async def snapshot(self) -> None:
        await self.ask(lambda raft: raft.snapshot())

    async def replace(self, server: SimServer) -> None:
        """A member's disk is lost: remove it, and add another one in its place."""
        if server.up:
            server.crash()
        await self.remove(server)
        await self.add()


async def _within(future: asyncio.Future[Result]) -> Result | None:
    await asyncio.wait([future], timeout=PATIENCE_S)
    return future.result() if future.done() else None


async def _ended(task: asyncio.Future[Result]) -> bool:
    """Whether it has ended in time. An operation in a killed process never ends."""
    await asyncio.wait([task], timeout=PATIENCE_S)
    return task.done() and not task.cancelled()


def _begin(work: Awaitable[Result]) -> asyncio.Future[Result]:
    """Start it, and ignore its result."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_looked_at)
    return task


def _looked_at(task: asyncio.Future[Result]) -> None:
    if not task.cancelled():
        task.exception()
