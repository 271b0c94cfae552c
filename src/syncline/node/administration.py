"""Administration of a cluster through any of its nodes: members, leadership, levels. A part of `Raft`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from syncline.consensus.types import NONE, ChangeType, NodeId
from syncline.errors import NotLeader, Superseded, TransferFailed
from syncline.node.arguments import check_changes, check_expected, check_timeout, checked_flag
from syncline.node.changes import Changes
from syncline.node.envelope import Kind, LevelChange, encode
from syncline.node.levels import UpgradeStatus
from syncline.node.member_registry import MemberInfo, Membership
from syncline.node.naming import check_http, check_id, check_name, dialled_address
from syncline.node.operations import Operations

__all__ = ["Administration"]


class Administration(Operations):
    """Changes of the membership, of the leadership and of the levels. Base of `Raft`."""

    _changes: Changes

    # -- membership ---------------------------------------------------------------------------------------------------

    async def add_learner(
        self,
        name: str,
        address: str,
        *,
        http: str = "",
        node_id: NodeId = NONE,
        promote: bool = True,
        expected_index: int | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> MemberInfo:
        """Add a member that learns before it counts; it becomes a voter by itself once caught up, if `promote`.

        Idempotent: the same name and address again gives the member that there is. `node_id` is the new node's own
        choice (a fresh random number), or 0 to be given one; open the node with it and with `cluster_id`.
        `expected_index`: only if the membership's index is still this one. Raises MembershipError.
        """
        return await self._add(name, address, http, node_id, False, promote, expected_index, timeout)

    async def add_voter(
        self,
        name: str,
        address: str,
        *,
        http: str = "",
        node_id: NodeId = NONE,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> MemberInfo:
        """Add a member that votes at once. `add_learner` is the safer way: this one counts before it has the log.

        So a single voter can't add its second one in this way. Raises as `remove` does.
        """
        return await self._add(name, address, http, node_id, True, False, expected_index, timeout, force=force)

    async def _add(
        self,
        name: str,
        address: str,
        http: str,
        node_id: NodeId,
        voter: bool,
        promote: bool,
        expected_index: int | None,
        timeout_s: float,
        *,
        force: bool = False,
    ) -> MemberInfo:
        dialled_address(address)
        return await self._changes.add(
            check_name(name), address, http=check_http(http), node_id=check_id(node_id, "node_id", none=True),
            voter=voter, promote=checked_flag(promote, "promote"), expected=check_expected(expected_index),
            force=checked_flag(force, "force"), timeout_s=check_timeout(timeout_s),
        )  # fmt: skip

    async def promote(
        self,
        node_id: NodeId,
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> Membership:
        """Make a learner a voter now. Raises as `remove` does."""
        return await self._single(ChangeType.ADD_NODE, node_id, expected_index, timeout, force)

    async def demote(
        self,
        node_id: NodeId,
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> Membership:
        """Make a voter a learner, which stays one. Raises as `remove` does."""
        return await self._single(ChangeType.ADD_LEARNER_NODE, node_id, expected_index, timeout, force)

    async def remove(
        self,
        node_id: NodeId,
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> Membership:
        """Remove a member; a leader transfers its leadership before its own removal. Idempotent.

        Done when the change is on the disks of a quorum of the new membership. Raises QuorumAtRisk if those alive
        would be no quorum afterwards (`force` passes over this rule alone), MembershipError, DeadlineExceeded
        (`unknown`), NodeFailed.
        """
        return await self._single(ChangeType.REMOVE_NODE, node_id, expected_index, timeout, force)

    async def _single(
        self, kind: ChangeType, node_id: NodeId, expected: int | None, timeout_s: float, force: bool
    ) -> Membership:
        check_id(node_id, "node_id")
        checked_flag(force, "force")
        return await self._changes.single(
            kind, node_id, check_expected(expected), check_timeout(timeout_s), force=force
        )

    async def update_member(
        self,
        node_id: NodeId,
        *,
        address: str,
        expected_index: int | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> MemberInfo:
        """Change the address at which a member is dialled, for one that can't announce it itself.

        A member that runs announces its own address (`Config.advertise`), which wins. Idempotent. Raises ConfigError
        for what is no address, MembershipError (no such member, the address is another member's).
        """
        check_id(node_id, "node_id")
        dialled_address(address)
        expected = check_expected(expected_index)
        return await self._changes.update(node_id, address, expected, check_timeout(timeout))

    def hint(self, node_id: NodeId, address: str) -> None:
        """Have a node dialled at "host:port" too, if it does not answer where the cluster expects it.

        For what knows addresses before this node does: a node that has no log yet knows no member. Raises ConfigError.
        """
        dialled_address(address)
        self._driver.addresses.hint(check_id(node_id, "node_id"), address)

    async def change_membership(
        self,
        changes: Sequence[tuple[ChangeType, NodeId]],
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> Membership:
        """Change several known members at once, through a joint membership if more than one voter changes.

        Done when the joint membership has been left again. Raises as `remove` does; the members before and after the
        change each need a quorum that is alive.
        """
        checked = check_changes(changes)
        checked_flag(force, "force")
        return await self._changes.known(checked, check_expected(expected_index), check_timeout(timeout), force=force)

    async def transfer_leadership(self, to: NodeId = NONE, *, timeout: float = 10.0) -> NodeId:  # noqa: ASYNC109
        """Transfer the leadership to `to`, or to the most up-to-date voter. Returns the new leader once it leads.

        Raises TransferFailed at the deadline, MembershipError if `to` is no voter. The old leader goes on then.
        """
        driver = self._driver
        check_id(to, "to", none=True)
        check_timeout(timeout)
        driver.check_running()
        deadline_s = driver.loop.time() + timeout
        before = driver.core.leader
        target = self._changes.successor(to)
        if target == before:
            return target
        while driver.loop.time() < deadline_s and not driver.stopped:
            if driver.core.leader not in (NONE, before) and to in (NONE, driver.core.leader):
                return driver.core.leader
            before = driver.core.leader or before  # a third one may have come in between
            if driver.core.leader == before and driver.core.raft.transferee == NONE:
                driver.core.transfer_leadership(target)
                driver.schedule()
            await self._changes.wait(min(deadline_s, driver.loop.time() + driver.config.election_s))
        driver.check_running()
        raise TransferFailed(
            f"node {driver.node_log.label(target)} did not take over before the deadline", leader=self.leader
        )

    # -- levels -------------------------------------------------------------------------------------------------------

    @property
    def level(self) -> int:
        """The cluster's feature level, as applied here: what others must read is written in its form."""
        return self._driver.parts.levels.level

    @property
    def machine_version(self) -> int:
        """The cluster's machine version, as applied here. A command of a later version must not be proposed yet.

        It rises once all members run a state machine whose attribute `machine_version` is at least as high.
        """
        return self._driver.parts.levels.machine_version

    def upgrade_status(self) -> UpgradeStatus:
        """The cluster's levels, and what each member can do."""
        return self._driver.parts.levels.status()

    async def hold_upgrade(self, *, timeout: float = 30.0) -> UpgradeStatus:  # noqa: ASYNC109
        """Keep both levels where they are, whichever node leads, until `finalize_upgrade`. Raises as `apply` does."""
        return await self._change_levels(self._driver.parts.levels.hold, check_timeout(timeout))

    async def finalize_upgrade(self, *, timeout: float = 30.0) -> UpgradeStatus:  # noqa: ASYNC109
        """End `hold_upgrade`, and raise both levels to what all members can do, whatever `Config.hold_level` says.

        There is no way back. If a member can't do more yet, `UpgradeStatus.members` says which. Raises as `apply` does.
        """
        return await self._change_levels(self._driver.parts.levels.finalize, check_timeout(timeout))

    async def _change_levels(self, change: Callable[[], LevelChange], timeout_s: float) -> UpgradeStatus:
        deadline_s = self._driver.loop.time() + timeout_s
        await self.read_index(timeout=timeout_s)  # what the members can do is in the registry, which must not be old
        heartbeat_s, clock = self._driver.config.heartbeat_s, self._driver.loop.time
        while True:
            left_s = max(deadline_s - clock(), heartbeat_s)
            try:
                await self._apply(Kind.LEVEL, encode(change()), left_s, b"")
            except (NotLeader, Superseded):  # the leader has changed, and nothing but commands is proposed again
                if self._driver.stopped or clock() >= deadline_s:
                    raise
                await self._changes.wait(min(deadline_s, clock() + heartbeat_s))
            else:
                return self.upgrade_status()
