"""Interface between the HTTP routes and a Raft node. Tests implement it with a double.

The calls of the hot path return futures and never block; calls about the membership are coroutines. Errors are those
of `syncline.errors`. The structures are the JSON of `/raft/status` and `/raft/members`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from syncline.kv.store import Store
from syncline.node.futures import ReadFuture, Then

__all__ = [
    "Added",
    "Backend",
    "LeaderView",
    "MemberLevelsView",
    "MemberView",
    "MembersView",
    "NodeStatus",
    "NodeView",
    "UpgradeView",
]


class LeaderView(msgspec.Struct, frozen=True):
    """The leader, and its address for clients. `id` is 16 hexadecimal digits, as everywhere in JSON."""

    id: str
    name: str
    http: str


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """One member. `match` (its match index), `lag` (entries behind) and `active` are the leader's view: None on other
    nodes. `promote`: a learner that becomes a voter once it has caught up.
    """

    id: str
    name: str
    role: str
    peer: str
    http: str
    match: int | None = None
    lag: int | None = None
    active: bool | None = None
    promote: bool = False
    fault: str = ""
    """Why it is not healthy although it answers, as the leader sees it."""
    level: int = 0
    """The highest feature level that it can do; 0: not announced yet."""
    machine_version: int = 0


class MembersView(msgspec.Struct, frozen=True, kw_only=True):
    """The membership that is in force here. `joint` while a change of several voters is under way."""

    membership_index: int
    joint: bool
    leader: LeaderView | None
    members: tuple[MemberView, ...]


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """The node's view of itself in the cluster."""

    cluster_id: str
    cluster: str
    id: str
    name: str
    role: str
    term: int
    leader: LeaderView | None
    commit: int
    applied: int
    last_index: int
    first_index: int
    snapshot_index: int
    membership_index: int
    lag: int | None
    data_dir: str
    http: str
    peer: str
    last_contact_s: float | None
    members: tuple[MemberView, ...]
    no_leader: str = ""
    """Why there is no leader, for people."""
    digest_index: int = 0
    """The log index at which the members' states were compared last; 0: not since the start."""
    digest_agreement: str = "none"
    """`none`, `agreed`, or `no_majority` if the voters' states differ and no node knows which is right."""
    digest_age_s: float | None = None
    level: int = 1
    """The cluster's feature level, as applied here."""
    machine_version: int = 1
    """The cluster's version of the key-value machine, as applied here."""


class NodeStatus(NodeView, frozen=True, kw_only=True):
    """The answer of `/raft/status`: the node's view, and the process around it."""

    pid: int
    version: str
    uptime_s: float
    revision: int
    digest: str
    """Digest of the whole state, 32 hexadecimal digits: nodes at one revision have one digest."""


class MemberLevelsView(msgspec.Struct, frozen=True, kw_only=True):
    """The highest levels that one member can do; 0: not announced yet."""

    id: str
    name: str
    level: int
    machine_version: int


class UpgradeView(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `/raft/upgrade`: the cluster's levels, what all members can do, and whether a rise is held."""

    level: int
    machine_version: int
    possible_level: int
    possible_machine_version: int
    held: bool
    hold_level: int
    members: tuple[MemberLevelsView, ...]


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """The result of adding a member. `added` is False if it was a member already, with the same addresses."""

    added: bool
    cluster_id: str
    cluster: str
    membership_index: int
    member: MemberView
    members: tuple[MemberView, ...]


class Backend(Protocol):
    """A node for the routes. Everything is called on the event loop."""

    @property
    def store(self) -> Store:
        """The state as applied here. It may be replaced as a whole: ask each time."""
        ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def state_age_s(self) -> float | None:
        """How old the store may be, in seconds; None if that is not known."""
        ...

    @property
    def catching_up(self) -> bool:
        """Whether the store may still be older than what this node showed before it was restarted."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """Why the node stopped itself; None while it runs."""
        ...

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

    def propose(self, command: bytes, timeout_s: float, then: Then, *, frees_space: bool = False) -> None:
        """Propose a command of `kv.commands`. `then` is called once, at once or later, with the state machine's
        answer on this node, or with None and the error.
        """
        ...

    def read_index(self, timeout_s: float) -> ReadFuture:
        """When the future is done, reading the store at once is linearizable.

        It ends after `timeout_s` at the latest. Calls of one moment and one deadline share it, and need not be made:
        see `ReadFuture.joined_before_s`.
        """
        ...

    def leader(self) -> LeaderView | None: ...

    def view(self) -> NodeView: ...

    def members(self) -> MembersView: ...

    async def add_member(
        self, name: str, address: str, *, http: str, node_id: int | None, learner: bool, timeout_s: float
    ) -> Added: ...

    async def remove_member(self, node_id: int, timeout_s: float, *, force: bool) -> None: ...

    async def promote_member(self, node_id: int, timeout_s: float, *, force: bool) -> None: ...

    async def demote_member(self, node_id: int, timeout_s: float, *, force: bool) -> None: ...

    async def update_member(self, node_id: int, address: str, timeout_s: float) -> None: ...

    async def transfer_leadership(self, to: int | None, timeout_s: float) -> None: ...

    def upgrade(self) -> UpgradeView: ...

    async def hold_upgrade(self, timeout_s: float) -> UpgradeView: ...

    async def finalize_upgrade(self, timeout_s: float) -> UpgradeView: ...

    async def snapshot(self, timeout_s: float) -> int:
        """Take a snapshot now; its index. Raises `NothingToSnapshot`."""
        ...
