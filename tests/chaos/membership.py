"""What an operator does to the cluster, while other things go wrong: replace members, move the leadership, snapshot.

Nothing here may be done blindly: a disk is wiped only when the cluster itself has said that its owner is no member any
more. A wiped voter that is still counted would be an operator's mistake and no fault of the cluster's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from syncline.errors import MembershipError, OperationError
from tests.chaos.fleet import HEALED_WITHIN_S, STARTED_WITHIN_S, ChaosNode, Fleet
from tests.helpers.process_cluster import eventually

__all__ = ["Operator"]

Undo: TypeAlias = Callable[[], Awaitable[None]]

REQUEST_S: Final = 5.0
CHANGED_WITHIN_S: Final = STARTED_WITHIN_S + 2 * HEALED_WITHIN_S
"""For a change of the membership, counted from its beginning: other faults may be there, and a process has to start."""
GOES_BY_ITSELF_S: Final = STARTED_WITHIN_S
"""A removed node is told by those that stay, and stops. It may be cut off, paused or killed until the phase ends, and
has to start again then."""
NO_SUCH_MEMBER: Final = "unknown_member"


class Operator:
    """Changes one fleet's cluster, through whichever member answers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._replacing = False

    async def replace(self, node: ChaosNode, pick: float) -> tuple[str, Undo]:
        """Remove it, wipe it, join it as somebody new, through the picked one of the others. One at a time: `undo`
        waits until it votes."""
        if self._replacing:
            return "another member is being replaced already", _nothing
        self._replacing = True
        what = f"replaced {node.label}"
        task = asyncio.create_task(self._replaced(node, pick))

        async def finished() -> None:
            try:
                await asyncio.wait_for(task, CHANGED_WITHIN_S)
            except OperationError:  # a `DeadlineExceeded` of the client is a `TimeoutError`, too
                raise
            except TimeoutError:
                raise AssertionError(f"{node.label} could not be replaced within {CHANGED_WITHIN_S:g} s") from None
            finally:
                self._replacing = False

        return what, finished

    async def demote(self, node: ChaosNode) -> tuple[str, Undo]:
        """Make a voter a learner; `undo` makes it a voter again. It may fail, as `transfer`."""
        names = f"demoted {node.label}"
        async with self._fleet.client() as client:
            try:
                await client.demote_member(node.name, timeout=REQUEST_S)
            except OperationError as error:
                names = f"asked to demote {node.label}: {error.code}"

        async def promote() -> None:
            async with self._fleet.client() as client:

                async def promoted() -> bool:
                    await client.promote_member(node.name, timeout=REQUEST_S)
                    return True

                await eventually(f"{node.label} votes again", promoted, deadline_s=CHANGED_WITHIN_S)

        return names, promote

    async def transfer(self, picks: Sequence[float]) -> tuple[str, Undo]:
        """Ask for a new leader, once for each pick. It may fail: nobody is there, nobody is up to date."""
        names = [self._fleet.nodes[int(pick * len(self._fleet.nodes))].name for pick in picks]

        async def transfers() -> None:
            for name in names:
                async with self._fleet.client() as client:
                    with contextlib.suppress(OperationError):  # an allowed answer, and no operation of the history
                        await client.transfer_leadership(name, timeout=REQUEST_S)

        task = asyncio.create_task(transfers())

        async def finished() -> None:
            await task

        return f"asked for the leaders {' '.join(names)} in turn", finished

    async def snapshot(self, node: ChaosNode) -> tuple[str, Undo]:
        """Have one node take a snapshot now."""
        async with node.client(timeout=REQUEST_S) as client:
            try:
                taken = await client.snapshot(timeout=REQUEST_S)
            except OperationError as error:
                return f"{node.label} took no snapshot: {error}", _nothing
        return f"snapshot {taken.index} on {node.label}", _nothing

    async def _replaced(self, node: ChaosNode, pick: float) -> None:
        old_id = await self._id_of(node)
        node.leaving = True
        await eventually(f"{node.label} is no member", lambda: self._removed(old_id), deadline_s=CHANGED_WITHIN_S)
        await self._gone(node)
        node.wipe()
        self._fleet.rejoin(node, pick)

        async def votes() -> bool:
            node.check_not_ended()
            async with self._fleet.client(REQUEST_S) as client:
                members = (await client.members()).members
            return any(m.name == node.name and m.id != old_id and m.role == "voter" for m in members)

        await eventually(f"{node.label} votes", votes, deadline_s=CHANGED_WITHIN_S)

    async def _gone(self, node: ChaosNode) -> None:
        """It stops by itself when it hears of its removal. AssertionError if it goes on.

        If it was down when it was removed, it is not started again: `node.leaving`.
        """

        async def ended() -> bool:
            return not node.running

        await eventually(f"{node.label} was removed and has stopped", ended, deadline_s=GOES_BY_ITSELF_S)

    async def _id_of(self, node: ChaosNode) -> str:
        async def known() -> str | None:
            async with self._fleet.client(REQUEST_S) as client:
                await client.get("readiness")  # so that a member that answers has seen what was changed last
                members = (await client.members()).members
            return next((member.id for member in members if member.name == node.name), None)

        return await eventually(f"the id of {node.label} is known", known, deadline_s=CHANGED_WITHIN_S)

    async def _removed(self, member_id: str) -> bool:
        """Whether it is certain now that this id is no member."""
        async with self._fleet.client() as client:
            try:
                await client.remove_member(member_id, timeout=REQUEST_S)
            except MembershipError as error:
                return error.code == NO_SUCH_MEMBER
            except OperationError:
                return False
        return True


async def _nothing() -> None:
    """Nothing to undo."""
