"""Interface between the HTTP routes and a Raft node. Tests implement it with a double.

The calls of the hot path return futures and never block; calls about the membership are coroutines. Errors are those
of `syncline.errors`. The JSON structs are in `syncline.client.schemas`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from syncline.client.schemas import Added, LeaderInfo, Members, NodeView, UpgradeResult
from syncline.kv.auth.flag import AuthFlag
from syncline.kv.serving.node import ServingNode

__all__ = ["Backend"]


class Backend(ServingNode, Protocol):
    """A node for the routes. Everything is called on the event loop."""

    @property
    def state_alarm(self) -> str:
        """Why the state can't be relied on: the members' digests differ without a majority. Empty if all is well."""
        ...

    @property
    def disk_stall(self) -> str:
        """Why this node's disk can't be relied on: a write of the log hangs. Empty if all is well."""
        ...

    @property
    def shortages(self) -> dict[str, str]:
        """Shortages by check (`disk_space`, `store_space`): the reason and the next step; empty texts if nothing is
        short.

        Reads go on.
        """
        ...

    def note_refusal(self, error: BaseException) -> None:
        """Record that a request was refused with this error: the leader may have reported a shortage of space."""
        ...

    @property
    def auth_flag(self) -> AuthFlag:
        """Whether clients need credentials. It is never off while the users in `store` say that it is on."""
        ...

    def observe_auth(self, callback: Callable[[], None]) -> None:
        """`observe` for changes of the auth revision."""
        ...

    def leader(self) -> LeaderInfo | None: ...

    def observe_leader(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each change of `is_leader` or `leader()`; also when neither has changed."""
        ...

    def view(self) -> NodeView: ...

    def members(self) -> Members: ...

    async def add_member(
        self, name: str, address: str, *, http: str, node_id: int | None, learner: bool, timeout_s: float
    ) -> Added: ...

    async def remove_member(self, node_id: int, timeout_s: float, *, force: bool) -> None: ...

    async def promote_member(self, node_id: int, timeout_s: float, *, force: bool) -> None: ...

    async def demote_member(self, node_id: int, timeout_s: float, *, force: bool) -> None: ...

    async def update_member(self, node_id: int, address: str, timeout_s: float) -> None: ...

    async def transfer_leadership(self, to: int | None, timeout_s: float) -> None: ...

    def upgrade(self) -> UpgradeResult: ...

    async def hold_upgrade(self, timeout_s: float) -> UpgradeResult: ...

    async def finalize_upgrade(self, timeout_s: float) -> UpgradeResult: ...

    async def snapshot(self, timeout_s: float) -> int:
        """Take a snapshot now; its index. Raises `NothingToSnapshot`."""
        ...
