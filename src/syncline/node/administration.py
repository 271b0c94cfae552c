"""Administration of a cluster through any of its nodes: members, leadership, levels. A part of `Raft`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from syncline.consensus.types import NONE, ChangeType, NodeId, StateType
from syncline.errors import (
    ConfigError,
    Dropped,
    NoLeader,
    NotLeader,
    OperationError,
    Superseded,
    TransferFailed,
)
from syncline.node.arguments import (
    check_changes,
    check_expected,
    check_timeout,
    checked_flag,
    checked_member,
    checked_version,
)
from syncline.node.changes import Changes
from syncline.node.envelope import Kind, LevelChange, encode
from syncline.node.levels import UpgradeStatus
from syncline.node.member_registry import Member, Membership
from syncline.node.naming import check_http, check_id, check_name, dialled_address
from syncline.node.operations import Operations

__all__ = ["Administration"]


R_co = TypeVar("R_co", covariant=True)


class Administration(Operations[R_co]):
    """Changes of the membership, of the leadership and of the levels. Base of `Raft`."""

    _changes: Changes

    # -- membership ---------------------------------------------------------------------------------------------------

    async def add_learner(
        self,
        name: str,
        address: str,
        *,
        http: str = "",
        node_id: int | None = None,
        promote: bool = True,
        expected_index: int | None = None,
        timeout: float = 30.0,
    ) -> Member:
        """Add a member that learns before it votes. With `promote` it becomes a voter once it has caught up.

            added = await raft.add_learner("d", "127.0.0.1:7104")
            config = Config(
                name="d", data_dir="data/d", listen=added.address, node_id=added.id, cluster_id=raft.cluster_id
            )

        Idempotent: the same name and address again returns the member that there is. `node_id` is the new node's own
        choice, a fresh random number; without it one is drawn. With `expected_index` the change is made only if the
        membership still has this index.

        Raises:
            MembershipError: the name, the address or the id is another member's, or the membership has changed.
            DeadlineExceeded: it was not durable on a quorum before the deadline (`unknown`).
            ConfigError, TypeError: an argument can't be used.
            Closed, NodeFailed: the node has stopped.
        """
        return await self._add(name, address, http, node_id, False, promote, expected_index, timeout)

    async def add_voter(
        self,
        name: str,
        address: str,
        *,
        http: str = "",
        node_id: int | None = None,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Member:
        """Add a member that votes at once. `add_learner` is the safer way: this one counts before it has the log.

            added = await raft.add_voter("e", "127.0.0.1:7105", force=True)

        Without `force` a single voter can't add its second one in this way. The arguments are those of `add_learner`.

        Raises:
            QuorumAtRisk: the voters that are alive would be no quorum afterwards; `force=True` skips this rule alone.
            MembershipError: there is no such member, or the change can't be made.
            DeadlineExceeded: it was not durable on a quorum before the deadline (`unknown`).
            Closed, NodeFailed: the node has stopped.
        """
        return await self._add(name, address, http, node_id, True, False, expected_index, timeout, force=force)

    async def _add(
        self,
        name: str,
        address: str,
        http: str,
        node_id: int | None,
        voter: bool,
        promote: bool,
        expected_index: int | None,
        timeout_s: float,
        *,
        force: bool = False,
    ) -> Member:
        dialled_address(address)
        return await self._changes.add(
            check_name(name), address, http=check_http(http),
            node_id=NONE if node_id is None else check_id(node_id, "node_id"),
            voter=voter, promote=checked_flag(promote, "promote"), expected=check_expected(expected_index),
            force=checked_flag(force, "force"), timeout_s=check_timeout(timeout_s),
        )  # fmt: skip

    async def promote(
        self,
        member: str | int,
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Membership:
        """Make a learner a voter now. `member` is its name or its id.

            await raft.promote("c")

        A learner that is connected and behind is waited for, until the deadline.

        Raises:
            QuorumAtRisk: the voters that are alive would be no quorum afterwards, or the learner has not caught up and
                is not connected. `force=True` skips these rules alone.
            MembershipError: there is no such member, or the change can't be made.
            Dropped: the learner had not caught up at the deadline (`not_applied`).
            DeadlineExceeded: it was not durable on a quorum before the deadline (`unknown`).
            Closed, NodeFailed: the node has stopped.
        """
        return await self._single(ChangeType.ADD_NODE, member, expected_index, timeout, force)

    async def demote(
        self,
        member: str | int,
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Membership:
        """Make a voter a learner, which stays one. `member` is its name or its id.

            await raft.demote("c")

        Raises:
            QuorumAtRisk: the voters that are alive would be no quorum afterwards; `force=True` skips this rule alone.
            MembershipError: there is no such member, or the change can't be made.
            DeadlineExceeded: it was not durable on a quorum before the deadline (`unknown`).
            Closed, NodeFailed: the node has stopped.
        """
        return await self._single(ChangeType.ADD_LEARNER_NODE, member, expected_index, timeout, force)

    async def remove(
        self,
        member: str | int,
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Membership:
        """Remove a member. A leader that is removed transfers its leadership first.

            membership = await raft.remove("d")

        Done when the change is on the disks of a quorum of the new membership. `member` is its name or its id. By id
        it is idempotent; a name that no member has is an error.

        Raises:
            QuorumAtRisk: the voters that are alive would be no quorum afterwards; `force=True` skips this rule alone.
            MembershipError: there is no such member, or the change can't be made.
            DeadlineExceeded: it was not durable on a quorum before the deadline (`unknown`).
            Closed, NodeFailed: the node has stopped.
        """
        return await self._single(ChangeType.REMOVE_NODE, member, expected_index, timeout, force)

    async def _single(
        self, kind: ChangeType, member: str | int, expected: int | None, timeout_s: float, force: bool
    ) -> Membership:
        checked_member(member)
        checked_flag(force, "force")
        return await self._changes.single(kind, member, check_expected(expected), check_timeout(timeout_s), force=force)

    async def replace_member(
        self,
        dead: str | int,
        name: str,
        address: str,
        *,
        http: str = "",
        node_id: int | None = None,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Member:
        """Replace a member that is dead by a new node, in one change. Returns the new member.

            new = await raft.replace_member("c", "g", "127.0.0.1:7107")
            config = Config(name="g", data_dir="data/g", listen=new.address, node_id=new.id, cluster_id=raft.cluster_id)

        The dead member is removed, and the new one learns in its place. If the dead one was a voter, or to become one,
        the new one votes once it has caught up. Until then the cluster bears no more and no fewer failures than with
        the dead one. The new node may take over name and address. `node_id` is its own choice, as in `add_learner`.

        Idempotent: called again it returns the new member. If it has the dead one's name, give `dead` as an id, or give
        `node_id`: a name alone could mean either. With `expected_index` the change is made only if the membership still
        has this index. A node whose disk alone is lost comes back under its name by `syncline repair --replace`.

        Raises:
            MembershipError: the dead member answers this node, and `force` is not given. Or name, address or id are
                another member's, or the membership has changed.
            QuorumAtRisk: no quorum of the other voters would be alive; `force=True` skips this rule, too.
            DeadlineExceeded: it was not durable on a quorum before the deadline (`unknown`).
            ConfigError, TypeError: an argument can't be used.
            Closed, NodeFailed: the node has stopped.
        """
        dialled_address(address)
        checked_member(dead, "dead")
        check_name(name)
        if dead == name and node_id is None:
            raise ConfigError(
                f"dead and name are both {name!r}: give the id of the dead member, or the new node's `node_id`, so that"
                " a repeated call does not replace the new one"
            )
        return await self._changes.replace(
            dead, name, address, http=check_http(http),
            node_id=NONE if node_id is None else check_id(node_id, "node_id"), expected=check_expected(expected_index),
            force=checked_flag(force, "force"), timeout_s=check_timeout(timeout),
        )  # fmt: skip

    async def update_member(
        self,
        member: str | int,
        *,
        address: str,
        expected_index: int | None = None,
        timeout: float = 30.0,
    ) -> Member:
        """Change the address at which a member is dialled, for one that can't announce it itself.

            await raft.update_member("d", address="127.0.0.1:7204")

        A member that runs announces its own address (`Config.advertise`), which wins. Idempotent.

        Raises:
            ConfigError: `address` is no address.
            MembershipError: there is no such member, or the address is another member's.
            DeadlineExceeded: it was not durable on a quorum before the deadline (`unknown`).
            Closed, NodeFailed: the node has stopped.
        """
        checked_member(member)
        dialled_address(address)
        expected = check_expected(expected_index)
        return await self._changes.update(member, address, expected, check_timeout(timeout))

    def hint(self, node_id: int, address: str) -> None:
        """Have a node dialled at "host:port" too, if it does not answer where the cluster expects it.

            raft.hint(member.id, "127.0.0.1:7204")

        For a program that knows addresses before this node does: a node that has no log yet knows no member.

        Raises:
            ConfigError, TypeError: the id or the address can't be used.
            UsageError: it is called on another thread or loop than the node's.
        """
        dialled_address(address)
        checked = check_id(node_id, "node_id")
        self._driver.running.check_place()
        self._driver.addresses.hint(checked, address)

    async def change_membership(
        self,
        changes: Sequence[tuple[ChangeType, str | int]],
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Membership:
        """Change several known members at once, through a joint membership if more than one voter changes.

            await raft.change_membership([(ChangeType.ADD_LEARNER_NODE, "b"), (ChangeType.ADD_NODE, "c")])

        Each change names a member by its name or its id. Done when the joint membership has been left again. The
        voters before and after the change each need a quorum that is alive.

        Raises:
            QuorumAtRisk: the voters that are alive would be no quorum afterwards; `force=True` skips this rule alone.
            MembershipError: there is no such member, or the change can't be made.
            DeadlineExceeded: it was not durable on a quorum before the deadline (`unknown`).
            Closed, NodeFailed: the node has stopped.
        """
        checked = check_changes(changes)
        checked_flag(force, "force")
        return await self._changes.known(checked, check_expected(expected_index), check_timeout(timeout), force=force)

    async def transfer_leadership(self, to: str | int | None = None, *, timeout: float = 10.0) -> Member:
        """Transfer the leadership to a voter, and return the new leader once it leads.

            leader = await raft.transfer_leadership("b")

        `to` is the name or the id of the voter. None: the most up-to-date one that is alive; if it does not take over
        within an election timeout, another one. If it raises, the old leader goes on.

        Raises:
            TransferFailed: the voter does not lead at the deadline.
            MembershipError: `to` is no voter, or no other voter is alive.
            NoLeader: no node leads.
            Closed, NodeFailed: the node has stopped.
        """
        driver, core = self._driver, self._driver.core
        named = None if to is None else checked_member(to, "to")
        check_timeout(timeout)
        driver.running.check()
        before = self._changes.present_leader()
        wanted = NONE if named is None else self._changes.id_of(named)
        deadline_s = driver.loop.time() + timeout
        target = self._changes.successor(wanted)
        asked: list[NodeId] = []
        next_s = deadline_s
        if target == before:
            return self._member(target)
        while driver.loop.time() < deadline_s and not driver.running.stopped:
            if core.leader not in (NONE, before) and wanted in (NONE, core.leader):
                return self._member(core.leader)
            before = core.leader or before  # a third one may have come in between
            if core.leader == before and self._changes.is_given_up():
                # A leader notices that the voter asked last did not take over. Others wait as long as a leader does.
                if asked and wanted == NONE and (core.state is StateType.LEADER or driver.loop.time() >= next_s):
                    target = self._changes.next_successor(asked)
                if target not in asked[-1:]:
                    asked = [*(voter for voter in asked if voter != target), target]
                    next_s = driver.loop.time() + driver.config.election_s
                core.transfer_leadership(target)
                driver.schedule()
            await driver.running.wait(min(deadline_s, driver.loop.time() + driver.config.election_s))
        driver.running.check(begun=True)
        shown = ", ".join(map(driver.node_log.label, asked or [target]))
        raise TransferFailed(f"node {shown} did not take over before the deadline", leader=self._leader_id)

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

    async def reach_machine_version(self, version: int, *, timeout: float = 5.0) -> bool:
        """Wait until the cluster's machine version is at least this, and return whether it is.

            if not await raft.reach_machine_version(2):
                print("some member can't apply commands of version 2 yet")

        It waits at most `timeout` seconds, and not at all if the version can't rise by itself: a member can do less, or
        the levels are held. A new cluster knows a moment after its first election what its members can do.

        Raises:
            TypeError: `version` is no whole number.
            Closed, NodeFailed: the node has stopped.
        """
        checked_version(version, "version")
        levels = self._driver.parts.levels
        return await self._reached(
            lambda: levels.machine_version >= version, lambda: levels.may_rise_to(version), check_timeout(timeout)
        )

    async def reach_level(self, level: int, *, timeout: float = 5.0) -> bool:
        """Wait until the cluster's feature level is at least this, and return whether it is.

            if await raft.reach_level(2):
                await raft.apply(b"a command that needs the time")

        As `reach_machine_version`, for what entries carry: `Entry.time_s` needs level 2 (docs/upgrades.md).

        Raises:
            TypeError: `level` is no whole number.
            Closed, NodeFailed: the node has stopped.
        """
        checked_version(level, "level")
        levels = self._driver.parts.levels
        return await self._reached(
            lambda: levels.level >= level, lambda: levels.may_rise_to_level(level), check_timeout(timeout)
        )

    def _not_known_yet(self, version: int) -> OperationError | None:
        """The error if it is not known yet whether all members can apply commands of this machine version; None if it
        is known that the cluster does not rise to it by itself.
        """
        levels = self._driver.parts.levels
        if not levels.may_rise_to(version):
            return None
        silent = ", ".join(levels.silent())
        why = f"these members have not announced it yet: {silent}" if silent else "the version is about to rise"
        kind = NoLeader if self._leader_id is None else Dropped
        return kind(f"it is not known yet whether all members can apply version {version}: {why}. Try later")

    async def _reached(self, reached: Callable[[], bool], may_rise: Callable[[], bool], timeout_s: float) -> bool:
        driver, check = self._driver, self._driver.running.check
        check()
        deadline_s = driver.loop.time() + timeout_s
        while not reached() and driver.loop.time() < deadline_s and may_rise():
            await driver.running.wait(min(deadline_s, driver.loop.time() + driver.config.heartbeat_s))
            check()
        return reached()

    def upgrade_status(self) -> UpgradeStatus:
        """The cluster's levels, and what each member can do.

            print(raft.upgrade_status().possible_level)

        It is as this node has applied it: a follower may be behind.
        """
        return self._driver.parts.levels.status()

    async def hold_upgrade(self, *, timeout: float = 30.0) -> UpgradeStatus:
        """Keep both levels where they are, whichever node leads, until `finalize_upgrade`.

            await raft.hold_upgrade()

        Raises:
            OperationError: as the future of `apply` does.
        """
        return await self._change_levels(self._driver.parts.levels.hold, check_timeout(timeout))

    async def finalize_upgrade(self, *, timeout: float = 30.0) -> UpgradeStatus:
        """End `hold_upgrade`, and raise both levels to what all members can do, whatever `Config.hold_level` says.

            status = await raft.finalize_upgrade()

        There is no way back. If a member can't do more yet, `UpgradeStatus.members` says which.

        Raises:
            OperationError: as the future of `apply` does.
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
                if self._driver.running.stopped or clock() >= deadline_s:
                    raise
                await self._driver.running.wait(min(deadline_s, clock() + heartbeat_s))
            else:
                return self.upgrade_status()
